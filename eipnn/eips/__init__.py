"""Empirical interatomic potentials: named sets, YAML lists, and the ASE calculators behind them."""

from eipnn.eips.eip import EIP, NONE, EIPError, load_eips, named_sets

__all__ = ["EIP", "NONE", "EIPError", "load_eips", "named_sets"]
