"""The energy that it takes to remove an atom of an element's crystal, the others relaxed."""

from eipnn.check.case import Case
from eipnn.check.crystals import placed, relax, supercell
from eipnn.check.figures import Figure, Found, Limits, NotRun

SIZE = 9.0
"""A between vacancies, at least."""
FMAX = 0.02
ENERGY = Limits(0.1, 0.0)
"""eV: below 0 a crystal loses atoms by itself."""
APART = Limits(0.05, 0.5)


def measure(case: Case) -> Found:
    """Formation energies, E(N - 1) - (N - 1) / N x E(N).

    Raises:
        NotRun: all crystals are compounds, where the energy depends on the reservoir of the atom.
    """
    figures = []
    for name, crystal in case.crystals.items():
        if len(set(crystal.atoms.symbols)) > 1:
            continue
        whole = placed(supercell(crystal.atoms, SIZE), case.calculator)
        n = len(whole)
        without = placed(whole[1:], case.calculator)
        rests = relax(without, fmax=FMAX)
        energy = without.get_potential_energy() - (n - 1) / n * whole.get_potential_energy()
        note = f"{n - 1} atoms" if rests else f"{n - 1} atoms, not yet at rest"
        figures.append(Figure("vacancy", name, energy, "eV", ENERGY, APART, note))
    if not figures:
        raise NotRun("of a compound it depends on where the atom goes")
    return Found(figures)
