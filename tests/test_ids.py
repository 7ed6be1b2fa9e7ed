"""Ids of many configurations: a sequence of texts that takes little room."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eipnn.errors import InputError
from eipnn.structures.ids import BLOCK, Ids

NAMES = st.lists(st.text("abé ü7_", min_size=1, max_size=3))


@given(NAMES, NAMES, st.data())
def test_ids_are_the_texts_that_they_were_made_of(names, others, data):
    ids = Ids.of(iter(names))
    assert list(ids) == [ids[row] for row in range(len(ids))] == names
    assert ids == names
    assert ids == tuple(names)
    assert (ids == others) == (names == others)
    rows = data.draw(st.lists(st.integers(0, len(names) - 1))) if names else []
    assert list(ids.take(np.array(rows, dtype=np.int64))) == [names[row] for row in rows]
    assert list(Ids.joined([ids, others])) == names + others
    assert ids.find(others).tolist() == [names.index(name) if name in names else -1 for name in others]
    again = [name for row, name in enumerate(names) if name in names[:row]]
    assert ids.repeated() == (again[0] if again else None)
    assert pickle.loads(pickle.dumps(ids)) == names


def test_ids_of_one_hash_are_told_apart(monkeypatch):
    monkeypatch.setattr(Ids, "_hashes", lambda self: np.zeros(len(self), dtype=np.int64))
    ids = Ids.of(["b", "a", "c", "a"])
    assert ids.find(["c", "d", "a", "b"]).tolist() == [2, -1, 1, 0]
    assert ids.repeated() == "a"


def test_very_many_ids_take_few_bytes():
    names = [f"pool_{k}" for k in range(BLOCK + 5)]
    ids = Ids.of(names)
    assert list(ids) == names
    assert ids.take(np.arange(len(ids))[::-1])[3] == names[-4]
    assert ids[10:12] == ["pool_10", "pool_11"]
    assert np.shares_memory(ids[10:].text, ids.text)
    assert "pool_7" in ids
    assert "pool_" not in ids
    held = ids.text.nbytes + sum(array.nbytes for array in (ids._offsets, *ids._by_hash))
    assert held < 35 * len(ids)


def test_a_line_break_is_refused():
    with pytest.raises(InputError, match="a config_id holds no line break"):
        Ids.of(["a", "b\nc"])
