"""Who holds what of a table of node features [N, d], and how rows of it come together.

LightGCN's propagation is linear. It is independent for each *column*, and, as the graph is bipartite, also for what
starts at users and what starts at items. So each worker holds a block, some columns of one side's rows or of all rows,
with its gradient and moments, and propagates it alone: the table never travels. What the workers then have of a batch's
rows is put together where the rows are needed, since losses compare whole vectors. Traffic is O(batch · d) a step.

Two sides are better than two halves of the columns: a hop costs as much to find an entry's row as to read 40 columns of
it on a CPU, and half the entries are half of both.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from symcere.errors import UserError
from symcere.model.nodes import Part, span
from symcere.model.workers import Needs, Workers, share

UNEVEN = 2
"""How many times the other's nodes a side may have and be held apart all the same: its workers then hold 4/3 of an even
share."""


@dataclass(frozen=True)
class Block:
    """What one worker holds."""

    part: Part
    nodes: slice
    columns: slice


class Table:
    """A table [N, d] of users, then items, divided among workers.

    Args:
        workers: a lone one, and every one with ``parallel: ddp``, holds it all.
        num_users, num_items: rows.
        d: columns.

    Raises:
        UserError: there are fewer columns than workers to hold them.
    """

    def __init__(self, workers: Workers, num_users: int, num_items: int, d: int):
        self.workers, self.num_users, self.num_items, self.d = workers, num_users, num_items, d
        self.divided = workers.parallel != "ddp" and workers.size > 1
        few, many = sorted((num_users, num_items))
        sides = workers.parallel == "blocks" and workers.size % 2 == 0 and many <= UNEVEN * few
        parts: tuple[Part, ...] = ("users", "items") if sides else ("all",)
        groups = workers.size // len(parts) if self.divided else 1
        if d < groups:
            raise UserError(
                f"{workers.size} workers cannot share the {d} columns of the embedding: use at most "
                f"{d * len(parts)} workers, raise model.dim, or use --parallel ddp."
            )
        if self.divided:
            held = [(parts[w % len(parts)], share(d, w // len(parts), groups)) for w in range(workers.size)]
        else:
            held = [("all", slice(0, d))] * workers.size
        self.blocks = [Block(part, span(part, num_users, num_items), columns) for part, columns in held]

    @property
    def mine(self) -> Block:
        """This worker's block."""
        return self.blocks[self.workers.rank]

    def own(self, table: Tensor) -> Tensor:
        """This worker's block [m, c] of a whole table [N, d]."""
        return table[self.mine.nodes, self.mine.columns].clone() if self.divided else table

    def own_rows(self, nodes: Tensor) -> Tensor:
        """Places in this worker's block of those of some nodes that it holds."""
        held = self.mine.nodes
        if held.start or held.stop < self.num_users + self.num_items:
            nodes = nodes[(nodes >= held.start) & (nodes < held.stop)]
        return nodes - held.start

    # ------------------------------------------------------------ with gradient

    def to_rows(self, local: Tensor, needs: Needs = None) -> Tensor:
        """Whole rows from what each worker's block contributes to them.

        Args:
            local: [n, c] this worker's contribution to its columns of n rows.
            needs: for each worker the rows that it works on, int64 without repetition; None where each works on all.

        Returns:
            [n, d]; rows that this worker does not need are zero.
        """
        if not self.divided:
            return local
        rows = _ToRows.apply(local, self, needs)
        return rows if needs is None else self.workers.spread(rows, needs, len(local))

    def to_block(self, rows: Tensor) -> Tensor:
        """This worker's block [m, c] from everybody's ``share(N)`` of the rows, [share, d]."""
        return _ToBlock.apply(rows, self) if self.divided else rows

    # ------------------------------------------------------------ without gradient

    def whole(self, block: Tensor) -> Tensor:
        """The table from everybody's block of it: [N, d] on the first worker, [0, d] on the others."""
        if not self.divided:
            return block
        everything = slice(0, self.num_users + self.num_items)
        return self._gathered(block.detach(), [everything] + [slice(0, 0)] * (self.workers.size - 1))

    # ------------------------------------------------------------ messages

    def _summed(self, local: Tensor, needs: Needs) -> Tensor:
        """The rows [m, d] that this worker needs, the sum of all contributions [n, c]."""
        give = [local] * self.workers.size if needs is None else [local[need] for need in needs]
        m = len(give[self.workers.rank])
        rows = local.new_zeros(m, self.d)
        parts = self.workers.swap(give, [torch.Size((m, _length(block.columns))) for block in self.blocks])
        for block, part in zip(self.blocks, parts, strict=True):
            rows[:, block.columns] += part
        return rows

    def _divided(self, rows: Tensor, needs: Needs, n: int) -> Tensor:
        """Each contribution's columns [n, c] of the sum of what all workers have: the transpose of the above."""
        give = [rows[:, block.columns] for block in self.blocks]
        c = _length(self.mine.columns)
        lengths = [n] * self.workers.size if needs is None else [len(need) for need in needs]
        parts = self.workers.swap(give, [torch.Size((length, c)) for length in lengths])
        if needs is None:
            return torch.stack(parts).sum(0)
        local = rows.new_zeros(n, c)
        for need, part in zip(needs, parts, strict=True):
            local.index_add_(0, need, part)
        return local

    def _gathered(self, block: Tensor, wanted: list[slice]) -> Tensor:
        """For each worker the rows ``wanted[w]`` of the table, [len, d], from all blocks."""
        mine, here = self.mine, wanted[self.workers.rank]
        give = [block[_within(_overlap(mine.nodes, there), mine.nodes)] for there in wanted]
        theirs = [_overlap(held.nodes, here) for held in self.blocks]
        shapes = [torch.Size((_length(o), _length(b.columns))) for o, b in zip(theirs, self.blocks, strict=True)]
        rows = block.new_empty(_length(here), self.d)
        for overlap, held, part in zip(theirs, self.blocks, self.workers.swap(give, shapes), strict=True):
            rows[_within(overlap, here), held.columns] = part
        return rows

    def _blocks(self, rows: Tensor, held: list[slice]) -> Tensor:
        """This worker's block from the rows ``held[w]`` of the table that each has: the transpose of the above."""
        mine, here = self.mine, held[self.workers.rank]
        give = [rows[_within(_overlap(b.nodes, here), here), b.columns] for b in self.blocks]
        theirs = [_overlap(mine.nodes, there) for there in held]
        parts = self.workers.swap(give, [torch.Size((_length(o), _length(mine.columns))) for o in theirs])
        return torch.cat(parts)  # shares are in the order of the nodes

    def _shares(self) -> list[slice]:
        n = self.num_users + self.num_items
        return [self.workers.share(n, w) for w in range(self.workers.size)]


class _ToRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor, table: Table, needs: Needs) -> Tensor:
        ctx.table, ctx.needs, ctx.n = table, needs, len(local)
        return table._summed(local, needs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return ctx.table._divided(gradient, ctx.needs, ctx.n), None, None


class _ToBlock(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, table: Table) -> Tensor:
        ctx.table = table
        return table._blocks(rows, table._shares())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return ctx.table._gathered(gradient, ctx.table._shares()), None


def _length(of: slice) -> int:
    return of.stop - of.start


def _overlap(a: slice, b: slice) -> slice:
    start = max(a.start, b.start)
    return slice(start, max(start, min(a.stop, b.stop)))


def _within(part: slice, of: slice) -> slice:
    """A part of a slice, counted from the slice's start."""
    return slice(part.start - of.start, part.stop - of.start)
