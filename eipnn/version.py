"""The version of eipnn."""

__version__ = "0.1.0"
