"""Structures, labels and selections that do not belong together."""

from pathlib import Path

import ase.io
import numpy as np
import pytest
from tiny import EIPS

from eipnn.errors import InputError
from eipnn.labels import LabelError
from eipnn.stages.source import EnergyZero, Source, SourceConfig, selected
from eipnn.structures import SplitError

NAMES = ("dft", "split", "pool", "labels")


def source(tiny, **changed) -> Source:
    paths = {name: tiny.data[name] for name in NAMES}
    return Source(SourceConfig(energy_zero=EnergyZero("none"), **paths | changed))


def test_labels_of_the_same_structures(tiny):
    ids = [*tiny.ids("pool"), *tiny.ids("train")]
    found = source(tiny).eip_energies(ids, EIPS)
    np.testing.assert_array_equal(found, [tiny.eip[name] for name in ids])


def test_an_id_that_has_come_to_mean_another_structure(tiny, tmp_path):
    """As when ids are frame numbers, and a frame has been put before the others."""
    frames = [tiny.frames[name].copy() for name in tiny.ids("pool")]
    names = [atoms.info["config_id"] for atoms in frames]
    for atoms, name in zip(frames, [*names[1:], names[0]], strict=True):
        atoms.info["config_id"] = name
    ase.io.write(tmp_path / "pool.extxyz", frames, format="extxyz")
    moved = source(tiny, pool=str(tmp_path / "pool.extxyz"))
    moved.eip_energies(tiny.ids("train"), EIPS)
    with pytest.raises(LabelError, match=f"has labels of another structure '{names[0]}' with"):
        moved.eip_energies(names, EIPS)


def test_a_pool_of_both_files(tiny, tmp_path):
    """A split may hide DFT frames in the pool, as the authors' own files do."""
    hidden, *train = tiny.ids("train")
    text = Path(tiny.data["split"]).read_text().replace(f"{hidden},train", f"{hidden},pretrain")
    (tmp_path / "split.csv").write_text(text)
    found = source(tiny, split=str(tmp_path / "split.csv"))
    assert set(found.split.pool) == {hidden, *tiny.ids("pool")}
    assert found.split.train == tuple(train)
    assert [len(a) for a in found.structures([hidden])] == [len(tiny.frames[hidden])]
    np.testing.assert_array_equal(found.eip_energies([hidden], EIPS)[0], tiny.eip[hidden])
    (tmp_path / "split.csv").write_text(text + "stranger,pretrain\n")
    with pytest.raises(SplitError, match="pretrain id 'stranger' is in no pool structure file"):
        source(tiny, split=str(tmp_path / "split.csv"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file"),
        ("", "is empty"),
        ("id,eip\na,sw\n", "column 'config_id' is missing"),
        ("config_id,eip\na,sw\na,none\n", "'a' stands in it twice"),
    ],
)
def test_selections_that_cannot_be_used(tmp_path, text, message):
    file = tmp_path / "selection.csv"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InputError, match=message):
        selected(file)
