"""A fine-tuned potential in torch-sim, which simulates many structures at once: ``pip install 'eipnn[torch-sim]'``.

model = EIPNNModel("potential.ckpt", device=torch.device("cuda"))
torch_sim.integrate(system=frames, model=model, integrator=torch_sim.Integrator.nvt_langevin, ...)
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ase import Atoms
from torch import Tensor, nn

from eipnn.errors import InputError
from eipnn.potential.committee import Committee
from eipnn.potential.guard import Mode, guard_of

if TYPE_CHECKING:
    from torch_sim.state import SimState

try:
    from torch_sim.models.interface import ModelInterface
except ModuleNotFoundError as error:
    raise InputError(
        f"torch-sim is not installed ({error}): pip install 'eipnn[torch-sim]' with Python 3.12 or newer"
    ) from error


class EIPNNModel(ModelInterface):
    """Energies, forces and stress of a potential or a committee, as torch-sim asks for them.

    Args:
        checkpoint: of the fine-tuning stage, a file of `Potential.save`, or a committee, whose mean is taken.
        device: of the networks; neighbours are found on the CPU.
        dtype: ``torch.float32``, as trained, or ``torch.float64``.
        guard: what happens where a system leaves what the training saw: see `EIPNNCalculator`. In a step that is well
            inside, the host waits for the device once more, when it has the pairs alone.

    Raises:
        CheckpointError: the checkpoint is of another stage.
        InputError: it is of delta learning, whose EIP torch-sim cannot hold; `guard` is asked for, and a file does not
            say what its training saw.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        guard: Mode | None = None,
    ) -> None:
        super().__init__()
        self._committee = Committee.load(checkpoint)
        self._guard = guard_of(self._committee, guard)
        members = self._committee.potentials
        if members[0].eip:
            raise InputError(
                f"{checkpoint}: gives DFT less the EIP {members[0].delta_eip}, which torch-sim cannot add; use "
                "EIPNNCalculator in ASE"
            )
        self._device, self._dtype = torch.device(device), dtype
        self._compute_stress = self._compute_forces = True
        self.members = nn.ModuleList(members).to(device=self._device, dtype=dtype).requires_grad_(False)

    def forward(self, state: "SimState", **_: Any) -> dict[str, Tensor]:
        """What the potential says of B systems with N atoms, on the zero of its DFT data, without gradients.

        Returns:
            ``energy`` (B,), eV, ``forces`` (N, 3), eV/A, and ``stress`` (B, 3, 3), eV/A^3, positive under tension; NaN
            where an axis is open. In the precision of the network.

        Raises:
            InputError: an element that the training data did not hold; with ``guard="error"`` atoms outside of it.
        """
        frames = systems(state)
        graphs = self._committee.graphs(frames)
        if self._guard is not None:
            self._guard.check(frames, graphs[0])
        members = zip(self._committee.potentials, graphs, strict=True)
        found = [member.predict(graph, ("forces", "stress"))[1:] for member, graph in members]
        means = [torch.stack(values).mean(dim=0) for values in zip(*found, strict=True)]
        names = ("energy", "forces", "stress")
        return {name: value.detach().to(self._dtype) for name, value in zip(names, means, strict=True)}


def systems(state: "SimState") -> list[Atoms]:
    """The structures of a state. Its cells hold lattice vectors as columns."""
    index, numbers = state.system_idx.cpu().numpy(), state.atomic_numbers.cpu().numpy()
    positions, cells = state.positions.detach().cpu().numpy(), state.cell.detach().mT.cpu().numpy()
    pbc = state.pbc.cpu().numpy()
    return [Atoms(numbers[index == k], positions[index == k], cell=cell, pbc=pbc) for k, cell in enumerate(cells)]
