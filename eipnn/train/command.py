"""The command `eipnn train`."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml

from eipnn.command_line import Count, Seed, Which
from eipnn.eips import load_eips
from eipnn.errors import InputError
from eipnn.files import read_yaml, write_atomically
from eipnn.labels.command import read_isolated
from eipnn.labels.layout import INDEX
from eipnn.run.command import carry_out, check_rows, make_rows
from eipnn.run.dry_run import labels_to_make
from eipnn.run.execute import console, say
from eipnn.run.experiment import ALL, listed, read_experiment
from eipnn.run.plan import Row
from eipnn.run.side_by_side import threads_of
from eipnn.run.strategy import STRATEGIES
from eipnn.structures import (
    Options,
    Split,
    StructureStore,
    open_structures,
    options_of,
    resolve_all,
    without_isolated_atoms,
    write_split,
)
from eipnn.structures.suspects import same_structures
from eipnn.train.add import extended, keep_labels
from eipnn.train.choice import Recipe
from eipnn.train.folds import generate_pool, make_folds, parents_of, tested_in, with_pool
from eipnn.train.outcome import show_outcome
from eipnn.train.settings import (
    EXPERIMENT,
    energy_zero,
    network_settings,
    properties,
    with_compiled,
    with_compiler_here,
    with_steps,
)
from eipnn.train.teachers import NONE, found_teachers, judges_of, named_teachers

OF_BEFORE = (
    *("pool", "teachers", "network", "core", "recipes", "folds", "steps", "pool_size", "isolated_atoms"),
    *("energy_key", "forces_key", "stress_key", "seed"),
)
"""Options that --add takes from the training of before."""
FoldCount = Annotated[int, Which("a whole number from 2 on", lambda n: n >= 2)]
PoolSize = Annotated[int, Which("a whole number from 4 on", lambda n: n >= 4)]  # some of each kind
DEFAULT: tuple[Recipe, ...] = ("baseline", "mp")
"""Delta learning and label augmentation lose where DFT frames have forces: experiments/results/forces."""


def train(
    dft: list[str],
    *,
    output: Path,
    pool: list[str] | None = None,
    teachers: list[str] | None = None,
    test: list[str] | None = None,
    network: str | None = None,
    core: Literal["wall", "zbl", "none"] | None = None,
    recipes: list[Recipe] | None = None,
    folds: FoldCount | None = None,
    steps: Count | None = None,
    pool_size: PoolSize | None = None,
    isolated_atoms: str | None = None,
    energy_key: str | None = None,
    forces_key: str | None = None,
    stress_key: str | None = None,
    seed: Seed | None = None,
    add: list[str] | None = None,
    jobs: Count = 1,
    threads: Count | None = None,
    workers: Count = 1,
    dry_run: bool = False,
) -> None:
    """A potential from DFT frames: the recommended way, without an experiment file.

    Generates a pool, has teachers label it, trains each recipe on folds of the DFT frames, takes the recipe with the
    lowest validation error (where they are as good, mp before DFT alone, and that before the others) and leaves the
    potentials of its folds, which ASE runs as one. The same command goes on after a kill. OUTPUT/experiment.yaml is an
    experiment for `eipnn run`.

    Args:
        dft: files with DFT energies and, best, forces and stress, that ASE reads; patterns; bundled:NAME.
        output: folder of all that is written.
        pool: files of structures without DFT (default: displaced, strained and packed children of the DFT frames).
            Children of DFT frames that `eipnn generate` made are left out where their parent validates.
        teachers: sets as in `eipnn label` (silicon, ...), YAML files, checkpoints of eipnn, or none (default: the
            OpenKIM models that cover all elements, of many the eight closest to the DFT frames that differ). A
            potential that was trained on these frames knows those that validate: its recipe looks better than it is.
        test: files of DFT frames to test on in the end; they have no part in training and choice.
        network: mace, schnet, or a YAML file in the form of these (default: mace).
        core: wall: a repulsion where two atoms are closer than in any training frame; zbl: one that reaches further, on
            top of which the network learns; none (default: wall).
        recipes: to choose among: DFT alone (baseline), pretraining on the teachers (mp), label augmentation (la), on
            top of the best teacher (delta) (default: baseline mp).
        folds: of the DFT frames, and potentials of the committee (default: 4).
        steps: gradient steps of a training, and about as many of a pretraining (default: 2400).
        pool_size: structures to generate (default: 40 for each DFT frame, up to 3,000).
        isolated_atoms: JSON file with DFT energies of isolated atoms in eV, as in {"Si": -0.85}; frames of
            config_type=IsolatedAtom need not be named (default: a fit).
        energy_key: key of the DFT energy (default: what ASE recognises, or energy_reference, dft_energy, ...).
        forces_key: the same of the forces.
        stress_key: the same of the stress, or of virials if "virial" is in the name.
        seed: of folds, pool, weights and sample order (default: 0).
        add: files of more DFT frames, for the training whose folder stands in place of the DFT files. Its settings,
            teachers, pool, labels and pretrainings are kept, and no frame validates where the pretraining has seen it;
            all else is trained again, in OUTPUT.
        jobs: trainings that run at once; what they print goes to log.txt of their folders.
        threads: CPU threads of each training (default: torch's, or a fair share of the cores with --jobs).
        workers: processes that generate and label.
        dry_run: stop before labels and trainings are made, when all is known of them.
    """
    options = {name: value for name, value in locals().items() if name in OF_BEFORE}
    if add:
        content, splits, tested = going_on(dft, add, test, output, options)
    else:
        content, splits, tested = beginning(dft, test, output, workers, **options)
    rows = write_experiment(content, splits, output)
    check_rows(rows)
    show_plan(rows, output, jobs, threads)
    if dry_run:
        say(f"Nothing was trained. To change what no option does: `eipnn run {output / EXPERIMENT} -o FOLDER`")
        return
    show_outcome(carry_out(output, rows, jobs, threads, workers), output, tested)


def going_on(
    dft: list[str], added: list[str], test: list[str] | None, output: Path, options: dict[str, Any]
) -> tuple[dict[str, Any], list[Split], StructureStore | None]:
    """The experiment with added frames, its folds and the frames to test on; the labels of before are kept."""
    check_alone(dft, options)
    new, splits, frames = extended(Path(dft[0]), added, output)
    check_output(output, len(splits))
    tested = read_tested(test, frames, options_of(new.data, require_energy=True)) if test else None
    if tested and (pool := listed(new.data.get("pool") or [])):
        learned = {name for split in splits for name in split.pool}
        if seen := tested_in(pool, listed(new.data["dft"]), new.structures[0], tested) & learned:
            raise InputError(
                f"--test {', '.join(test or [])}: pretraining has learned from {min(seen)} of the pool, which is one "
                f"of these frames, or a child of one ({len(seen)} such structures);\n"
                "test on other frames, or train on all anew, without --add"
            )
    keep_labels(Path(dft[0]), new, output)
    return with_compiler_here(asdict(new)), splits, tested


def beginning(
    dft: list[str],
    test: list[str] | None,
    output: Path,
    workers: int,
    *,
    pool: list[str] | None,
    teachers: list[str] | None,
    network: str | None,
    core: str | None,
    recipes: list[Recipe] | None,
    folds: int | None,
    steps: int | None,
    pool_size: int | None,
    isolated_atoms: str | None,
    seed: int | None,
    **keys: str | None,
) -> tuple[dict[str, Any], list[Split], StructureStore | None]:
    """The experiment on DFT files, its folds and the frames to test on; teachers and pool are made. See `train`."""
    folds, steps, seed = folds or 4, steps or 2400, seed or 0
    given = {name: key for name, key in keys.items() if key}
    chosen = chosen_recipes(recipes, teachers)
    taught = any(not STRATEGIES[recipe].dft_alone for recipe in chosen)
    where = ", ".join(dft)
    # the ids that the experiment will find
    beside = pool if taught else None
    everything = open_structures(dft, beside=beside, **options_of(given, require_energy=True))
    frames = without_isolated_atoms(everything)
    if not frames:
        raise InputError(f"{where}: holds isolated atoms alone; give frames to train on")
    splits = make_folds(frames, folds, seed, where)
    tested = read_tested(test, frames, options_of(given, require_energy=True)) if test else None
    settings = network_settings(network, frames.elements(), properties(frames, splits))
    zero = energy_zero(everything, read_isolated(isolated_atoms))
    check_output(output, folds)
    data: dict[str, Any] = {"dft": dft, "energy_zero": zero} | given
    content: dict[str, Any] = {"data": data, "splits": str(output / "splits" / "fold_{split}.csv")}
    if taught:
        content["eips"] = str(gather_teachers(teachers, frames, output, workers))
        data |= {"pool": pool or [str(output / children_name(dft))], "eip_energy_zero": "least_squares"}
        if not pool:
            generate_pool(frames, pool_size, seed, Path(data["pool"][0]), workers)
        parents = parents_of(data["pool"], dft, everything)
        if pool and tested and (seen := tested_in(pool, dft, everything, tested)):
            say(f"{len(seen)} structures of the pool are among the frames of --test, or children of them: left out")
            parents = {name: of for name, of in parents.items() if name not in seen}
        splits = with_pool(splits, parents)
    settings = with_compiled(settings, steps, float(frames.sizes.mean()))
    content |= with_steps(settings, steps, max(len(split.pool) for split in splits))
    if core != "none":
        content["core"] = core or "wall"
    content["run"] = {"strategy": chosen, "split": list(range(1, folds + 1)), "seed": [seed]}
    return content, splits, tested


def check_alone(dft: list[str], of_before: dict[str, Any]) -> None:
    """Raise where --add stands beside DFT files, or beside an option of the training of before."""
    if named := [name for name in OF_BEFORE if of_before[name] is not None]:
        option = named[0].replace("_", "-")
        raise InputError(f"--{option}: --add takes that of the training of before; leave it out")
    if len(dft) != 1:
        raise InputError(f"{' '.join(dft)}: --add goes on from one training; name its folder, and no DFT files")


def chosen_recipes(recipes: list[Recipe] | None, teachers: list[str] | None) -> list[Recipe]:
    """Those to choose among, each once.

    Raises:
        InputError: one needs teachers where there are to be none, or `NONE` stands beside teachers.
    """
    alone = teachers == [NONE]
    chosen = list(dict.fromkeys(recipes or (DEFAULT[:1] if alone else DEFAULT)))
    taught = [recipe for recipe in chosen if not STRATEGIES[recipe].dft_alone]
    if taught and alone:
        raise InputError(f"the recipe {taught[0]} needs teachers: leave it out, or --teachers {NONE}")
    if NONE in (teachers or ()) and not alone:
        raise InputError(f"--teachers {' '.join(teachers or ())}: {NONE} stands alone; leave it out, or the others")
    return chosen


def read_tested(files: list[str], frames: StructureStore, options: Options) -> StructureStore:
    """The frames to test on.

    Raises:
        InputError: one holds an element that no DFT frame has, or is one of these.
    """
    tested = without_isolated_atoms(open_structures(files, **options))
    where = ", ".join(files)
    if strangers := set(tested.elements()) - set(frames.elements()):
        raise InputError(f"--test {where}: {min(strangers)} is in no frame to train on; leave frames with it out")
    if same := same_structures(frames, tested):
        raise InputError(
            f"--test {where}: {same[0][1]} is the training frame {same[0][0]} ({len(same)} such frames): "
            "remove them from either"
        )
    return tested


def check_output(output: Path, folds: int) -> None:
    """Raise where the folder holds another number of folds, whose results would stand beside the new ones."""
    file = output / EXPERIMENT  # written last: without it nothing was trained
    there = len(read_experiment(file).run["split"]) if file.exists() else folds
    if there != folds:
        raise InputError(f"{output}: holds a training with --folds {there}; give that, or another --output")


def gather_teachers(named: list[str] | None, frames: StructureStore, output: Path, workers: int) -> Path:
    """The EIP set of those that are named or, once for a folder and its DFT frames, of those that are found."""
    file, elements = output / "teachers.yaml", list(frames.elements())
    found, judges = output / "candidates" / "found.yaml", judges_of(frames)
    known = read_yaml(found) if file.exists() and found.exists() else None
    if named:
        entries = named_teachers(named, elements)
        found.unlink(missing_ok=True)
        write_atomically(file, yaml.safe_dump(entries, sort_keys=False))
    elif known in (judges, elements):  # the latter before 0.3
        pass
    elif isinstance(known, dict) and known["elements"] == elements and (output / "labels" / INDEX).exists():
        say(
            "The DFT frames have changed since the teachers were found, which stay, as their labels are there already; "
            f"to find them again, remove {output / 'labels'} and {found.parent}"
        )
    else:
        entries = found_teachers(frames, output / "candidates", workers)
        write_atomically(file, yaml.safe_dump(entries, sort_keys=False))
        write_atomically(found, yaml.safe_dump(judges))
    say(f"Teachers ({file}): {', '.join(eip.name for eip in load_eips(file))}")
    return file


def children_name(dft: list[str]) -> str:
    """Name of the generated pool: another than those of the DFT files, whose ids it would change."""
    stem, taken = "children", {file.stem for file in resolve_all(dft)}
    while stem in taken:
        stem += "_"
    return f"{stem}.extxyz"


def write_experiment(content: dict[str, Any], splits: Sequence[Split], output: Path) -> list[Row]:
    """Write the experiment and its splits into the folder; the rows of it."""
    for number, split in enumerate(splits, start=1):
        write_split(split, output / "splits" / f"fold_{number}.csv")
    write_atomically(output / EXPERIMENT, yaml.safe_dump(content, sort_keys=False))
    experiment = read_experiment(output / EXPERIMENT)
    return make_rows(experiment, output, experiment.run | {"frames": [ALL], "alpha": experiment.alpha})


def show_plan(rows: Sequence[Row], output: Path, jobs: int, threads: int | None) -> None:
    """Print the folds, the labels to make and the stages with their steps and minutes."""
    from eipnn.train.estimate import costs, table  # here: it imports torch, which errors need not wait for

    parts = [(row.plan.parts.train, row.plan.parts.val, row.plan.parts.pool) for row in rows]
    train, val, pool = (range_of([len(part[k]) for part in parts]) for k in range(3))
    folds = len({row.plan.split for row in rows})
    say(f"{folds} folds: {train} frames for training, {val} for validation, {pool} structures of the pool")
    missing, total = labels_to_make(rows[0].plan.experiment, output / "labels")
    if total:
        say(f"{missing:,} of {total:,} labels are to be made")
    console.print(table(costs(rows, not missing, threads_of(jobs, threads))))
    if jobs > 1:
        say(f"{jobs} trainings run at once: at best, it takes the minutes over {jobs}")


def range_of(counts: Sequence[int]) -> str:
    """The smallest and the largest, in words."""
    return f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
