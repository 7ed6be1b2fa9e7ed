"""`Potential`: one call gives all, derivatives serve training too, a file of its own gives it back."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk
from backbones import CRYSTALS, FRAMES, graph
from tiny import best

from eipnn import EIPNNCalculator, Potential, load
from eipnn.errors import InputError


@pytest.fixture
def exact(potential) -> Potential:
    """In float64; `potential` is the module that trains it."""
    return potential.potential.eval()


def test_one_call_gives_all(exact):
    frames = [*CRYSTALS, FRAMES["molecule"]]
    given = graph(exact.representation, *frames, dtype=torch.float64)
    found = exact.predict(given, ("energy", "forces", "stress"))
    atoms, count = len(given.z), len(frames)
    assert found.atom_energies.shape == (atoms,)
    assert found.energy.shape == (count,)
    assert found.forces.shape == (atoms, 3)
    assert found.stress.shape == (count, 3, 3)
    assert found.energy.dtype == found.atom_energies.dtype == torch.float64
    assert found.stress[:-1].isfinite().all()
    assert found.stress[-1].isnan().all()  # of a molecule there is none
    sums = torch.zeros(count, dtype=torch.float64).index_add(0, given.batch, found.atom_energies)
    torch.testing.assert_close(found.energy, sums)
    free = torch.tensor([sum({"C": -10.25, "Si": -100.5}[s] for s in f.symbols) for f in frames])
    cohesive = exact.predict(given, cohesive=True)
    torch.testing.assert_close(found.energy - cohesive.energy, free.double())
    assert cohesive.forces is None
    assert cohesive.stress is None
    alone = exact.predict(graph(exact.representation, frames[1], dtype=torch.float64))
    torch.testing.assert_close(alone.energy[0], found.energy[1])


def test_stress_is_positive_under_tension(exact):
    """A stretched crystal of a potential whose energy rises as it is stretched."""
    crystal = bulk("Si", cubic=True)

    def energy_and_stress(scale: float) -> tuple[float, float]:
        atoms = crystal.copy()
        atoms.set_cell(crystal.cell * scale, scale_atoms=True)
        given = graph(exact.representation, atoms, dtype=torch.float64)
        found = exact.predict(given, ("stress",))
        return found.energy.item(), found.stress[0].trace().item() / 3

    step = 1e-4
    (below, _), (_, stress), (above, _) = (energy_and_stress(1 + x) for x in (-step, 0, step))
    slope = (above - below) / (2 * step) / (3 * crystal.get_volume())  # dE/dV
    assert stress == pytest.approx(slope, rel=1e-4, abs=1e-9)


def test_a_file_of_its_own_gives_it_back(exact, tmp_path):
    file = tmp_path / "potential.pt"
    exact.save(file)
    content = torch.load(file, weights_only=True)
    assert content.keys() == {"eipnn", "state_dict"}
    again = load(file)
    assert isinstance(again, Potential)
    assert again.elements == ["C", "Si"]
    assert again.cutoff == exact.cutoff
    assert again.record() == exact.record()
    given = graph(exact.representation, *CRYSTALS, dtype=torch.float64)
    energy = again.double().predict(given).energy.detach()
    np.testing.assert_allclose(energy, exact.predict(given).energy.detach(), rtol=1e-6)
    with pytest.raises(InputError, match="was trained on C, Si, not on Ge"):
        again.check_elements({"Si", "Ge"})


def test_the_page_on_potentials(trained, tmp_path, monkeypatch, capsys):
    """Its code runs as it stands, and gives what the calculator gives."""
    page = Path(__file__).parents[1] / "experiments" / "potential" / "README.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    shutil.copy(best(trained["Finetune"]), "potential.ckpt")
    seen: dict = {}
    exec(code, seen)
    assert len(capsys.readouterr().out.splitlines()) > 3
    first, *_ = seen["frames"]
    first.calc = EIPNNCalculator("copper.pt")
    assert first.get_potential_energy() == pytest.approx(seen["found"].energy[0].item(), abs=1e-5)
    stress = seen["found"].stress[0].numpy()
    np.testing.assert_allclose(first.get_stress(voigt=False), stress, atol=1e-6)
