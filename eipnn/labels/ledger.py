"""The ledger of failed labels: appended to during a run, sorted at its end."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TextIO

import numpy as np

from eipnn.files import write_atomically
from eipnn.labels.layout import LEDGER, LEDGER_HEAD, LabelError
from eipnn.labels.store import LabelStore
from eipnn.structures.ids import BLOCK, Ids


class Ledger:
    """Reasons of failure by (row, EIP column); each is on disk before the label counts as failed."""

    def __init__(self, folder: Path, ids: Sequence[str], eips: Sequence[str]) -> None:
        self._file, self._ids, self._eips = folder / LEDGER, ids, eips
        self.reasons: dict[tuple[int, int], str] = {}
        known, columns = Ids.of(ids), {name: place for place, name in enumerate(eips)}
        with self._file.open(newline="", encoding="utf-8") as stream:
            # The last line of a killed run may be torn, and run on into the next one.
            entries = (e for e in csv.reader(stream) if len(e) == 3 and e[1] in columns and "\n" not in e[0])
            while block := list(islice(entries, BLOCK)):
                for row, (_, eip, reason) in zip(known.find([e[0] for e in block]).tolist(), block, strict=True):
                    if row >= 0:
                        self.reasons[row, columns[eip]] = reason

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
