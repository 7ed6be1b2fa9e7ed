"""`eipnn select`: structures of a pool that are most worth a DFT calculation."""
