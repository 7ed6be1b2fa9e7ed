"""EIP sets: what a YAML list may say, and what KIM answers."""

import hashlib
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from tiny import exit_code

from eipnn.eips import EIP, EIPError, load_eips, named_sets
from eipnn.eips.installed import Model, covering


def eip_file(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "set.yaml"
    file.write_text(text)
    return file


def test_ase_calculator_by_class_path(tmp_path: Path) -> None:
    file = eip_file(
        tmp_path,
        "- {name: emt, ase: ase.calculators.emt.EMT}\n"
        "- {name: emt-asap, ase: ase.calculators.emt.EMT, arguments: {asap_cutoff: true}}\n",
    )
    emt, asap = load_eips(file)
    assert emt == EIP("emt", "ase", "ase.calculators.emt.EMT")
    assert asap.description()["arguments"] == {"asap_cutoff": True}
    assert isinstance(emt.calculator().calculator, EMT)
    assert asap.calculator().calculator.parameters.asap_cutoff is True
    assert emt.elements() is None


def test_entries_in_place_of_a_file() -> None:
    (emt,) = load_eips([{"name": "emt", "ase": "ase.calculators.emt.EMT"}])
    assert emt == EIP("emt", "ase", "ase.calculators.emt.EMT")
    with pytest.raises(EIPError, match="eips: entry 2: must have either kim, ase or eipnn"):
        load_eips([{"name": "emt", "ase": "ase.calculators.emt.EMT"}, {"name": "b"}])
    with pytest.raises(EIPError, match="eips: must be a YAML list of entries such as"):
        load_eips([])


def test_files_in_arguments_are_relative_to_the_folder_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the calculator is made; the description holds no path of this machine, and what is in the file."""
    (tmp_path / "al.dat").write_text("1.5")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    entry = {"name": "file", "ase": "label_calculators.FromFile"}
    entries = [entry | {"arguments": {"file": "al.dat", "more": {"files": ["al.dat", 3, "Al"]}}}]
    (eip,) = load_eips(entries)
    monkeypatch.chdir(tmp_path / "elsewhere")
    made = pickle.loads(pickle.dumps(eip)).calculator().calculator
    assert made.stiffness == 1.5
    assert made.more == {"files": [str(tmp_path / "al.dat"), 3, "Al"]}
    assert eip.arguments["file"] == "al.dat"
    description = eip.description()
    assert str(tmp_path) not in str(description)
    assert description["files"] == {"al.dat": hashlib.sha256(b"1.5").hexdigest()}
    (tmp_path / "al.dat").write_text("1.6")
    assert eip.description() != description


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {name: a, ase: [", r"set.yaml: not YAML in line 1: "),
        ("name: a", "set.yaml: must be a YAML list of entries such as"),
        ("[]", "must be a YAML list"),
        ("- sw", "entry 1: 'sw' must have the keys name, kim, ase or eipnn, arguments, zero, python only"),
        (
            "- {name: a, ase: x.Y, cutoff: 3}",
            "must have the keys name, kim, ase or eipnn, arguments, zero, python only",
        ),
        (
            "- {name: a, ase: ase.calculators.emt.EMT, zero: isolated_atoms}",
            "zero 'isolated_atoms' must be none or least_",
        ),
        ("- {name: a}", "entry 1: must have either kim, ase or eipnn, as in '- {name: sw, kim: MO_"),
        ("- {name: 'a b', ase: x.Y}", "name 'a b' must be letters, digits and"),
        ("- {name: none, ase: x.Y}", "name 'none' must be .* and neither 'none' nor 'dft'"),
        ("- {name: dft, ase: x.Y}", "name 'dft' must be .* and neither 'none' nor 'dft'"),
        ("- {ase: x.Y}", "name None must be"),
        (
            "- {name: a, ase: absent.module.Y}",
            r"the class 'absent.module.Y' cannot be imported \(No",
        ),
        (
            "- {name: a, ase: ase.calculators.emt.Nope}",
            "'ase.calculators.emt.Nope' cannot be imported",
        ),
        ("- {name: a, ase: Nope}", "the class 'Nope' cannot be imported"),
        (
            "- {name: a, ase: label_calculators.NoCalculator}",
            "'label_calculators.NoCalculator' is no class derived from ASE's Calculator",
        ),
        (
            "- {name: a, ase: ase.calculators.emt.EMT, arguments: [1]}",
            r"arguments must be a mapping of plain values, not \[1\]",
        ),
        (
            "- {name: a, ase: ase.calculators.emt.EMT, arguments: {day: 2020-01-01}}",
            "arguments must be a mapping of plain values",
        ),
        (
            "- {name: a, ase: ase.calculators.emt.EMT}\n- {name: a, ase: ase.calculators.emt.EMT}",
            "set.yaml: the name 'a' is given twice; rename one entry",
        ),
    ],
)
def test_bad_set(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(EIPError, match=message):
        load_eips(eip_file(tmp_path, text))


def test_zero_of_an_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No label depends on it: a label store is of the same EIPs with it and without."""
    text = "{ase: ase.calculators.emt.EMT, name: "
    eips = load_eips(eip_file(tmp_path, f"- {text}a}}\n- {text}b, zero: least_squares}}\n- {text}c, zero: none}}"))
    assert [eip.zero for eip in eips] == ["none", "least_squares", "none"]
    assert all("zero" not in eip.description() for eip in eips)
    monkeypatch.setattr("eipnn.eips.eip._class", lambda path: EMT)
    assert [load_eips(name)[0].zero for name in ("chgnet", "sevennet")] == ["least_squares"] * 2


def test_unknown_set() -> None:
    assert named_sets() == ("aluminium", "chgnet", "sevennet", "silicon", "silver-gold")
    with pytest.raises(EIPError, match="silicium: neither a named set nor a YAML file; the sets are aluminium, chg"):
        load_eips("silicium")


def test_kimpy_is_not_needed_without_kim_models(tmp_path: Path) -> None:
    """Without kimpy ASE calculators work, and a KIM entry tells how to install it."""
    file = eip_file(tmp_path, "- {name: emt, ase: ase.calculators.emt.EMT}")
    code = (
        "import sys; sys.modules['kimpy'] = None\n"
        "from eipnn.eips import EIPError, load_eips\n"
        f"assert load_eips({str(file)!r})[0].name == 'emt'\n"
        "try:\n    load_eips('silicon')\n"
        "except EIPError as error:\n    print(error)\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "kimpy cannot be imported" in done.stdout
    assert "apt install libkim-api-dev openkim-models" in done.stdout
    assert "conda install -c conda-forge kim-api" in done.stdout


@pytest.mark.kim
@pytest.mark.parametrize(
    ("name", "number", "element"),
    [("silicon", 8, {"Si"}), ("aluminium", 10, {"Al"}), ("silver-gold", 2, {"Ag", "Au"})],
)
def test_named_sets_are_installed(
    name: str, number: int, element: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    eips = load_eips(name)
    assert len(eips) == number
    for eip in eips:
        assert element <= (eip.elements() or frozenset())
        assert eip.target.rpartition("_")[2].isdigit()  # the version found is recorded
    atoms = bulk("Si") if name == "silicon" else bulk(element.pop())
    atoms.calc = eips[0].calculator()
    assert -5.0 * len(atoms) < atoms.get_potential_energy() < -2.0 * len(atoms)
    assert not list(tmp_path.iterdir()), "kim.log is not to be written where people work"


@pytest.mark.kim
def test_kim_ids(tmp_path: Path) -> None:
    full = "SW_StillingerWeber_1985_Si__MO_405512056662_005"
    (eip,) = load_eips(eip_file(tmp_path, f"- {{name: sw, kim: {full}}}"))
    assert eip.target == full
    for wanted, message in (
        ("MO_000000000000", "'MO_000000000000' is not installed; `eipnn eips ELEMENT` lists"),
        ("SW_Si__MO_405512056662_999", f"is not installed, but {full} is; write MO_405512056662"),
        ("Sim_LAMMPS_X__SM_667696763561_000", "is a KIM simulator model, which needs LAMMPS"),
    ):
        with pytest.raises(EIPError, match=message):
            load_eips(eip_file(tmp_path, f"- {{name: sw, kim: {wanted}}}"))
    with pytest.raises(EIPError, match="a KIM model takes no arguments; remove them"):
        load_eips(eip_file(tmp_path, f"- {{name: sw, kim: {full}, arguments: {{}}}}"))


def test_a_module_that_cannot_be_read_is_told(tmp_path, monkeypatch):
    (tmp_path / "broken_eip.py").write_text("class Mine(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EIPError, match=r"the class 'broken_eip.Mine' cannot be imported \(invalid syntax"):
        load_eips([{"name": "mine", "ase": "broken_eip.Mine"}])


@pytest.mark.kim
def test_models_for_elements(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code("eips", "Ag", "Au") == 0
    output = capfd.readouterr()
    names = [line.split()[0] for line in output.out.splitlines()]
    assert [eip.target in names for eip in load_eips("silver-gold")] == [True, True]
    assert "installed KIM models cover Ag, Au" in output.err
    assert not list(tmp_path.iterdir())


def test_no_element(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("eips", "Xx") == 1
    assert "'Xx' is no chemical symbol" in capsys.readouterr().err


def test_a_model_that_crashes_costs_its_own_line_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def probe_apart(names: list[str], scratch: Path) -> list[Model]:
        upto = names.index("bad") if "bad" in names else len(names)
        return [Model(name, ("Si",), 3.0) for name in names[:upto]]

    monkeypatch.setattr("eipnn.eips.kim.portable_models", lambda: ["a", "bad", "c"])
    monkeypatch.setattr("eipnn.eips.installed._probe_apart", probe_apart)
    models, broken = covering(["Si"])
    assert [model.name for model in models] == ["a", "c"]
    assert broken == [Model("bad", problem="crashes as it is loaded")]
