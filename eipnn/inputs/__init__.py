"""Atoms -> PyG Data, built once and cached."""

from eipnn.inputs.base import Inputs
from eipnn.inputs.cache import prepare
from eipnn.inputs.graph import Graph, pair_vectors
from eipnn.inputs.soap import Soap

__all__ = ["Graph", "Inputs", "Soap", "pair_vectors", "prepare"]
