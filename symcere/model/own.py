"""Propagated profiles of a training pair without what the pair itself put into them, exactly.

Scoring never sees a pair's own review and edge; training does, unless they are left out. With V_l = Â'^l X', where

    X' = X + e_u α₀ + e_i β₀             the two profiles without the review (zero where it was their only one)
    Â' = Â − a (e_u e_iᵀ + e_i e_uᵀ)     without the edge, degrees as they were; a = Â_ui

V differs from the hops Y_l = Â^l X of everyone by walks that start at u or i:

    V_l = Y_l + Σ_{j≤l} Â^{l−j} (e_u α_j + e_i β_j),    α_{j+1} = −a V_j[i],    β_{j+1} = −a V_j[u]

so the rows u and i of V_l, which are all that the pair needs, follow from those of the Y_l and from the scalars
(Â^m)_uu, (Â^m)_ii and (Â^m)_ui. Â joins users with items alone: the first two are zero for odd m, the last for even m.
"""

from typing import Literal

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from symcere.model.propagation import Graph

CELLS = 1 << 22
"""Numbers that a dense intermediate of :func:`walks` holds (of 8 bytes)."""


class OwnFree(nn.Module):
    """Rows u and i of ``mean_{l=0..L} Â'^l X'`` for training pairs (u, i).

    Args:
        graph: of the training interactions ``train`` [U, I].
        X: float [N, t] profiles: the mean of a node's own training reviews with text, zero without one. Two further
            columns, if there are, are marks as :func:`symcere.model.recommender.text_input` sets them: 1 at users, at
            items without text. A node that loses its only review takes the mark.
        reviews: [E, t] embedding of each training review, in the order of ``train``; a zero row has no text.
        layers: L.
        mode: what is left out, as ``model.drop_own``.

    Holds (L + 1) · N · t numbers where edges are left out, 2 · N · t where reviews alone are. Not part of a state dict.
    """

    tables: Tensor  # [N, n, t] hops of X (edges left out), X and the mean of its hops (reviews alone), that mean (none)
    users: Tensor  # [E] of each training pair
    items: Tensor  # [E] node numbers: U + item
    counts: Tensor  # [N] reviews with text
    at_node: Tensor  # [N, L+1] (Â^m)_vv
    at_edge: Tensor  # [E, L+1] (Â^m)_ui

    def __init__(
        self,
        graph: Graph,
        train: sp.csr_array,
        X: Tensor | np.ndarray,
        reviews: np.ndarray,
        layers: int,
        mode: Literal["none", "text", "edge", "both"],
    ):
        super().__init__()
        X = torch.as_tensor(X)
        if len(reviews) != train.nnz or len(X) != graph.num_nodes or X.shape[1] - reviews.shape[1] not in (0, 2):
            raise ValueError(
                f"{train.nnz} training pairs of {graph.num_nodes} nodes do not match reviews {tuple(reviews.shape)} "
                f"and profiles {tuple(X.shape)}"
            )
        self.layers, self.reviews, self.num_users = layers, reviews, graph.num_users
        self.drop_text, self.drop_edge = mode in ("text", "both"), mode in ("edge", "both")
        users = np.repeat(np.arange(train.shape[0]), np.diff(train.indptr))
        items = train.shape[0] + train.indices.astype(np.int64)
        written = np.concatenate([np.asarray(reviews[k : k + 65536]).any(axis=1) for k in range(0, train.nnz, 65536)])
        counts = np.bincount(np.concatenate([users[written], items[written]]), minlength=graph.num_nodes)
        hops = graph.hops(X, layers)
        mean = sum(hops[1:], hops[0]) / (layers + 1)
        tables = torch.stack(hops if self.drop_edge else [X, mean] if self.drop_text else [mean], dim=1)
        at_node, at_edge = walks(train, layers if mode != "none" else 0)
        for name, tensor in (
            ("tables", tables),
            ("users", torch.from_numpy(users)),
            ("items", torch.from_numpy(items)),
            ("counts", torch.from_numpy(counts)),
            ("at_node", torch.from_numpy(at_node).to(X.dtype)),
            ("at_edge", torch.from_numpy(at_edge).to(X.dtype)),
        ):
            self.register_buffer(name, tensor, persistent=False)

    @torch.no_grad()
    def forward(self, edges: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """
        Args:
            edges: int64 [B], places of the pairs in the training matrix.

        Returns:
            The users' rows [B, t], the items' rows [B, t]; whether the user, and the item, still has text, bool [B].
        """
        u, i = self.users[edges], self.items[edges]
        Y_u, Y_i = self.tables.index_select(0, u), self.tables.index_select(0, i)  # [B, n, t]
        has_u, has_i = self.counts[u] > 0, self.counts[i] > 0
        if not (self.drop_text or self.drop_edge):
            return Y_u[:, 0], Y_i[:, 0], has_u, has_i

        of_Y_u, of_Y_i, of_alpha, of_beta = self._coefficients(edges, u, i)
        if self.drop_edge:
            rows = of_Y_u @ Y_u + of_Y_i @ Y_i  # [B, 2, t]
        else:
            rows = torch.stack([Y_u[:, 1], Y_i[:, 1]], dim=1)
        if self.drop_text:
            review = torch.from_numpy(np.asarray(self.reviews[edges.cpu().numpy()])).to(rows)
            written = review.any(dim=1)
            alpha, has_u = _without(Y_u[:, 0], self.counts[u], review, written, mark=0)
            beta, has_i = _without(Y_i[:, 0], self.counts[i], review, written, mark=1)
            rows += of_alpha[..., None] * alpha[:, None] + of_beta[..., None] * beta[:, None]
        return rows[:, 0], rows[:, 1], has_u, has_i

    def _coefficients(self, edges: Tensor, u: Tensor, i: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rows u and i of the result as combinations of Y_0[u] … Y_L[u], Y_0[i] … Y_L[i], α₀, β₀.

        Returns:
            [B, 2, L+1], [B, 2, L+1], [B, 2], [B, 2]; the second axis is the result's row: u, i.
        """
        L, B = self.layers, len(edges)
        at_u, at_i, at_ui = self.at_node[u], self.at_node[i], self.at_edge[edges]
        # Row l of `unit`: Y_l[u]; row L+1+l: Y_l[i]; the last two: α₀, β₀. V[l]: [B, 2, 2L+4].
        unit = torch.eye(2 * L + 4, dtype=at_u.dtype, device=at_u.device)
        starts = [unit[-2:].expand(B, 2, -1)]  # (α_j, β_j)
        V = []
        for length in range(L + 1):
            layer = torch.stack([unit[length], unit[L + 1 + length]]).expand(B, 2, -1)
            for j, start in enumerate(starts):
                m = length - j
                walk = torch.stack([at_u[:, m], at_ui[:, m], at_ui[:, m], at_i[:, m]], dim=1).view(B, 2, 2)
                layer = layer + walk @ start
            V.append(layer)
            if self.drop_edge and length < L:
                starts.append(-at_ui[:, 1, None, None] * layer.flip(1))
        mean = sum(V[1:], V[0]) / (L + 1)
        return mean[..., : L + 1], mean[..., L + 1 : 2 * L + 2], mean[..., -2], mean[..., -1]


def _without(profile: Tensor, count: Tensor, review: Tensor, written: Tensor, mark: int) -> tuple[Tensor, Tensor]:
    """How profiles [B, t], means of ``count`` reviews, change without one of them; which still have text, bool [B]."""
    width = review.shape[1]
    change = torch.zeros_like(profile)
    others = (count - 1).clamp(min=1)[:, None].to(profile)
    only = count == 1
    change[:, :width] = torch.where(only[:, None], -profile[:, :width], (profile[:, :width] - review) / others)
    if profile.shape[1] > width:
        change[:, width + mark] = only.to(change)
    return change * written[:, None], count > written.long()


def walks(train: sp.csr_array, layers: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the walks of m = 0 … L steps from a node to itself, and between the ends of an edge.

    Some rows of Â^m at a time, as sparse as they are: the memory is bounded, the time grows with Σ degree².

    Returns:
        ``(Â^m)_vv`` float64 [N, L+1] and ``(Â^m)_ui`` float64 [E, L+1], edges in the order of ``train``.
    """
    num_users, num_items = train.shape
    of_users = np.diff(train.indptr)
    of_items = np.bincount(train.indices, minlength=num_items)
    users = np.repeat(np.arange(num_users), of_users)
    weights = 1 / np.sqrt(of_users[users] * of_items[train.indices].astype(np.float64))
    R = sp.csr_array((weights, train.indices, train.indptr), shape=train.shape)
    back = sp.csr_array(R.T)
    at_node = np.zeros((num_users + num_items, layers + 1))
    at_node[:, 0] = 1
    at_edge = np.zeros((len(weights), layers + 1))
    if layers:
        at_edge[:, 1] = weights
    for there, here, first in ((R, back, 0), (back, R, num_users)):
        # (Â^2q)_vv is the squared length of row v of Â^q; (Â^m)_ui the product of row u of Â^(m-1) and column i of R.
        steps = max(layers // 2, layers - 1 - (layers % 2 == 0) if first == 0 else 0)
        chunk = max(1, CELLS // max(there.shape))
        for start in range(0, there.shape[0], chunk) if steps else ():
            rows = slice(start, min(start + chunk, there.shape[0]))
            reach = there[rows]
            for step in range(1, steps + 1):
                if step > 1:
                    reach = reach @ (here if step % 2 == 0 else there)
                if 2 * step <= layers:
                    at_node[first + start : first + rows.stop, 2 * step] = reach.power(2).sum(axis=1)
                if first == 0 and step % 2 == 0 and step < layers:
                    edges = slice(train.indptr[rows.start], train.indptr[rows.stop])
                    at_edge[edges, step + 1] = _products(
                        reach.toarray(), users[edges] - start, back, train.indices[edges]
                    )
    return at_node, at_edge


def _products(left: np.ndarray, rows: np.ndarray, right: sp.csr_array, columns: np.ndarray) -> np.ndarray:
    """``<left[rows[k]], right[columns[k]]>`` of a dense [b, n] and a sparse [·, n] matrix, for every k."""
    products = np.zeros(len(rows))
    ends = np.cumsum(np.diff(right.indptr)[columns])
    start = 0
    while start < len(rows):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + CELLS, side="right")))
        part = right[columns[start:stop]]
        row = np.repeat(rows[start:stop], np.diff(part.indptr))
        products[start:stop] = np.add.reduceat(left[row, part.indices] * part.data, part.indptr[:-1])
        start = stop
    return products
