"""The labelling engine: equal to a plain loop, one label lost per mishap, the same bytes after any kill."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.kim import KIM
from hypothesis import given, settings
from hypothesis import strategies as st

from eipnn.eips import EIP, EIPError, load_eips
from eipnn.files import DiskFullError
from eipnn.labels import LabelError, LabelStore, label_structures, layout, local
from eipnn.labels.handle import START_LIMIT, Handle
from eipnn.labels.layout import DONE, FAILED, IN_WORK, PENDING, create, describe
from eipnn.labels.ledger import Ledger
from eipnn.labels.work import Work
from eipnn.structures import Ids, StructureStore, read_structures

SPRINGS = EIP("springs", "ase", "label_calculators.Springs")
STIFF = EIP("stiff", "ase", "label_calculators.Springs", {"stiffness": 3.0})
UNLUCKY = 4  # atoms of the structures on which `Trouble` goes wrong


def trouble(how: str) -> EIP:
    return EIP("trouble", "ase", "label_calculators.Trouble", {"how": how, "n_atoms": UNLUCKY})


def clusters(n: int = 9) -> list[Atoms]:
    """Clusters of 1-6 atoms, in turn."""
    random_numbers = np.random.default_rng(0)
    return [
        Atoms(
            f"Si{1 + i % 6}",
            random_numbers.normal(size=(1 + i % 6, 3)),
            info={"config_id": f"c{i}"},
        )
        for i in range(n)
    ]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def failures(folder: Path) -> list[str]:
    return (folder / "failures.csv").read_text().splitlines()[1:]


def test_labels_equal_a_plain_loop_in_any_order(tmp_path: Path) -> None:
    memory = EIP("memory", "ase", "label_calculators.Memory")
    structures = clusters()
    store = label_structures(structures, [SPRINGS, memory], tmp_path / "store")
    for row, atoms in enumerate(structures):
        copy = atoms.copy()
        copy.calc = SPRINGS.calculator()
        energy, forces = copy.get_potential_energy(), copy.get_forces()
        assert store.energies[row].tolist() == [energy, energy + 1]
        np.testing.assert_array_equal(store.forces(f"c{row}")[:, 0], forces)
    shuffled = label_structures(structures[::-1], [memory], tmp_path / "shuffled", workers=2)
    ids = [atoms.info["config_id"] for atoms in structures]
    expected = store.energies_of(ids, ["memory"])
    np.testing.assert_array_equal(shuffled.energies_of(ids, ["memory"]), expected)


def test_an_eip_with_a_file_beside_the_command(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("springs.dat").write_text("3.0")
    entry = {"name": "file", "ase": "label_calculators.FromFile"}
    eips = [*load_eips([entry | {"arguments": {"file": "springs.dat"}}]), STIFF]
    store = label_structures(clusters(), eips, tmp_path / "store")
    np.testing.assert_array_equal(store.energies[:, 0], store.energies[:, 1])
    Path("springs.dat").write_text("3.5")
    with pytest.raises(LabelError, match=r"other EIPs: file .* same EIPs, arguments and files"):
        label_structures(clusters(), eips, tmp_path / "store")


MISHAPS = {
    "segfault": "worker was ended by SIGSEGV",
    "kill": "worker was ended by SIGKILL",
    "exit": "worker ended with exit code 3",
    "hang": "timed out after 0.5 s",
    "raise": "RuntimeError: cannot do <label_calculators.Trouble object at 0x...>",
    "nan": "ValueError: the energy is NaN or infinite",
    "infinite force": "ValueError: a force is NaN or infinite",
    "short": "ValueError: forces for 3 of 4 atoms",
}


@pytest.mark.parametrize("kinds", [["hang"], [how for how in MISHAPS if how != "hang"]], ids=["hang", "others"])
def test_a_mishap_costs_its_label_only(tmp_path: Path, kinds: list[str]) -> None:
    structures = clusters()
    eips = [SPRINGS, *(replace(trouble(how), name=how) for how in kinds), STIFF]
    store = label_structures(structures, eips, tmp_path / "store", timeout=0.5 if kinds == ["hang"] else 30.0)
    lost = np.zeros((9, len(eips)), dtype=bool)
    lost[UNLUCKY - 1, 1:-1] = True
    np.testing.assert_array_equal(np.isnan(store.energies), lost)
    np.testing.assert_array_equal(store.status, np.where(lost, FAILED, DONE))
    assert failures(tmp_path / "store") == [f"c{UNLUCKY - 1},{how},{MISHAPS[how]}" for how in kinds]
    assert np.isnan(store.forces("c3")[:, 1:-1]).all()
    assert np.isfinite(store.forces("c3")[:, [0, -1]]).all()
    for column in range(1, len(eips) - 1):
        np.testing.assert_array_equal(store.energies[~lost[:, 1], 0], store.energies[~lost[:, 1], column])
    assert store.complete


def test_failed_labels_get_another_try_when_asked(tmp_path: Path) -> None:
    structures = clusters()
    folder = tmp_path / "store"
    label_structures(structures, [trouble("raise")], folder)
    before = contents(folder)
    label_structures(structures, [trouble("raise")], folder)
    assert contents(folder) == before
    ledger = folder / "failures.csv"
    ledger.write_text(ledger.read_text().replace("cannot do", "could not do"))
    label_structures(structures, [trouble("raise")], folder, retry_failed=True)
    assert contents(folder) == before


def test_a_worker_killed_from_outside_costs_nothing(tmp_path: Path) -> None:
    """The label is tried again: the out-of-memory killer may not have meant it."""
    slow = EIP("slow", "ase", "label_calculators.Springs", {"seconds": 0.05})
    script = f"from test_labels import *\nlabel_structures(clusters(40), [{slow!r}], {str(tmp_path / 'store')!r})"
    engine = start(script)
    wait_for(lambda: (tmp_path / "store" / "status.npy").exists() and done(tmp_path / "store") > 5)
    for worker in children(engine.pid):
        os.kill(worker, signal.SIGKILL)
    assert engine.wait(60) == 0
    assert failures(tmp_path / "store") == []
    label_structures(clusters(40), [slow], tmp_path / "plain", workers=2)
    assert contents(tmp_path / "store") == contents(tmp_path / "plain")


def start(script: str) -> subprocess.Popen[bytes]:
    """Run `script` in a process group of its own."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.Popen([sys.executable, "-c", script], env=environment, start_new_session=True)


