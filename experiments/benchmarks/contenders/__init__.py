"""What `training_speed.py` lets run against each other: one file a backbone, one function a contender."""

from contenders.prepared import Contender, Prepared
from contenders.schnet import SCHNET

CONTENDERS: dict[str, list[Contender]] = {"SchNet": SCHNET}
"""Ours first, then the peers."""

__all__ = ["CONTENDERS", "Contender", "Prepared"]
