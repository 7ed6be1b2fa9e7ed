"""Structures x EIPs -> a label store: energies, forces and stress in flat arrays on disk."""

from eipnn.labels.engine import label_structures
from eipnn.labels.layout import LabelError
from eipnn.labels.store import LabelStore

__all__ = ["LabelError", "LabelStore", "label_structures"]
