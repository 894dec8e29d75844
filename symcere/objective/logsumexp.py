"""The one expensive thing in a contrastive loss: the log-sum-exp of every anchor over many candidates.

The plain form keeps several A × C matrices. This one holds at most one of them, and only a small one: larger
problems go over a few anchors at a time, and backward computes the logits a second time.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from symcere.objective.history import Known

# Bytes of logits in work at a time. On a CPU they should stay in its cache; a GPU wants large matrices.
CHUNK_BYTES = {"cpu": 4 << 20}
CHUNK_BYTES_DEVICE = 256 << 20
# A chunk of fewer anchors would spend its time adding to the gradient of the candidates.
MIN_CHUNK = 64
# Exponentials up to this size are kept for backward instead of being computed again.
KEEP_BYTES = 128 << 20


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
    row_bytes = max(1, len(candidates)) * anchors.element_size()
    keep = chunk is None and len(anchors) * row_bytes <= KEEP_BYTES and torch.is_grad_enabled()
    if chunk is None:
        budget = CHUNK_BYTES.get(anchors.device.type, CHUNK_BYTES_DEVICE)
        chunk = max(MIN_CHUNK, budget // row_bytes)
    row, col = known if known is not None else (None, None)
    return _MaskedLogSumExp.apply(anchors, candidates, scale, bias, row, col, min(chunk, max(1, len(anchors))), keep)


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
    def forward(ctx, anchors, candidates, scale, bias, row, col, chunk, keep):
        with torch.autocast(anchors.device.type, enabled=False):
            keep = keep and any(ctx.needs_input_grad)
            spans = _spans(len(anchors), row, chunk)
            scaled = anchors * scale
            total = anchors.new_full((len(anchors),), -torch.inf)
            sums = torch.zeros_like(total)
            work = anchors.new_empty(len(anchors) if keep else chunk, len(candidates))
            if len(candidates):
                for begin, end, entries in spans:
                    logits = work[begin:end] if keep else work[: end - begin]
                    _logits(scaled[begin:end], candidates, bias, row, col, begin, entries, out=logits)
                    peak = logits.amax(1)
                    peak.masked_fill_(peak == -torch.inf, 0)  # nothing left: exp(-inf - 0) = 0, never -inf + inf
                    torch.sum(logits.sub_(peak[:, None]).exp_(), 1, out=sums[begin:end])
                    torch.add(sums[begin:end].log(), peak, out=total[begin:end])
        ctx.spans = spans
        ctx.save_for_backward(anchors, candidates, scale, bias, row, col, *((work, sums) if keep else (None, total)))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        anchors, candidates, scale, bias, row, col, kept, norm = ctx.saved_tensors
        wants_anchors, wants_candidates, wants_scale, wants_bias = ctx.needs_input_grad[:4]
        with torch.autocast(anchors.device.type, enabled=False):
            scaled = anchors * scale
            if kept is not None:  # exponentials e with sums: d total / d logits = e / sum
                factor = torch.where(norm > 0, grad / norm, 0)
                work = kept
            else:  # exponentials will be divided by their sum already
                finite = norm > -torch.inf
                factor = torch.where(finite, grad, 0)
                shift = torch.where(finite, norm, 0)[:, None]
                work = anchors.new_empty(max((end - begin for begin, end, _ in ctx.spans), default=0), len(candidates))
            weighted = scaled * factor[:, None]
            # <anchor gradient> / scale = factor · (e @ candidates); the factor never touches the A × C matrix
            pulled = torch.zeros_like(anchors) if wants_anchors or wants_scale else None
            grad_candidates = torch.zeros_like(candidates) if wants_candidates else None
            grad_bias = torch.zeros_like(bias) if wants_bias else None
            for begin, end, entries in ctx.spans if len(candidates) else []:
                if kept is not None:
                    e = work[begin:end]
                else:
                    e = work[: end - begin]
                    _logits(scaled[begin:end], candidates, bias, row, col, begin, entries, out=e)
                    e.sub_(shift[begin:end]).exp_()
                if pulled is not None:
                    torch.mm(e, candidates, out=pulled[begin:end])
                if grad_candidates is not None:
                    grad_candidates.addmm_(e.T, weighted[begin:end])
                if grad_bias is not None:
                    grad_bias.addmv_(e.T, factor[begin:end])
            if pulled is not None:
                pulled.mul_(factor[:, None])
            grad_scale = torch.sum(pulled * anchors) if wants_scale else None
            grad_anchors = pulled * scale if wants_anchors else None
        return grad_anchors, grad_candidates, grad_scale, grad_bias, None, None, None, None


def _logits(scaled, candidates, bias, row, col, begin, entries, out):
    """Logits of the anchors from ``begin`` on, −inf at known positives, into ``out``."""
    if bias is None:
        torch.mm(scaled, candidates.T, out=out)
    else:
        torch.addmm(bias, scaled, candidates.T, out=out)
    if row is not None:
        first, last = entries
        out.view(-1).index_fill_(0, (row[first:last] - begin) * len(candidates) + col[first:last], -torch.inf)


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
