"""The one expensive thing in a contrastive loss: the log-sum-exp of every anchor over many candidates.

The plain form keeps several A × C matrices. This one holds at most one of them, and only a small one: larger
problems go over a few anchors at a time, and backward computes the logits a second time. A loss in both directions,
over the same two sets of nodes, has one matrix of logits for both.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from symcere.model.product import STEP, add_transposed_matmul, by_onednn, matmul
from symcere.objective.history import Known

# Bytes of logits in work at a time. On a CPU they should stay in its cache; a GPU wants large matrices.
CHUNK_BYTES = {"cpu": 4 << 20}
CHUNK_BYTES_DEVICE = 256 << 20
# 2 to the power of what is multiplied by this: a CPU has 2ˣ in a quarter of the time of eˣ.
LOG2_E = 1 / math.log(2)
# A chunk of fewer anchors spends its time adding to the gradient of the candidates. For so many, more memory is taken:
# up to so much; for the least, in any case.
MIN_CHUNK, MIN_CHUNK_BYTES, LEAST_CHUNK = 256, 32 << 20, 64
# Exponentials up to this size are kept for backward instead of being computed again.
KEEP_BYTES = 192 << 20
# While no logit is further from 0, in units of log 2, powers of two of them and their sums stay within float32 as they
# are: then no maximum has to be found and taken away first.
SAFE = 80.0


def masked_logsumexp(
    anchors: Tensor,
    candidates: Tensor,
    scale: Tensor | float = 1.0,
    bias: Tensor | None = None,
    known: Known | None = None,
    chunk: int | None = None,
) -> Tensor:
    """``log Σ_{c ∉ known(a)} exp(scale · <a, c> + bias_c)`` for every anchor ``a``.

    Memory beyond the arguments: O(A·d + C·d + chunk·C). Differentiable once, in anchors, candidates, scale and bias.
    Computed in float32 (float64 where the vectors are) also under autocast: at τ ≤ 0.07 an exponential in half
    precision overflows.

    Args:
        anchors: float [A, d].
        candidates: float [C, d].
        scale: 1/τ, a scalar, possibly with a gradient.
        bias: float [C], added to the logits.
        known: candidates that an anchor leaves out; None for none.
        chunk: anchors in work at a time; exponentials are then always computed a second time. None chooses by size.

    Returns:
        float [A]; −inf, with a zero gradient, for an anchor that has no candidate left.
    """
    inputs = (
        [anchors, candidates] + ([scale] if isinstance(scale, Tensor) else []) + ([bias] if bias is not None else [])
    )
    dtype = torch.float64 if any(x.dtype == torch.float64 for x in inputs) else torch.float32
    anchors, candidates = anchors.to(dtype), candidates.to(dtype)
    scale = torch.as_tensor(scale, dtype=dtype, device=anchors.device)
    bias = None if bias is None else bias.to(dtype)
    chunk, keep = _sizes(anchors, len(candidates), chunk)
    row, col = known if known is not None else (None, None)
    safe = _is_safe(anchors, candidates, scale, bias)
    filled = anchors
    if by_onednn(anchors, candidates.T, None if safe else bias):
        spare = -len(candidates) % STEP
        if spare:
            bias = candidates.new_zeros(len(candidates)) if bias is None else bias
            bias = F.pad(bias, (0, spare), value=-torch.inf)
        filled, candidates = _filled(anchors), _filled(candidates)
    chunk = min(chunk, max(1, len(filled)))
    return _MaskedLogSumExp.apply(filled, candidates, scale, bias, row, col, chunk, keep, safe)[: len(anchors)]


def logsumexp_both(
    left: Tensor, right: Tensor, scale: float, known: Known | None = None, chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """:func:`masked_logsumexp` of the rows of one matrix of logits and of its columns, for half of what two would cost.

    Args:
        left: float [A, d], no row longer than one.
        right: float [C, d], no row longer than one.
        scale: 1/τ.
        known: entries that neither sum holds.
        chunk: rows in work at a time.

    Returns:
        float [A], over each row's columns, and float [C], over each column's rows; −inf where nothing is left.
    """
    if abs(scale) * LOG2_E >= SAFE:
        other = None if known is None else known.transposed()
        return masked_logsumexp(left, right, scale, known=known, chunk=chunk), masked_logsumexp(
            right, left, scale, known=other, chunk=chunk
        )
    A, C = len(left), len(right)
    dtype = torch.promote_types(torch.promote_types(left.dtype, right.dtype), torch.float32)
    left, right = left.to(dtype), right.to(dtype)
    chunk, keep = _sizes(left, C, chunk)
    if by_onednn(left, right.T):
        left, right = _filled(left), _filled(right)
    row, col = known if known is not None else (None, None)
    return _BothLogSumExp.apply(left, right, scale, row, col, (A, C), min(chunk, max(1, len(left))), keep)


def combine_logsumexp(parts: Tensor) -> Tensor:
    """The log-sum-exp over all candidates from those over disjoint parts of them (shards of several workers).

    Args:
        parts: float [W, A].

    Returns:
        float [A]; −inf, with a zero gradient, where every part is −inf.
    """
    empty = (parts == -torch.inf).all(0)
    return parts.masked_fill(empty, 0).logsumexp(0).masked_fill(empty, -torch.inf)


class _MaskedLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, anchors, candidates, scale, bias, row, col, chunk, keep, safe):
        with torch.autocast(anchors.device.type, enabled=False):
            ctx.spans, ctx.keep = _spans(len(anchors), row, chunk), keep and any(ctx.needs_input_grad)
            # What is safe takes the bias as a weight of each exponential: that costs no pass over the logits.
            weight = (bias * LOG2_E).exp2_() if safe and bias is not None else None
            ctx.weight = weight
            logits = _Logits(anchors, candidates, scale, None if safe else bias, row, col)
            total = anchors.new_full((len(anchors),), -torch.inf)  # in units of log 2, as the logits
            sums = torch.zeros_like(total)
            kept = []
            for begin, end, entries in ctx.spans if len(candidates) else []:
                e, here = logits(begin, end, entries), slice(begin, end)
                peak = None
                if not safe:
                    peak = e.amax(1)
                    peak.masked_fill_(peak == -torch.inf, 0)  # nothing left: 2^(-inf - 0) = 0, never -inf + inf
                    e.sub_(peak[:, None])
                e.exp2_()
                sums[here] = e.sum(1) if weight is None else e @ weight
                total[here] = sums[here].log2() if peak is None else sums[here].log2().add_(peak)
                if ctx.keep:
                    kept.append(e)
                del e  # before the next one is made
        norm = sums if ctx.keep else total
        ctx.save_for_backward(anchors, candidates, scale, bias, row, col, norm, *kept)
        return total / LOG2_E

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        anchors, candidates, scale, bias, row, col, norm, *kept = ctx.saved_tensors
        weight = ctx.weight
        wants_anchors, wants_candidates, wants_scale, wants_bias = ctx.needs_input_grad[:4]
        with torch.autocast(anchors.device.type, enabled=False):
            if ctx.keep:  # exponentials e with sums: d total / d logits = e / sum
                factor = torch.where(norm > 0, grad / norm, 0)
            else:  # exponentials will be divided by their sum already
                logits = _Logits(anchors, candidates, scale, bias if weight is None else None, row, col)
                finite = norm > -torch.inf
                factor = torch.where(finite, grad, 0)
                shift = torch.where(finite, norm, 0)[:, None]
            weighted = anchors * (scale * factor[:, None])
            pulling = candidates if weight is None else candidates * weight[:, None]
            # <anchor gradient> / scale = factor · (e @ candidates); the factor never touches the A × C matrix
            pulled = torch.zeros_like(anchors) if wants_anchors or wants_scale else None
            grad_candidates = candidates.new_zeros(candidates.T.shape) if wants_candidates else None
            grad_bias = torch.zeros_like(bias) if wants_bias else None
            for number, (begin, end, entries) in enumerate(ctx.spans if len(candidates) else []):
                e = kept[number] if ctx.keep else logits(begin, end, entries).sub_(shift[begin:end]).exp2_()
                if pulled is not None:
                    pulled[begin:end] = matmul(e, pulling)
                if grad_candidates is not None:
                    add_transposed_matmul(grad_candidates, weighted[begin:end], e)
                if grad_bias is not None:
                    grad_bias.addmv_(e.T, factor[begin:end])
                del e
            if pulled is not None:
                pulled.mul_(factor[:, None])
            grad_scale = torch.sum(pulled * anchors) if wants_scale else None
            grad_anchors = pulled * scale if wants_anchors else None
            if weight is not None:
                for gradient in (grad_candidates, grad_bias):
                    if gradient is not None:
                        gradient.mul_(weight)
            if grad_candidates is not None:
                grad_candidates = grad_candidates.T.contiguous()
        return grad_anchors, grad_candidates, grad_scale, grad_bias, None, None, None, None, None


class _BothLogSumExp(torch.autograd.Function):
    """Of logits within ±SAFE. Beyond ``sizes`` (A, C) rows are zeros that only fill up."""

    @staticmethod
    def forward(ctx, left, right, scale, row, col, sizes, chunk, keep):
        A, C = sizes
        with torch.autocast(left.device.type, enabled=False):
            ctx.spans, ctx.keep = _spans(len(left), row, chunk), keep and any(ctx.needs_input_grad)
            ctx.scale = scale
            logits = _Logits(left, right, scale, None, row, col)
            rows, columns = left.new_zeros(len(left)), left.new_zeros(len(right))
            kept = []
            for begin, end, entries in ctx.spans:
                e = logits(begin, end, entries).exp2_()
                torch.sum(e[:, :C], 1, out=rows[begin:end])
                columns += e[: max(0, A - begin)].sum(0)
                if ctx.keep:
                    kept.append(e)
                del e  # before the next one is made
        ctx.save_for_backward(left, right, row, col, rows, columns, *kept)
        return rows[:A].log(), columns[:C].log()

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):
        left, right, row, col, rows, columns, *kept = ctx.saved_tensors
        wants_left, wants_right = ctx.needs_input_grad[:2]
        with torch.autocast(left.device.type, enabled=False):
            # d loss / d logits = e · (of its row + of its column); where nothing was summed, 0
            of_row, of_column = (
                F.pad(torch.where(sums[: len(g)] > 0, g / sums[: len(g)], 0), (0, len(sums) - len(g)))
                for sums, g in zip((rows, columns), gradients, strict=True)
            )
            if not ctx.keep:
                logits = _Logits(left, right, ctx.scale, None, row, col)
            grad_left = torch.zeros_like(left) if wants_left else None
            grad_right = right.new_zeros(right.T.shape) if wants_right else None
            for number, (begin, end, entries) in enumerate(ctx.spans):
                e = kept[number] if ctx.keep else logits(begin, end, entries).exp2_()
                slope = (of_row[begin:end, None] + of_column).mul_(e)
                del e
                if grad_left is not None:
                    grad_left[begin:end] = matmul(slope, right)
                if grad_right is not None:
                    add_transposed_matmul(grad_right, left[begin:end], slope)
            if grad_left is not None:
                grad_left.mul_(ctx.scale)
            if grad_right is not None:
                grad_right = grad_right.mul_(ctx.scale).T.contiguous()
        return grad_left, grad_right, None, None, None, None, None, None


class _Logits:
    """Logits of some anchors at a time, in units of log 2 and −inf at known positives: [end − begin, C]."""

    def __init__(self, anchors, candidates, scale, bias, row, col):
        self.scaled, self.candidates = anchors * (scale * LOG2_E), candidates
        self.bias = None if bias is None else bias * LOG2_E
        self.row, self.col = row, col

    def __call__(self, begin, end, entries):
        logits = matmul(self.scaled[begin:end], self.candidates.T, self.bias)
        if self.row is not None:
            row, col = self.row[slice(*entries)] - begin, self.col[slice(*entries)]
            logits.view(-1).index_fill_(0, row * len(self.candidates) + col, -torch.inf)
        return logits


def _sizes(anchors: Tensor, candidates: int, chunk: int | None) -> tuple[int, bool]:
    """Anchors in work at a time, and whether their exponentials are kept for backward."""
    row_bytes = max(1, candidates) * anchors.element_size()
    if chunk is not None:
        return chunk, False
    budget = CHUNK_BYTES.get(anchors.device.type, CHUNK_BYTES_DEVICE)
    chunk = max(LEAST_CHUNK, min(MIN_CHUNK, MIN_CHUNK_BYTES // row_bytes), budget // row_bytes) // STEP * STEP
    return chunk, len(anchors) * row_bytes <= KEEP_BYTES and torch.is_grad_enabled()


def _filled(rows: Tensor) -> Tensor:
    """Filled up by zeros to a multiple of STEP.

    How many distinct nodes there are differs from batch to batch; so products have few shapes.
    """
    return F.pad(rows, (0, 0, 0, -len(rows) % STEP))


def _is_safe(anchors: Tensor, candidates: Tensor, scale: Tensor, bias: Tensor | None) -> bool:
    """Whether all logits are known to be within ±SAFE. On a GPU they are not: to ask would be to wait for it."""
    if anchors.device.type != "cpu" or not (len(anchors) and len(candidates)):
        return False
    with torch.no_grad():
        longest = anchors.norm(dim=1).amax() * candidates.norm(dim=1).amax()
        bound = longest * scale.abs() + (0 if bias is None else bias.abs().amax())
        return bool(bound * LOG2_E < SAFE)


def _spans(anchors: int, row: Tensor | None, chunk: int) -> list[tuple[int, int, tuple[int, int]]]:
    """Chunks of anchors (begin, end) and where their entries in ``row`` begin and end."""
    begins = range(0, anchors, chunk)
    if row is None:
        cuts = [0] * (len(begins) + 1)
    elif len(begins) == 1:
        cuts = [0, len(row)]
    else:  # one transfer from the device for all chunks
        marks = torch.arange(0, anchors + chunk, chunk, device=row.device)
        cuts = torch.searchsorted(row, marks[: len(begins) + 1]).tolist()
    return [(b, min(b + chunk, anchors), (cuts[k], cuts[k + 1])) for k, b in enumerate(begins)]
