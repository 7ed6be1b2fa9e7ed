"""How configurations lie in a representation before and after pretraining (Shui et al. 2022, Fig. 4).

    python experiments/paper/embed.py RUN        # from the folder where `eipnn run` was called, so that the paths hold

A configuration is the mean over its atoms of their features. The picture is t-SNE of these; the number beside it is
taken in the whole space: how well the DFT energy per atom of a configuration follows from its nearest neighbours. A
fine-tuned representation has seen the energies of the training split: its number on the test split is the fair one.
Written are `embedding.png`, `embedding.csv` (the plane) and `smoothness.csv` (the whole space), by default into
`embedding` in RUN; `about.json` says of which pretraining they are.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from ase import Atoms
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler
from torch_geometric.loader import DataLoader
from torch_geometric.nn import global_mean_pool

from eipnn import FinetuneModule, PretrainModule
from eipnn.eips import DFT
from eipnn.errors import InputError
from eipnn.files import write_atomically, write_json
from eipnn.inputs import Graphs, graph_of, prepare
from eipnn.potential.checkpoints import build_representation
from eipnn.progress import progress_bar
from eipnn.report import tables
from eipnn.report.plots import STYLE
from eipnn.report.runs import Fold, ReportError, read_json, read_run, stage_data
from eipnn.representations.base import Representation
from eipnn.stages.source import Source, source_of

FINE_TUNED = ("mp", "mp+la")
NEIGHBOURS = 5
PERPLEXITY = 30.0
"""Of t-SNE: about as many neighbours are kept close. A third of the others where that is less."""
BATCH = 32
TRIVIAL = "mean of the others"
CLIPPED = (2, 98)
"""Percentiles of the energies at which the colours end."""
MARKERS = {3: ("o", "crystal"), 2: ("s", "slab"), 1: ("D", "wire"), 0: ("^", "cluster")}
"""By the number of periodic directions."""


@dataclass(frozen=True)
class Candidate:
    """A representation to look at.

    Args:
        name: what it is: ``random``, ``pretrained``, ...; those of one name are repeats, the first is drawn.
        seed: of its weights.
        net: on the CPU.
    """

    name: str
    seed: int
    net: Representation


def random_candidate(
    config: Mapping[str, Any], seed: int, frames: Sequence[Atoms], cache: Path | None = None
) -> Candidate:
    """A representation as it is before its first training step: random weights, calibrated.

    Args:
        config: see `Representation.config`.
        seed: of the weights and of the order in which `frames` are seen.
        frames: to calibrate on, the training configurations; not looked at where there is nothing to calibrate.
        cache: folder of prepared inputs.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build_representation(dict(config))
    if type(net).calibrate is not Representation.calibrate:
        order = torch.Generator().manual_seed(seed)
        inputs = prepare(frames, net.inputs, cache)
        with torch.no_grad():
            net.calibrate(Graphs(DataLoader(inputs, batch_size=BATCH, shuffle=True, generator=order)))
    return Candidate("random", seed, net)


def represent(
    net: Representation, frames: Sequence[Atoms], cache: Path | None = None, name: str = "features"
) -> np.ndarray:
    """The mean over the atoms of each configuration's features (n, d); `name` stands beside the progress bar."""
    inputs = prepare(frames, net.inputs, cache)
    net.eval()
    parts = []
    with torch.no_grad(), progress_bar(name, len(frames), "configurations") as advance:
        for batch in DataLoader(inputs, batch_size=BATCH):
            # float64: of a feature that is the same for all atoms, the mean is too
            features = net(graph_of(batch)).double()
            parts.append(global_mean_pool(features, batch.batch, batch.num_graphs))
            advance(batch.num_graphs)
    return torch.cat(parts).numpy()


def neighbour_errors(features: np.ndarray, energies: np.ndarray, k: int = NEIGHBOURS) -> np.ndarray:
    """Absolute errors (n,) when each energy is predicted by the mean of its k nearest neighbours, itself left out.

    Args:
        features: (n, d); each is standardised, distances are Euclidean.
        energies: (n,), eV/atom.
        k: number of neighbours.

    Raises:
        InputError: there are not more than k configurations.
    """
    if len(energies) <= k:
        raise InputError(f"{len(energies)} configurations: more than {k} are needed for neighbours")
    scaled = StandardScaler().fit_transform(features)
    nearest = NearestNeighbors(n_neighbors=k).fit(scaled).kneighbors(return_distance=False)
    return np.abs(energies[nearest].mean(axis=1) - energies)


def trivial_errors(energies: np.ndarray) -> np.ndarray:
    """Absolute errors (n,) when each energy is predicted by the mean of all others: n - 1 neighbours."""
    return np.abs(energies - energies.mean()) * len(energies) / (len(energies) - 1)


def project(features: np.ndarray, seed: int = 0) -> np.ndarray:
    """t-SNE of the standardised features (n, d) to the plane (n, 2), from their principal components."""
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    tsne = TSNE(init="pca", perplexity=perplexity, random_state=seed)
    return tsne.fit_transform(StandardScaler().fit_transform(features))


