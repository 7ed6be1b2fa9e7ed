"""What each batch of each process holds."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from eipnn.errors import InputError
from eipnn.stages.sampling import BatchPlan, EvaluationSampler, MixedSampler, plan_batches

counts = st.integers(1, 60)
sizes = st.integers(2, 12)
fractions = st.floats(0.05, 0.95)
worlds = st.integers(1, 3)


def epoch_of(n_dft, n_eip, plan, seed=0, epoch=0, world=1, rank=0) -> list[list[int]]:
    """The batches of one epoch and process, through a loader."""
    sampler = MixedSampler(n_dft, n_eip, plan, seed, world, rank)
    sampler.set_epoch(epoch)
    data = range(n_dft + n_eip)
    loader = DataLoader(data, batch_size=sampler.size, sampler=sampler)  # type: ignore[arg-type]
    assert len(loader) == plan.batches
    return [batch.tolist() for batch in loader]


def joined_epoch(n_dft, n_eip, plan, world) -> list[list[int]]:
    """The batches of one epoch of all processes together."""
    ranks = [epoch_of(n_dft, n_eip, plan, world=world, rank=r) for r in range(world)]
    return [[i for part in parts for i in part] for parts in zip(*ranks, strict=True)]


def kinds(batch: list[int], n_dft: int) -> tuple[list[int], list[int]]:
    return [i for i in batch if i < n_dft], [i for i in batch if i >= n_dft]


@given(counts, counts, sizes, fractions, worlds)
def test_every_batch_holds_both_kinds_in_the_ratio(n_dft, n_eip, size, fraction, world):
    assume(n_eip >= world)
    plan = plan_batches(n_dft, n_eip, size, fraction, world)
    assert plan.dft >= 1
    assert plan.eip >= 1
    assert plan.batches >= 1
    size *= world
    assert plan.dft == min(max(round(size * fraction), 1), size - 1)
    if n_eip >= size - plan.dft:
        assert plan.size == size
    for batch in joined_epoch(n_dft, n_eip, plan, world):
        dft, eip = kinds(batch, n_dft)
        assert (len(dft), len(eip)) == (plan.dft, plan.eip)
    for rank in range(world):
        for batch in epoch_of(n_dft, n_eip, plan, world=world, rank=rank):
            dft, eip = kinds(batch, n_dft)
            assert abs(len(dft) - plan.dft / world) < 1
            assert abs(len(eip) - plan.eip / world) < 1


@given(counts, counts, sizes, fractions, worlds)
def test_an_epoch_is_one_pass_over_the_eip_samples(n_dft, n_eip, size, fraction, world):
    assume(n_eip >= world)
    plan = plan_batches(n_dft, n_eip, size, fraction, world)
    seen = [
        i
        for rank in range(world)
        for batch in epoch_of(n_dft, n_eip, plan, world=world, rank=rank)
        for i in kinds(batch, n_dft)[1]
    ]
    assert len(seen) == len(set(seen))  # within and across processes
    assert n_eip - len(seen) < plan.eip  # only what fills no batch is left out


@given(counts, sizes, worlds)
def test_without_eip_samples_an_epoch_is_one_pass_over_dft(n_dft, size, world):
    assume(n_dft >= world)
    plan = plan_batches(n_dft, 0, size, 0.25, world)
    seen = [i for rank in range(world) for batch in epoch_of(n_dft, 0, plan, world=world, rank=rank) for i in batch]
    assert len(seen) == len(set(seen))
    assert n_dft - len(seen) < plan.dft


@given(counts, counts, sizes, fractions)
def test_dft_is_cycled_without_replacement(n_dft, n_eip, size, fraction):
    plan = plan_batches(n_dft, n_eip, size, fraction)
    stream = [i for batch in epoch_of(n_dft, n_eip, plan) for i in kinds(batch, n_dft)[0]]
    passes = [stream[k : k + n_dft] for k in range(0, len(stream), n_dft)]
    assert all(len(set(one)) == len(one) for one in passes)
    uses = Counter(stream)
    assert max(uses.values()) - min(uses.get(i, 0) for i in range(n_dft)) <= 1


def test_each_pass_over_dft_is_shuffled_anew():
    plan = BatchPlan(dft=10, eip=1, batches=3)
    first, second, third = (kinds(b, 10)[0] for b in epoch_of(10, 3, plan))
    assert sorted(first) == sorted(second) == sorted(third) == list(range(10))
    assert first != second != third != first


def test_the_order_is_a_function_of_seed_and_epoch():
    plan = plan_batches(9, 30, 8, 0.25)
    orders = {(seed, epoch): str(epoch_of(9, 30, plan, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}
    assert len(set(orders.values())) == 4
    torch.manual_seed(123)  # nothing else has a part in it
    for (seed, epoch), order in orders.items():
        assert str(epoch_of(9, 30, plan, seed, epoch)) == order


@given(counts, st.integers(0, 60), sizes, fractions, st.integers(2, 3))
def test_processes_share_what_one_process_would_see(n_dft, n_eip, size, fraction, world):
    """Step by step, with the batch size of one times the number of processes."""
    assume((n_eip or n_dft) >= world)
    several = plan_batches(n_dft, n_eip, size, fraction, world)
    one = plan_batches(n_dft, n_eip, size * world, fraction)
    assert several == one
    found = joined_epoch(n_dft, n_eip, several, world)
    expected = epoch_of(n_dft, n_eip, one)
    assert [sorted(batch) for batch in found] == [sorted(batch) for batch in expected]


def test_small_sets_that_are_repeated_are_dealt_alike_in_every_step():
    """Ten configurations a step over three processes: one holds four, the others three, always."""
    plan = replace(plan_batches(10, 0, 32, 0.25, 3), batches=4)
    sizes = [[len(b) for b in epoch_of(10, 0, plan, world=3, rank=r)] for r in range(3)]
    assert sizes == [[4] * 4, [3] * 4, [3] * 4]
    for batch in joined_epoch(10, 0, plan, 3):
        assert sorted(batch) == list(range(10))


@pytest.mark.parametrize(
    ("n_dft", "n_eip", "plan"),
    [
        (3, 0, BatchPlan(3, 0, 1)),
        (1, 0, BatchPlan(1, 0, 1)),
        (20, 5, BatchPlan(8, 5, 1)),
        (20, 1, BatchPlan(8, 1, 1)),
    ],
)
def test_fewer_samples_than_a_batch_is_one_step_and_said(n_dft, n_eip, plan):
    found = plan_batches(n_dft, n_eip, 32, 0.25)
    assert (found.dft, found.eip, found.batches) == (plan.dft, plan.eip, plan.batches)
    kind, count = ("EIP", n_eip) if n_eip else ("DFT", n_dft)
    (note,) = found.notes
    assert note.startswith(f"{count} {kind} configurations fill no batch: each step takes all")
    assert len(epoch_of(n_dft, n_eip, found)) == 1


def test_too_few_dft_for_a_batch_repeat_and_it_is_said():
    plan = plan_batches(2, 100, 32, 0.25)
    assert plan.notes == ("2 DFT configurations for 8 places a batch: they repeat within a batch",)
    dft, _ = kinds(epoch_of(2, 100, plan)[0], 2)
    assert Counter(dft) == {0: 4, 1: 4}


def test_a_usual_plan_has_nothing_to_say():
    assert plan_batches(332, 2500, 32, 0.25) == BatchPlan(8, 24, 104)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0, 32, 0.25), "0 DFT configurations for training with 1 processes"),
        ((1, 0, 32, 0.25, 2), "1 DFT configurations for training with 2 processes"),
        ((9, 1, 32, 0.25, 2), "1 EIP configurations for training with 2 processes"),
        ((9, 9, 1, 0.25), "batch_size must be at least 2"),
    ],
)
def test_what_cannot_be_trained_is_an_error(arguments, message):
    with pytest.raises(InputError, match=message):
        plan_batches(*arguments)


@given(st.integers(1, 40), st.integers(1, 4))
def test_evaluation_sees_each_sample_once_and_pads_beyond_the_end(n, world):
    shares = [list(EvaluationSampler(n, world, rank)) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1  # as collective operations need
    indices = sorted(i for share in shares for i in share)
    assert indices[:n] == list(range(n))
    assert all(i >= n for i in indices[n:])
    assert len(indices) - n < world
    assert shares[0] == sorted(shares[0])


@given(counts, st.integers(0, 60), sizes, fractions, worlds, st.data())
def test_stratified_batches_have_even_numbers_of_atoms(n_dft, n_eip, size, fraction, world, data):
    """Of either kind batches, and processes at a step, differ by no more than the largest and the smallest do."""
    assume((n_eip or n_dft) >= world)
    plan = plan_batches(n_dft, n_eip, size, fraction, world)
    n = n_dft + n_eip
    atoms = np.array(data.draw(st.lists(st.sampled_from([1, 4, 64, 200]), min_size=n, max_size=n)))
    samplers = [MixedSampler(n_dft, n_eip, plan, 0, world, rank, atoms) for rank in range(world)]
    shares = [np.array(list(sampler)).reshape(plan.batches, sampler.size) for sampler in samplers]
    together = np.concatenate(shares, axis=1)
    for kind, start, stop in ((plan.dft, 0, n_dft), (plan.eip, n_dft, n)):
        most = np.ptp(atoms[start:stop]) if kind else 0
        uses = np.bincount(together.flatten(), minlength=n)[start:stop]
        assert not kind or np.ptp(uses) <= 1
        of_kind = [np.where((share >= start) & (share < stop), atoms[share], 0) for share in shares]
        assert ((together >= start) & (together < stop)).sum(axis=1).tolist() == [kind] * plan.batches
        assert np.ptp(np.concatenate(of_kind, axis=1).sum(axis=1)) <= most
        if kind % world == 0:  # else one has a configuration more
            assert all(np.ptp(step) <= most for step in np.stack([part.sum(axis=1) for part in of_kind], axis=1))


def test_stratified_epochs_differ_and_follow_from_the_seed():
    plan, atoms = plan_batches(9, 30, 8, 0.25), np.tile([1, 2, 40], 13)

    def order(seed: int, epoch: int, world: int = 1) -> list:
        parts = []
        for rank in range(world):
            sampler = MixedSampler(9, 30, plan, seed, world, rank, atoms)
            sampler.set_epoch(epoch)
            parts.append(np.array(list(sampler)).reshape(plan.batches, -1))
        return np.sort(np.concatenate(parts, axis=1), axis=1).tolist()

    assert order(0, 0) == order(0, 0) == order(0, 0, world=2)
    assert order(0, 0) != order(0, 1) != order(1, 1)
