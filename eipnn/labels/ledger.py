"""The ledger of failed labels: appended to during a run, sorted at its end."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np

from eipnn.files import write_atomically
from eipnn.labels.layout import LEDGER, LEDGER_HEAD, LabelError
from eipnn.labels.store import LabelStore


class Ledger:
    """Reasons of failure by (row, EIP column); each is on disk before the label counts as failed."""

    def __init__(self, folder: Path, ids: Sequence[str], eips: Sequence[str]) -> None:
        self._file, self._ids, self._eips = folder / LEDGER, ids, eips
        rows, columns = ({name: place for place, name in enumerate(names)} for names in (ids, eips))
        self.reasons: dict[tuple[int, int], str] = {}
        with self._file.open(newline="", encoding="utf-8") as stream:
            for entry in csv.reader(stream):
                # The last line of a killed run may be torn.
                if len(entry) == 3 and entry[0] in rows and entry[1] in columns:
                    self.reasons[rows[entry[0]], columns[entry[1]]] = entry[2]

    def add(self, row: int, column: int, reason: str) -> None:
        """Note one failure, on disk when this returns."""
        self.reasons[row, column] = reason
        with self._file.open("a", newline="", encoding="utf-8") as stream:
            self._write(stream, [(row, column)])

    def keep(self, failed: Iterable[tuple[int, int]]) -> None:
        """Drop all entries but `failed` and write the ledger in the order of rows and EIPs."""
        self.reasons = {key: self.reasons[key] for key in sorted(failed)}
        text = io.StringIO(LEDGER_HEAD)
        text.seek(0, io.SEEK_END)
        self._write(text, self.reasons)
        write_atomically(self._file, text.getvalue())

    def _write(self, stream: TextIO, keys: Iterable[tuple[int, int]]) -> None:
        lines = ([self._ids[row], self._eips[column], self.reasons[row, column]] for row, column in keys)
        csv.writer(stream, lineterminator="\n").writerows(lines)


def require_labels(store: LabelStore, ids: Sequence[str], eips: Sequence[str]) -> None:
    """Raise `LabelError` where an EIP labelled none of these configurations, with its most frequent reason."""
    lost = np.isnan(store.energies_of(ids, eips)).all(axis=0)
    if not ids or not lost.any():
        return
    eip = eips[int(np.argmax(lost))]
    column, rows = store.eips.index(eip), set(store.rows(ids).tolist())
    ledger = Ledger(store.folder, store.ids, store.eips)
    reasons = Counter(r for (row, c), r in ledger.reasons.items() if c == column and row in rows)
    why = "".join(f" ({n} x {reason})" for reason, n in reasons.most_common(1))
    raise LabelError(
        f"{store.folder}: the EIP {eip} has no label of any of the {len(ids)} structures{why}; leave it out, or mend "
        "that and label again with --retry-failed"
    )
