"""Interatomic potentials from few DFT frames and many labels of empirical potentials (EIPs)."""
