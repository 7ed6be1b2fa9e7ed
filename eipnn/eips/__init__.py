"""Empirical interatomic potentials: named sets, YAML lists, and the ASE calculators behind them."""

from eipnn.eips.eip import DFT, EIP, NONE, load_eips, named_sets
from eipnn.eips.in_cell import InCell
from eipnn.eips.kim import EIPError

__all__ = ["DFT", "EIP", "NONE", "EIPError", "InCell", "load_eips", "named_sets"]
