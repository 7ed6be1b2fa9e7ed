"""The splits of the published sets."""

from collections.abc import Sequence

import numpy as np

from eipnn.structures import Split, SplitError, random_split
from eipnn.structures.split import VAL_SHARE

NUMBERS = (1, 2, 3)
POOL, TRAIN, VAL = 80, 12, 4  # percent of all configurations; the rest is the test set


def random_splits(dft: Sequence[str], pool: Sequence[str]) -> dict[str, Split]:
    """Three splits by the paper's rule, see `random_split`."""
    return {f"random_{number}": random_split(dft, pool, number) for number in NUMBERS}


def hidden_pool_splits(ids: Sequence[str]) -> dict[str, Split]:
    """Three splits of a set in which every configuration has DFT.

    80 % of the configurations are the pool: their DFT energies are in the file, but no stage reads them. It is the same
    pool in all three; of the rest each split draws anew 12 % / 4 % / 4 % (of all) for training, validation and test.
    """
    n_pool, n_train, n_val = (len(ids) * percent // 100 for percent in (POOL, TRAIN, VAL))
    if n_val == 0:
        raise SplitError(f"{len(ids)} configurations are too few for a split; 25 is the least")
    order = np.random.default_rng(0).permutation(len(ids))
    pool, rest = order[:n_pool], order[n_pool:]
    splits = {}
    for number in NUMBERS:
        shuffled = np.random.default_rng(number).permutation(rest)
        parts = np.split(shuffled, [n_train, n_train + n_val])
        train, val, test = (tuple(ids[row] for row in sorted(part)) for part in parts)
        splits[f"random_{number}"] = Split(train, val, test, tuple(ids[row] for row in sorted(pool)))
    return splits


def fold_split(training: Sequence[str], test: Sequence[str], everything: Sequence[str], seed: int) -> Split:
    """The split of a fold: 20 % of its training part is validation, and what is in neither part is the pool."""
    order = np.random.default_rng(seed).permutation(len(training))
    n_val = int(len(training) * VAL_SHARE)
    val, train = (tuple(training[row] for row in sorted(rows)) for rows in (order[:n_val], order[n_val:]))
    named = {*training, *test}
    return Split(train, val, tuple(test), tuple(i for i in everything if i not in named))
