"""The labels of a finished store, whose files are those of `eipnn.labels.layout`."""

import hashlib
import json
import logging
import zlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from ase import Atoms

from eipnn.labels.layout import (
    FORCE_SUMS,
    IDS,
    INDEX,
    MAKE,
    SUMS,
    WITHOUT_STRESS,
    ZEROS,
    Arrays,
    LabelError,
    damaged,
    open_array,
    read_ids,
    read_index,
    verify,
)
from eipnn.structures import StructureError, StructureStore, resolve
from eipnn.structures.ids import as_slice, places_of
from eipnn.structures.paths import fetch_hint

log = logging.getLogger("eipnn")


class LabelStore(Arrays):
    """A finished store, read-only. `LabelStore.open(path)` makes one."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.ids = read_ids(folder)
        self.eips = tuple(entry["name"] for entry in self.index["eips"])
        sealed = (folder / SUMS).exists()
        self._force_sums = np.load(folder / FORCE_SUMS) if sealed else None  # (n_frames,)

    @classmethod
    def open(cls, path: str | Path) -> "LabelStore":
        """Open the finished store in the folder `path` (or `bundled:NAME`).

        Raises `LabelError` where there is none, where it is damaged, and where labels are pending.
        """
        try:
            folder = resolve(path)
        except StructureError:
            raise LabelError(f"{path}: no such label store; {fetch_hint(path) or MAKE}") from None
        read_index(folder)
        verify(folder)
        store = cls(folder)
        if len(store.ids) != store.index["n_frames"]:
            raise damaged(folder, f"{IDS} has {len(store.ids)} ids, not {store.index['n_frames']}")
        if not store.complete:
            left = int((~store.finished()).sum())
            raise LabelError(
                f"{path}: incomplete, {left} of {store.status.size} labels are missing; run the same `eipnn label` "
                "command again, it goes on from here"
            )
        return store

    @cached_property
    def zeros(self) -> dict[str, str]:
        """The mode of the energy zero of each EIP, see `EIP.zero`. Raises `LabelError` where they cannot be read."""
        try:
            named = json.loads((self.folder / ZEROS).read_text(encoding="utf-8"))
            return {name: named.get(name, "none") for name in self.eips}
        except FileNotFoundError:
            return dict.fromkeys(self.eips, "none")
        except (ValueError, AttributeError):
            raise damaged(self.folder, f"{ZEROS} is no mapping") from None

    @property
    def complete(self) -> bool:
        """Whether every label is there or has failed."""
        return bool(self.finished().all())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the index, the energies, the sums of the forces and the stress."""
        digest = hashlib.sha256((self.folder / INDEX).read_bytes())
        sums = self.force_sums() if self._force_sums is None else self._force_sums
        for array in (self.energies, sums, self._stress):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    @cached_property
    def _stress(self) -> np.ndarray:
        """`stress`; once it is said where there is none."""
        if self.index["version"] == WITHOUT_STRESS:
            log.warning("%s: holds no stress, as stores of older versions; label into a new folder for it", self.folder)
        return self.stress

    def rows(self, ids: Sequence[str]) -> np.ndarray:
        """The rows of these configurations (n,). Raises `LabelError` with the first that the store lacks."""
        rows = self.ids.find(ids)
        if (rows < 0).any():
            name = ids[int(rows.argmin())]
            raise LabelError(
                f"{self.folder}: has no labels of the configuration {name!r}; label the file that holds it"
            )
        return rows

    def check(self, structures: Sequence[Atoms]) -> None:
        """Raise `LabelError` where one of the structures is not what was labelled under its ``config_id``."""
        given = StructureStore.of(structures)
        rows = self.rows(given.ids)
        others = np.flatnonzero(self.checksums[rows] != given.checksums)
        if len(others) == 0:
            return
        row, size = rows[others[0]], given.sizes[others[0]]
        labelled = self.offsets[row + 1] - self.offsets[row]
        sizes = f"{labelled} atoms, and yours has {size}"
        difference = "other species, positions, cell or periodicity" if labelled == size else sizes
        raise LabelError(
            f"{self.folder}: has labels of another structure {self.ids[row]!r} with {difference}; label the present "
            "files into a new folder"
        )

    def forces(self, config_id: str) -> np.ndarray:
        """`forces_of` one configuration under all EIPs."""
        return self.forces_of([config_id], self.eips)

    def forces_of(self, ids: Sequence[str], eips: Sequence[str]) -> np.ndarray:
        """Forces (N, len(eips), 3) in eV/A of the N atoms of these configurations, NaN where a label is missing.

        Of rows that stand one after another under all EIPs a view of the file: changes in it are the caller's own.

        Raises `LabelError` naming the first configuration or EIP that the store lacks, and where forces are not as
        they were written.
        """
        rows, columns = self.rows(ids), self._columns(eips)
        if self._force_sums is not None:
            bounds = zip(self.offsets[rows].tolist(), self.offsets[rows + 1].tolist(), strict=True)
            sums = np.fromiter((zlib.crc32(self.all_forces[a:b].data) for a, b in bounds), np.uint32, len(rows))
            if len(wrong := np.flatnonzero(sums != self._force_sums[rows])):
                raise damaged(self.folder, f"the forces of {ids[wrong[0]]} are not as they were written")
        if run := self._run(rows, eips):
            return self._private("forces")[self.offsets[run.start] : self.offsets[run.stop]]
        return self.all_forces[places_of(self.offsets, rows)[:, None], columns]

    def stress_of(self, ids: Sequence[str], eips: Sequence[str]) -> np.ndarray:
        """Stress (len(ids), len(eips), 6) in eV/A^3, ASE's order and sign, NaN where there is none; a view as in
        `forces_of`.

        Raises `LabelError` naming the first configuration or EIP that the store lacks.
        """
        rows, columns = self.rows(ids), self._columns(eips)
        if self.index["version"] != WITHOUT_STRESS and (run := self._run(rows, eips)):
            return self._private("stress")[run]
        return self._stress[rows[:, None], columns]

    def energies_of(self, ids: Sequence[str], eips: Sequence[str]) -> np.ndarray:
        """Energies (len(ids), len(eips)) in eV, NaN where a label is missing.

        Raises `LabelError` naming the first configuration or EIP that the store lacks.
        """
        return np.asarray(self.energies[self.rows(ids)[:, None], self._columns(eips)])

    def _run(self, rows: np.ndarray, eips: Sequence[str]) -> slice | None:
        """The slice of rows under all EIPs that need not be copied: they may be more than the memory holds."""
        return as_slice(rows) if tuple(eips) == self.eips else None

    def _private(self, name: str) -> np.ndarray:
        """One of the arrays, in which changes are the caller's own."""
        return open_array(self.folder, name, self.index, "c")

    def _columns(self, eips: Sequence[str]) -> np.ndarray:
        for name in eips:
            if name not in self.eips:
                raise LabelError(f"{self.folder}: has no labels of the EIP {name!r}; it has {', '.join(self.eips)}")
        return np.array([self.eips.index(name) for name in eips], dtype=np.int64)
