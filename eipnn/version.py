"""The version of eipnn."""

__version__ = "0.2.0"
