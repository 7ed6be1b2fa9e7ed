"""Atoms -> PyG Data."""

from eipnn.inputs.base import AtomicGraph, Graphs, Inputs, graph_of, joined
from eipnn.inputs.cache import prepare
from eipnn.inputs.graph import Graph
from eipnn.inputs.soap import Soap

__all__ = [
    "AtomicGraph",
    "Graph",
    "Graphs",
    "Inputs",
    "Soap",
    "graph_of",
    "joined",
    "prepare",
]