def children(process: int) -> list[int]:
    """The process ids whose parent is `process`."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == process:
                found.append(int(stat.parent.name))
    return found


def wait_for(condition: object, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def done(folder: Path) -> int:
    try:
        return int((np.load(folder / "status.npy") == DONE).sum())
    except (OSError, EOFError, ValueError):  # it is being made
        return 0


def kill_and_resume(script: str, folder: Path, total: int, kills: int, seed: int) -> int:
    """Kill the run's whole process group at random moments of its work; the number of kills that hit it."""
    moments = random.Random(seed)
    hit = 0
    for number in range(kills):
        run = start(script)
        aim = total * (number + moments.random()) / kills
        wait_for(lambda run=run, aim=aim: run.poll() is not None or done(folder) >= aim)
        time.sleep(moments.uniform(0, 0.02))
        hit += run.poll() is None
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    return hit


def test_killed_at_random_moments_ends_in_the_same_bytes(tmp_path: Path) -> None:
    eips = (
        EIP("slow", "ase", "label_calculators.Springs", {"seconds": 0.004}),
        EIP("crash", "ase", "label_calculators.Trouble", {"how": "segfault", "n_atoms": 8}),
        EIP("error", "ase", "label_calculators.Trouble", {"how": "raise", "n_atoms": UNLUCKY}),
        EIP("pressed", "ase", "label_calculators.Pressed"),
    )
    label_structures(with_one_of_eight(), eips, tmp_path / "whole", workers=2)
    script = (
        "from test_labels import *\n"
        f"label_structures(with_one_of_eight(), {eips!r}, {str(tmp_path / 'cut')!r}, workers=2)"
    )
    assert kill_and_resume(script, tmp_path / "cut", 460, kills=3, seed=1) >= 2
    label_structures(with_one_of_eight(), eips, tmp_path / "cut", workers=1)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert len(failures(tmp_path / "cut")) == 21
    stress = LabelStore.open(tmp_path / "cut").stress
    np.testing.assert_array_equal(np.isfinite(stress).all(axis=2).sum(axis=0), [0, 0, 0, 41])


def with_one_of_eight() -> list[Atoms]:
    structures = clusters(121)
    for atoms in structures[::3]:
        atoms.set_cell([30, 30, 30])
        atoms.pbc = True
    structures[50] = Atoms("Si8", np.eye(8, 3), info={"config_id": "eight"})
    return structures


