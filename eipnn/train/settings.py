"""The experiment that `eipnn train` runs: settings of a network (``presets/*.yaml``) with the user's data and steps."""

import os
from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from importlib.util import find_spec
from itertools import product
from math import ceil
from pathlib import Path
from shutil import which
from sysconfig import get_paths
from typing import Any

from eipnn.errors import InputError
from eipnn.files import read_yaml
from eipnn.run.execute import say
from eipnn.run.experiment import STAGES
from eipnn.structures import Split, StructureStore, isolated_energies

PRESETS = Path(__file__).parent / "presets"
SECTIONS = ("representation", "trainer", *STAGES)
EXPERIMENT = "experiment.yaml"
"""In the folder of a training."""
BATCH, EPOCHS = 32, 60
"""Size of a batch of pretraining, and epochs of fine-tuning, where the settings do not say."""
COMPILED_STEPS, COMPILED_ATOMS = 1000, 128
"""Least steps of a training, and most atoms of a batch, where it pays to compile the step: see
experiments/results/benchmarks/compiled_step.md."""

PLAIN = "g++ or Python.h is not found: steps are not compiled, which would make them up to twice as fast"


def network_settings(name: str | None, elements: Sequence[str], labelled: Collection[str]) -> dict[str, Any]:
    """The settings of a network for these data.

    Args:
        name: of a preset, or a YAML file in its form; None: MACE.
        elements: what the representation is made for, where it asks for ``elements``.
        labelled: energy, forces, stress: what the training frames have; weights of others are left out.

    Raises:
        InputError: mace-torch is not installed; no such preset; a file of another form.
    """
    known = sorted(file.stem for file in PRESETS.glob("*.yaml"))
    if name in (None, "mace") and find_spec("mace") is None:
        raise InputError(
            "--network mace needs mace-torch, which is not installed:\n"
            "pip install 'eipnn[mace]', or take a quicker, less accurate network: --network schnet"
        )
    file = PRESETS / f"{name or 'mace'}.yaml" if name is None or name in known else Path(name)
    if not file.is_file():
        raise InputError(f"--network {name}: neither {', '.join(known)} nor a YAML file with such settings")
    content = read_yaml(file)
    if not isinstance(content, dict) or set(content) - set(SECTIONS) or "representation" not in content:
        raise InputError(f"{file}: must be a mapping with representation and, if wanted, {', '.join(SECTIONS[1:])}")
    for section in SECTIONS:
        content[section] = _mapping(content.get(section), f"{file}: {section}")
    for stage in STAGES:
        content[stage] = {key: _mapping(part, f"{file}: {stage}") for key, part in content[stage].items()}
    epochs = content["finetune"].get("trainer", {}).get("max_epochs", EPOCHS)
    if type(epochs) is not int or epochs < 1:
        raise InputError(f"{file}: finetune.trainer.max_epochs must be a whole number from 1 on, not {epochs!r}")
    if "elements" in (sizes := content["representation"].get("init_args") or {}):
        sizes["elements"] = list(elements)
    for stage in ("pretrain", "finetune"):
        model = content[stage].get("model", {})
        for key in {"weights", "second_weights"} & set(model):
            model[key] = {k: weight for k, weight in model[key].items() if k in labelled} or None
    return content


def _mapping(part: Any, where: str) -> dict[str, Any]:
    """A part of the settings, which may be left empty."""
    if part is not None and not isinstance(part, dict):
        raise InputError(f"{where} must be a mapping, written out here; see {PRESETS / 'mace.yaml'}")
    return part or {}


def with_steps(settings: dict[str, Any], steps: int, pool: int) -> dict[str, Any]:
    """Settings with so many gradient steps of fine-tuning, and about as many of pretraining on `pool` structures."""
    found = deepcopy(settings)
    for stage, part in product(("pretrain", "finetune"), ("trainer", "data")):
        found.setdefault(stage, {}).setdefault(part, {})
    pretrain, finetune = found["pretrain"], found["finetune"]
    epochs = min(finetune["trainer"].get("max_epochs", EPOCHS), steps)
    finetune["trainer"]["max_epochs"], finetune["data"]["epoch_steps"] = epochs, ceil(steps / epochs)
    batches = ceil(pool / pretrain["data"].get("batch_size", BATCH)) or 1
    pretrain["trainer"]["max_epochs"] = max(1, round(steps / batches))
    return found


