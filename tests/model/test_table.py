"""Who holds what of the node table. What passes between workers is proven where they train: training/test_parallel."""

import pytest
import torch

from symcere.errors import UserError
from symcere.model.table import Table
from symcere.model.workers import Workers


def tables(size: int, users: int, items: int, d: int, parallel="blocks") -> list[Table]:
    return [Table(Workers(rank, size, parallel), users, items, d) for rank in range(size)]


@pytest.mark.parametrize("parallel", ["blocks", "columns"])
@pytest.mark.parametrize(("users", "items", "d"), [(37, 23, 7), (23, 37, 8), (40, 5, 7), (1, 1, 9)])
@pytest.mark.parametrize("size", [2, 3, 4, 6, 7])
def test_every_number_is_held_once(size, users, items, d, parallel):
    whole = torch.arange((users + items) * d).view(users + items, d)
    blocks = [table.own(whole) for table in tables(size, users, items, d, parallel)]
    held = torch.cat([block.flatten() for block in blocks])
    assert torch.equal(held.sort().values, whole.flatten())


@pytest.mark.parametrize(
    ("size", "users", "items", "parallel", "parts"),
    [
        (2, 20, 10, "blocks", ["users", "items"]),
        (4, 10, 20, "blocks", ["users", "items", "users", "items"]),
        (2, 21, 10, "blocks", ["all", "all"]),  # one would have to give more than twice the memory
        (3, 20, 10, "blocks", ["all", "all", "all"]),
        (2, 20, 10, "columns", ["all", "all"]),
        (2, 20, 10, "ddp", ["all", "all"]),
        (1, 20, 10, "blocks", ["all"]),
    ],
)
def test_sides_are_held_apart_where_that_is_fair(size, users, items, parallel, parts):
    for table in tables(size, users, items, 8, parallel):
        assert [block.part for block in table.blocks] == parts
        assert table.divided == (size > 1 and parallel != "ddp")


def test_places_of_nodes_that_a_worker_holds():
    nodes = torch.tensor([0, 3, 9, 10, 12])
    users, items = tables(2, 10, 6, 4)
    assert users.own_rows(nodes).tolist() == [0, 3, 9]
    assert items.own_rows(nodes).tolist() == [0, 2]
    assert tables(3, 10, 6, 4)[1].own_rows(nodes).tolist() == nodes.tolist()


def test_more_workers_than_columns_to_hold():
    with pytest.raises(UserError, match=r"9 workers cannot share the 8 columns .* at most 8 workers"):
        tables(9, 20, 10, 8)
    with pytest.raises(UserError, match=r"18 workers cannot share the 8 columns .* at most 16 workers"):
        tables(18, 20, 10, 8)
    assert tables(16, 20, 10, 8)
    assert tables(9, 20, 10, 8, "ddp")


def test_a_lone_worker_holds_the_table_itself():
    table, whole = Table(Workers(), 3, 2, 4), torch.zeros(5, 4)
    assert table.own(whole) is whole
    assert table.whole(whole) is whole
    assert table.to_rows(whole) is whole
    assert table.to_block(whole) is whole
