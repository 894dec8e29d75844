"""InfoNCE, SupCon and SINCERE, for anchors on one side and candidates on the other.

With ``s(a, c) = scale · <a, c> + bias_c``, ``P(a)`` the known positives of an anchor and ``C`` the candidates:

    infonce   − log exp s(a,p) / Σ_{c ∈ C ∪ {p}} exp s(a,c)                       van den Oord et al., arXiv 1807.03748
    supcon    mean over p ∈ P(a) ∩ C of − log exp s(a,p) / Σ_{c ∈ C} exp s(a,c)   Khosla et al., arXiv 2004.11362, eq. 2
    sincere   − log exp s(a,p) / ( exp s(a,p) + Σ_{n ∈ C \\ P(a)} exp s(a,n) )    Feeney & Hughes, arXiv 2309.14277

SymCERE is the mean of ``sincere`` from both sides (Suzumura et al., arXiv 2504.02195); where both compare the same two
sets of nodes, it is :func:`symmetric`.

A sampled candidate may stand for the many that were not drawn: its logit loses ``log π``, its inclusion probability, so
that the sum estimates the one over all. The positive of a term is not drawn, it is there for certain, so its own logit
is never corrected, not even where it is among the candidates too (Khrylchenko et al., arXiv 2507.09331); SupCon alone
takes its denominator as one sum over candidates, all corrected alike.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from symcere.objective.history import Known
from symcere.objective.logsumexp import logsumexp_both, masked_logsumexp
from symcere.objective.term import Term

Kind = Literal["infonce", "supcon", "sincere"]
Reduction = Literal["pair", "anchor", "history"]


def contrastive(
    anchors: Tensor,
    positives: Tensor,
    candidates: Tensor,
    *,
    kind: Kind,
    reduction: Reduction = "pair",
    scale: Tensor | float = 1.0,
    anchor_of: Tensor | None = None,
    known: Known | None = None,
    positive_at: Tensor | None = None,
    bias: Tensor | None = None,
    positive_bias: Tensor | None = None,
    log_inclusion: Tensor | None = None,
    positive_inclusion: Tensor | None = None,
    across: Callable[[Tensor], Tensor] | None = None,
    chunk: int | None = None,
) -> Term:
    """One contrastive term from one side, for a batch of K (anchor, positive) pairs over A distinct anchors.

    What is averaged: ``pair``, each pair of the batch once; ``anchor``, each anchor once, the mean of its pairs;
    ``history``, each anchor once, the mean over its known positives among the candidates, whether in the batch or not.
    SupCon has one loss an anchor by definition: there ``pair`` counts it once for each of its pairs in the batch,
    and ``anchor`` and ``history`` are the same.

    An anchor without a positive contributes nothing and is not counted. One without a negative has loss 0.

    Args:
        anchors: float [A, d].
        positives: float [K, d], the positive of each pair.
        candidates: float [C, d], distinct nodes.
        kind: which loss, see above.
        reduction: over what the mean is taken.
        scale: 1/τ, a scalar, possibly with a gradient.
        anchor_of: int64 [K], position of each pair's anchor; None where pair k is of anchor k (A = K).
        known: known positives among the candidates, ``History.among``; needed by all but infonce over pairs or anchors.
        positive_at: int64 [K], position of each pair's positive among the candidates, −1 where it is none
            (:func:`~symcere.objective.history.locate`); None where each is one of them. Only infonce asks.
        bias: float [C], added to a candidate's logit.
        positive_bias: float [K], the same of each pair's positive. Given together with ``bias`` or not at all.
        log_inclusion: float [C], log π, subtracted from the logits of the candidates that a denominator sums over.
        positive_inclusion: float [K], the same of each pair's positive that is among them. Given together with
            ``log_inclusion`` or not at all; only infonce asks.
        across: combines log-sum-exps [A] over this worker's candidates into those over all workers' candidates, with
            its gradient; every worker then has the same anchors and pairs. Not for supcon and history.
        chunk: see :func:`~symcere.objective.logsumexp.masked_logsumexp`.
    """
    over_known = kind == "supcon" or reduction == "history"
    if known is None and (kind == "sincere" or over_known):
        raise ValueError(f"{kind} with reduction {reduction!r} needs the known positives (known=History.among(…)).")
    if (bias is None) != (positive_bias is None):
        raise ValueError("bias and positive_bias are given together or not at all.")
    if (log_inclusion is None) != (positive_inclusion is None):
        raise ValueError("log_inclusion and positive_inclusion are given together or not at all.")
    if anchor_of is None:
        anchor_of = torch.arange(len(anchors), device=anchors.device)
    if log_inclusion is None:
        offset = bias
    else:
        offset = -log_inclusion if bias is None else bias - log_inclusion
    masked = known if kind == "sincere" else None
    log_sum = masked_logsumexp(anchors, candidates, scale, offset, masked, chunk)  # [A]
    if across is not None:
        log_sum = across(log_sum)

    if over_known:
        assert known is not None
        row, positive_at = known
        positive_inclusion = None if log_inclusion is None else log_inclusion.index_select(0, positive_at)
        logits = known_logits(anchors, candidates, known, scale, bias)
    else:
        row = anchor_of
        logits = pair_logits(anchors.index_select(0, anchor_of), positives, scale, positive_bias)

    gap = log_sum.index_select(0, row) - logits
    if kind == "sincere":  # log(exp s + exp n) − s, and 0 where n = −inf
        losses = softplus(gap)
    elif kind == "supcon":
        losses = gap
    else:
        losses = _infonce(gap, positive_at, positive_inclusion)
    return _average(losses, row, anchor_of, len(anchors), reduction)


def symmetric(
    left: Tensor,
    right: Tensor,
    *,
    left_of: Tensor,
    right_of: Tensor,
    known: Known,
    scale: float,
    across: Callable[[Tensor], Tensor] | None = None,
    chunk: int | None = None,
) -> Term:
    """SINCERE from both sides, without a bias, for a batch of K pairs of A nodes and C nodes: the mean of their means.

    What :func:`contrastive` gives for ``left`` among ``right`` and the other way round, averaged, in half the time.

    Args:
        left: float [A, d], of length one.
        right: float [C, d], of length one.
        left_of, right_of: int64 [K], position of each pair's nodes.
        known: known pairs of A and C, those of the batch among them, ``History.among``.
        scale: 1/τ.
        across: as of :func:`contrastive`, where every worker has some of ``left``, and of the pairs those of these.
        chunk: see :func:`~symcere.objective.logsumexp.masked_logsumexp`.
    """
    of_left, of_right = logsumexp_both(left, right, scale, known, chunk)
    if across is not None:
        of_right = across(of_right)
    logits = pair_logits(left.index_select(0, left_of), right.index_select(0, right_of), scale)
    gaps = of_left.index_select(0, left_of) - logits, of_right.index_select(0, right_of) - logits
    losses = (softplus(gaps[0]) + softplus(gaps[1])) / 2
    return _average(losses, left_of, left_of, len(left), "pair")


def pair_logits(left: Tensor, right: Tensor, scale: Tensor | float = 1.0, bias: Tensor | None = None) -> Tensor:
    """``scale · <left, right> + bias`` over the last dimension, in float32 or better also under autocast.

    Args:
        left, right: float [..., d], shapes that broadcast.
        scale: 1/τ.
        bias: float [...].
    """
    dtype = torch.promote_types(torch.promote_types(left.dtype, right.dtype), torch.float32)
    logits = (left.to(dtype) * right.to(dtype)).sum(-1) * scale
    return logits if bias is None else logits + bias


def known_logits(
    anchors: Tensor, candidates: Tensor, known: Known, scale: Tensor | float = 1.0, bias: Tensor | None = None
) -> Tensor:
    """``scale · <a, c> + bias_c`` of each known (anchor, candidate), float [nnz], in memory O(nnz + (A + C)·d)."""
    dtype = torch.promote_types(torch.promote_types(anchors.dtype, candidates.dtype), torch.float32)
    logits = _KnownDots.apply(anchors.to(dtype), candidates.to(dtype), known.row, known.col) * scale
    return logits if bias is None else logits + bias[known.col]


def softplus(x: Tensor) -> Tensor:
    """``log(1 + exp x)``, exact in float64 too (PyTorch's default gives up at 20, an error of 2e-9)."""
    return F.softplus(x, threshold=40.0)


def _infonce(gap: Tensor, positive_at: Tensor | None, log_pi: Tensor | None) -> Tensor:
    """Losses [K] from ``log Σ_{c ∈ C} − s(p)`` [K], with exactly one uncorrected positive in the denominator."""
    present = gap
    if log_pi is not None:
        # Among the candidates the positive stands with exp(s − log π): take away all but exp(s) of it. The share
        # exp(s − log π − log Σ) is at most 1, so what remains is at least π and its logarithm is well conditioned.
        share = (-gap - log_pi).clamp_max(0).exp()
        excess = (share * -log_pi.to(gap.dtype).expm1()).clamp_max(1 - torch.finfo(gap.dtype).eps)
        present = gap + torch.log1p(-excess)
    return present if positive_at is None else torch.where(positive_at >= 0, present, softplus(gap))


def _average(losses: Tensor, row: Tensor, anchor_of: Tensor, num_anchors: int, reduction: Reduction) -> Term:
    """Each anchor's mean loss, weighted by 1 or, with ``pair``, by its number of pairs in the batch."""
    if reduction == "pair" and row is anchor_of:  # the weights are all 1
        return Term(losses.sum(), torch.tensor(len(losses), dtype=losses.dtype, device=losses.device))
    terms = torch.bincount(row, minlength=num_anchors).to(losses.dtype)
    weight = torch.bincount(anchor_of, minlength=num_anchors).to(losses.dtype) if reduction == "pair" else terms.sign()
    return Term((losses * (weight / terms)[row]).sum(), (weight * terms.sign()).sum())


class _KnownDots(torch.autograd.Function):
    """<anchors[row], candidates[col]>, with ``row`` ascending, some entries at a time."""

    CHUNK = 1 << 16

    @staticmethod
    def forward(ctx, anchors, candidates, row, col):
        ctx.save_for_backward(anchors, candidates, row, col)
        dots = anchors.new_empty(len(row))
        for k in range(0, len(row), _KnownDots.CHUNK):
            part = slice(k, k + _KnownDots.CHUNK)
            torch.sum(anchors[row[part]] * candidates[col[part]], 1, out=dots[part])
        return dots

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        anchors, candidates, row, col = ctx.saved_tensors
        by_candidate = col.argsort(stable=True)
        return (
            _gather_sum(candidates, row, col, grad, len(anchors)),
            _gather_sum(anchors, col[by_candidate], row[by_candidate], grad[by_candidate], len(candidates)),
            None,
            None,
        )


def _gather_sum(values: Tensor, row: Tensor, col: Tensor, weight: Tensor, num_rows: int) -> Tensor:
    """``out[r] = Σ_{k: row_k = r} weight_k · values[col_k]``, with ``row`` ascending: [num_rows, d]."""
    begins = torch.searchsorted(row, torch.arange(num_rows + 1, device=row.device))
    return F.embedding_bag(
        col, values, begins, mode="sum", per_sample_weights=weight.contiguous(), include_last_offset=True
    )