@pytest.mark.kim
@pytest.mark.slow
def test_killed_kim_run_ends_in_the_same_bytes(tmp_path: Path) -> None:
    structures = read_structures("bundled:si_mini/dft.extxyz")[:250]
    label_structures(structures, load_eips("silicon"), tmp_path / "whole")
    script = (
        "from test_labels import *\n"
        "structures = read_structures('bundled:si_mini/dft.extxyz')[:250]\n"
        f"label_structures(structures, load_eips('silicon'), {str(tmp_path / 'cut')!r}, workers=2)"
    )
    assert kill_and_resume(script, tmp_path / "cut", 2000, kills=3, seed=2) >= 1
    label_structures(structures, load_eips("silicon"), tmp_path / "cut")
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_workers_end_with_the_engine(tmp_path: Path) -> None:
    hang = trouble("hang")
    script = (
        f"from test_labels import *\nlabel_structures(clusters(), [{hang!r}], {str(tmp_path / 'store')!r}, workers=2)"
    )
    engine = start(script)
    wait_for(lambda: done(tmp_path / "store") == 8)
    workers = children(engine.pid)
    assert len(workers) >= 1
    engine.kill()
    engine.wait()
    wait_for(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers), 10)


@pytest.mark.kim
def test_silicon_labels_equal_a_plain_loop(tmp_path: Path) -> None:
    structures = read_structures("bundled:si_mini/dft.extxyz")[::8]
    eips = load_eips("silicon")
    store = label_structures(structures, eips, tmp_path / "store")
    bundled = LabelStore.open("bundled:si_mini/labels")
    # the last digit is another one on processors that round otherwise
    np.testing.assert_allclose(store.energies, bundled.energies_of(store.ids, store.eips), rtol=0, atol=1e-9)
    for name in store.ids:
        np.testing.assert_allclose(store.forces(name), bundled.forces(name), rtol=0, atol=1e-9)
    for column, eip in enumerate(eips):
        calculator = KIM(eip.target)
        for atoms in structures:
            copy = atoms.copy()
            copy.wrap()
            copy.calc = calculator
            name = atoms.info["config_id"]
            energy = store.energies_of([name], [eip.name])[0, 0]
            assert abs(copy.get_potential_energy() - energy) < 1e-9
            assert np.abs(copy.get_forces() - store.forces(name)[:, column]).max() < 1e-9


@pytest.mark.kim
@settings(max_examples=20, deadline=None)
@given(
    shifts=st.lists(st.tuples(*[st.integers(-3, 3)] * 3), min_size=8, max_size=8),
    seed=st.integers(0, 2**32 - 1),
)
def test_atoms_outside_the_cell_give_the_same_label(shifts: list[tuple[int, int, int]], seed: int) -> None:
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1, rng=np.random.default_rng(seed))
    outside = atoms.copy()
    outside.positions += np.array(shifts) @ atoms.cell.array
    for calculator in (EDIP.calculator(), TERSOFF.calculator()):
        energy, forces = (calculator.get_property(p, atoms) for p in ("energy", "forces"))
        energy_outside = calculator.get_potential_energy(outside)
        forces_outside = calculator.get_forces(outside)
        assert abs(energy - energy_outside) < 1e-9
        np.testing.assert_allclose(forces, forces_outside, rtol=0, atol=1e-9)


EDIP = EIP("edip", "kim", "EDIP_JustoBazantKaxiras_1998_Si__MO_958932894036_002")
TERSOFF = EIP("tersoff", "kim", "Tersoff_LAMMPS_Tersoff_1988T2_Si__MO_245095684871_003")


@pytest.mark.kim
def test_a_slab_without_a_third_vector_has_the_label_of_one_with(tmp_path: Path) -> None:
    positions = [[0, 0, 0], [1.0, 1.1, 2.3]]
    slabs = [
        Atoms("Si2", positions, cell=cell, pbc=(True, True, False), info={"config_id": name})
        for name, cell in (("none", [4, 4, 0]), ("some", [4, 4, 20]))
    ]
    store = label_structures(slabs, [EDIP], tmp_path / "store")
    assert store.energies[0, 0] == pytest.approx(store.energies[1, 0], abs=1e-9)


