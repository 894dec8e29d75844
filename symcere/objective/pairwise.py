"""Losses on pairs rather than on whole sets of candidates: BPR and DirectAU."""

import math

import torch
from torch import Tensor

from symcere.objective.contrastive import softplus
from symcere.objective.history import Known
from symcere.objective.logsumexp import masked_logsumexp
from symcere.objective.term import Term


def bpr(positive: Tensor, negative: Tensor, valid: Tensor | None = None) -> Term:
    """Bayesian personalised ranking, ``− log σ(s(u,i) − s(u,j))``. Rendle et al., arXiv 1205.2618.

    The scores come from :func:`~symcere.objective.contrastive.pair_logits`; on normalised vectors with scale 1/τ.

    Args:
        positive: float [K], score of each pair.
        negative: float [K] or [K, n], scores of its sampled negatives.
        valid: bool like ``negative``, False where there is no negative; None for all True.
    """
    losses = softplus(negative - (positive if negative.dim() == 1 else positive[:, None]))
    if valid is None:
        return Term(losses.sum(), torch.tensor(losses.numel(), dtype=losses.dtype, device=losses.device))
    return Term(losses.masked_fill(~valid, 0).sum(), valid.sum().to(losses.dtype))


def alignment(left: Tensor, right: Tensor) -> Term:
    """DirectAU's ``‖left − right‖²`` over the pairs of the batch. Wang et al., arXiv 2206.12811.

    Args:
        left, right: float [K, d], normalised.
    """
    dtype = torch.promote_types(left.dtype, torch.float32)
    losses = (left.to(dtype) - right.to(dtype)).square().sum(-1)
    return Term(losses.sum(), torch.tensor(len(losses), dtype=dtype, device=left.device))


def uniformity(nodes: Tensor, chunk: int | None = None) -> Term:
    """DirectAU's ``log mean_{v ≠ w} exp(−2 ‖v − w‖²)``, over distinct nodes. Wang et al., arXiv 2206.12811.

    DirectAU is ``alignment + γ · (uniformity(users) + uniformity(items)) / 2``. The authors' code counts a node as
    often as it stands in the batch; here each counts once, so that a node is not pushed away from itself.

    A logarithm of a mean is no mean of terms: over several workers, pass the nodes of the whole batch to each. The
    pairwise distances are never all in memory.

    Args:
        nodes: float [n, d], distinct nodes, normalised.
        chunk: see :func:`~symcere.objective.logsumexp.masked_logsumexp`.

    Returns:
        A term of count 1; of count 0 where there are fewer than two nodes.
    """
    n = len(nodes)
    nodes = nodes.to(torch.promote_types(nodes.dtype, torch.float32))
    if n < 2:
        return Term(nodes.sum() * 0, nodes.new_zeros(()))
    own = torch.arange(n, device=nodes.device)
    # −2 ‖v − w‖² = 4 <v, w> − 2 ‖v‖² − 2 ‖w‖²
    length = -2 * nodes.square().sum(-1)
    sums = masked_logsumexp(nodes, nodes, 4.0, length, Known(own, own), chunk) + length
    return Term(sums.logsumexp(0) - math.log(n * (n - 1)), nodes.new_ones(()))
