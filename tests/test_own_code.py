"""Classes of the user's own are known by their source; those of installed packages are not looked at."""

import sys
from hashlib import sha256

import pytest

from eipnn.eips import load_eips
from eipnn.own_code import class_paths, source_digests

FILES = {
    "nets.py": "from own_layers.gate import Gate\nimport torch\nclass Net: ...\n",
    "own_layers/__init__.py": "",
    "own_layers/gate.py": "from . import unit\nfrom .missing import nothing\nclass Gate: ...\n",
    "own_layers/unit.py": "x = 1\n",
    "unused.py": "",
    "broken.py": "def (",
}


@pytest.fixture
def written(tmp_path, monkeypatch):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [n for n in sys.modules if n.partition(".")[0] in ("nets", "own_layers")]:
        del sys.modules[name]


def digest(file: str) -> str:
    return sha256(FILES[file].encode()).hexdigest()


def test_a_module_counts_with_what_it_imports(written):
    assert source_digests(["nets.Net"]) == {
        "nets": digest("nets.py"),
        "own_layers": digest("own_layers/__init__.py"),
        "own_layers.gate": digest("own_layers/gate.py"),
        "own_layers.unit": digest("own_layers/unit.py"),
    }
    assert source_digests(["broken.Net"]) == {"broken": digest("broken.py")}


@pytest.mark.parametrize(
    "path",
    ["torch.optim.Adam", "eipnn.representations.SchNet", "EarlyStopping", "collections.Counter",
     "no_such_module.Net", "nets.", "", "ase.calculators.emt.EMT"],
)  # fmt: skip
def test_nothing_of_an_installed_package_counts(written, path):
    expected = {"nets", "own_layers", "own_layers.gate", "own_layers.unit"} if path == "nets." else {}
    assert set(source_digests([path])) == set(expected)


def test_class_paths_are_found_at_any_depth():
    config = {
        "trainer": {"callbacks": [{"class_path": "a.A", "init_args": {"class_path": "b.B"}}]},
        "model": {
            "class_path": "c.C",
            "init_args": {"x": [1, "d.D", {"y": {"class_path": "e.E"}}]},
        },
    }
    assert set(class_paths(config)) == {"a.A", "b.B", "c.C", "e.E"}


def test_an_eip_of_the_users_own_is_known_by_its_source(written, tmp_path):
    module = tmp_path / "own_potential.py"
    text = "from ase.calculators.lj import LennardJones\nclass Mine(LennardJones): shift = 0\n"
    described = []
    for source in (text, text.replace("0", "1")):
        module.write_text(source)
        (eip,) = load_eips([{"name": "mine", "ase": "own_potential.Mine"}])
        described.append(eip.description())
    assert [d["code"]["own_potential"] for d in described] == [
        sha256(source.encode()).hexdigest() for source in (text, text.replace("0", "1"))
    ]
    (emt,) = load_eips([{"name": "emt", "ase": "ase.calculators.emt.EMT"}])
    assert "code" not in emt.description()