@pytest.mark.kim
def test_species_that_an_eip_does_not_know(tmp_path: Path) -> None:
    mixed = [
        Atoms("Si2", [[0, 0, 0], [0, 0, 2.3]], info={"config_id": "si"}),
        Atoms("Ge2", [[0, 0, 0], [0, 0, 2.3]], info={"config_id": "ge"}),
    ]
    store = label_structures(mixed, [EDIP], tmp_path / "mixed")
    assert np.isnan(store.energies[:, 0]).tolist() == [False, True]
    (line,) = failures(tmp_path / "mixed")
    assert line.startswith("ge,edip,")
    assert "Species not supported by KIM model; 'Ge'" in line
    with pytest.raises(EIPError, match=r"EIP edip \(EDIP_.*\) covers Si, and the structures hold Ge"):
        label_structures(mixed[1:], [EDIP], tmp_path / "ge")
    # The folder holds no label of theirs: another set takes it.
    assert label_structures(mixed[1:], [SPRINGS], tmp_path / "ge").complete


def test_calculators_that_cannot_be_made(tmp_path: Path) -> None:
    broken = EIP("broken", "ase", "label_calculators.Broken")
    with pytest.raises(
        EIPError,
        match=r"EIP broken: its calculator cannot be made \(RuntimeError: no parameter file",
    ):
        label_structures(clusters(), [SPRINGS, broken], tmp_path / "a")
    hard = EIP("hard", "ase", "label_calculators.BrokenHard")
    with pytest.raises(EIPError, match="a worker was ended by SIGSEGV as it made the calculator of the EIP hard"):
        label_structures(clusters(), [hard], tmp_path / "b")
    # The same folders serve once the set is mended.
    assert label_structures(clusters(), [SPRINGS], tmp_path / "c").complete
    assert START_LIMIT > 60, "a test of a slow start would take this long"


def test_a_store_of_something_else_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    label_structures(clusters(), [SPRINGS], folder)
    before = contents(folder)
    with pytest.raises(LabelError, match=r"labels of other EIPs: springs \(label_calculators.Springs"):
        label_structures(clusters(), [STIFF], folder)
    with pytest.raises(LabelError, match=r"labels of other structures \(9 frames, here 8\)"):
        label_structures(clusters(8), [SPRINGS], folder)
    moved = clusters()
    moved[3].positions[0, 0] += 1e-12
    with pytest.raises(LabelError, match="labels of other structures"):
        label_structures(moved, [SPRINGS], folder)
    assert contents(folder) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(LabelError, match=r"holds other files \(thesis.tex\) and no label store"):
        label_structures(clusters(), [SPRINGS], tmp_path / "mine")
    with pytest.raises(LabelError, match=r"thesis.tex: is a file; give a folder"):
        label_structures(clusters(), [SPRINGS], tmp_path / "mine" / "thesis.tex")


