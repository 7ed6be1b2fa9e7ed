"""The structures, splits and aligned labels that the three stages train on."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TextIO

import numpy as np
import pandas as pd
from ase.stress import full_3x3_to_voigt_6_stress

from eipnn.eips import DFT, NONE
from eipnn.errors import InputError
from eipnn.labels import LabelStore
from eipnn.labels.leaderboard import Comparison, alignment_warning, derivative_errors
from eipnn.labels.ledger import require_labels
from eipnn.reference import Mode, Reference, fit_reference
from eipnn.structures import (
    Ids,
    Split,
    StructureStore,
    isolated_energies,
    open_pool,
    open_structures,
    options_of,
    read_split,
    without_isolated_atoms,
)
from eipnn.structures.suspects import outlier_note, same_structures
from eipnn.targets import PER_ATOM
from eipnn.units import (
    energy_warning,
    force_warning,
    label_references,
    sample,
    stress_warning,
    yardstick_references,
    zeros_warning,
)


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

    @classmethod
    def of(cls, given: Any) -> Self:
        """Of a mode, of the arguments by name, or of one that is made already."""
        if isinstance(given, cls):
            return given
        return cls(**{"mode": given} if isinstance(given, str) else given)


@dataclass
class SourceConfig:
    """Where structures, splits and labels are. Paths may start with ``bundled:`` for data in the package.

    Args:
        dft: structures with DFT energies: a file, a pattern such as ``runs/*/OUTCAR``, or a list of them. Frames with
            ``config_type=IsolatedAtom`` are the free atoms of ``isolated_atoms``.
        split: CSV file with header ``configs,mark``; mark is train, val, test or pretrain (the pool). A DFT structure
            that is marked pretrain belongs to the pool: its DFT energy is hidden from the training.
        energy_zero: zero of the DFT energies, a mode or `EnergyZero`.
        pool: structures without DFT energies, likewise; needed by everything that uses the pool. Labels in these files
            are not read.
        labels: label store made by ``eipnn label`` over `dft` and `pool`; needed by everything that uses EIPs.
        eip_energy_zero: zero of the EIP energies: a mode for all, or by EIP name with ``"*"`` for the others; default:
            what their entries in the EIP set say, else none.
        energy_key: name of the DFT energy in the files, where the documented rule does not find it.
        forces_key: the same of the forces.
        stress_key: the same of the stress, or of virials if ``virial`` is in the name.
    """

    dft: str | list[str]
    split: str
    energy_zero: Mode | EnergyZero
    pool: str | list[str] | None = None
    labels: str | None = None
    eip_energy_zero: Mode | dict[str, EnergyZero] | None = None
    energy_key: str | None = None
    forces_key: str | None = None
    stress_key: str | None = None

    def zero_of_eip(self, source: str) -> EnergyZero | None:
        """How the zero of an EIP is found, where that is given."""
        if (given := self.eip_energy_zero) is None:
            return None
        zeros = {"*": given} if isinstance(given, str) else given
        if source not in zeros and "*" not in zeros:
            raise InputError(f"eip_energy_zero names neither {source!r} nor '*' (all others)")
        return EnergyZero.of(zeros.get(source, zeros.get("*")))


class Source:
    """Structures by id, with what DFT and EIPs say of them on one zero.

    Raises:
        StructureError: a file is damaged or the split names an id that no file has.
        LabelError: the label store lacks a structure or an EIP, or labelled another structure under an id.
        InputError: a part that is asked for (pool, labels) was not given.
    """

    def __init__(self, config: SourceConfig) -> None:
        self.config = config
        self.dft = open_structures(config.dft, config.pool, **options_of(vars(config), require_energy=True))
        self.split: Split = read_split(config.split)
        self.split.check(self.dft.ids, None, config.split)
        self._references: dict[str, Reference] = {}
        self.zero = self.reference(DFT)

    @cached_property
    def store(self) -> LabelStore:
        if self.config.labels is None:
            raise InputError("data.labels is not set: name the label store that `eipnn label` made")
        return LabelStore.open(self.config.labels)

    @cached_property
    def pool(self) -> StructureStore:
        """The structures of the pool's files, opened by those who ask for them.

        A structure of the pool may come from the DFT file: its DFT energy is hidden from the training. Without a pool
        file, what needs the pool says so when it is asked for.
        """
        pool = open_pool(self.config.pool, self.config.dft, self.dft)
        if self.config.pool:
            self.split.check(self.dft.ids, Ids.joined([pool.ids, self.dft.ids]), self.config.split)
        return pool

    def structures(self, ids: Sequence[str]) -> StructureStore:
        """The structures with these ids, DFT or pool."""
        rows = self.dft.ids.find(ids)
        if (rows >= 0).all():
            return self.dft.take(rows)
        others = np.flatnonzero(rows < 0)
        rows[others] = len(self.dft) + (found := self.pool.ids.find(Ids.of(ids).take(others)))
        if (found < 0).any():
            raise InputError(
                f"{ids[int(others[found.argmin()])]}: the split {self.config.split} names it, but neither "
                f"{self.config.dft} nor the pool {self.config.pool} holds it; set data.pool to the file that does"
            )
        if len(others) == len(rows):
            return self.pool.take(found)
        places = np.argsort(rows, kind="stable")
        parts = self.dft.take(rows[places[: len(rows) - len(others)]]), self.pool.take(np.sort(found))
        return StructureStore.joined(parts).take(np.argsort(places))

    def targets(
        self, structures: StructureStore, sources: Sequence[str], wanted: Collection[str] = ("energy",)
    ) -> dict[str, np.ndarray]:
        """What the sources say of n structures with N atoms, NaN where they say nothing; energies on the shared zero.

        Args:
            structures: of `structures`.
            sources: S names of EIPs, or `DFT`, which is known of the frames of the DFT file.
            wanted: energy, forces and stress, see `eipnn.targets.Targets`.

        Returns:
            by name: energy (n, S), forces (N, S, 3), stress (n, S, 6) in ASE's order.
        """
        eips = [name for name in sources if name != DFT]
        columns = [[DFT, *eips].index(name) for name in sources]
        found = {}
        for name in wanted:
            if DFT not in sources:
                found[name] = self._of_eips(name, structures, eips)
                continue
            dft = of_dft(name, structures)[:, None]
            both = [dft, self._of_eips(name, structures, eips)] if eips else [dft]
            found[name] = np.concatenate(both, axis=1)[:, columns]
        if "energy" in found:
            for k, source in enumerate(sources):
                label = "DFT" if source == DFT else source
                found["energy"][:, k] = self.reference(source).aligned(structures, found["energy"][:, k], label)
        return found

    def energies(self, ids: Sequence[str], sources: Sequence[str]) -> np.ndarray:
        """Those of `targets` (n, S)."""
        return self.targets(self.structures(ids), sources)["energy"]

    def chosen(self, chosen: Mapping[str, str], wanted: Collection[str] = ("energy",)) -> dict[str, np.ndarray]:
        """`targets` of a selection, id -> EIP or `DFT`: S is 1."""
        structures, names = self.structures(list(chosen)), np.array(list(chosen.values()), object)
        groups = {name: np.flatnonzero(names == name) for name in sorted(set(names))} or {DFT: np.arange(0)}
        parts = [self.targets(structures.take(rows), [name], wanted) for name, rows in groups.items()]
        rows = np.concatenate(list(groups.values()))
        back = np.argsort(rows)
        atoms = structures.take(rows).atoms_of(back)
        joined = {name: np.concatenate([part[name] for part in parts]) for name in wanted}
        return {name: values[atoms if name in PER_ATOM else back] for name, values in joined.items()}

    def reference(self, source: str) -> Reference:
        """What is taken off the energies of DFT or of an EIP: that of its training labels."""
        if source not in self._references:
            self._references[source] = self._fit(source)
        return self._references[source]

    def references(self, sources: Sequence[str]) -> dict[str, Reference]:
        """`reference` of each."""
        return {source: self.reference(source) for source in sources}

    def _fit(self, source: str) -> Reference:
        # no free atoms, which would draw a fit away from the others
        train = without_isolated_atoms(self.structures(self.split.train))
        if source == DFT:
            zero = EnergyZero.of(self.config.energy_zero)
            return fit_reference(zero.mode, train, train.energies, isolated_energies(self.dft, zero.energies))
        energies = self._of_eips("energy", train, [source])[:, 0]
        aligned = self.targets(train, [DFT])["energy"][:, 0]
        zero = self.config.zero_of_eip(source) or EnergyZero.of(self.store.zeros[source])
        return fit_reference(zero.mode, train, energies, zero.energies, aligned, source)

    def _of_eips(self, name: str, structures: StructureStore, eips: Sequence[str]) -> np.ndarray:
        """Labels as in the store, of structures that are the same there, in the shapes of `targets`."""
        self.store.check(structures)
        store = self.store
        read = {"energy": store.energies_of, "forces": store.forces_of, "stress": store.stress_of}[name]
        return read(structures.ids, eips)

    def warnings(self, eips: Sequence[str]) -> list[str]:
        """What a user should look at before the training: units, or else zeros, of DFT beside these EIPs (or none)."""
        train = self.structures(self.split.train)
        frames = sample(train)
        if eips:
            self._of_eips("energy", StructureStore.of(frames), eips)  # checked
            references = label_references(frames, self.store, eips)
        else:
            references = yardstick_references(frames)
        file = str(self.config.dft)
        of_energies = energy_warning(frames, references, file) or self._alignment_warning(eips)
        of_zeros = [reference.note for reference in self._references.values()]
        of_forces = force_warning(frames, references, file), zeros_warning(train, file), stress_warning(train, file)
        return [text for text in (*of_zeros, of_energies, *of_forces) if text]

    def _alignment_warning(self, eips: Sequence[str]) -> str | None:
        """A text where the DFT training energies are far from all of these EIPs, although both are aligned."""
        aligned = []
        for name in eips:
            with suppress(InputError):  # told where the EIP is used; not every EIP of the store is
                self.reference(name)
                aligned.append(name)
        if not aligned:
            return None
        ids = self.split.train
        energies = self.energies(ids, [DFT, *aligned])
        return alignment_warning(energies[:, 0], energies[:, 1:], self.structures(ids).sizes, aligned)

    def notes(self, pool: Sequence[str] = ()) -> Iterator[str]:
        """What a look at the structures before training shows: free atoms, frames in no part of the split, repeated
        structures, wild energies.

        Args:
            pool: structures that the training learns EIP labels of.
        """
        parts = {"training": self.split.train, "validation": self.split.val, "test": self.split.test}
        used = [i for ids in parts.values() for i in ids]
        left = np.setdiff1d(np.flatnonzero(self.dft.isolated), self.dft.rows(used))
        if len(left):
            elements = ", ".join(self.dft.take(left).elements())
            yield f"{len(left)} of {len(self.dft)} DFT frames are isolated atoms ({elements}): not trained or tested on"
        marked = self.dft.ids.find(Ids.joined([Ids.of(used), Ids.of(self.split.pool)]))
        others = np.setdiff1d(np.flatnonzero(~self.dft.isolated), marked)
        if len(others):
            yield (
                f"{len(others)} of {len(self.dft)} DFT frames are in no part of the split {self.config.split} "
                f"({self.dft.ids[int(others[0])]}): not trained or tested on"
            )
        earlier: dict[str, Sequence[str]] = {}
        for name, ids in parts.items():
            known = self.structures([i for part in earlier.values() for i in part])
            if same := same_structures(known, self.structures(ids)):
                yield (
                    f"{len(same)} of {len(ids)} {name} structures are also among those for {' or '.join(earlier)}, "
                    f"atom by atom ({same[0][1]} is {same[0][0]}): its error will be too small"
                )
            earlier[name] = ids
        judged, learned = self.structures([*self.split.val, *self.split.test]), self.structures(pool)
        twins = np.flatnonzero(np.isin(learned.checksums, judged.checksums))  # exact: a pool may be a million
        if len(twins):
            yield (
                f"{len(twins)} of {len(learned)} structures of the pool are also among those for validation or test "
                f"({learned.ids[int(twins[0])]}): their errors will be too small"
            )
        frames = without_isolated_atoms(self.structures(used))
        if text := outlier_note(frames):
            yield text

    def require_labels(self, ids: Sequence[str], eips: Sequence[str]) -> None:
        """Raise `LabelError` where an EIP gave no label for any of these structures."""
        if ids and eips:
            require_labels(self.store, ids, eips)

    def zero_record(self, eips: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The references of DFT (under ``dft``) and of these EIPs, as plain values for a checkpoint."""
        return {name: reference.record() for name, reference in self.references([DFT, *eips]).items()}


def of_dft(name: str, structures: StructureStore) -> np.ndarray:
    """DFT labels as in the file, in the shapes of `Source.targets` but for the axis of the sources."""
    if name == "stress":
        return full_3x3_to_voigt_6_stress(structures.stresses)
    return {"energy": structures.energies, "forces": structures.forces}[name]


def source_of(settings: Mapping[str, Any]) -> Source:
    """The source of a data module's arguments, as plain values of a configuration."""
    keys = {f.name for f in fields(SourceConfig)}
    return Source(SourceConfig(**{key: value for key, value in settings.items() if key in keys}))


def compare(source: Source) -> Comparison:
    """DFT and EIP energies of all structures of the split that have DFT for training or test."""
    ids = [*source.split.train, *source.split.val, *source.split.test]
    frames = source.structures(ids)
    return Comparison(
        ids=tuple(ids),
        elements=frames.element_sets(),
        n_atoms=frames.sizes,
        dft=source.energies(ids, [DFT])[:, 0],
        eips=source.store.eips,
        labels=source.energies(ids, source.store.eips),
        **derivative_errors(frames, source.store),
    )


def selected(file: str | Path | TextIO) -> dict[str, str]:
    """Id -> EIP of the configurations for which the classifier chose one (`selection.csv`)."""
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
