"""What the two stages that learn energies, forces and stress share: weights of the terms, phases, errors."""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from ase.units import GPa
from torch import Tensor, nn
from torch_geometric.data import Batch
from torch_geometric.nn import global_add_pool

from eipnn.errors import InputError
from eipnn.inputs import AtomicGraph, graph_of
from eipnn.potential.checkpoints import CheckpointError
from eipnn.potential.core import CoreName, core_of
from eipnn.potential.heads import EnergyHead
from eipnn.potential.potential import differentiable, pulled, slopes, stress_of
from eipnn.representations.base import Representation
from eipnn.stages.module import StageModule
from eipnn.stages.terms import Per, Term
from eipnn.targets import PROPERTIES, Targets

log = logging.getLogger(__name__)
WEIGHTS = {"energy": 1.0, "forces": 10.0, "stress": 100.0}
"""Where none are given, of the properties that some training label has. Residuals in eV, eV/A and eV/A^3."""


class PotentialStage(StageModule):
    """A stage whose loss is a weighted sum of terms of energies, forces and stress.

    The best epoch is that of the smallest ``val_error``: the geometric mean of the MAEs of what is trained (energies:
    of configurations, with ``energy_per: atom`` those an atom). With energies alone it is their MAE.

    Args:
        representation: see `StageModule`.
        eips: see there.
        weights: of the terms by property (energy, forces, stress); what is not named is not trained. By default what
            some training label has is trained with `WEIGHTS`.
        energy_per: residuals of energies are totals (``configuration``, Eq. 3 and 4), or an ``atom``. Take the latter
            where the sizes of configurations differ by much.
        second_weights: in place of these from `second_from` on; what is not named keeps its weight. The best epoch is
            one of those that have them.
        second_from: share of the epochs.
        core: ``zbl``: a repulsion at short range, `eipnn.potential.core.ZBL`, is part of every energy that is
            predicted, and the network learns the rest; ``wall``: the network learns all, and the potential has that
            repulsion where two atoms are closer than in any frame of fine-tuning; null: none.
        compiled: compile the training step with forces, see `eipnn.potential.compiled`: minutes before the first step
            the first time on a machine, later seconds. MACE and SchNet alone; it pays where batches are small.
        **kwargs: see `StageModule`.

    Raises:
        InputError: a weight is not positive, or of no property; (before training) a property with a weight that no
            training label has.
    """

    monitor = "val_error"
    mode = "min"

    def __init__(
        self,
        representation: Representation,
        eips: Sequence[str] = (),
        weights: dict[str, float] | None = None,
        energy_per: Per = "configuration",
        second_weights: dict[str, float] | None = None,
        second_from: float = 0.75,
        core: CoreName | None = None,
        compiled: bool = False,
        **kwargs: Any,
    ) -> None:
        for name, given in (("weights", weights), ("second_weights", second_weights)):
            check_weights(name, given)
        if strangers := set(second_weights or ()) - set(weights or WEIGHTS):
            raise InputError(f"second_weights.{min(strangers)}: weights does not name it; give it a weight there too")
        if not 0 < second_from < 1:
            raise InputError(f"second_from must lie between 0 and 1, not {second_from}")
        self.weights, self.energy_per = weights, energy_per
        self.second_weights, self.second_from = second_weights, second_from
        super().__init__(representation, eips, **kwargs)  # which asks for the names of the metrics
        self.core, self.base = core, core_of(core, representation.cutoff)
        self.compiled = compiled
        self._step: Callable[[AtomicGraph, Tensor], tuple[Tensor, Tensor]] | None = None
        if self.patience and second_weights:
            raise InputError("patience may end a training before second_weights come: give one of the two")

    def settings(self) -> dict[str, Any]:
        names = ("weights", "energy_per", "second_weights", "second_from", "core")
        return {name: getattr(self, name) for name in names}

    @property
    def first_weights(self) -> dict[str, float]:
        """Those of the first phase."""
        return self.weights or WEIGHTS

    @property
    def trained(self) -> list[str]:
        """The properties with a weight."""
        return [name for name in PROPERTIES if name in self.first_weights]

    def terms_of(self, kinds: Mapping[str, Callable[..., Term]], factor: float = 1.0, **options: Any) -> Any:
        """The terms of the trained properties that have one of these kinds, by property, as a `ModuleDict`.

        Their weights are those of the properties times `factor`.
        """
        made = nn.ModuleDict()
        for name in self.trained:
            if name in kinds:
                per: Per = self.energy_per if name == "energy" else "configuration"
                term = made[name] = kinds[name](factor * self.first_weights[name], per=per, **options)
                term.factor = factor
        return made

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if self.compiled and (precision := self.trainer.precision) not in ("32-true", "64-true"):
            raise InputError(f"model.compiled: not with trainer.precision {precision}; leave one of the two out")
        if stage == "fit" and self.weights:
            training = self.handover.known().training
            for name in self.weights:
                if training is not None and name not in training.known:
                    raise InputError(
                        f"weights names {name}, and no training label has any: name the key of these in the files "
                        f"(data.{name}_key), or leave {name} out of weights"
                    )

    def _load_representation(self, file: str) -> dict[str, Any]:
        record = super()._load_representation(file)
        # on top of a core another energy is learned
        core = record["settings"].get("core")
        if core != self.core and "zbl" in (core, self.core):
            raise CheckpointError(
                f"init_from={file} was pretrained with core: {core or 'null'}, but this stage has core: "
                f"{self.core or 'null'};\ngive model.core the same value in both stages"
            )
        return record

    def on_train_start(self) -> None:
        """As an epoch begins: one in whose midst a training goes on does not."""
        self._weigh()
        epochs = self.trainer.max_epochs or 0
        if self.second_weights and self.second_from * epochs > epochs - 1:
            log.warning("second_weights: none of %d epochs has them (second_from: %g)", epochs, self.second_from)

    def on_train_epoch_start(self) -> None:
        """The second phase begins, and with it the choice of an epoch: energies were hardly trained before."""
        self._weigh()

    def _weigh(self) -> None:
        if self.second_weights is None:
            return
        epochs = self.trainer.max_epochs
        if epochs is None or epochs < 1:
            raise InputError("trainer.max_epochs must be at least 1: second_from is a share of it")
        self.phase = int(self.current_epoch >= self.second_from * epochs)
        now = self.first_weights | (self.second_weights if self.phase else {})
        for term in self.terms:
            term.weight = term.factor * now[term.needs]

    def compared(self, batch: Batch, wanted: Collection[str]) -> Mapping[str, tuple[Tensor, Targets]]:
        """Energies with those of all sources; forces and stress of a combination of the K energies, which takes one
        backward pass, with the same combination of the labels."""
        derived = [name for name in ("forces", "stress") if name in wanted]
        if not derived:
            return super().compared(batch, wanted)
        targets = Targets.of(batch)
        factors = self.factors(batch, targets, derived)
        energy, both = self.derived(batch, factors)
        mixed = targets.along(factors)
        found = {"energy": (energy, targets)} | {name: (both[name], mixed) for name in derived}
        return {name: found[name] for name in wanted}

    def factors(self, batch: Batch, targets: Targets, derived: Sequence[str]) -> Tensor:
        """Those of the combination (B, K), float64, in which forces and stress are compared; of one energy 1."""
        return torch.ones(batch.num_graphs, 1, dtype=torch.float64, device=batch.pos.device)

    def derived(self, batch: Batch, factors: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Energies, and derivatives of their sum with these factors, for a loss.

        Args:
            batch: B configurations with N atoms.
            factors: (B, K), float64.

        Returns:
            energies (B, K), eV, float64; ``forces`` (N, 3), eV/A, and ``stress`` (B, 3, 3), eV/A^3.
        """
        graph = differentiable(graph_of(batch))
        atoms, slope = self.slopes(graph, factors)
        forces, virial = pulled(slope, graph, create_graph=True)
        energy = global_add_pool(atoms, graph.batch, graph.size)
        return energy, {"forces": forces, "stress": stress_of(virial, batch.cell)}

    def slopes(self, graph: AtomicGraph, factors: Tensor) -> tuple[Tensor, Tensor]:
        """See `eipnn.potential.potential.slopes`."""
        assert isinstance(self.head, EnergyHead)
        if not self.compiled:
            return slopes(graph, factors, self.representation, self.head, self.base)
        if self._step is None:
            from eipnn.potential.compiled import compiled  # here: Inductor takes seconds to import

            dtype = graph.vectors.dtype
            self._step = compiled(self.representation, self.head, self.base, self.elements, dtype)
        return self._step(graph, factors)

    def scores(self, means: list[Tensor]) -> dict[str, Tensor]:
        """Those that are known of the configurations that were validated."""
        return {name: mean for name, mean in super().scores(means).items() if mean.isfinite()}

    def error_of(self, names: Mapping[str, str], scores: Mapping[str, Tensor]) -> Tensor:
        """The value of `monitor`.

        Args:
            names: property -> name of its error.
            scores: errors by name.
        """
        known = [scores[names[name]] for name in self.trained if names[name] in scores]
        return torch.stack(known).log().mean().exp() if known else torch.tensor(torch.nan)

    def evaluated(self, batch: Batch, more: Collection[str] = ()) -> Mapping[str, Any]:
        """Energies, and forces and stress where labels are; Lightning's inference mode, which forbids them, is left."""
        wanted = {name for name in PROPERTIES if name in batch} | {self.output, *more}
        with torch.inference_mode(False), torch.no_grad():
            return self.properties(batch.clone(), wanted)


def check_weights(name: str, weights: dict[str, float] | None) -> None:
    """Raise `InputError` for weights that cannot be."""
    if weights is None:
        return
    if name == "weights" and "energy" not in weights:
        raise InputError("weights must name energy: forces and stress alone leave it open")
    for key, value in weights.items():
        if key not in PROPERTIES:
            raise InputError(f"{name}.{key}: there is no such property; name some of {', '.join(PROPERTIES)}")
        if not 0 < value < float("inf"):
            raise InputError(f"{name}.{key} must be positive, not {value}; leave out what is not to be trained")


def mean_error(name: str, predicted: Mapping[str, Any], targets: Targets) -> tuple[Tensor, Tensor]:
    """Absolute errors and weights of a property, for a mean: of energies (B, S) in eV, of force components (N, S) in
    eV/A, of stress components (B, S) in GPa; nothing where it is not predicted or not known of any."""
    if name not in targets.values or predicted.get(name) is None:
        none = torch.zeros(1, 1, device=targets.weight.device)
        return none, none
    error = targets.error(name, predicted[name]).abs()
    error = error.reshape(*error.shape[:2], -1).mean(dim=-1)
    return error / GPa if name == "stress" else error, targets.counts(name)
