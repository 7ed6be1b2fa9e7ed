"""The ledger of failed labels: appended to during a run, sorted at its end."""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from eipnn.files import write_atomically
from eipnn.labels.store import LEDGER, LabelError, LabelStore

HEADER = ["config_id", "eip", "reason"]


class Ledger:
    """Reasons of failure by (row, EIP column); each is on disk before the label counts as failed."""

    def __init__(self, folder: Path, ids: Sequence[str], eips: Sequence[str]) -> None:
        self._file = folder / LEDGER
        self._ids = ids
        self._eips = eips
        self.reasons = self._read()

    def _read(self) -> dict[tuple[int, int], str]:
        rows = {name: row for row, name in enumerate(self._ids)}
        columns = {name: column for column, name in enumerate(self._eips)}
        reasons = {}
        with self._file.open(newline="", encoding="utf-8") as stream:
            for entry in csv.reader(stream):
                # The last line of a killed run may be torn.
                if len(entry) == 3 and entry[0] in rows and entry[1] in columns:
                    reasons[rows[entry[0]], columns[entry[1]]] = entry[2]
        return reasons

    def add(self, row: int, column: int, reason: str) -> None:
        """Note one failure, on disk when this returns."""
        self.reasons[row, column] = reason
        with self._file.open("a", newline="", encoding="utf-8") as stream:
            _writer(stream).writerow([self._ids[row], self._eips[column], reason])

    def keep(self, failed: set[tuple[int, int]]) -> None:
        """Drop all entries but `failed` and write the ledger in the order of rows and EIPs."""
        self.reasons = {key: self.reasons[key] for key in sorted(failed)}
        text = io.StringIO()
        writer = _writer(text)
        writer.writerow(HEADER)
        for (row, column), reason in self.reasons.items():
            writer.writerow([self._ids[row], self._eips[column], reason])
        write_atomically(self._file, text.getvalue())


def require_labels(store: LabelStore, ids: Sequence[str], eips: Sequence[str]) -> None:
    """Raise `LabelError` where an EIP labelled none of these configurations, with its most frequent reason."""
    lost = np.isnan(store.energies_of(ids, eips)).all(axis=0)
    if not ids or not lost.any():
        return
    eip = eips[int(np.argmax(lost))]
    ledger = Ledger(store.folder, store.ids, store.eips)
    column, rows = store.eips.index(eip), {store.row(name) for name in ids}
    reasons = Counter(r for (row, c), r in ledger.reasons.items() if c == column and row in rows)
    why = "".join(f" ({n} x {reason})" for reason, n in reasons.most_common(1))
    raise LabelError(
        f"{store.folder}: the EIP {eip} has no label of any of the {len(ids)} structures{why}; leave it out, or mend "
        "that and label again with --retry-failed"
    )


def _writer(stream: io.TextIOBase | io.TextIOWrapper):  # type: ignore[no-untyped-def]
    return csv.writer(stream, lineterminator="\n")
