"""Distinct nodes against sorting."""

import pytest
import torch

from symcere.model.nodes import distinct


@pytest.mark.parametrize("nodes", [[], [3], [4, 0, 4, 7, 2, 0], [8, 8, 8], list(range(8, -1, -1))])
def test_distinct_nodes_by_marks_are_those_of_sorting(nodes):
    nodes = torch.tensor(nodes, dtype=torch.long)
    found, position = distinct(nodes, 9)
    ids, inverse = nodes.unique(return_inverse=True)
    assert torch.equal(found, ids)
    assert torch.equal(position[nodes], inverse)
