"""The published data sets of Shui et al. (arXiv 2210.08047): downloaded, read, written as eipnn's own files."""

COMMAND = "python experiments/published/fetch.py"
