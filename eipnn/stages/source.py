"""The structures, splits and aligned energies that the three stages train on."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from eipnn.eips import NONE
from eipnn.errors import InputError
from eipnn.labels import LabelStore
from eipnn.labels.leaderboard import Comparison, alignment_warning
from eipnn.labels.ledger import require_labels
from eipnn.reference import Mode, Reference, fit_reference
from eipnn.structures import (
    Split,
    StructureStore,
    isolated_energies,
    open_pool,
    open_structures,
    read_split,
    without_isolated_atoms,
)
from eipnn.structures.suspects import outlying_energies, same_structures
from eipnn.units import (
    energy_warning,
    force_warning,
    label_references,
    sample,
    yardstick_references,
)

log = logging.getLogger("eipnn")

DFT = "dft"
"""In place of an EIP's name in a selection: the label is the structure's own DFT energy, hidden from all other rows."""


@dataclass
class EnergyZero:
    """How the zero of an energy source is found.

    Args:
        mode: ``isolated_atoms`` subtracts the given energies of free atoms; ``least_squares`` fits one energy
            an element on the training split; ``none`` leaves energies as they are.
        energies: eV an element symbol, with ``isolated_atoms`` only; for DFT those of the frames that are marked as
            isolated atoms need not be given.

    Raises:
        InputError: energies with another mode, which would not use them.
    """

    mode: Mode = "none"
    energies: dict[str, float] | None = None

    def __post_init__(self) -> None:
        if self.energies and self.mode != "isolated_atoms":
            raise InputError(
                f"energies of isolated atoms are given, and the energy zero {self.mode} does not use them: "
                "set mode to isolated_atoms, or remove energies"
            )


@dataclass
class SourceConfig:
    """Where structures, splits and labels are. Paths may start with ``bundled:`` for data in the package.

    Args:
        dft: structures with DFT energies: a file, a pattern, or a list of them. Frames with
            ``config_type=IsolatedAtom`` are the free atoms of ``isolated_atoms``.
        split: CSV file with header ``configs,mark``; mark is train, val, test or pretrain (the pool). A DFT structure
            that is marked pretrain belongs to the pool: its DFT energy is hidden from the training.
        energy_zero: zero of the DFT energies.
        pool: structures without DFT energies, likewise; needed by everything that uses the pool. Labels in these files
            are not read.
        labels: label store made by ``eipnn label`` over `dft` and `pool`; needed by everything that uses EIPs.
        eip_energy_zero: zero of the EIPs: one mode for all, or a mapping from EIP name to `EnergyZero`
            with ``"*"`` for those that are not named.
        energy_key: name of the DFT energy in the files, where the documented rule does not find it.
    """

    dft: str | list[str]
    split: str
    energy_zero: EnergyZero
    pool: str | list[str] | None = None
    labels: str | None = None
    eip_energy_zero: dict[str, EnergyZero] = field(default_factory=lambda: {"*": EnergyZero("none")})
    energy_key: str | None = None


class Source:
    """Structures by id, with energies on one zero.

    Raises:
        StructureError: a file is damaged or the split names an id that no file has.
        LabelError: the label store lacks a structure or an EIP, or labelled another structure under an id.
        ValueError: a part that is asked for (pool, labels) was not given.
    """

    def __init__(self, config: SourceConfig) -> None:
        self.config = config
        self.dft = open_structures(config.dft, energy_key=config.energy_key, require_energy=True, beside=config.pool)
        self.split: Split = read_split(config.split)
        self.split.check(self.dft.ids, self.split.pool, config.split)
        self._store: LabelStore | None = None
        self.zero = self._fit_dft_zero()
        self._eip_zeros: dict[str, Reference] = {}

    @property
    def store(self) -> LabelStore:
        if self._store is None:
            if self.config.labels is None:
                raise InputError("data.labels is not set: name the label store that `eipnn label` made")
            self._store = LabelStore.open(self.config.labels)
        return self._store

    @cached_property
    def pool(self) -> StructureStore:
        """The structures of the pool's files, opened by those who ask for them.

        A structure of the pool may come from the DFT file: its DFT energy is hidden from the training. Without a pool
        file, what needs the pool says so when it is asked for.
        """
        pool = open_pool(self.config.pool, self.config.dft, self.dft)
        if self.config.pool:
            self.split.check(self.dft.ids, [*pool.ids, *self.dft.ids], self.config.split)
        return pool

    def structures(self, ids: Sequence[str]) -> StructureStore:
        """The structures with these ids, DFT or pool."""
        known = np.array([i in self.dft for i in ids], dtype=np.bool_)
        if known.all():
            return self.dft.take(self.dft.rows(ids))
        if missing := [i for i in ids if i not in self.dft and i not in self.pool]:
            raise InputError(
                f"{missing[0]}: the split {self.config.split} names it, but neither {self.config.dft} nor the "
                f"pool {self.config.pool} holds it; set data.pool to the file that does"
            )
        stores = (self.dft, known), (self.pool, ~known)
        parts = [s.take(s.rows(np.array(ids, object)[mine].tolist())) for s, mine in stores]
        places = np.concatenate([np.flatnonzero(mine) for _, mine in stores])
        return StructureStore.joined(parts).take(np.argsort(places))

    def dft_energies(self, ids: Sequence[str]) -> np.ndarray:
        """Aligned DFT energies (n,), eV."""
        frames = self.dft.take(self.dft.rows(ids))
        return self.zero.aligned(frames, frames.energies, "DFT")

    def eip_energies(self, ids: Sequence[str], eips: Sequence[str]) -> np.ndarray:
        """Aligned energies (n, len(eips)), eV; NaN where an EIP gave no label."""
        raw = self._raw_eip_energies(ids, eips)
        zeros = self.eip_zeros(eips)
        structures = self.structures(ids)
        columns = [zeros[p].aligned(structures, raw[:, k], p) for k, p in enumerate(eips)]
        return np.stack(columns, axis=1) if columns else raw

    def chosen_energies(self, chosen: Mapping[str, str]) -> np.ndarray:
        """Aligned energies (n,), eV, of a selection (id -> EIP, or `DFT`); NaN where that EIP gave no label."""
        energies = np.empty(len(chosen))
        ids, names = list(chosen), np.array(list(chosen.values()))
        for name in set(chosen.values()):
            rows = np.flatnonzero(names == name)
            mine = [ids[row] for row in rows]
            energies[rows] = self.dft_energies(mine) if name == DFT else self.eip_energies(mine, [name])[:, 0]
        return energies

    def errors_per_atom(self, ids: Sequence[str], energies: np.ndarray) -> np.ndarray:
        """What aligned energies (n,), eV, are above DFT (n,), eV/atom; NaN where DFT is not known.

        It is known of a pool structure that is a frame of the DFT file, which the split keeps from training.
        """
        known = [i in self.dft for i in ids]
        dft = np.full(len(known), np.nan)
        dft[known] = self.dft_energies([i for i in ids if i in self.dft])
        return (energies - dft) / self.structures(ids).sizes

    def warnings(self, eips: Sequence[str]) -> list[str]:
        """What a user should look at before the training: units, or else zeros, of DFT beside these EIPs (or none)."""
        frames = sample(self.structures(self.split.train))
        if eips:
            self._raw_eip_energies([atoms.info["config_id"] for atoms in frames], eips)  # checked
            references = label_references(frames, self.store, eips)
        else:
            references = yardstick_references(frames)
        file = str(self.config.dft)
        texts = [
            energy_warning(frames, references, file) or self._alignment_warning(eips),
            force_warning(frames, references, file),
        ]
        zeros = [self.zero, *self._eip_zeros.values()]
        return [text for text in (*(zero.note for zero in zeros), *texts) if text]

    def _alignment_warning(self, eips: Sequence[str]) -> str | None:
        """A text where the DFT training energies are far from all of these EIPs, although both are aligned."""
        ids = self.split.train
        n_atoms = self.structures(ids).sizes
        eips = [name for name in eips if self._has_zero(name)]
        if not eips:
            return None
        return alignment_warning(self.dft_energies(ids), self.eip_energies(ids, eips), n_atoms, eips)

    def notes(self) -> list[str]:
        """What a look at the DFT frames before training shows: free atoms, repeated structures, wild energies."""
        parts = {
            "training": self.split.train,
            "validation": self.split.val,
            "test": self.split.test,
        }
        used = [i for ids in parts.values() for i in ids]
        return [*self._isolated_note(set(used)), *self._repeated(parts), *self._outlying(used)]

    def _isolated_note(self, used: set[str]) -> Iterator[str]:
        left = [k for k in np.flatnonzero(self.dft.isolated) if self.dft.ids[k] not in used]
        if left:
            elements = ", ".join(self.dft.elements(np.array(left)))
            yield (
                f"{len(left)} of {len(self.dft)} DFT frames are isolated atoms ({elements}): not trained or tested on"
            )

    def _repeated(self, parts: Mapping[str, Sequence[str]]) -> Iterator[str]:
        names = list(parts)
        for k, name in enumerate(names[1:], start=1):
            earlier = [i for part in names[:k] for i in parts[part]]
            same = same_structures(self.structures(earlier), self.structures(parts[name]))
            if same:
                yield (
                    f"{len(same)} of {len(parts[name])} {name} structures are also among those for "
                    f"{' or '.join(names[:k])}, atom by atom ({same[0][1]} is {same[0][0]}): "
                    "its error will be too small"
                )

    def _outlying(self, ids: Sequence[str]) -> Iterator[str]:
        frames = without_isolated_atoms(self.structures(ids))
        energies = frames.energies
        if far := outlying_energies(frames, energies):
            index, deviation = far[0]
            yield (
                f"{frames.ids[index]}: its DFT energy, {energies[index]:g} eV, is "
                f"{deviation:+.0f} eV/atom from the others of its composition; {len(far)} of {len(frames)} frames "
                "are so far off: correct or remove them"
            )

    def _has_zero(self, eip: str) -> bool:
        try:
            return bool(self.eip_zeros([eip]))
        except InputError:  # told where the EIP is used; not every EIP of the store is
            return False

    def require_labels(self, ids: Sequence[str], eips: Sequence[str]) -> None:
        """Raise `LabelError` where an EIP gave no label for any of these structures."""
        if ids and eips:
            require_labels(self.store, ids, eips)

    def eip_zeros(self, eips: Sequence[str]) -> dict[str, Reference]:
        for name in eips:
            if name not in self._eip_zeros:
                self._eip_zeros[name] = self._fit_eip_zero(name)
        return {name: self._eip_zeros[name] for name in eips}

    def zero_record(self, eips: Sequence[str]) -> dict[str, dict[str, Any]]:
        """All zeros as plain values for the checkpoint, DFT under ``dft``."""
        zeros = {"dft": self.zero} | self.eip_zeros(eips)
        return {name: zero.record() for name, zero in zeros.items()}

    def _fit_dft_zero(self) -> Reference:
        config = self.config.energy_zero
        isolated = isolated_energies(self.dft, config.energies)
        train = self._zero_frames
        return fit_reference(config.mode, train, train.energies, isolated=isolated)

    @property
    def _zero_frames(self) -> StructureStore:
        """Training frames that zeros are fitted to: no free atoms, which would draw the fit away from the others."""
        return without_isolated_atoms(self.structures(self.split.train))

    def _raw_eip_energies(self, ids: Sequence[str], eips: Sequence[str]) -> np.ndarray:
        """Energies (n, len(eips)) as in the label store, eV, of ids that mean the same structures there."""
        self.store.check(self.structures(ids))
        return self.store.energies_of(ids, eips)

    def _fit_eip_zero(self, name: str) -> Reference:
        configs = self.config.eip_energy_zero
        config = configs.get(name, configs.get("*"))
        if config is None:
            raise InputError(f"eip_energy_zero names neither {name!r} nor '*' (all others)")
        train = self._zero_frames
        return fit_reference(
            config.mode,
            train,
            self._raw_eip_energies(train.ids, [name])[:, 0],
            isolated=config.energies,
            beside=self.dft_energies(train.ids),
            source=name,
        )


def source_of(settings: Mapping[str, Any]) -> Source:
    """The source of a data module's arguments, as plain values of a configuration."""
    keys = {f.name for f in fields(SourceConfig)}
    given = {key: value for key, value in settings.items() if key in keys}
    eips = given.get("eip_energy_zero", "none")
    eips = {"*": eips} if isinstance(eips, str) else eips
    zeros = {
        "energy_zero": _zero_of(given["energy_zero"]),
        "eip_energy_zero": {name: _zero_of(zero) for name, zero in eips.items()},
    }
    return Source(SourceConfig(**given | zeros))


