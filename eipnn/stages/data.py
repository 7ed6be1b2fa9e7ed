"""What the data modules of the stages share: configurations with targets, splits and loaders."""

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader

from eipnn.collectives import process_rank, world_size
from eipnn.errors import InputError
from eipnn.inputs import Graphs, prepare
from eipnn.inputs.cache import InputSet
from eipnn.reference import Reference, scale_and_shift
from eipnn.stages.handover import Facts, Handover, Training
from eipnn.stages.sampling import BatchPlan, EvaluationSampler, MixedSampler, plan_batches
from eipnn.stages.source import Source, SourceConfig
from eipnn.structures import Ids, StructureStore, open_structures
from eipnn.targets import PER_ATOM, PROPERTIES

log = logging.getLogger("eipnn")

KEPT = 400_000
"""Atoms up to which a data set keeps each `Data` that it made: 2 kB an atom, and no work from the second epoch on.
Larger sets make them anew, as do those that are gone through once."""


VOIGT = torch.tensor([[0, 5, 4], [5, 1, 3], [4, 3, 2]])
"""Where ASE's order, xx yy zz yz xz xy, has the components of a stress."""


class Configurations(Dataset[Data]):
    """Model inputs with targets.

    Adds to each `Data`: the targets, each with a leading axis of length 1 (of the atoms' number: those of `PER_ATOM`);
    ``row`` (1,), the place in this data set; ``weight`` (1,), 1, or 0 for an index beyond the end (padding, see
    `EvaluationSampler`).

    Args:
        inputs: of the n configurations.
        targets: name -> (n, ...), of N atoms (N, ...): those of `Targets`, what is added to predictions of them
            (``zero``, ``zero_forces``, ...), and what else the module reads of a batch; stress in ASE's order (..., 6).
    """

    def __init__(self, inputs: InputSet, targets: dict[str, Tensor]) -> None:
        self.ids, self.inputs, self.targets = inputs.structures.ids, inputs, targets
        self.kept = len(inputs.structures.numbers) <= KEPT
        self._items: dict[int, Data] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Data:
        if not self.kept:
            return self._make(index)
        if index not in self._items:
            self._items[index] = self._make(index)
        return self._items[index]

    def _make(self, index: int) -> Data:
        row = index % len(self)
        data = self.inputs[row]
        start, stop = self.inputs.structures.offsets[row : row + 2]
        for name, values in self.targets.items():
            property_ = name.removeprefix("zero_")
            own = values[start:stop] if property_ in PER_ATOM else values[row : row + 1]
            data[name] = own[..., VOIGT] if property_ == "stress" else own
        data.row = torch.tensor([row])
        data.weight = torch.tensor([float(index < len(self))])
        return data

    def known(self) -> set[str]:
        """Names of the targets that some of the configurations have."""
        return {n for n, values in self.targets.items() if not values.is_floating_point() or values.isfinite().any()}

    def keep(self, names: Collection[str]) -> None:
        """Leave out all other targets."""
        self.targets = {name: values for name, values in self.targets.items() if name in names}

    def first_with(self) -> dict[str, str]:
        """Symbol of each element -> id of the first configuration that holds it, in the order of these."""
        structures = self.inputs.structures
        numbers, first = np.unique(structures.numbers, return_index=True)  # places among all atoms
        rows = np.searchsorted(structures.offsets, first, side="right") - 1
        symbols = [chemical_symbols[z] for z in numbers]
        return {symbol: self.ids[row] for row, symbol in sorted(zip(rows, symbols, strict=True))}


