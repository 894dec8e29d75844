"""Graph propagation of LightGCN (He et al., arXiv 2002.02126, eq. 7-8), exact and fast.

    Â = D^-1/2 [[0, R], [Rᵀ, 0]] D^-1/2        users first, then items, N = U + I nodes
    mean_{l=0..L} Â^l H

Â is symmetric and the map is linear, so backward is the same map on the gradient and nothing is saved for it.
An isolated node has an empty row and column in Â: its hops are zero.
"""

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK = 64
"""Columns of one product on a CPU: rows of 256 bytes stay in cache where wider ones do not."""


class Graph(nn.Module):
    """The symmetric normalised adjacency of the training interactions.

    Args:
        train: [U, I]; each stored entry is one edge of weight one, whatever its value.

    The buffers are integers alone (row offsets and columns of Â); weights are made in the precision they are asked
    for. Nothing of it is part of a state dict.
    """

    offsets: Tensor  # [N + 1] where each row of Â starts
    columns: Tensor  # [2E] users' rows in the order of `train`, then items' rows
    mates: Tensor  # [E] the edge (its place in `train`) behind each entry of the items' rows

    def __init__(self, train: sp.csr_array):
        super().__init__()
        self.num_users, self.num_items = (int(n) for n in train.shape)
        items = np.asarray(train.indices)
        per_user = np.diff(train.indptr)
        mates = np.argsort(items, kind="stable")  # stable: users ascend within each item
        users = np.repeat(np.arange(self.num_users), per_user)
        counts = np.concatenate([per_user, np.bincount(items, minlength=self.num_items)])
        columns = np.concatenate([items.astype(np.int64) + self.num_users, users[mates]])
        index = np.int32 if max(len(columns), len(counts)) < 2**31 else np.int64
        offsets = np.concatenate([[0], np.cumsum(counts)])
        self._hold(*(torch.from_numpy(a.astype(index)) for a in (offsets, columns, mates)))

    def _hold(self, offsets: Tensor, columns: Tensor, mates: Tensor) -> None:
        self.register_buffer("offsets", offsets, persistent=False)
        self.register_buffer("columns", columns, persistent=False)
        self.register_buffer("mates", mates, persistent=False)
        self._weights: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    @property
    def num_nodes(self) -> int:
        return self.num_users + self.num_items

    @property
    def num_edges(self) -> int:
        """Undirected edges: training interactions."""
        return len(self.mates)

    def weights(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Entries of Â, [2E]: 1 / sqrt(degree of row · degree of column)."""
        key = dtype, self.columns.device
        if key not in self._weights:
            degrees = self.offsets.diff()
            scale = degrees.double().rsqrt()
            self._weights[key] = (torch.repeat_interleave(scale, degrees) * scale[self.columns]).to(dtype)
        return self._weights[key]

    # ------------------------------------------------------------ products

    def hop(self, H: Tensor) -> Tensor:
        """Â H for H [N, c]; differentiable any number of times."""
        return _Hop.apply(H, self)

    def propagate(
        self,
        H: Tensor,
        layers: int,
        skip_input: bool = False,
        noise: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """mean_{l=0..L} Â^l H, [N, c].

        Args:
            H: [N, c] features of users, then items.
            layers: L.
            skip_input: leave l = 0 out of the mean (SimGCL, XSimGCL).
            noise: what is added to each layer l ≥ 1 before the next one, computed from that layer [N, c] and
                constant for the gradient: SimGCL's ``sign(x) · eps · normalise(u)`` (arXiv 2112.08679, eq. 8), whose
                derivative is zero.
        """
        return _Propagate.apply(H, self, layers, skip_input, noise, 0)[0]

    def propagate_keep(
        self,
        H: Tensor,
        layers: int,
        keep: int,
        skip_input: bool = False,
        noise: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """:meth:`propagate`, and layer ``keep`` (1 … L) beside it, as XSimGCL contrasts them (arXiv 2209.02544)."""
        if not 1 <= keep <= layers:
            raise ValueError(f"layer {keep} is not one of 1 … {layers}")
        return _Propagate.apply(H, self, layers, skip_input, noise, keep)

    @torch.no_grad()
    def hops(self, X: Tensor | np.ndarray, layers: int) -> list[Tensor]:
        """[X, ÂX, …, Â^L X] of frozen features X [N, t], without gradient; no memory beyond the result."""
        hops = [torch.as_tensor(X)]
        for _ in range(layers):
            hops.append(self._product(hops[-1]))
        return hops

    def dropped(self, keep: Tensor) -> "Graph":
        """The graph of some of the edges, degrees counted anew (edge dropout of SGL, arXiv 2010.10783).

        Args:
            keep: bool [E], in the order of the training interactions.
        """
        both = torch.cat([keep, keep[self.mates]])
        number = torch.cat([both.new_zeros(1, dtype=torch.long), both.cumsum(0)])
        renumber = keep.cumsum(0) - 1
        graph = Graph.__new__(Graph)
        nn.Module.__init__(graph)
        graph.num_users, graph.num_items = self.num_users, self.num_items
        mates = renumber[self.mates[both[len(keep) :]]]
        graph._hold(number[self.offsets].to(self.offsets), self.columns[both], mates.to(self.mates))
        return graph

    def _product(self, H: Tensor) -> Tensor:
        """Â H, outside autograd."""
        return _csr_product(self.offsets, self.columns, self.weights(H.dtype), H)


def _csr_product(offsets: Tensor, columns: Tensor, weights: Tensor, H: Tensor) -> Tensor:
    """A sparse matrix in CSR form times H [n, c]."""
    if H.device.type != "cpu":
        matrix = torch.sparse_csr_tensor(offsets, columns, weights, (len(offsets) - 1, len(H)), check_invariants=False)
        return matrix @ H
    out = H.new_empty(len(offsets) - 1, H.shape[1])
    for start in range(0, H.shape[1], BLOCK):
        block = slice(start, start + BLOCK)
        out[:, block] = F.embedding_bag(
            columns, H[:, block].contiguous(), offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
        )
    return out


class _Hop(torch.autograd.Function):
    @staticmethod
    def forward(ctx, H, graph):
        ctx.graph = graph
        return graph._product(H)

    @staticmethod
    def backward(ctx, gradient):
        return ctx.graph.hop(gradient), None


class _Propagate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, H, graph, layers, skip_input, noise, keep):
        if skip_input and layers == 0:
            raise ValueError("nothing is left of the mean over layers: layers is 0 and skip_input is set")
        ctx.graph, ctx.layers, ctx.skip_input, ctx.keep = graph, layers, skip_input, keep
        layer, total, kept = H, None if skip_input else H.clone(), None
        for number in range(1, layers + 1):
            layer = graph._product(layer)
            if noise is not None:
                layer += noise(layer)
            if number == keep:
                kept = layer
            total = layer.clone() if total is None else total.add_(layer)
        return total.div_(layers + (not skip_input)), kept

    @staticmethod
    def backward(ctx, mean, kept):
        # Horner's rule on Σ_l Âˡ g_l, g_l the gradient that reaches layer l directly.
        mean = mean / (ctx.layers + (not ctx.skip_input))
        gradient = None
        for number in range(ctx.layers, -1, -1):
            if gradient is not None:
                gradient = ctx.graph.hop(gradient)
            if number > 0 or not ctx.skip_input:
                gradient = mean if gradient is None else gradient + mean
            if kept is not None and number == ctx.keep > 0:
                gradient = gradient + kept
        return gradient, None, None, None, None, None