def _zero_of(given: Any) -> EnergyZero:
    return EnergyZero(**{"mode": given} if isinstance(given, str) else given)


def compare(source: Source) -> Comparison:
    """DFT and EIP energies of all structures of the split that have DFT for training or test."""
    ids = [*source.split.train, *source.split.val, *source.split.test]
    frames = source.structures(ids)
    return Comparison(
        ids=tuple(ids),
        elements=frames.element_sets(),
        n_atoms=frames.sizes,
        dft=source.dft_energies(ids),
        eips=source.store.eips,
        labels=source.eip_energies(ids, source.store.eips),
    )


def selected(file: str | Path | TextIO) -> dict[str, str]:
    """Id -> EIP of the configurations for which the classifier chose one (`selection.csv`)."""
    import pandas as pd

    what = "a selection is what `eipnn predict` writes with a ClassifierModule"
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
    except OSError:
        raise InputError(f"{file}: no such file, or it cannot be read; {what}") from None
    except pd.errors.EmptyDataError:
        raise InputError(f"{file}: is empty; {what}") from None
    if missing := {"config_id", "eip"} - set(table.columns):
        raise InputError(f"{file}: column {min(missing)!r} is missing; {what}")
    if len(again := table["config_id"][table["config_id"].duplicated()]):
        raise InputError(f"{file}: {again.iloc[0]!r} stands in it twice; {what}")
    table = table[table["eip"] != NONE]
    return dict(zip(table["config_id"], table["eip"], strict=True))
