"""Labels by the workers of a Dask cluster.

They are handed blocks of structures as arrays, and hand back arrays: they need neither the label store nor a file of
this machine. Each labels a block as `eipnn label` does, with a process of its own, so that crashes and time limits
cost one label there too. The store is written here alone, each label once. A block whose Dask worker is lost is done
by another one: by Dask itself a few times, then in halves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from eipnn.eips import EIP, EIPError
from eipnn.errors import InputError
from eipnn.labels.layout import DONE, FAILED, PENDING, LabelError, create, describe
from eipnn.labels.local import Crew, Engine
from eipnn.labels.work import Work, put
from eipnn.own_code import source_digests
from eipnn.progress import progress_bar
from eipnn.structures import StructureStore
from eipnn.version import __version__

if TYPE_CHECKING:  # the extra `cluster`
    from distributed import Client, Future

ANSWER = 10.0  # s that a scheduler has to answer
POLL = 0.5  # s between two looks for new workers
IN_FLIGHT = 2  # blocks for each thread of the cluster: one is worked on, one waits there
FEW = 8  # threads for which blocks are cut at least: others may join
LARGEST_BLOCK, LARGEST_ATOMS = 2000, 100_000  # structures of a block; atoms, about
GOES_ON = "the same command goes on from here"


class Labels(NamedTuple):
    """Of the structures of a block."""

    energies: np.ndarray  # (n, n_eips), eV
    forces: np.ndarray  # (n_atoms, n_eips, 3), eV/A
    stress: np.ndarray  # (n, n_eips, 6), eV/A^3
    status: np.ndarray  # (n, n_eips)
    reasons: dict[tuple[int, int], str]  # of failure, by row of the block and EIP column


class Team:
    """The EIPs on a Dask worker, with the label processes there: they end when the client needs it no more.

    Args:
        packed: the EIPs, see `EIP.packed`.
        code: of each, as its `description` at the client has it.
        elements: that occur in all structures together.
        timeout: seconds a label.
        version: of eipnn at the client.
    """

    def __init__(
        self,
        packed: list[tuple[EIP, dict[str, bytes]]],
        code: list[dict[str, str] | None],
        elements: list[str],
        timeout: float,
        version: str,
    ) -> None:
        self.given = packed, code, elements, timeout, version

    def __reduce__(self) -> tuple[Any, ...]:
        return Team, self.given  # processes and files stay

    def label(self, structures: StructureStore, pending: np.ndarray) -> Labels:
        """The `pending` (n, n_eips) labels of a block. Raises `EIPError` where none can be made on this machine."""
        crew = self._crew()
        with TemporaryDirectory(dir=_local_directory(), prefix="labels-") as folder:
            index = describe(structures, ()) | {"eips": [{"name": eip.name} for eip in crew.eips]}
            create(Path(folder), structures, index, lasting=False)
            work = Work(structures, crew.eips, Path(folder))
            work.status[~pending] = DONE
            Engine(work, crew).run(1, shown=False)
            found = work.arrays
            energies, forces, stress, status = map(
                np.array, (found.energies, found.all_forces, found.stress, found.status)
            )
            return Labels(energies, forces, stress, status, work.ledger.reasons)

    def _crew(self) -> Crew:
        with _MAKING:
            if "crew" not in self.__dict__:
                self.crew = self._made()
            return self.crew

    def _made(self) -> Crew:
        packed, codes, elements, timeout, version = self.given
        if version != __version__:
            raise EIPError(f"eipnn {__version__} is installed there, and here {version}; install the same")
        self.folder = TemporaryDirectory(dir=_local_directory(), prefix="eipnn-")
        eips = []
        for (eip, files), code in zip(packed, codes, strict=True):
            if eip.source == "ase" and code != (source_digests([eip.target]) or None):
                raise EIPError(f"EIP {eip.name}: the module of {eip.target} is absent there, or another one than here")
            for name, content in files.items():
                file = Path(self.folder.name, name)
                file.parent.mkdir(exist_ok=True)
                file.write_bytes(content)
            eips.append(replace(eip, folder=self.folder.name))
        return Crew(tuple(eips), elements, timeout, Path(self.folder.name, "scratch"))

    def __del__(self) -> None:
        if "crew" in self.__dict__:
            self.crew.close()


_MAKING = Lock()


def _local_directory() -> str:
    """Where the Dask worker that runs this keeps its files."""
    from distributed import get_worker

    return get_worker().local_directory


@contextmanager
def connected(address: str) -> Iterator[Client]:
    """A client of the scheduler at this address. Raises `LabelError` where none answers, or Dask is not installed."""
    try:
        from distributed import Client
    except ImportError as error:
        raise LabelError(f"--cluster needs Dask ({error}): pip install 'eipnn[cluster]'") from error
    try:
        client = Client(address, timeout=ANSWER, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise LabelError(
            f"{address}: no Dask scheduler answers there; give the address that `dask scheduler` prints, such as "
            "tcp://HOST:8786"
        ) from error
    try:
        yield client
    finally:
        client.close()


def label_on(client: Client, address: str, work: Work, eips: Sequence[EIP], timeout: float, shown: bool) -> None:
    """Label all that is pending by the workers of a cluster, those that join later too; `address` is told of errors.

    Raises:
        EIPError: a worker cannot make an EIP's calculator.
        LabelError: the scheduler is gone, or the cluster cannot run eipnn.
    """
    if work.rows():
        with progress_bar("labels", work.status.size, "labels", shown, int(work.arrays.finished().sum())) as move:
            packed, code = [eip.packed() for eip in eips], [eip.description().get("code") for eip in eips]
            given = packed, code, work.structures.elements(), timeout, __version__
            _Cluster(client, address, work, client.submit(Team, *given, pure=False)).run(move)


class _Cluster:
    """One run of a cluster over one store."""

    def __init__(self, client: Client, address: str, work: Work, team: Future) -> None:
        self.client, self.address, self.work, self.team = client, address, work, team
        structures = work.structures
        largest = LARGEST_ATOMS * len(structures) // max(len(structures.numbers), 1)
        self.queue = work.blocks(max(self._threads(), FEW), min(max(largest, 1), LARGEST_BLOCK))
        self.running: dict[Future, np.ndarray] = {}  # the rows of each block that is handed out

    def run(self, move: Any) -> None:
        from distributed import wait

        while self.queue or self.running:
            for _ in range(IN_FLIGHT * max(self._threads(), 1) - len(self.running)):
                if self.queue:
                    self._submit(np.array(self.queue.popleft(), dtype=np.int64))
            with self.client.as_current(), suppress(TimeoutError, CancelledError):  # the block itself tells
                wait(list(self.running), POLL, "FIRST_COMPLETED")
            for future in [future for future in self.running if future.done()]:
                rows = self.running.pop(future)
                before = self._pending(rows)
                self._take(future, rows)
                move(int((before & ~self._pending(rows)).sum()), f"{len(self.work.ledger.reasons)} failed")

    def _threads(self) -> int:
        """Of all workers that are there."""
        try:
            return sum(self.client.nthreads().values())
        except OSError as error:
            raise LabelError(f"{self.address}: the Dask scheduler is gone; {GOES_ON}") from error

    def _pending(self, rows: np.ndarray) -> np.ndarray:
        return self.work.status[rows] == PENDING

    def _submit(self, rows: np.ndarray) -> None:
        block = self.work.structures.take(rows), self._pending(rows)
        self.running[self.client.submit(Team.label, self.team, *block, pure=False)] = rows

    def _take(self, future: Future, rows: np.ndarray) -> None:
        """Write what a block has brought."""
        from distributed import KilledWorker

        try:
            labels: Labels = future.result()
        except KilledWorker as error:
            if error.task != future.key:
                raise LabelError(f"{self.address}: its workers end before the first label; their logs tell") from error
            self._lost(rows)
        except InputError as error:
            raise EIPError(f"a Dask worker of {self.address}: {error}") from error
        except CancelledError as error:
            raise LabelError(f"{self.address}: the Dask scheduler is gone; {GOES_ON}") from error
        else:
            pending = self._pending(rows)
            put(self.work.arrays, rows, pending & (labels.status == DONE), *labels[:3])
            for row, column in np.argwhere(pending & (labels.status == FAILED)).tolist():
                self.work.fail(int(rows[row]), column, labels.reasons[row, column])

    def _lost(self, rows: np.ndarray) -> None:
        """A block at which several Dask workers ended: what is in it ends them, or chance does."""
        if len(rows) > 1:
            self.queue.extendleft(half.tolist() for half in np.array_split(rows, 2))
            return
        for column in np.flatnonzero(self._pending(rows[0])).tolist():
            self.work.fail(int(rows[0]), column, "the Dask workers ended that worked on this structure")