class StageDataModule(LightningDataModule):
    """Structures, split and labels of one stage.

    The kind of model input, the EIPs and what is to be known of each configuration are the affair of the module that is
    trained (`handover`), so that they are not written twice in a configuration.

    Args:
        batch_size: configurations a training batch and process.
        eval_batch_size: the same in validation, test and prediction; default: `batch_size`. Forces need the memory of
            a backward pass there too.
        seed: of the sample order.
        stratified: batches that hold small and large configurations alike (see `MixedSampler`), and so need even
            memory, where cells differ in size; the number of configurations of a batch, and all means, are the same.
        structures: file, pattern or list, with structures to predict, in place of the stage's default.
        num_workers: of each loader; graphs of up to 400,000 atoms stay in memory, so that 0 is often the fastest.
        cache: folder for costly inputs (SOAP); default ``$EIPNN_CACHE`` or the user's cache folder.
        handover: the module's, ``module.handover``; the commands give it by themselves.
        **source: the arguments of `SourceConfig`: structures, split, labels and zeros.
    """

    wanted: Collection[str] = ("energy",)
    """Names of the targets (see `Targets`) that are read; set when it is set up."""
    fitting = False
    """Whether it is set up for a training."""
    train_set: Dataset[Data]
    parts: list[Configurations]
    """Of `train_set`: DFT first, then EIP."""
    val_set: Configurations
    test_set: Configurations
    predict_set: Configurations
    plan: BatchPlan
    dft_fraction: float = 1.0
    """Share of DFT configurations in a mixed batch."""
    epoch_steps: int | None = None
    """Gradient steps of an epoch of one process; of several, each takes its share. None: one pass over the data."""

    def __init__(
        self,
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        seed: int = 0,
        stratified: bool = False,
        structures: str | list[str] | None = None,
        num_workers: int = 0,
        cache: str | None = None,
        handover: Handover | None = None,
        **source: Any,
    ) -> None:
        super().__init__()
        eval_batch_size = batch_size if eval_batch_size is None else eval_batch_size
        if batch_size < 1 or eval_batch_size < 1:
            raise InputError("batch_size and eval_batch_size must be at least 1")
        self.config = SourceConfig(**source)
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.seed, self.num_workers, self.stratified = seed, num_workers, stratified
        self.structures = structures
        self.cache = Path(cache) if cache else None
        self._handover = handover

    @cached_property
    def source(self) -> Source:
        """Structures, labels and references, read on first use."""
        return Source(self.config)

    @property
    def handover(self) -> Handover:
        """What the module that is trained or evaluated told; `setup` tells it of the data."""
        if self._handover is None:
            name = type(self).__name__
            raise InputError(f"{name} does not know the model: make it with {name}(..., handover=module.handover)")
        return self._handover

    @handover.setter
    def handover(self, given: Handover) -> None:
        self._handover = given

    def train_ids(self) -> tuple[Sequence[str], Sequence[str]]:
        """Training configurations with DFT and with EIP labels."""
        raise NotImplementedError

    def targets(self, frames: StructureStore) -> dict[str, np.ndarray]:
        """What is to be learned of these configurations, see `Configurations`."""
        raise NotImplementedError

    def train_parts(self) -> list[Configurations]:
        """Training configurations: DFT first, then EIP."""
        dft, eip = self.train_ids()
        return [self.labelled(Ids.joined([dft, eip]))]

    def used_eips(self) -> list[str]:
        """The EIPs whose labels this stage reads."""
        return list(self.handover.eips)

    def file_of(self, config_id: str) -> str:
        """The file that a configuration of an evaluation or prediction is from."""
        if config_id in self.source.dft:
            return str(self.config.dft)
        return str(self.structures or self.config.pool)

    def setup(self, stage: str) -> None:
        """In a test, errors of all that there are labels of; in a training, of what is trained."""
        self.fitting = stage == "fit"
        self.wanted = self.handover.wanted if self.fitting else PROPERTIES
        training = self._set_up_training() if self.fitting else None
        if stage in ("fit", "validate"):
            evaluated = self.val_set = self.labelled(self.source.split.val)
        elif stage == "test":
            if self.source.split.tested_on != "test":
                log.info("%s marks no test configurations: those for validation take their place", self.config.split)
            evaluated = self.test_set = self.labelled(self.source.split.tested)
        else:
            evaluated = self.predict_set = self.make_predict()
        evaluated.kept &= self.fitting
        evaluated.keep(evaluated.known())
        first = {symbol: f"{self.file_of(i)}: {i}" for symbol, i in evaluated.first_with().items()}
        self.handover.facts = Facts(self.zero_record(), first, training)

    def _set_up_training(self) -> Training:
        """Make `train_set`; what the module takes from it."""
        dft, eip = self.train_ids()
        self.source.require_labels(Ids.joined([dft, eip]), self.used_eips())
        every = self.source.store.eips if self.config.labels else ()
        for text in [*self.source.notes(eip), *self.source.warnings(self.used_eips() or every)]:
            log.warning(text)
        parts = self.train_parts()
        known = frozenset(name for part in parts for name in part.known())
        self.wanted = [name for name in self.wanted if name in known]
        for part in parts:
            part.keep(known)
        self.parts, self.train_set = parts, parts[0] if len(parts) == 1 else ConcatDataset(parts)
        items = (part[row] for part in parts for row in range(len(part)))
        if all("edge_index" in data and data.edge_index.shape[1] == 0 for data in items):
            raise InputError(
                f"no two atoms of the training structures are within the cutoff of {self.handover.cutoff} A: "
                "give the representation a larger one (cutoff)"
            )
        elements = sorted({symbol for part in parts for symbol in part.inputs.structures.elements()})
        order = torch.Generator().manual_seed(self.seed)
        loader = DataLoader(self.train_set, self.batch_size, shuffle=True, generator=order)
        return Training(elements, list(self._scales(parts[0])), Graphs(loader), known)

    def _scales(self, part: Configurations) -> Iterator[tuple[float, Reference]]:
        """Scale and shift of each energy that is learned (see `scale_and_shift`)."""
        for k, energies in enumerate(part.targets["energy"].T if "energy" in part.targets else ()):
            if not energies.isfinite().any():
                eip = self.handover.eips[k]
                raise InputError(f"EIP {eip} has no usable label in the pool: leave it out of model.eips")
            yield scale_and_shift(part.inputs.structures, energies.numpy())

    def zero_record(self) -> dict[str, dict[str, Any]]:
        """The references of DFT and of the EIPs that this stage reads, as plain values."""
        return self.source.zero_record(self.handover.eips)

    def make_predict(self) -> Configurations:
        """Configurations to predict: the file `structures`, or the pool."""
        if self.structures is not None:
            frames = open_structures(self.structures, labels=False)
        else:
            frames = self.source.structures(self.source.split.pool)
        return self.configurations(frames, self.predict_targets(frames))

    def predict_targets(self, frames: StructureStore) -> dict[str, np.ndarray]:
        """What a prediction needs beside the model's input."""
        return {}

    def labelled(self, ids: Sequence[str]) -> Configurations:
        """Configurations of the split with their targets."""
        frames = self.source.structures(ids)
        return self.configurations(frames, self.targets(frames) if frames else {})

    def configurations(self, frames: StructureStore, targets: dict[str, np.ndarray]) -> Configurations:
        """The frames as a data set; `targets` are in their order."""
        if not frames:
            raise InputError(f"no structures to work on: the split {self.config.split} marks none for this stage")
        inputs = prepare(frames, self.handover.inputs, self.cache)
        return Configurations(inputs, {name: torch.from_numpy(v) for name, v in targets.items()})

    def train_dataloader(self) -> DataLoader:
        n_dft, n_eip = (len(ids) for ids in self.train_ids())
        world, rank = world_size(), process_rank()
        self.plan = plan_batches(n_dft, n_eip, self.batch_size, self.dft_fraction, world)
        if self.epoch_steps is not None:
            self.plan = replace(self.plan, batches=max(self.epoch_steps // world, 1))
        for note in self.plan.notes:
            log.warning(note)
        sizes = np.concatenate([part.inputs.structures.sizes for part in self.parts]) if self.stratified else None
        sampler = MixedSampler(n_dft, n_eip, self.plan, self.seed, world, rank, sizes)
        return self._loader(self.train_set, sampler.size, sampler)

    def val_dataloader(self) -> DataLoader:
        return self._evaluation_loader(self.val_set)

    def test_dataloader(self) -> DataLoader:
        return self._evaluation_loader(self.test_set)

    def predict_dataloader(self) -> DataLoader:
        return self._evaluation_loader(self.predict_set)

    def _evaluation_loader(self, data: Configurations) -> DataLoader:
        return self._loader(data, self.eval_batch_size, EvaluationSampler(len(data), world_size(), process_rank()))

    def _loader(self, data: Dataset[Data], size: int, sampler: Any) -> DataLoader:
        persistent = self.num_workers > 0
        return DataLoader(
            data, batch_size=size, sampler=sampler, num_workers=self.num_workers, persistent_workers=persistent
        )