def configurations(source: Source) -> pd.DataFrame:
    """The DFT configurations of a split, its pool left out.

    ``config_id``, ``part`` (train, val, test), ``n_atoms``, ``periodic`` (number of directions),
    ``energy_eV_per_atom`` on the zero of the training.
    """
    split = source.split
    parts = {"train": split.train, "val": split.val, "test": split.test}
    ids = [name for names in parts.values() for name in names]
    frames = source.structures(ids)
    n_atoms = np.array([len(atoms) for atoms in frames])
    return pd.DataFrame(
        {
            "config_id": ids,
            "part": [part for part, names in parts.items() for _ in names],
            "n_atoms": n_atoms,
            "periodic": [int(atoms.pbc.sum()) for atoms in frames],
            "energy_eV_per_atom": source.energies(ids, [DFT])[:, 0] / n_atoms,
        }
    )


def embedding(
    candidates: Sequence[Candidate], source: Source, seed: int = 0, cache: Path | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Places of the DFT configurations in the plane, and how smooth their energies are on each representation.

    Args:
        candidates: what to compare.
        source: structures, split and energies.
        seed: of t-SNE.
        cache: folder of prepared inputs.

    Returns:
        places: for the first candidate of each name one line a configuration: ``representation``, ``seed``, the columns
        of `configurations`, ``x``, ``y``.

        smoothness: a line a candidate and one for the trivial prediction: ``representation``, ``seed``,
        ``knn_mae_eV_per_atom`` over all ``n`` configurations, ``knn_mae_test_eV_per_atom`` over the ``n_test`` of the
        test split (whose neighbours are of all parts), ``k``.
    """
    known = configurations(source)
    frames = source.structures(known["config_id"].tolist())
    energies = known["energy_eV_per_atom"].to_numpy()
    places: dict[str, pd.DataFrame] = {}
    lines = []
    for c in candidates:
        features = represent(c.net, frames, cache, f"{c.name}, seed {c.seed}")
        lines.append(_line(c.name, c.seed, neighbour_errors(features, energies), known, NEIGHBOURS))
        if c.name not in places:
            x, y = project(features, seed).T
            table = known.assign(x=x, y=y)
            table.insert(0, "representation", c.name)
            table.insert(1, "seed", c.seed)
            places[c.name] = table
    lines.append(_line(TRIVIAL, None, trivial_errors(energies), known, len(known) - 1))
    smoothness = pd.DataFrame(lines).astype({"seed": "Int64"})
    return pd.concat(places.values(), ignore_index=True), smoothness


def _line(name: str, seed: int | None, errors: np.ndarray, known: pd.DataFrame, k: int) -> dict[str, object]:
    test = (known["part"] == "test").to_numpy()
    return {
        "representation": name,
        "seed": seed,
        "knn_mae_eV_per_atom": errors.mean(),
        "knn_mae_test_eV_per_atom": errors[test].mean(),
        "n": len(errors),
        "n_test": int(test.sum()),
        "k": k,
    }


def picture(places: pd.DataFrame, smoothness: pd.DataFrame, title: str, file: Path) -> None:
    """One panel a representation, coloured by DFT energy; above it the errors of `smoothness`.

    Args:
        places: of `embedding`.
        smoothness: of `embedding`.
        title: which configurations these are.
        file: PNG to write.
    """
    names = places["representation"].unique()
    ends = np.percentile(places["energy_eV_per_atom"], CLIPPED)
    with rc_context(STYLE):
        figure = Figure(figsize=(1.8 + 4.0 * len(names), 5.0))
        axes = figure.subplots(1, len(names), squeeze=False)[0]
        for axis, name in zip(axes, names, strict=True):
            shown = places[places["representation"] == name]
            points = _scatter(axis, shown, Normalize(*ends))
            errors = smoothness[smoothness["representation"] == name]
            axis.set_title(f"{name} (seed {shown['seed'].iloc[0]})\n{_error_text(errors)}")
        label = "DFT energy (eV/atom); colours end at\nthe {}nd and {}th percentile".format(*CLIPPED)
        figure.colorbar(points, ax=axes, extend="both", label=label, shrink=0.9)
        figure.suptitle(title)
        kinds = [MARKERS[n] for n in MARKERS if (places["periodic"] == n).any()]
        handles = [Line2D([], [], color="0.3", marker=marker, linestyle="", label=kind) for marker, kind in kinds]
        n = len(handles)
        figure.legend(handles=handles, loc="outside lower center", ncols=n, frameon=False)
        figure.savefig(file)


def _scatter(axis: Axes, table: pd.DataFrame, norm: Normalize) -> PathCollection:
    for periodic, (marker, _) in MARKERS.items():
        some = table[table["periodic"] == periodic]
        points = axis.scatter(
            some["x"],
            some["y"],
            c=some["energy_eV_per_atom"],
            norm=norm,
            cmap="viridis",
            marker=marker,
            s=18,
            linewidths=0,
            alpha=0.85,
        )
    axis.set(xticks=[], yticks=[], xlabel="t-SNE 1", ylabel="t-SNE 2")
    axis.set_box_aspect(1)
    return points


def _error_text(errors: pd.DataFrame) -> str:
    found = errors["knn_mae_eV_per_atom"]
    what = f"{NEIGHBOURS}-neighbour error"
    if len(found) == 1:
        return f"{what} {found.iloc[0]:.3f} eV/atom"
    return f"{what} {found.mean():.3f} ± {found.std():.3f} eV/atom\n({len(found)} seeds)"


def pretrained_fold(run: Path, split: int | None = None, seed: int | None = None) -> Fold:
    """The first fold of a run with a finished pretraining, of this split and seed where they are given.

    Raises:
        ReportError: there is none.
    """
    folds = [_fold(file.parents[1]) for file in run.glob("split-*/seed-*/pretrain/done.json")]
    wanted = [f for f in folds if split in (None, f.split) and seed in (None, f.seed)]
    if wanted:
        return min(wanted, key=lambda f: (f.split, f.seed))
    if folds:
        there = ", ".join(f"split {f.split} seed {f.seed}" for f in folds)
        raise ReportError(f"{run}: no finished pretraining of that split and seed; there is {there}")
    if inside := sorted({file.parents[3] for file in run.glob("*/split-*/seed-*/pretrain/done.json")}):
        raise ReportError(f"{run}: holds several runs; name one of them, for example {inside[0]}")
    raise ReportError(
        f"{run}: no finished pretraining in it (no split-K/seed-S/pretrain/done.json); "
        "give `eipnn run` the strategy mp or mp+la"
    )


def _fold(folder: Path) -> Fold:
    split, seed = folder.parent.name, folder.name
    return Fold(folder, int(split.removeprefix("split-")), int(seed.removeprefix("seed-")))


def write_embedding(fold: Fold, seeds: Sequence[int], output: Path) -> str:
    """Write ``embedding.png``, ``embedding.csv`` and ``smoothness.csv``; the last as Markdown."""
    stage = fold.folder / "pretrain"
    data = stage_data(stage, fold.run)
    cache = data.get("cache")
    folder = Path(cache) if cache else None
    source = source_of(data)
    pretrained = PretrainModule.load_from_checkpoint(stage / "checkpoints" / "best.ckpt").representation
    shape, pool = pretrained.config(), source.structures(source.split.pool)
    candidates = [
        *(random_candidate(shape, seed, pool, folder) for seed in dict.fromkeys(seeds)),
        Candidate("pretrained", fold.seed, pretrained),
        *fine_tuned(fold),
    ]
    places, smoothness = embedding(candidates, source, cache=folder)
    output.mkdir(parents=True, exist_ok=True)
    write_atomically(output / "embedding.csv", places.to_csv(index=False))
    write_atomically(output / "smoothness.csv", smoothness.to_csv(index=False))
    title = f"{type(pretrained).__name__}, split {fold.split}: {smoothness['n'].iloc[0]} configurations"
    picture(places, smoothness, title, output / "embedding.png")
    fingerprint = read_json(stage / "done.json").get("fingerprint")
    about = {"split": fold.split, "seed": fold.seed, "pretraining": fingerprint}
    write_json(output / "about.json", about)
    return tables.markdown(tables.rounded(smoothness))


def fine_tuned(fold: Fold) -> list[Candidate]:
    """The network that was fine-tuned from the pretrained one, on DFT alone if there is such a one; or none."""
    for strategy in FINE_TUNED:
        if (fold.folder / f"result-{strategy}.json").exists():
            found = [t for t in read_run(fold.run) if (t.fold, t.strategy) == (fold, strategy)]
            checkpoint = found[0].folder / "checkpoints" / "best.ckpt"
            return [
                Candidate(
                    "fine-tuned",
                    fold.seed,
                    FinetuneModule.load_from_checkpoint(checkpoint).representation,
                )
            ]
    return []


def main() -> None:
    """The command line."""
    p = argparse.ArgumentParser(
        description="How the DFT configurations of a run lie in its representation, with random weights, pretrained "
        "and fine-tuned: a t-SNE picture and the error of DFT energies predicted by the nearest neighbours (Fig. 4)."
    )
    p.add_argument("run", type=Path, metavar="RUN", help="folder of a run with pretraining")
    p.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="DIR",
        help="where the files go (default: embedding in RUN)",
    )
    p.add_argument("--split", type=int, metavar="K", help="of the run (default: the first)")
    p.add_argument("--seed", type=int, metavar="S", help="of the run (default: the first)")
    p.add_argument(
        "--random",
        type=int,
        nargs="+",
        default=[0, 1, 2, 3, 4],
        metavar="SEED",
        help="seeds of the random weights; the first is drawn (default: 0 1 2 3 4)",
    )
    options = p.parse_args()
    output = options.output or options.run / "embedding"
    try:
        fold = pretrained_fold(options.run, options.split, options.seed)
        print(write_embedding(fold, options.random, output))
    except (InputError, OSError) as error:
        sys.exit(f"embed.py: {error}")
    print(f"{output / 'embedding.png'}: written")


if __name__ == "__main__":
    main()
