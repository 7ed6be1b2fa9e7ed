"""A trained potential and what uses it: nothing here knows how it was trained."""

from eipnn.potential.committee import Committee
from eipnn.potential.potential import Potential, Properties

__all__ = ["Committee", "Potential", "Properties"]
