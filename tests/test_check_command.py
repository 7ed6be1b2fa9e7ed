"""`eipnn check`: its page, its exit codes, and input that it refuses."""

import sys

import ase.io
import numpy as np
import pandas as pd
import pytest
from ase.build import bulk
from test_check import by_key, case
from tiny import exit_code

from eipnn.check import dimers, eos
from eipnn.check.command import NAMES
from eipnn.check.figures import Figure
from eipnn.check.page import bad_ones, write_page
from eipnn.check.references import read_numbers
from eipnn.check.sections import SECTIONS, run
from eipnn.errors import UsageError


@pytest.fixture
def silicon(tmp_path):
    ase.io.write(tmp_path / "silicon.xyz", bulk("Si", cubic=True))
    return tmp_path / "silicon.xyz"


def test_the_names_are_those_of_the_sections():
    assert tuple(section.name for section in SECTIONS) == NAMES


def test_a_random_potential_is_told_with_a_page(random_potential, silicon, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(dimers, "STEP", 0.1)
    sections = ("crystals", "dimers", "eos", "frames", "vacancy")
    code = exit_code("check", random_potential, "--crystal", silicon, "--sections", *sections, "-o", tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "check.csv")
    assert code == int((table["verdict"] == "bad").any())
    assert set(table.loc[table["section"] == "dimers", "of"]) == {"C-C", "C-Si", "Si-Si"}
    text = (tmp_path / "out" / "check.md").read_text()
    assert "**Not run**: no DFT frames" in text
    assert "![dimers](dimers.png)" in text
    assert (tmp_path / "out" / "check.html").read_text().count("data:image/png;base64,") >= 1
    assert "check.md" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--sections", "magic"], "one of crystals, frames"),
        (["--crystal", "absent.xyz"], "absent.xyz"),
        (["--reference", "absent.xyz"], "absent.xyz"),
        (["--eip", "silicon"], "SET:NAME"),
        (["--forces-key", "f"], "about the frames of --reference"),
        (["--time", "0"], "positive"),
    ],
)
def test_wrong_input_ends_with_2(random_potential, arguments, told, capsys):
    assert exit_code("check", random_potential, *arguments) == 2
    assert told in capsys.readouterr().err


def test_crystals_that_cannot_be_taken(random_potential, tmp_path, capsys):
    for name, atoms in {"gold": bulk("Au"), "open": bulk("Si")}.items():
        atoms.pbc = name != "open"
        ase.io.write(tmp_path / f"{name}.xyz", atoms)
        assert exit_code("check", random_potential, "--crystal", tmp_path / f"{name}.xyz") == 2
    told = capsys.readouterr().err
    assert "does not know Au" in told
    assert "periodic along three axes" in told


def test_given_numbers_judge(tmp_path):
    modulus = by_key(eos.measure(case_of_copper()))["bulk_modulus"].value
    (tmp_path / "numbers.yaml").write_text(f"bulk_modulus: {modulus + 40}\n")
    given = read_numbers(tmp_path / "numbers.yaml", ["Cu"])
    outcomes = [
        run(section, case_of_copper(), {"same": case_of_copper()}) for section in SECTIONS if section.name == "eos"
    ]
    assert bad_ones(outcomes, given) == ["eos"]
    table = write_page(tmp_path, "EMT", outcomes, given).set_index("figure")
    assert table.loc["bulk_modulus", "verdict"] == "bad"
    assert table.loc["bulk_modulus", "given"] == modulus + 40
    assert table.loc["bulk_modulus", "same"] == pytest.approx(modulus)
    assert bad_ones(outcomes, lambda figure: np.nan) == []


def case_of_copper():
    from ase.calculators.emt import EMT

    return case(EMT())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("bulk_module: 98", "bulk_modulus"),
        ("bulk_modulus: much", "no number"),
        ("Ag: {vacancy: 1}", "no crystal Ag"),
        ("- 1", "must hold lines"),
    ],
)
def test_numbers_that_cannot_be_read(text, told, tmp_path):
    (tmp_path / "numbers.yaml").write_text(text)
    with pytest.raises(UsageError, match=told):
        read_numbers(tmp_path / "numbers.yaml", ["Cu"])


def test_numbers_of_several_crystals(tmp_path):
    (tmp_path / "numbers.yaml").write_text("Cu: {vacancy: 1.3}\nAu: {vacancy: 0.9}")
    given = read_numbers(tmp_path / "numbers.yaml", ["Cu", "Au", "AuCu"])
    assert given(Figure("vacancy", "Au", 1.0)) == 0.9
    assert np.isnan(given(Figure("vacancy", "AuCu", 1.0)))
    (tmp_path / "numbers.yaml").write_text("vacancy: 1.3")
    with pytest.raises(UsageError, match="which crystal"):
        read_numbers(tmp_path / "numbers.yaml", ["Cu", "Au"])


def test_without_phonopy_the_rest_goes_on(monkeypatch):
    monkeypatch.setitem(sys.modules, "phonopy", None)
    outcome = run(next(section for section in SECTIONS if section.name == "phonons"), case_of_copper(), {})
    assert not outcome.failed
    assert "pip install 'eipnn[check]'" in outcome.problem
