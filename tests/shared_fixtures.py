"""Fixtures that several test files share."""

import os
from pathlib import Path

import pytest
from backbones import BACKBONES, make_potential
from hypothesis import settings
from quick_parsers import make_parsers_once
from run_stages import experiment, fake, run  # noqa: F401 (fixtures)
from tiny import Tiny, eipnn_stage, make_forced, make_tiny, stage_config

from eipnn.representations import SchNet

# A busy machine is no failure. Each run tries the same examples; new ones: --hypothesis-profile=search.
settings.register_profile("unhurried", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=1000)
settings.load_profile("unhurried")

make_parsers_once()

STAGES = ("Classifier", "Pretrain", "Finetune")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Prepared inputs go to a folder of this test run."""
    os.environ["EIPNN_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def random_potential(tmp_path_factory) -> Path:
    """A file with a SchNet of C and Si, not trained; tests only read it."""
    file = tmp_path_factory.mktemp("random") / "potential.pt"
    make_potential(SchNet).potential.save(file)
    return file


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Tiny:
    """The tiny data set of `tiny.py`; tests only read it."""
    return make_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def forced(tmp_path_factory) -> Tiny:
    """The same with forces and stress; tests only read it."""
    return make_forced(tmp_path_factory.mktemp("forced"))


@pytest.fixture(scope="session")
def trained(tiny, own_cache, tmp_path_factory) -> dict:
    """Root folders of the three stages, trained for two epochs by the command line; tests only read them."""
    root = tmp_path_factory.mktemp("trained")
    return {stage: eipnn_stage("fit", stage_config(tiny, stage, root / stage)) for stage in STAGES}


@pytest.fixture(scope="session", params=BACKBONES, ids=lambda cls: cls.__name__)
def backbone(request) -> type:
    """Each class of representations in turn."""
    return request.param


@pytest.fixture(scope="session")
def potential(backbone):
    """A calibrated, untrained potential in float64; tests only read it."""
    return make_potential(backbone).double()
