"""Labels by a Dask cluster on this machine: those of local workers, byte for byte, whoever is killed."""

import os
import signal
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_labels import SPRINGS, clusters, contents, done, failures, start, trouble, wait_for, with_one_of_eight

from eipnn.eips import EIP, EIPError, load_eips
from eipnn.labels import LabelError, cluster, label_structures
from eipnn.labels.layout import DONE, FAILED, create, describe
from eipnn.labels.work import Work
from eipnn.structures import StructureStore

SLOW = EIP("slow", "ase", "label_calculators.Springs", {"seconds": 0.05})


@pytest.fixture(scope="module")
def dask() -> Iterator:
    """Two worker processes with one thread each."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as started:
        yield started


def test_labels_are_those_of_local_workers(dask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With failures, crashes, stress, and an argument that names a file of this machine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cluster, "FEW", 1)  # larger blocks
    Path("springs.dat").write_text("3.0")
    file = {"name": "file", "ase": "label_calculators.FromFile", "arguments": {"file": "springs.dat"}}
    others = [EIP("pressed", "ase", "label_calculators.Pressed"), trouble("raise"), *load_eips([file])]
    eips = [*others, EIP("crash", "ase", "label_calculators.Trouble", {"how": "segfault", "n_atoms": 8})]
    label_structures(with_one_of_eight(), eips, tmp_path / "local")
    label_structures(with_one_of_eight(), eips, tmp_path / "dask", cluster=dask.scheduler_address)
    assert contents(tmp_path / "dask") == contents(tmp_path / "local")
    assert len(failures(tmp_path / "dask")) == 21


def test_a_killed_worker_and_a_killed_client_cost_time_alone(dask, tmp_path: Path) -> None:
    script = (
        "from test_labels_cluster import *\n"
        f"label_structures(clusters(45), [SLOW], {str(tmp_path / 'cut')!r}, cluster={dask.scheduler_address!r})"
    )
    client = start(script)
    wait_for(lambda: done(tmp_path / "cut") > 5, 120)
    os.kill(dask.workers[0].pid, signal.SIGKILL)
    so_far = done(tmp_path / "cut")
    wait_for(lambda: done(tmp_path / "cut") > so_far + 5, 120)
    client.kill()
    client.wait()
    assert 10 < done(tmp_path / "cut") < 45
    label_structures(clusters(45), [SLOW], tmp_path / "cut", cluster=dask.scheduler_address)
    label_structures(clusters(45), [SLOW], tmp_path / "plain")
    assert contents(tmp_path / "cut") == contents(tmp_path / "plain")


def test_what_a_dask_worker_cannot_make_is_told(dask, tmp_path: Path) -> None:
    broken = EIP("broken", "ase", "label_calculators.Broken")
    with pytest.raises(EIPError, match=r"^a Dask worker of tcp://.*: EIP broken: its calculator cannot be made \(Run"):
        label_structures(clusters(), [broken], tmp_path / "store", cluster=dask.scheduler_address)


def test_a_structure_that_ends_dask_workers_costs_its_labels_alone(tmp_path: Path) -> None:
    """Four ended at its block; then at those halves that hold it."""
    structures, eips = StructureStore.of(clusters()), [SPRINGS, SPRINGS]
    create(tmp_path, structures, describe(structures, eips))
    work = Work(structures, eips, tmp_path)
    run = cluster._Cluster(NoClient(), "tcp://nowhere", work, None)
    assert run.queue == deque([[row] for row in range(9)])
    run.queue = deque([list(range(9))])
    handed = []
    while run.queue:
        handed.append(rows := run.queue.popleft())
        if 4 in rows:
            run._take(Ended(), np.array(rows))
        else:
            work.status[rows] = DONE
    assert handed == [[*range(9)], [5, 6, 7, 8], [0, 1, 2, 3, 4], [3, 4], [4], [3], [0, 1, 2]]
    assert (work.status == FAILED).all(axis=1).tolist() == [row == 4 for row in range(9)]
    assert work.ledger.reasons[4, 1] == "the Dask workers ended that worked on this structure"
    with pytest.raises(LabelError, match="tcp://nowhere: its workers end before the first label"):
        run._take(Ended("team"), np.array([0]))


class NoClient:
    def nthreads(self) -> dict[str, int]:
        return {"tcp://one": 1, "tcp://two": 1}


class Ended:
    """A block, or what it needs, at which several Dask workers ended."""

    key = "block"

    def __init__(self, task: str = "block") -> None:
        self.task = task

    def result(self) -> None:
        raise pytest.importorskip("distributed").KilledWorker(self.task, SimpleNamespace(address="tcp://one"), 3)
