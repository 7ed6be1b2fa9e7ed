"""Pools of unlabelled structures, for those who have DFT frames only or nothing yet."""

from eipnn.generate.pool import make_pool
from eipnn.generate.recipe import Recipe

__all__ = ["Recipe", "make_pool"]
