"""K folds over the DFT frames, and for each the part of the pool that knows nothing of its validation frames."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from eipnn.errors import InputError
from eipnn.files import DiskFullError
from eipnn.generate import Recipe, make_pool
from eipnn.generate.distance import parents_rule
from eipnn.generate.parents import Frame, digest
from eipnn.run.execute import say
from eipnn.structures import Split, StructureStore, open_pool, read_structures
from eipnn.structures.suspects import check_repeated, same_structures

SHARES = {"rattle": 0.5, "strain": 0.25, "packed": 0.25}
"""Of a generated pool."""
A_FRAME, MOST = 40, 3000
"""Structures of a generated pool: so many for each DFT frame, up to so many."""
SMALL = 8
"""Atoms up to which smaller cells of DFT frames are repeated."""


def make_folds(frames: StructureStore, number: int, seed: int, where: str) -> list[Split]:
    """Splits without test part and pool: each frame is validation of one, and training of all others.

    Frames of each set of elements, and within it of each size, are dealt to the folds in turn, in random order.

    Args:
        frames: those to train with, without free atoms.
        number: of folds.
        seed: of the order.
        where: the files, for messages.

    Raises:
        InputError: fewer than two frames a fold; a frame that stands twice; an element that only frames of one fold
            hold.
    """
    if len(frames) < 2 * number:
        few = "give at least 4" if len(frames) < 4 else f"give more, or --folds {len(frames) // 2}"
        raise InputError(f"{where}: {len(frames)} DFT frames are too few for {number} folds of two or more; {few}")
    check_repeated(frames, where)
    order = in_turn(frames, seed)
    splits = []
    for fold in range(number):
        mine = np.arange(len(frames)) % number == fold
        train, val = (frames.take(np.sort(order[part])) for part in (~mine, mine))
        if lost := set(val.elements()) - set(train.elements()):
            holder = next(atoms.info["config_id"] for atoms in val if min(lost) in atoms.symbols)
            raise InputError(
                f"{where}: {holder} holds {min(lost)}, and no frame outside of its fold does: training needs some too; "
                "add frames with it, or leave it out"
            )
        splits.append(Split(train.ids, val.ids, (), ()))
    return splits


def in_turn(frames: StructureStore, seed: int) -> np.ndarray:
    """Rows of the frames by their elements and, within these, size; in random order among equals."""
    order = np.random.default_rng(seed).permutation(len(frames))
    kinds = np.array(frames.element_sets())
    return order[np.lexsort((frames.sizes[order], kinds[order]))]  # stable


def with_new(folds: Sequence[Split], frames: StructureStore, in_pool: Mapping[str, set[str]], seed: int) -> list[Split]:
    """The folds with further frames, whose pools stay, so that what was pretrained on these may be used again.

    A frame validates in a fold whose pool holds neither the frame nor a child of it (one that was chosen from a
    generated pool: where its parent validates), and trains in the others. One of which every pool holds something
    trains in all folds. How many do is said.

    Args:
        folds: of before.
        frames: to be dealt.
        in_pool: id of each structure of the pool -> the frames that it is, or is a child of.
        seed: of the order.
    """
    seen = [set().union(*(in_pool[name] for name in fold.pool)) for fold in folds]
    new: list[list[str]] = [[] for _ in folds]
    for name in [frames.ids[row] for row in in_turn(frames, seed)]:
        if unseen := [mine for mine, known in zip(new, seen, strict=True) if name not in known]:
            min(unseen, key=len).append(name)
    count = sum(map(len, new))
    say(f"{len(frames)} new frames: {count} validate in a fold, {len(frames) - count} that all pools hold train in all")
    return [
        replace(fold, train=(*fold.train, *(n for n in frames.ids if n not in val)), val=(*fold.val, *val))
        for fold, val in zip(folds, new, strict=True)
    ]


def generate_pool(frames: StructureStore, size: int | None, seed: int, file: Path, workers: int) -> int:
    """Write displaced, strained and packed children of the DFT frames to `file`; how many were made now.

    Args:
        frames: the parents, see `make_folds`.
        size: number of structures; None: by `A_FRAME` and `MOST`.
        seed: of everything random.
        file: extended XYZ; each structure tells its ``parent``.
        workers: processes.

    Raises:
        InputError: a frame has no child whose atoms keep apart; the file holds others.
    """
    size = size or min(A_FRAME * len(frames), MOST)
    pairs = zip(frames.ids, frames, strict=True)
    parents = [Frame(name, atoms) for name, atoms in pairs if len(atoms) > 1 or atoms.pbc.any()]
    shares = SHARES if any(parent.dense for parent in parents) else {"rattle": 2 / 3, "strain": 1 / 3}
    counts = {kind: round(share * size) for kind, share in shares.items()}
    rule = parents_rule([parent.atoms for parent in parents])
    recipe = Recipe(parents, (), rule, seed, max_atoms=max(SMALL, int(frames.sizes.max())))
    there = file.exists()
    try:
        return make_pool(recipe, counts, file, workers, shown=True)
    except DiskFullError:
        raise
    except InputError as error:
        if there:
            raise InputError(
                f"{file}: a pool of other DFT frames or options, or of an earlier eipnn ({error});\nremove it and "
                f"{file.parent / 'labels'}, or go on with it: --pool {file}"
            ) from None
        raise InputError(f"{error}\n(`eipnn generate` has these options; give what it makes as --pool)") from None


def parents_of(pool: Sequence[str], dft: Sequence[str], known: StructureStore) -> dict[str, set[str]]:
    """Id of each structure of the pool -> those of the DFT frames which it may be a child of.

    A frame that is the structure itself is a parent, too, as of a pool from which frames were chosen for DFT. How many
    parents are none of the frames is said.

    Args:
        pool: files.
        dft: the files of the DFT frames.
        known: the frames of these.
    """
    structures, told = _opened(pool, dft, known)
    ids = structures.ids
    twins = {name: {frame} for frame, name in same_structures(known, structures)}
    (found,) = meant(told, known)
    if strangers := sum(bool(parent.name) and not found[parent] for parent in told):
        say(f"{strangers} of {len(told)} structures of the pool name a parent that is none of the DFT frames")
    return {name: found[parent] | twins.get(name, set()) for name, parent in zip(ids, told, strict=True)}


def tested_in(pool: Sequence[str], dft: Sequence[str], known: StructureStore, tested: StructureStore) -> set[str]:
    """Ids of the structures of the pool that are frames to test on, or name one as their parent.

    A parent that may be a DFT frame as well is taken for that.

    Args:
        pool: files.
        dft: the files of the DFT frames.
        known: the frames of these.
        tested: the frames to test on.
    """
    structures, told = _opened(pool, dft, known)
    of_dft, of_test = meant(told, known, tested)
    held_out = {parent for parent in of_test if of_test[parent] and not of_dft[parent]}
    children = {name for name, parent in zip(structures.ids, told, strict=True) if parent in held_out}
    return children | {name for _, name in same_structures(tested, structures)}


class Parent(NamedTuple):
    """What a generated structure tells of its parent; nothing is empty."""

    name: str
    """The id that it had: read with other files, frames have other folders before theirs."""
    digest: str
    """Of the structure; pools of before 0.3 have none."""


def meant(told: Sequence[Parent], *stores: StructureStore) -> Iterator[dict[Parent, set[str]]]:
    """For each store the frames that each parent may be: of its digest, if any store has such, else of its name."""
    digests = [dict(zip(map(digest, store.checksums.tolist()), store.ids, strict=True)) for store in stores]
    sure = set().union(*digests)

    def frames_of(parent: Parent, store: StructureStore, names: Mapping[str, str]) -> set[str]:
        if parent.digest in sure:
            return {names[parent.digest]} if parent.digest in names else set()
        return {name for name in store.ids if parent.name and may_be(parent.name, name)}

    for store, names in zip(stores, digests, strict=True):
        yield {parent: frames_of(parent, store, names) for parent in set(told)}


def _opened(pool: Sequence[str], dft: Sequence[str], known: StructureStore) -> tuple[StructureStore, list[Parent]]:
    """The structures of a pool, and the parent that each tells."""
    infos = [atoms.info for atoms in read_structures(list(pool), labels=False)]
    told = [Parent(str(info.get("parent", "")), str(info.get("parent_digest", ""))) for info in infos]
    return open_pool(list(pool), list(dft), known), told


def may_be(parent: str, name: str) -> bool:
    """Whether two ids are of one frame, read alone and beside others."""
    return parent == name or parent.endswith(f"_{name}") or name.endswith(f"_{parent}")


def with_pool(folds: Sequence[Split], parents: Mapping[str, set[str]]) -> list[Split]:
    """The folds, each with the structures of the pool that are no children of its validation frames."""
    return [
        replace(fold, pool=tuple(name for name, of in parents.items() if of.isdisjoint(fold.val))) for fold in folds
    ]