def test_two_runs_in_one_store(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The second waits for the end of the first, says so, and finds the labels there."""
    folder = tmp_path / "store"
    folder.mkdir()
    slow = EIP("slow", "ase", "label_calculators.Springs", {"seconds": 0.05})
    with ThreadPoolExecutor(2) as pool:
        stores = list(pool.map(lambda _: label_structures(clusters(), [slow], folder), range(2), timeout=60))
    assert f"{folder}: another `eipnn label` is at work there; waiting for it" in caplog.text
    assert all(store.complete for store in stores)


def test_workers_killed_as_they_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of two: the other one goes on. All: the mend is named."""
    killed = []

    class Killed(Handle):
        def __init__(self, number: int, *arguments: Any) -> None:
            super().__init__(number, *arguments)
            if number % 2 in killed:  # the third stands for the first
                self._process.kill()

    monkeypatch.setattr(local, "Handle", Killed)
    killed.append(1)
    store = label_structures(clusters(), [SPRINGS], tmp_path / "store", workers=2)
    assert np.isfinite(store.energies).all()
    killed.append(0)
    with pytest.raises(EIPError, match="was ended by SIGKILL as it started; if memory ran out, take"):
        label_structures(clusters(), [SPRINGS], tmp_path / "other", workers=2)
    killed.clear()
    assert label_structures(clusters(), [SPRINGS], tmp_path / "other").complete


def test_a_full_disk_is_told_before_the_first_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine structures, 27 atoms in all, one EIP: 648 bytes of forces, 9 x (48 + 8 + 8 + 8 + 1) + 8 of the rest."""
    usage = SimpleNamespace(free=1013)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    with pytest.raises(DiskFullError, match=r"store: needs 1\.3 kB, and the disk has 1\.0 kB left: 300 b"):
        label_structures(clusters(), [SPRINGS], tmp_path / "store")
    usage.free = 10**9
    monkeypatch.setattr(layout, "_write_array", no_space)
    with pytest.raises(DiskFullError, match=r"store: the disk is full, or your share of it \(1\.0 GB f"):
        label_structures(clusters(), [SPRINGS], tmp_path / "store")
    assert not list((tmp_path / "store").glob("*.npy"))
    monkeypatch.undo()
    assert label_structures(clusters(), [SPRINGS], tmp_path / "store").complete


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_labelling_onto_a_small_disk(tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, check=False).returncode:
        pytest.skip("cannot mount here")
    try:
        with pytest.raises(DiskFullError, match=r"needs .* kB, and the disk has .* kB left"):
            label_structures(clusters(2000), [SPRINGS], tmp_path / "store")
        assert label_structures(clusters(20), [SPRINGS], tmp_path / "small").complete
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_bad_requests(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="no structures to label"):
        label_structures([], [SPRINGS], tmp_path)
    with pytest.raises(LabelError, match=r"workers \(0\) and timeout \(60 s\) must be positive"):
        label_structures(clusters(), [SPRINGS], tmp_path, workers=0)
    with pytest.raises(LabelError, match="the config_id 'c0' is in two of the structure files; give"):
        label_structures(clusters(2) + clusters(1), [SPRINGS], tmp_path)


def test_states_that_a_kill_or_a_power_cut_leaves(tmp_path: Path) -> None:
    """A torn ledger, labels in work, status bytes that reached the disk before their labels."""
    structures, eips = clusters(), [SPRINGS, trouble("raise")]
    label_structures(structures, eips, tmp_path / "whole")
    folder = tmp_path / "cut"
    label_structures(structures, eips, folder)
    (folder / "sums.json").unlink()  # which is written when all labels are there
    status = np.load(folder / "status.npy", mmap_mode="r+")
    status[0] = IN_WORK
    status[1, 0] = PENDING
    energies = np.load(folder / "energies.npy", mmap_mode="r+")
    energies[2, 1] = np.nan
    forces = np.load(folder / "forces.npy", mmap_mode="r+")
    forces[-1, 0, 2] = np.nan
    stress = np.load(folder / "stress.npy", mmap_mode="r+")
    stress[4, 0, 5] = np.inf
    with (folder / "failures.csv").open("a") as ledger:
        ledger.write("c5,springs,torn li")
    (folder / ".index.json.123.part").write_text("{")
    (folder / ".scratch").mkdir()
    label_structures(structures, eips, folder)
    assert contents(folder) == contents(tmp_path / "whole")
    assert not (folder / ".scratch").exists()


def test_a_ledger_of_very_many_structures_takes_few_bytes(tmp_path: Path) -> None:
    """Entries of other structures, of other EIPs and torn ones are none; of two the last counts."""
    ids = Ids.of(f"pool_{k}" for k in range(20_000))
    lines = ["other,a,why", "pool_3,b,why", "pool_3,a,first", "pool_19999,a,why", '"pool_\n5",a,why', "pool_3,a,last"]
    (tmp_path / "failures.csv").write_text("\n".join(["config_id,eip,reason", *lines, "pool_7,a"]))
    assert "pool_0" in ids  # what looks for ids is made before
    tracemalloc.start()
    ledger = Ledger(tmp_path, ids, ["z", "a"])
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert ledger.reasons == {(3, 1): "last", (19_999, 1): "why"}
    assert most < 10 * len(ids)


def test_what_is_whole_beside_frames_without_atoms_is_not_made_again(tmp_path: Path) -> None:
    """Their labels fail; those of their neighbours, torn or whole, are told apart."""
    empty = [Atoms(info={"config_id": f"empty{k}"}) for k in range(2)]
    structures = [empty[0], *clusters(3), empty[1]]
    label_structures(structures, [SPRINGS], tmp_path)
    before = contents(tmp_path)
    (tmp_path / "sums.json").unlink()
    forces = np.load(tmp_path / "forces.npy", mmap_mode="r+")
    forces[-1, 0, 2] = np.nan  # of the last cluster
    work = Work(StructureStore.of(structures), [SPRINGS], tmp_path)
    work.prepare(retry_failed=False)
    assert work.status[:, 0].tolist() == [FAILED, DONE, DONE, PENDING, FAILED]
    label_structures(structures, [SPRINGS], tmp_path)
    assert contents(tmp_path) == before


def test_a_run_killed_while_it_made_the_store(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    create(folder, clusters(), describe(clusters(), [SPRINGS]))
    (folder / "index.json").unlink()
    (folder / "forces.npy").write_bytes(b"\x93NUM")
    assert label_structures(clusters(), [SPRINGS], folder).complete
