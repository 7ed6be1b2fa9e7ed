"""What is to be done to one label store, whoever does it: pending labels, and the ledger of those that fail."""

from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from eipnn.eips import EIP
from eipnn.labels.layout import DONE, FAILED, IN_WORK, PENDING, Arrays, seal
from eipnn.labels.ledger import Ledger
from eipnn.structures import StructureStore
from eipnn.structures.ids import places_of

BLOCKS_PER_WORKER = 20  # so that at the end no worker waits long for another

Columns = list[int] | slice
ALL = slice(None)


class Work:
    """The structures of a store in `folder`, its arrays and its ledger."""

    def __init__(self, structures: StructureStore, eips: Sequence[EIP], folder: Path) -> None:
        self.structures, self.folder = structures, folder
        self.arrays = Arrays(folder, "r+")
        self.status = self.arrays.status
        self.ledger = Ledger(folder, structures.ids, [eip.name for eip in eips])

    def prepare(self, retry_failed: bool) -> None:
        """Set back what a killed run left behind, and the failed labels where they get another try."""
        self.status[self.status == IN_WORK] = PENDING
        # After a power cut the status may have reached the disk before the label.
        self.status[(self.status == DONE) & np.isinf(self.arrays.stress).any(axis=2)] = PENDING
        torn = np.isnan(self.arrays.energies)
        some = self.structures.sizes > 0
        torn[some] |= np.logical_or.reduceat(
            np.isnan(self.arrays.all_forces).any(axis=2), self.arrays.offsets[:-1][some]
        )
        self.status[(self.status == DONE) & torn] = PENDING
        failed = self._failed()
        again = failed if retry_failed else failed - set(self.ledger.reasons)
        for label in again:
            self.status[label] = PENDING
        self.ledger.keep(failed - again)

    def rows(self, columns: Columns = ALL) -> list[int]:
        """The rows with pending labels of these EIPs."""
        return np.flatnonzero((self.status[:, columns] == PENDING).any(axis=1)).tolist()

    def blocks(self, workers: int, largest: int, columns: Columns = ALL) -> deque[list[int]]:
        """`rows` in blocks for so many workers, of at most `largest` structures."""
        rows = self.rows(columns)
        parts = workers * BLOCKS_PER_WORKER if workers > 1 else 1
        size = min(max(len(rows) // parts, 1), largest)
        return deque(rows[i : i + size] for i in range(0, len(rows), size))

    def fail(self, row: int, column: int, reason: str) -> None:
        """Note that a label cannot be had."""
        self.arrays.energies[row, column] = np.nan
        self.arrays.all_forces[self.arrays.atoms(row), column] = np.nan
        self.arrays.stress[row, column] = np.nan
        self.ledger.add(row, column, reason)
        self.status[row, column] = FAILED

    def finish(self) -> None:
        """Put ledger and arrays in their final state on disk."""
        self.ledger.keep(self._failed())
        self.arrays.flush()
        seal(self.folder)

    def _failed(self) -> set[tuple[int, int]]:
        return {(row, column) for row, column in np.argwhere(self.status == FAILED).tolist()}


def put(
    arrays: Arrays, rows: np.ndarray, new: np.ndarray, energies: np.ndarray, forces: np.ndarray, stress: np.ndarray
) -> None:
    """Write the `new` (n, n_eips) labels of n rows of a store; the status comes last.

    Of all n rows, energies (n, n_eips) in eV, forces (n_atoms, n_eips, 3) in eV/A, stress (n, n_eips, 6) in eV/A^3.
    """
    row, column = np.nonzero(new)
    atom, eip = np.nonzero(of_atoms := np.repeat(new, arrays.offsets[rows + 1] - arrays.offsets[rows], axis=0))
    arrays.energies[rows[row], column] = energies[new]
    arrays.stress[rows[row], column] = stress[new]
    arrays.all_forces[places_of(arrays.offsets, rows)[atom], eip] = forces[of_atoms]
    arrays.status[rows[row], column] = DONE
