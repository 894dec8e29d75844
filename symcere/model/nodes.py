"""Nodes of the graph: users are 0 … U − 1, items U … U + I − 1."""

from typing import Literal

import torch
from torch import Tensor

Part = Literal["all", "users", "items"]
"""The nodes of a block of features: all, or those of one side."""

OTHER: dict[Part, Part] = {"all": "all", "users": "items", "items": "users"}
"""Where features are after a hop."""


def span(part: Part, num_users: int, num_items: int) -> slice:
    """The nodes of a part."""
    return slice(num_users if part == "items" else 0, num_users + (0 if part == "users" else num_items))


def distinct(nodes: Tensor, num_nodes: int) -> tuple[Tensor, Tensor]:
    """Each node once, ascending, and where it then stands: by marks, which costs less than sorting a batch.

    Args:
        nodes: int64 [K].
        num_nodes: number of nodes that ids come from.

    Returns:
        int64 [n]; int64 [num_nodes], the position of each of these nodes among them, and 0 for others.
    """
    marks = torch.zeros(num_nodes, dtype=torch.bool, device=nodes.device)
    marks[nodes] = True
    found = marks.nonzero().squeeze(1)
    position = torch.zeros(num_nodes, dtype=torch.int64, device=nodes.device)
    position[found] = torch.arange(len(found), device=nodes.device)
    return found, position
