"""The processes that train one model together: who does what, and what passes between them.

One convention throughout: every worker draws the same batch, and its loss is its own sum over the *global* count. The
loss of the batch is the sum over workers, so gradients are summed, never averaged. Every exchange has its transpose as
backward; so the gradient that arrives at something only one worker holds is the whole one.

Of the node table each worker holds a block (:mod:`symcere.model.table`); of everything else, the small parameters, each
holds all. A lone worker holds and does everything, and nothing passes.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Parallel = Literal["blocks", "columns", "ddp"]
"""What each worker holds of the node table.

blocks: some columns of the users' or of the items' rows, where workers are even in number and sides alike in size,
else as columns; columns: some columns of all rows; ddp: all of it, as in plain data parallelism.
"""

Needs = Sequence[Tensor] | None
"""For each worker the rows it works on, int64 positions without repetition; None where each works on all."""


def share(n: int, worker: int, size: int) -> slice:
    """One worker's part of n things: contiguous, in order of rank, sizes differ by one."""
    return slice(n * worker // size, n * (worker + 1) // size)


class Workers:
    """This process among its peers.

    Args:
        rank: of this worker, 0 … size − 1.
        size: how many there are.
        parallel: how the node table is divided.
    """

    def __init__(self, rank: int = 0, size: int = 1, parallel: Parallel = "blocks"):
        self.rank, self.size, self.parallel = rank, size, parallel

    @classmethod
    def here(cls, parallel: Parallel = "blocks") -> "Workers":
        """The workers of the process group this process belongs to; a lone one without a group."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size(), parallel)

    # ------------------------------------------------------------ who does what

    def share(self, n: int, worker: int | None = None) -> slice:
        """A worker's part (this one's by default) of n things, see :func:`share`."""
        return share(n, self.rank if worker is None else worker, self.size)

    # ------------------------------------------------------------ with gradient

    def gather(self, mine: Tensor, n: int) -> Tensor:
        """[n, …] from each worker's ``share(n)`` of it, [share, …]."""
        return mine if self.size == 1 else _Gather.apply(mine, self, n)

    def stack(self, mine: Tensor) -> Tensor:
        """[W, …] from each worker's [...], of one shape."""
        return self.gather(mine[None], self.size)

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

    def swap(self, give: list[Tensor], take: list[torch.Size]) -> list[Tensor]:
        """Sends ``give[w]`` to each worker w; returns what each sent here, of shapes ``take``."""
        sizes = [shape.numel() for shape in take]
        out = give[0].new_empty(sum(sizes))
        dist.all_to_all_single(out, torch.cat([g.reshape(-1) for g in give]), sizes, [g.numel() for g in give])
        return [part.view(shape) for part, shape in zip(out.split(sizes), take, strict=True)]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mine: Tensor, workers: Workers, n: int) -> Tensor:
        ctx.workers, ctx.n = workers, n
        sizes = [workers.share(n, w) for w in range(workers.size)]
        shapes = [torch.Size((s.stop - s.start, *mine.shape[1:])) for s in sizes]
        return torch.cat(workers.swap([mine] * workers.size, shapes))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        workers = ctx.workers
        parts = [gradient[workers.share(ctx.n, w)] for w in range(workers.size)]
        back = workers.swap(parts, [parts[workers.rank].shape] * workers.size)
        return torch.stack(back).sum(0), None, None
