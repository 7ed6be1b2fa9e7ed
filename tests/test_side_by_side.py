"""Stages that run at once: order, errors, what is stopped."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from eipnn import processes
from eipnn.files import write_atomically
from eipnn.run import execute, side_by_side
from eipnn.run.execute import StageError
from eipnn.run.plan import Late, Stage
from eipnn.run.side_by_side import bring, threads_of


@pytest.fixture
def stages(tmp_path) -> dict[str, Stage]:
    """Two that need nothing, two that learn from the second, one that is taught by one of these."""
    made: dict[str, Stage] = {}
    for name, before in {"alone": None, "pretrain": None, "mp": "pretrain", "mp+la": "pretrain", "self": "mp"}.items():
        inputs = {"init_from": Late("fingerprint", made[before])} if before else {}
        made[name] = Stage(tmp_path / name, {}, inputs, ())
    return made


class Work:
    """Stands for `run_stage`: a stage lasts until another one is there too, if `pairs`."""

    def __init__(self, jobs: int) -> None:
        self.meeting = threading.Barrier(jobs, timeout=20)
        self.begun: list[str] = []
        self.lock, self.now, self.most = threading.Lock(), 0, 0

    def __call__(self, stage, threads, finished, log):
        name = stage.folder.name
        for before in stage.inputs.values():
            assert before.of.folder in finished
        with self.lock:
            self.begun.append(name)
            self.now += 1
            self.most = max(self.most, self.now)
        if name in ("alone", "pretrain", "mp", "mp+la"):
            self.meeting.wait()
        with self.lock:
            self.now -= 1
        return {"fingerprint": name, "threads": threads, "log": log}


@pytest.mark.parametrize("jobs", [1, 2])
def test_each_stage_runs_once_after_what_it_reads(stages, monkeypatch, jobs):
    """With two jobs two run at once: each of the pairs waits for the other."""
    work = Work(jobs)
    monkeypatch.setattr(side_by_side, "run_stage", work)
    results = dict(bring([stages["alone"], stages["self"], stages["mp+la"]], jobs, 3))
    assert sorted(work.begun) == sorted(stages)
    assert work.most == jobs
    assert {stage.folder.name: result["fingerprint"] for stage, result in results.items()} == {
        name: name for name in stages
    }
    assert all(result["log"] == (jobs > 1) and result["threads"] == 3 for result in results.values())
    if jobs == 1:
        assert work.begun == ["alone", "pretrain", "mp", "self", "mp+la"]


def test_the_first_that_fails_ends_the_others_and_begins_none(stages, monkeypatch, tmp_path):
    """The processes of the others are stopped; what they had reached is theirs to keep."""
    sleeps = tmp_path / "sleeps"
    sleeps.write_text("#!/bin/sh\nexec sleep 60\n")
    sleeps.chmod(0o700)
    monkeypatch.setattr(processes, "sys", type("", (), {"executable": str(sleeps)}))
    ended = []

    def work(stage, threads, finished, log):
        if stage.folder.name == "alone":
            while not processes.called:
                pass
            raise StageError("alone: broken")
        ended.append((stage.folder.name, processes.call(["fit"], log=tmp_path / "log.txt")))
        raise StageError("pretrain: stopped")

    monkeypatch.setattr(side_by_side, "run_stage", work)
    with pytest.raises(StageError, match="alone: broken"):
        list(bring(list(stages.values()), 2, None))
    assert ended == [("pretrain", -15)]
    assert not processes.called


def test_the_log_of_a_stage_has_what_its_processes_print(stages, monkeypatch, capfd):
    stages["alone"].folder.mkdir()
    with pytest.raises(StageError, match=r"ended with status 2; its message stands at the end of .*alone/log.txt"):
        execute._call(stages["alone"], "fits", None, None, True)
    assert "there is no such command" in stages["alone"].log.read_text()
    assert capfd.readouterr() == ("", "")


def test_stages_that_share_a_file_write_it_whole(tmp_path):
    """Such as the split, at the same moment."""
    file, text = tmp_path / "split.csv", "configs,mark\n" * 1000
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(write_atomically, file, text) for _ in range(200)]:
            done.result()
    assert file.read_text() == text
    assert list(tmp_path.iterdir()) == [file]


def test_threads_are_shared_fairly(monkeypatch):
    monkeypatch.setattr(side_by_side, "cpu_count", lambda: 8)
    assert [threads_of(jobs, None) for jobs in (1, 3, 20)] == [None, 2, 1]
    assert threads_of(3, 5) == 5


def test_a_teacher_of_two_labels_once(stages, monkeypatch):
    """Two rows that it teaches begin at once."""
    teacher, made, inside = stages["mp"], [], threading.Lock()

    def label(stage: Stage) -> None:
        assert inside.acquire(blocking=False)
        made.append(stage.folder)
        inside.release()

    monkeypatch.setattr(execute, "label_with", label)
    monkeypatch.setattr(execute, "call", lambda *_: 1)
    finished = {teacher.folder: {"fingerprint": "1"}}
    rows = [Stage(teacher.folder.with_name(n), {}, {"labels": Late("taught", teacher)}, ()) for n in ("a", "b")]
    with ThreadPoolExecutor() as pool:
        errors = [pool.submit(execute.run_stage, row, 1, finished).exception() for row in rows]
    assert all(isinstance(error, StageError) for error in errors)
    assert made == [teacher.folder] * 2
