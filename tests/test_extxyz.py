"""Extended XYZ as other codes write it: every frame, what its header says, and nothing taken for something else."""

import gzip
import io
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from ase.io.extxyz import key_val_dict_to_str, key_val_str_to_dict
from hypothesis import given
from hypothesis import strategies as st

from eipnn.structures import StructureError, energy, read_structures
from eipnn.structures.extxyz import parse_header, read_extxyz, write_extxyz

ROWS = "Al 0.02 0.00 0.01\nAl 0.00 2.05 2.03\n"
COLUMNS = "Properties=species:S:1:pos:R:3"
CELL = '"4 0 0 1 5 0 0 0 6"'
VECTORS = np.array([[4.0, 0, 0], [1, 5, 0], [0, 0, 6]])


def read(header: str, rows: str = ROWS, n: int = 2) -> Atoms:
    (atoms,) = read_extxyz(io.StringIO(f"{n}\n{header}\n{rows}"))
    return atoms


def read_file(folder: Path, text: str, name: str = "a.xyz", **options: Any) -> list[Atoms]:
    (folder / name).write_text(text)
    return read_structures(folder / name, **options)


@st.composite
def any_case(draw: st.DrawFn, key: str) -> str:
    return "".join(draw(st.sampled_from([c.lower(), c.upper()])) for c in key)


@given(
    lattice=any_case("lattice"),
    pbc=any_case("pbc"),
    properties=any_case("properties"),
    species=any_case("species"),
    pos=any_case("pos"),
    space=st.sampled_from(["=", " = ", "= "]),
    quote=st.sampled_from(['""', "''", "{}", "[]"]),
    periodic=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    yes_no=st.sampled_from(["TF", "10", ("True", "False"), ("true", "false")]),
)
def test_keys_in_any_case(
    lattice: str,
    pbc: str,
    properties: str,
    species: str,
    pos: str,
    space: str,
    quote: str,
    periodic: tuple[bool, bool, bool],
    yes_no: tuple[str, str],
) -> None:
    cell = quote[0] + CELL[1:-1] + quote[1]
    axes = quote[0] + " ".join(yes_no[0] if axis else yes_no[1] for axis in periodic) + quote[1]
    columns = f"{species}:S:1:{pos}:R:3"
    atoms = read(f"{lattice}{space}{cell} {properties}{space}{columns} {pbc}{space}{axes}")
    assert (atoms.cell.array == VECTORS).all()
    assert tuple(atoms.pbc) == periodic
    np.testing.assert_array_equal(atoms.positions, [[0.02, 0, 0.01], [0, 2.05, 2.03]])
    assert not atoms.info
    assert (read(f"{lattice}{space}{cell} {properties}{space}{columns}").pbc == True).all()  # noqa: E712


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FFF", [0, 0, 0]),
        ("TTF", [1, 1, 0]),
        ("T", [1, 1, 1]),
        ("0", [0, 0, 0]),
        ("0,1,1", [0, 1, 1]),
    ],
)
def test_short_forms_of_boundaries(text: str, expected: list[int]) -> None:
    """ASE takes the text FFF for three periodic axes."""
    assert read(f"Lattice={CELL} pbc={text} {COLUMNS}").pbc.tolist() == [bool(e) for e in expected]


