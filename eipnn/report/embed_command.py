"""The command `eipnn embed`."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from eipnn.checkpoint import load
from eipnn.command_line import Natural, Seed
from eipnn.files import write_atomically, write_json
from eipnn.report import tables
from eipnn.report.embedding import Candidate, embedding, picture, random_candidate
from eipnn.report.runs import Fold, ReportError, read_config, read_json, read_run
from eipnn.report.sources import fold_settings
from eipnn.report.studies import ABOUT
from eipnn.stages.source import source_of

FINE_TUNED = ("mp", "mp+la")
RANDOM = [0, 1, 2, 3, 4]


def embed(
    run: Path,
    *,
    output: Path | None = None,
    split: Natural | None = None,
    seed: Seed | None = None,
    random: list[Seed] = RANDOM,
) -> None:
    """How the DFT configurations of a run lie in its representation, with random weights, pretrained and fine-tuned.

    A t-SNE picture (embedding.png, embedding.csv) and, for the whole space, the error of DFT energies predicted by the
    nearest neighbours (smoothness.csv). Call it from the folder where `eipnn run` was called, so that the paths hold.

    Args:
        run: folder of a run with pretraining.
        output: where the files go (default: embedding in RUN).
        split: of the run (default: the first).
        seed: of the run (default: the first).
        random: seeds of the random weights; the first is drawn.
    """
    output = output or run / "embedding"
    fold = pretrained_fold(run, split, seed)
    print(write_embedding(fold, random, output))
    Console().print(f"{output / 'embedding.png'}: written", soft_wrap=True)


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
        raise ReportError(
            f"{run}: no finished pretraining of that split and seed; there is {there}"
        )
    if inside := sorted(
        {file.parents[3] for file in run.glob("*/split-*/seed-*/pretrain/done.json")}
    ):
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
    config = read_config(stage)
    settings = fold_settings(fold, [config])
    cache = config["data"]["init_args"].get("cache")
    folder = Path(cache) if cache else None
    source = source_of(settings)
    pretrained = load(stage / "checkpoints" / "best.ckpt").representation
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
    title = (
        f"{type(pretrained).__name__}, split {fold.split}: {smoothness['n'].iloc[0]} configurations"
    )
    picture(places, smoothness, title, output / "embedding.png")
    fingerprint = read_json(stage / "done.json").get("fingerprint")
    about = {"split": fold.split, "seed": fold.seed, "pretraining": fingerprint}
    write_json(output / ABOUT, about)
    return tables.markdown(tables.rounded(smoothness))


def fine_tuned(fold: Fold) -> list[Candidate]:
    """The network that was fine-tuned from the pretrained one, on DFT alone if there is such a one; or none."""
    for strategy in FINE_TUNED:
        if (fold.folder / f"result-{strategy}.json").exists():
            found = [t for t in read_run(fold.run) if (t.fold, t.strategy) == (fold, strategy)]
            checkpoint = found[0].folder / "checkpoints" / "best.ckpt"
            return [Candidate("fine-tuned", fold.seed, load(checkpoint).representation)]
    return []
