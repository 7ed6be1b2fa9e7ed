"""GemNet-T (Gasteiger, Becker, Guennemann, NeurIPS 2021, arXiv 2106.08903)."""

from eipnn.representations.gemnet.model import GemNet

__all__ = ["GemNet"]