def with_compiled(settings: dict[str, Any], steps: int, atoms: float) -> dict[str, Any]:
    """Settings with true or false in place of ``compiled: auto``; says what is taken.

    Args:
        settings: see `network_settings`.
        steps: gradient steps of a training.
        atoms: of a configuration, on average.
    """
    found = deepcopy(settings)
    here = has_compiler()
    paying = False
    for stage in ("pretrain", "finetune"):
        model, batch = found[stage].get("model", {}), found[stage].get("data", {}).get("batch_size", BATCH)
        if model.get("compiled") == "auto":
            forces = not {"forces", "stress"}.isdisjoint(model.get("weights") or ("forces",))
            gpu = takes_gpu(found.get("trainer", {}) | found[stage].get("trainer", {}))
            pays = forces and steps >= COMPILED_STEPS and batch * atoms <= COMPILED_ATOMS and not gpu
            model["compiled"] = pays and here
            paying = paying or pays
    if paying and here:
        say("Steps are compiled: minutes before the first one, once on a machine, then up to twice as fast as below")
    elif paying:
        say(PLAIN)
    return found


def with_compiler_here(experiment: dict[str, Any]) -> dict[str, Any]:
    """An experiment of another machine, whose steps are not compiled where there is no compiler here; says so."""
    found = deepcopy(experiment)
    models = [found[stage].get("model", {}) for stage in ("pretrain", "finetune")]
    if not has_compiler() and any(model.get("compiled") for model in models):
        say(PLAIN)
        for model in models:
            model.pop("compiled", None)
    return found


def has_compiler() -> bool:
    """Whether a C++ compiler and Python's headers are found, with which torch compiles for a CPU."""
    headers = Path(get_paths()["include"]) / "Python.h"
    return which(os.environ.get("CXX", "g++")) is not None and headers.is_file()


def takes_gpu(trainer: Mapping[str, Any]) -> bool:
    """Whether a training with these settings of its trainer runs on a GPU: there is one, and they do not say cpu."""
    import torch  # here: errors in the arguments need not wait for it

    return trainer.get("accelerator") != "cpu" and torch.cuda.is_available()


def properties(frames: StructureStore, folds: Sequence[Split]) -> list[str]:
    """Energy, forces and stress, as far as some training frame of each fold has them; says how many frames do."""
    of = frames.labelled()
    labelled = {"energy": of["energies"], "forces": of["forces"], "stress": of["stress"]}
    learned = [name for name in labelled if all(labelled[name][frames.rows(fold.train)].any() for fold in folds)]
    told = [", ".join(f"{name} ({labelled[name].sum()})" for name in learned)]
    for name, known in labelled.items():
        if name in learned:
            continue
        if known.any():
            told.append(f"not {name} ({known.sum()}), as a fold has none to train on")
        elif name != "stress" or frames.pbc.all(axis=1).any():
            told.append(f"no frame has {name} (under another key? --{name}-key)")
    say(f"learned of {len(frames)} DFT frames: {'; '.join(told)}")
    return learned


def energy_zero(dft: StructureStore, given: Mapping[str, float] | None) -> dict[str, Any]:
    """The zero of the DFT energies: isolated atoms where all are known, else a fit; says which.

    Args:
        dft: all DFT frames, with those that are marked as isolated atoms.
        given: energies of isolated atoms (eV) by element.

    Raises:
        InputError: some are given, and one is neither given nor marked.
    """
    elements = dft.elements()
    known = isolated_energies(dft, given) or {}
    missing = [element for element in elements if element not in known]
    if given and missing:
        raise InputError(f"--isolated-atoms: has no {missing[0]}, which the DFT frames hold; add it or give none")
    if missing:
        why = f"those of {', '.join(sorted(known))} alone are known" if known else "none are known"
        say(f"Energy zero: one energy an element, fitted to the training frames (isolated atoms: {why})")
        return {"mode": "least_squares"}
    say(f"Energy zero: isolated atoms, {', '.join(f'{element} {known[element]:.4f} eV' for element in elements)}")
    ours = {element: energy for element, energy in (given or {}).items() if element in elements}
    return {"mode": "isolated_atoms"} | ({"energies": ours} if ours else {})
