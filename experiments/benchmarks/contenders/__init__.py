"""What `training_speed.py` lets run against each other: one file a backbone, one function a contender."""

from contenders.cgcnn import CGCNN
from contenders.gemnet import GEMNET
from contenders.mace import MACE
from contenders.prepared import Contender, Prepared
from contenders.schnet import SCHNET
from contenders.soapnet import SOAPNET

CONTENDERS: dict[str, list[Contender]] = {
    "SchNet": SCHNET,
    "CGCNN": CGCNN,
    "GemNet": GEMNET,
    "SOAPNet": SOAPNET,
    "MACE": MACE,
}
"""The first of each is eipnn's; the others' ratios are to it."""

__all__ = ["CONTENDERS", "Contender", "Prepared"]
