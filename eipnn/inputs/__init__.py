"""Atoms -> PyG Data, built once and cached."""

from eipnn.inputs.base import Inputs
from eipnn.inputs.cache import prepare
from eipnn.inputs.graph import Graph, pair_vectors

__all__ = ["Graph", "Inputs", "pair_vectors", "prepare"]
