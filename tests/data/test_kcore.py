"""The k-core against taking nodes away one at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symcere.data.kcore import core, deepest

pair_sets = st.sets(st.tuples(st.integers(0, 11), st.integers(0, 9)), max_size=80)


def columns(pairs):
    table = np.array(sorted(pairs), dtype=np.int32).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def one_at_a_time(pairs, k):
    """The definition: as long as some node has too few interactions, take that one node away."""
    pairs = set(pairs)
    while True:
        for side in (0, 1):
            weak = [node for node in {p[side] for p in pairs} if sum(p[side] == node for p in pairs) < k]
            if weak:
                pairs = {p for p in pairs if p[side] != weak[0]}
                break
        else:
            return pairs


@settings(max_examples=60)
@given(pair_sets, st.integers(1, 5))
def test_core_is_what_remains_of_taking_weak_nodes_away(pairs, k):
    users, items = columns(pairs)
    kept = core(users, items, k)
    assert set(zip(users[kept].tolist(), items[kept].tolist(), strict=True)) == one_at_a_time(pairs, k)
    assert (np.diff(kept) > 0).all()


@settings(max_examples=40)
@given(pair_sets)
def test_deepest_is_the_last_core_that_is_not_empty(pairs):
    users, items = columns(pairs)
    most = deepest(users, items)
    assert most == max([k for k in range(1, 12) if one_at_a_time(pairs, k)], default=0)


@pytest.mark.parametrize("k", [3, 4])
def test_a_complete_block_survives_and_its_tail_does_not(k):
    block = {(u, i) for u in range(4) for i in range(4)}
    tail = {(4, 0), (4, 4), (5, 4)}  # falls away link by link
    users, items = columns(block | tail)
    kept = core(users, items, k)
    assert set(zip(users[kept].tolist(), items[kept].tolist(), strict=True)) == block