@pytest.mark.parametrize("key", ["energy", "Energy", "ENERGY", "REF_energy", "Dft_Energy"])
@pytest.mark.parametrize("forces", ["forces", "Forces", "force", "FORCE", "REF_forces"])
def test_labels_in_any_case(tmp_path: Path, key: str, forces: str) -> None:
    rows = "Al 0 0 0 1 2 3\nAl 0 0 2.5 -1 -2 -3\n"
    header = f'{key}=-13.2 {COLUMNS}:{forces}:R:3 Stress="1 6 5 6 2 4 5 4 3" Lattice={CELL}'
    (atoms,) = read_file(tmp_path, f"2\n{header}\n{rows}")
    assert energy(atoms) == -13.2
    assert atoms.calc.results["forces"].tolist() == [[1, 2, 3], [-1, -2, -3]]
    assert atoms.calc.results["stress"].tolist() == [1, 2, 3, 4, 5, 6]
    named = read_structures(tmp_path / "a.xyz", energy_key=key, forces_key=forces)
    assert energy(named[0]) == -13.2


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            'cell="4 0 0 0 4 0 0 0 4"',
            "neither cell nor periodic axes, and its key 'cell' is not read",
        ),
        ("Box=4.05", "its key 'Box' is not read"),
        (
            'lattice_vectors="4 0 0 0 4 0 0 0 4"',
            "its key 'lattice_vectors' is not read; write them as",
        ),
        ("boundary=ppp", "its key 'boundary' is not read"),
        (f"Lattice={CELL} periodic=F", r"line 2: the key 'periodic' is not read; write .* as pbc="),
        (
            f"note=it's Lattice={CELL} by='me'",
            "line 2: a lattice stands within the value of another",
        ),
        (f"note= Lattice={CELL}", "line 2: a lattice stands within the value of another key"),
        (f'Lattice={CELL} lattice="9 0 0 0 9 0 0 0 9"', "'Lattice' is given twice, with different"),
        ("energy=-1 energy=-2", "the key 'energy' is given twice, with different values; keep one"),
        (
            'Lattice="4 4 4"',
            "Lattice is '4 4 4'; it must be the nine numbers of three cell vectors",
        ),
        (f"Lattice={CELL} pbc=ppp", "pbc is 'ppp'; write pbc=\"T T F\""),
        (f'Lattice={CELL} pbc="T T"', "pbc is 'T T'; write"),
        (f'Lattice={CELL} pbc=""', "pbc is ''; write"),
        (f'Lattice={CELL} pbc="2 0 0"', "pbc is '2 0 0'; write"),
        ('Lattice="4 0 0 0 4 0 0 0 0"', "the cell has no volume along its periodic axes"),
        ('pbc="T T T"', "the cell has no volume along its periodic axes"),
        (
            "Properties=species:S:pos:R:3",
            "Properties is 'species:S:pos:R:3'; write name:type:columns",
        ),
        ("Properties=species:S:1:pos:R:3:POS:R:3", "with one name twice; rename one of them"),
        (
            f"{COLUMNS}:forces:R:3",
            r"line 3: an atom with 7 columns is due, and it is 'Al 0.02 0.00",
        ),
        ("Properties=species:S:1:pos:R:2", "line 3: an atom with 3 columns is due"),
    ],
)
def test_header_that_is_not_clear(tmp_path: Path, header: str, message: str) -> None:
    with pytest.raises(StructureError, match=rf"a.xyz: frame 0[ :].*{message}") as error:
        read_file(tmp_path, f"2\n{header}\n{ROWS}")
    assert len(str(error.value).splitlines()) == 1


def test_clusters_stay_clusters(tmp_path: Path) -> None:
    for header in (
        "",
        "Jim's molecule, E = -3",
        "cell=none box=F periodic=F",
        f"pbc=F Lattice={CELL}",
    ):
        (atoms,) = read_file(tmp_path, f"2\n{header}\n{ROWS}")
        assert not atoms.pbc.any()
    # A trajectory that ASE wrote of what it had misread.
    lost = Atoms("Al2", [[0, 0, 0], [0, 0, 2.5]], info={"lattice": np.eye(3).ravel() * 4})
    write(tmp_path / "lost.traj", lost)
    with pytest.raises(StructureError, match="its key 'lattice' is not read"):
        read_structures(tmp_path / "lost.traj")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("name", ["a.xyz", "a.extxyz", "a.xyz.gz"])
