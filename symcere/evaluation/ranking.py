"""The k best items of each user, exactly, at little more than the cost of the scores themselves.

Selecting from scores is what makes all-ranking evaluation slow: ``topk`` over 20,000 columns takes longer than the
matrix product that made them. Here most columns are pruned by maxima over groups of columns, which is exact and
costs one pass at the speed of memory, and scores are made in chunks that stay in the cache.
"""

from collections.abc import Iterator

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from symcere.errors import UserError
from symcere.model.scorer import FactorScorer, Scorer

CPU_CHUNK = 16 << 20
"""Bytes of scores made at once on a CPU: much of it stays in the caches while the scores are masked and pruned, and the
C library gives no more than 32 MB again without fresh pages."""
GPU_CHUNK = 1 << 30
"""Bytes of scores made at once on an accelerator."""
LEAST = 32
"""Users scored at once at least, whatever that takes: each chunk reads the vectors of all items."""

_WIDTH = 8  # columns per group: the pass over the scores then yields an eighth of them


def top_k(
    scorer: Scorer,
    users: np.ndarray | Tensor,
    k: int,
    exclude: csr_array | None = None,
    seed: int = 0,
    *,
    allowed: np.ndarray | None = None,
    chunk_bytes: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The k best items of each user, best first.

    Exact ties, at the k-th place too, are broken by a random order of the items drawn from ``seed``: the order of
    indices is correlated with popularity, and ``torch.topk`` alone promises no order.

    Args:
        scorer: what ranks. Scores of a :class:`FactorScorer` are written to, those of others copied first.
        users: int64 [B], in any order.
        k: at most the number of items.
        exclude: [U, I]; the entries of a user's row are never recommended to that user.
        seed: of the order that breaks ties.
        allowed: bool [I]; other items are never recommended. All are allowed by default.
        chunk_bytes: memory for scores; by default ``CPU_CHUNK`` or ``GPU_CHUNK``, and that of ``LEAST`` users at least.

    Returns:
        items int64 [B, k] and scores [B, k], on the CPU. Where a user has fewer than k candidates the rest is item
        -1 with score -inf; an item that the scorer itself scores -inf is no candidate.

    Raises:
        UserError: k is out of range, or a score is NaN or +∞.
    """
    if not 1 <= k <= scorer.num_items:
        raise UserError(f"k is {k}, but there are {scorer.num_items} items: choose 1 to {scorer.num_items}.")
    users = torch.as_tensor(users, dtype=torch.int64)
    barred = None if allowed is None else torch.from_numpy(np.flatnonzero(~np.asarray(allowed, dtype=bool)))
    rank = torch.from_numpy(np.random.default_rng(seed).permutation(scorer.num_items))

    items, values = [torch.empty(0, k, dtype=torch.int64)], [torch.empty(0, k)]
    start = 0
    with torch.inference_mode():
        for scores in _chunks(scorer, users, chunk_bytes):
            part = slice(start, start + len(scores))
            start += len(scores)
            if exclude is not None:
                rows, columns = entries(exclude, users[part].numpy())
                flat = torch.from_numpy(rows * scores.shape[1] + columns)
                scores.view(-1)[flat.to(scores.device)] = -torch.inf
            if barred is not None:
                scores[:, barred.to(scores.device)] = -torch.inf
            best, at = _select(scores, k, rank)
            if (bad := best.isnan() | (best == torch.inf)).any():
                row, column = (int(v) for v in bad.nonzero()[0])
                raise UserError(
                    f"The score of user {int(users[part][row])} and item {int(at[row, column])} (by index) is not a "
                    "finite number, so nothing can be ranked: training diverged. Lower train.lr or raise the "
                    "temperature."
                )
            items.append(torch.where(best == -torch.inf, -1, at))
            values.append(best)
            del scores  # before the next ones are made
    return torch.cat(items), torch.cat(values)


def entries(matrix: csr_array, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The stored entries of some rows, in their order.

    Args:
        matrix: [U, I].
        users: int [B], rows of ``matrix``.

    Returns:
        int64 [n] positions in ``users``, ascending, and int64 [n] columns.
    """
    first = matrix.indptr[users].astype(np.int64)
    counts = matrix.indptr[users + 1] - first
    rows = np.repeat(np.arange(len(users)), counts)
    before = np.cumsum(counts) - counts
    return rows, matrix.indices[np.arange(len(rows)) + (first - before)[rows]].astype(np.int64)


def _chunks(scorer: Scorer, users: Tensor, chunk_bytes: int | None) -> Iterator[Tensor]:
    """Scores [b, I] of consecutive users, contiguous, float32 or float64, free to be written to."""
    fresh = isinstance(scorer, FactorScorer) and type(scorer).scores is FactorScorer.scores
    device = scorer.users.device if fresh else torch.device(getattr(scorer, "device", "cpu"))  # type: ignore[attr-defined]
    least = 1 if chunk_bytes else LEAST
    chunk_bytes = chunk_bytes or (CPU_CHUNK if device.type == "cpu" else GPU_CHUNK)
    size = max(least, chunk_bytes // (4 * scorer.num_items))
    for part in users.to(device).split(size):
        scores = scorer.scores(part)
        dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
        # Other scores are never written to: they may be the scorer's own.
        yield scores.to(dtype, copy=not fresh, memory_format=torch.contiguous_format)
        del scores  # before the next ones are made


def _select(scores: Tensor, k: int, rank: Tensor) -> tuple[Tensor, Tensor]:
    """The first k columns of each row [B, I] by (score descending, rank ascending): values, columns on the CPU."""
    total = scores.shape[1]
    values, columns = (t.cpu() for t in _largest(scores, min(k + 1, total)))
    # The k + 1 largest *values* are certain; which columns stand for equal ones is not. One value more than asked
    # for shows whether a tie runs across the k-th place: only there can the set of columns be wrong.
    equal = (values[:, :-1] == values[:, 1:]) & (values[:, 1:] > -torch.inf)
    tied = equal.any(1).nonzero()[:, 0]
    if k < total:
        across = equal[:, k - 1].nonzero()[:, 0]
        if len(across):
            columns[across, :k] = _across(scores[across.to(scores.device)], values[across, k - 1], k, rank)
            values[across, :k] = scores[across.to(scores.device)[:, None], columns[across, :k].to(scores.device)].cpu()
    values, columns = values[:, :k], columns[:, :k]
    if len(tied):
        some, order = columns[tied], rank[columns[tied]].argsort(1)
        order = order.gather(1, values[tied].gather(1, order).argsort(dim=1, descending=True, stable=True))
        columns[tied], values[tied] = some.gather(1, order), values[tied].gather(1, order)
    return values, columns


def _largest(scores: Tensor, m: int, ordered: bool = True) -> tuple[Tensor, Tensor]:
    """The m largest values of each row, descending if ``ordered``, with columns that hold them: a faster ``topk``.

    The columns are dealt to groups of ``_WIDTH``. The m largest values lie, as a multiset, in the m groups with the
    largest maxima: a value elsewhere is at most its group's maximum, hence at most each of m maxima. The same idea
    finds those groups. NaN counts as largest, in maxima as in ``topk``.
    """
    total, count = scores.shape[1], scores.shape[1] // _WIDTH
    if count < 2 * m:
        return scores.topk(m, dim=1, sorted=ordered)
    # Group g is columns g, g + count, ...: the maxima are then taken over whole rows of a table, at vector speed.
    maxima = scores[:, : count * _WIDTH].unflatten(1, (_WIDTH, count)).amax(1)
    _, groups = _largest(maxima, m, ordered=False)
    columns = (groups[:, :, None] + count * torch.arange(_WIDTH, device=scores.device)).flatten(1)
    if count * _WIDTH < total:
        rest = torch.arange(count * _WIDTH, total, device=scores.device)
        columns = torch.cat([columns, rest.expand(len(scores), -1)], dim=1)
    values, at = scores.gather(1, columns).topk(m, dim=1, sorted=ordered)
    return values, columns.gather(1, at)


def _across(scores: Tensor, bound: Tensor, k: int, rank: Tensor) -> Tensor:
    """The first k columns by (score, ``rank``), in no order, of rows [b, I] in which the k-th largest value,
    ``bound`` [b], occurs beyond the k-th place too: all that are larger, and of the equal ones the first by rank."""
    bound, rank = bound.to(scores.device)[:, None], rank.to(scores.device)
    key = torch.where(scores == bound, len(rank) - 1 - rank, -1)  # unique, so that topk has no choice to make
    key.masked_fill_(scores > bound, len(rank))
    return key.topk(k, dim=1).indices.cpu()
