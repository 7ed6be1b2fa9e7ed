"""Structures x EIPs -> a label store: energies and forces in flat arrays on disk."""

from eipnn.labels.engine import label_structures
from eipnn.labels.store import LabelError, LabelStore

__all__ = ["LabelError", "LabelStore", "label_structures"]
