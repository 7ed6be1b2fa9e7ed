"""`eipnn train`: from DFT frames to a potential without an experiment file; it writes one and runs it."""
