"""The processes that train one model together: who does what, and what passes between them.

One convention throughout: every worker draws the same batch, and its loss is its own sum over the *global* count. The
loss of the batch is the sum over workers, so gradients are summed, never averaged. Every exchange has its transpose as
backward; so the gradient that arrives at something only one worker holds is the whole one.

Of a table [n, d] each worker holds some *columns* (propagation over the graph is linear and independent for each), and
works on some *rows* (losses compare whole vectors): :meth:`Workers.to_rows` and :meth:`Workers.to_columns` lead from
one to the other. A lone worker holds and does everything, and nothing passes.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from symcere.errors import UserError

Parallel = Literal["columns", "ddp"]
"""columns: each worker holds some columns of the node table; ddp: each holds all, as in plain data parallelism."""

Needs = Sequence[Tensor] | None
"""For each worker the rows it works on, int64 positions without repetition; None where each works on all."""


class Workers:
    """This process among its peers.

    Args:
        rank: of this worker, 0 … size − 1.
        size: how many there are.
        parallel: how the node table is divided.
    """

    def __init__(self, rank: int = 0, size: int = 1, parallel: Parallel = "columns"):
        self.rank, self.size = rank, size
        self.by_column = parallel == "columns" and size > 1

    @classmethod
    def here(cls, parallel: Parallel = "columns") -> "Workers":
        """The workers of the process group this process belongs to; a lone one without a group."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size(), parallel)

    # ------------------------------------------------------------ who does what

    def share(self, n: int, worker: int | None = None) -> slice:
        """One worker's part (this one's by default) of n things: contiguous, in order of rank, sizes differ by one."""
        worker = self.rank if worker is None else worker
        return slice(n * worker // self.size, n * (worker + 1) // self.size)

    def columns(self, d: int, worker: int | None = None) -> slice:
        """The columns that a worker holds of a node table of d columns.

        Raises:
            UserError: there are fewer columns than workers.
        """
        if not self.by_column:
            return slice(0, d)
        if d < self.size:
            raise UserError(
                f"{self.size} workers cannot share the {d} columns of the embedding: use at most {d} workers, raise "
                "model.dim, or use --parallel ddp."
            )
        return self.share(d, worker)

    # ------------------------------------------------------------ with gradient

    def gather(self, mine: Tensor, n: int) -> Tensor:
        """[n, …] from each worker's ``share(n)`` of it, [share, …]."""
        return mine if self.size == 1 else _Gather.apply(mine, self, n)

    def stack(self, mine: Tensor) -> Tensor:
        """[W, …] from each worker's [...], of one shape."""
        return self.gather(mine[None], self.size)

    def to_rows(self, local: Tensor, d: int, needs: Needs = None) -> Tensor:
        """Whole rows of a table from everybody's columns of it.

        Args:
            local: [n, c] this worker's columns.

        Returns:
            [n, d]; rows that this worker does not need are zero.
        """
        if not self.by_column:
            return local
        rows = _ToRows.apply(local, self, needs, d)
        return rows if needs is None else self.spread(rows, needs, len(local))

    def to_columns(self, rows: Tensor, n: int) -> Tensor:
        """This worker's columns [n, c] of a table from everybody's ``share(n)`` of its rows, [share, d]."""
        return _ToColumns.apply(rows, self, self._shares(n, rows.device), n) if self.by_column else rows

    def spread(self, rows: Tensor, needs: Needs, n: int) -> Tensor:
        """[n, d]: the rows that this worker needs at their places, zeros elsewhere."""
        assert needs is not None
        return rows.new_zeros(n, *rows.shape[1:]).index_copy(0, needs[self.rank], rows)

    # ------------------------------------------------------------ without gradient

    def sum(self, x: Tensor) -> Tensor:
        """The sum over workers."""
        return self._reduced(x, dist.ReduceOp.SUM)

    def least(self, x: Tensor) -> Tensor:
        """The minimum over workers, by element."""
        return self._reduced(x, dist.ReduceOp.MIN)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sums the gradients of what every worker holds, in one message for each dtype."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        for dtype in {g.dtype for g in gradients}:
            some = [g for g in gradients if g.dtype == dtype]
            if len(some) == 1 and some[0].is_contiguous():  # no copy of a large table
                dist.all_reduce(some[0])
                continue
            flat = torch.cat([g.reshape(-1) for g in some])
            dist.all_reduce(flat)
            for gradient, summed in zip(some, flat.split([g.numel() for g in some]), strict=True):
                gradient.copy_(summed.view_as(gradient))

    def whole(self, local: Tensor, d: int) -> Tensor:
        """A table from everybody's columns of it: [n, d] on the first worker, [0, d] on the others."""
        if not self.by_column:
            return local
        every = torch.arange(len(local), device=local.device)
        return self._rows(local.detach(), [every] + [every[:0]] * (self.size - 1), d)

    def agree(self, value: Any) -> Any:
        """What the first worker says, on all."""
        if self.size == 1:
            return value
        said = [value]
        dist.broadcast_object_list(said, src=0)
        return said[0]

    def collect(self, value: Any) -> list[Any]:
        """Every worker's value, in order of rank, on all."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    # ------------------------------------------------------------ messages

    def _reduced(self, x: Tensor, how: Any) -> Tensor:
        if self.size == 1:
            return x
        x = x.detach().clone()
        dist.all_reduce(x, op=how)
        return x

    def _shares(self, n: int, device: torch.device) -> list[Tensor]:
        every = torch.arange(n, device=device)
        return [every[self.share(n, w)] for w in range(self.size)]

    def _rows(self, local: Tensor, needs: Needs, d: int) -> Tensor:
        """The rows [m, d] that this worker needs, from all workers' columns [n, c]."""
        give = [local] * self.size if needs is None else [local[need] for need in needs]
        m = len(give[self.rank])
        widths = [columns.stop - columns.start for columns in (self.columns(d, w) for w in range(self.size))]
        return torch.cat(self._swap(give, [torch.Size((m, width)) for width in widths]), 1)

    def _columns(self, rows: Tensor, needs: Needs, n: int) -> Tensor:
        """This worker's columns [n, c] of the sum of what all workers have at the rows they need: the transpose."""
        d = rows.shape[1]
        give = [rows[:, self.columns(d, w)] for w in range(self.size)]
        width = give[self.rank].shape[1]
        lengths = [n] * self.size if needs is None else [len(need) for need in needs]
        parts = self._swap(give, [torch.Size((length, width)) for length in lengths])
        if needs is None:
            return torch.stack(parts).sum(0)
        table = rows.new_zeros(n, width)
        for need, part in zip(needs, parts, strict=True):
            table.index_add_(0, need, part)
        return table

    def _swap(self, give: list[Tensor], take: list[torch.Size]) -> list[Tensor]:
        """Sends ``give[w]`` to each worker w; returns what each sent here, of shapes ``take``."""
        sizes = [shape.numel() for shape in take]
        out = give[0].new_empty(sum(sizes))
        dist.all_to_all_single(out, torch.cat([g.reshape(-1) for g in give]), sizes, [g.numel() for g in give])
        return [part.view(shape) for part, shape in zip(out.split(sizes), take, strict=True)]


class _ToRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor, workers: Workers, needs: Needs, d: int) -> Tensor:
        ctx.workers, ctx.needs, ctx.n = workers, needs, len(local)
        return workers._rows(local, needs, d)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return ctx.workers._columns(gradient, ctx.needs, ctx.n), None, None, None


class _ToColumns(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, workers: Workers, needs: Needs, n: int) -> Tensor:
        ctx.workers, ctx.needs, ctx.d = workers, needs, rows.shape[1]
        return workers._columns(rows, needs, n)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return ctx.workers._rows(gradient, ctx.needs, ctx.d), None, None, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mine: Tensor, workers: Workers, n: int) -> Tensor:
        ctx.workers, ctx.n = workers, n
        sizes = [workers.share(n, w) for w in range(workers.size)]
        shapes = [torch.Size((s.stop - s.start, *mine.shape[1:])) for s in sizes]
        return torch.cat(workers._swap([mine] * workers.size, shapes))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        workers = ctx.workers
        parts = [gradient[workers.share(ctx.n, w)] for w in range(workers.size)]
        back = workers._swap(parts, [parts[workers.rank].shape] * workers.size)
        return torch.stack(back).sum(0), None, None
