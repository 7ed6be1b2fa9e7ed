"""Where tests run: in an environment of their own, with the fixtures of `shared_fixtures.py`."""

import os

import pytest

# Tests, and what they start, are no part of the make, batch job or terminal that runs them.
JOB = ("SLURM_", "LSB_", "JSM_", "PMI", "TORCHELASTIC_", "MASTER_", "WORLD_SIZE", "RANK", "LOCAL_RANK", "NODE_RANK")
MAKE = ("MAKE", "MFLAGS", "GNUMAKEFLAGS")
SETTINGS = ("EIPNN_CACHE", "WANDB_", "TORCH_FORCE_", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MPLBACKEND")
LOOKS = ("NO_COLOR", "FORCE_COLOR", "CLICOLOR", "TTY_", "TERM", "LINES", "LANGUAGE")
for name in [name for name in os.environ if name.startswith((*JOB, *MAKE, *SETTINGS, *LOOKS))]:
    del os.environ[name]
os.environ |= {
    "OMP_NUM_THREADS": "1",  # equal results to the last bit, and no fight over cores
    "WANDB_MODE": "offline",  # nothing that a test starts reaches for the network
    "COLUMNS": "80",
    "LC_ALL": "C.UTF-8",
}


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """The process that hands the tests out to others (``-n 2``) runs none itself, and need not import torch."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        config.pluginmanager.import_plugin("shared_fixtures")
