"""f_rep: per-atom features of a configuration. One file a backbone."""

from eipnn.representations.base import Representation
from eipnn.representations.cgcnn import CGCNN
from eipnn.representations.gemnet import GemNet
from eipnn.representations.mace import MACE
from eipnn.representations.schnet import SchNet
from eipnn.representations.soapnet import SOAPNet

__all__ = ["CGCNN", "MACE", "GemNet", "Representation", "SOAPNet", "SchNet"]