def test_every_frame_despite_empty_lines(tmp_path: Path, name: str, end: str) -> None:
    frame = "1\nenergy={} {}\nAl 0 0 0\n"
    text = "\n".join(frame.format(k, COLUMNS) + "\n" * (k % 3) for k in range(1, 8)) + "\n \n"
    assert text.count("energy=") == 7
    data = text.replace("\n", end).encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    frames = read_structures(tmp_path / name)
    assert [energy(atoms) for atoms in frames] == [1, 2, 3, 4, 5, 6, 7]
    assert frames[6].info["config_id"] == f"{Path(name).stem}_000006"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            f"2\n\n{ROWS}\ngarbage\n",
            "frame 1: line 6: the number of atoms of a frame is due, and it is 'g",
        ),
        (f"2\n\n{ROWS}Al 1 1 1\n", "frame 1: line 5: the number of atoms of a frame is due"),
        (
            f"2\n\n{ROWS}2\n\nAl 1 1 1\n",
            "frame 1: line 5: the file ends within this frame of 2 atoms",
        ),
        (f"2\n\n{ROWS}2\n", "frame 1: line 5: the file ends within this frame of 2 atoms"),
        (
            f"3\n\n{ROWS}\n1\n\nAl 1 1 1\n",
            "frame 0: line 5: an atom with 4 columns is due, and it is ''",
        ),
        (
            "2\nAl 0 0 0\nAl 0 0 2\n1\n\nAl 1 1 1\n",
            "frame 0: line 4: an atom with 4 columns is due",
        ),
        ("-1\n\n", "frame 0: line 1: the number of atoms of a frame is due, and it is '-1'"),
    ],
)
def test_never_fewer_frames_than_the_file_holds(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(StructureError, match=message):
        read_file(tmp_path, text)


def test_cell_vectors_after_the_atoms() -> None:
    frame = f"2\n\n{ROWS}VEC1 4 0 0\nVEC2 1 5 0\nVEC3 0 0 6\n"
    frames = list(read_extxyz(io.StringIO(frame * 2)))
    assert [(atoms.cell.array == VECTORS).all() for atoms in frames] == [True, True]


IDS = ("007", "12E5", "true", "T", "1_000", "0x1F", "1.50", "nan", "None", "a b", "[3]", "Si'1")


def test_ids_are_text(tmp_path: Path) -> None:
    """ASE takes 007 for 7, 12E5 for 1200000.0 and true for True."""
    atoms = [Atoms("Al", info={"config_id": name}) for name in IDS]
    write(tmp_path / "a.extxyz", atoms)
    assert tuple(a.info["config_id"] for a in read_structures(tmp_path / "a.extxyz")) == IDS
    text = "".join(f"1\nconfig_id={name}\nAl 0 0 0\n" for name in ("7", "007", "7.0", "12E5", "1200000.0"))
    found = [a.info["config_id"] for a in read_file(tmp_path, text)]
    assert found == ["7", "007", "7.0", "12E5", "1200000.0"]


KEYS = st.text(string.ascii_letters + "_", min_size=1, max_size=8).filter(
    lambda key: key.lower() not in {"lattice", "pbc", "properties", "stress", "virial", "uid"}
)
VALUES = (
    st.integers(-(10**6), 10**6)
    | st.floats(allow_nan=False)
    | st.booleans()
    # ASE writes A== and A=0= without quotes, and reads neither back
    | st.text(string.ascii_letters + string.digits + " .,:;'\"{}[]()=/+-", min_size=1, max_size=20).filter(
        lambda text: text == text.strip("=")
    )
    | st.lists(st.integers(-9, 9), min_size=2, max_size=10).map(np.array)
    | st.lists(st.lists(st.floats(-1, 1), min_size=2, max_size=2), min_size=2, max_size=3).map(np.array)
)


@given(st.dictionaries(KEYS, VALUES, max_size=6))
def test_other_entries_are_as_ase_reads_them(info: dict[str, Any]) -> None:
    # No backslashes: ASE writes them without an escape.
    line = key_val_dict_to_str(info)
    expected = key_val_str_to_dict(line) if line else {}
    found = parse_header(line)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value)


STARTS = ("the key ", "Lattice is ", "a lattice stands ", "pbc is ", "Properties is ")


@given(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=60))
def test_any_text_is_a_header_or_an_error_of_one_line(line: str) -> None:
    error = None
    try:
        parse_header(line)
    except ValueError as raised:
        error = str(raised)
    assert error is None or error.startswith(STARTS)


def test_frames_that_ase_writes(tmp_path: Path) -> None:
    frames = []
    for k in range(3):
        atoms = bulk("Al", cubic=True)
        atoms.rattle(0.1, seed=k)
        atoms.calc = SinglePointCalculator(atoms, energy=-k, forces=atoms.positions, stress=np.arange(6.0))
        atoms.info |= {"config_id": f"Al-{k}", "kind": "rattled bulk", "matrix": np.eye(3)}
        frames.append(atoms)
    write(tmp_path / "a.extxyz", frames)
    for atoms, found in zip(frames, read_structures(tmp_path / "a.extxyz"), strict=True):
        np.testing.assert_allclose(found.positions, atoms.positions, atol=1e-8)
        assert (found.cell.array == atoms.cell.array).all()
        assert (found.info["config_id"], found.info["kind"]) == (
            atoms.info["config_id"],
            "rattled bulk",
        )
        assert found.calc.results["stress"].tolist() == [0, 1, 2, 3, 4, 5]


def test_written_one_by_one_or_not_at_all(tmp_path: Path) -> None:
    """No list of the frames is made, the file is that of a list; an error on the way leaves what was there."""
    frames = [bulk("Cu", a=3.5 + k / 100) for k in range(5)]
    write(tmp_path / "list.extxyz", frames, format="extxyz")
    write_extxyz(file := tmp_path / "a.extxyz", iter(frames))
    assert file.read_bytes() == (tmp_path / "list.extxyz").read_bytes()

    def broken() -> Iterator[Atoms]:
        yield frames[0]
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        write_extxyz(file, broken())
    assert file.read_bytes() == (tmp_path / "list.extxyz").read_bytes()
