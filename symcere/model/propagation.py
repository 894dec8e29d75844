"""Graph propagation of LightGCN (He et al., arXiv 2002.02126, eq. 7-8), exact and fast.

    Â = D^-1/2 [[0, R], [Rᵀ, 0]] D^-1/2        users first, then items, N = U + I nodes
    mean_{l=0..L} Â^l H

Â is symmetric and the map is linear, so backward is the same map on the gradient and nothing is saved for it.
An isolated node has an empty row and column in Â: its hops are zero.

A training step needs the mean at the nodes of its batch alone, and its gradient arrives there alone:
:meth:`Graph.propagate` then does the last hop forward, and the first one backward, on the edges of these nodes.

The graph is bipartite: what starts at users is at items after one hop, at users after two, and never meets what starts
at items. So the features of one side are propagated on half the entries of Â, and the two results add up: workers can
divide the table by sides as well as by columns (:mod:`symcere.model.table`).
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symcere.model.nodes import OTHER, Part, distinct, span

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")  # on GPUs, of every process

BLOCK = 64
"""Columns of one product on a CPU, where there are more than two such blocks: narrow tables stay in cache."""

SMALL = 1 << 14
"""Nodes below which a CPU is as fast on all of them as on some: their features fit into its cache. A GPU always is: to
look for the edges of some would cost more than it saves.

Of nodes and not of features, so that workers with some of the columns decide alike."""

FEW = 1 / 4
"""Share of the entries of a hop below which it costs less to transpose them than to pass over all."""

Noise = Callable[[Tensor, int, int], Tensor]
"""What is added to a layer, from (the layer's rows [m, c], n, start): they are rows start … start + m of its n.

It is a constant for the gradient. SimGCL's ``sign(x) · eps · normalise(u)`` (arXiv 2112.08679, eq. 8) is of this kind:
its derivative is zero."""


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
        self._columns_of_users: Tensor | None = None

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

    def span(self, part: Part) -> slice:
        """The nodes of a part."""
        return span(part, self.num_users, self.num_items)

    def entries(self, part: Part, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Offsets, columns and weights of what a hop multiplies features of a part with.

        It is Â, or one of its two blocks: its rows are the nodes of ``OTHER[part]``, its columns count from the
        part's first node.
        """
        weights = self.weights(dtype)
        if part == "all":
            return self.offsets, self.columns, weights
        users, edges = self.num_users, self.num_edges
        if part == "users":
            return self.offsets[users:] - edges, self.columns[edges:], weights[edges:]
        if self._columns_of_users is None or self._columns_of_users.device != self.columns.device:
            self._columns_of_users = self.columns[:edges] - users
        return self.offsets[: users + 1], self._columns_of_users, weights[:edges]

    # ------------------------------------------------------------ differentiable, any number of times

    def hop(self, H: Tensor) -> Tensor:
        """Â H for H [N, c]."""
        return _Hop.apply(H, self)

    def propagate(
        self,
        H: Tensor,
        layers: int,
        skip_input: bool = False,
        noise: Noise | None = None,
        rows: Tensor | None = None,
        part: Part = "all",
    ) -> Tensor:
        """mean_{l=0..L} Â^l H, [N, c].

        Args:
            H: [N, c] features of users, then items.
            layers: L.
            skip_input: leave l = 0 out of the mean (SimGCL, XSimGCL).
            noise: added to every layer l ≥ 1 before the next one; with ``rows`` it may be asked for the unique rows of
                the last layer alone.
            rows: int64 [n] nodes, in any order, repeated or not: of the mean these rows alone, [n, c], for less; value
                and gradient are the same.
            part: the nodes whose features H are; those of the others count as zero. Results of users and of items
                add up to those of all.
        """
        return self.propagate_keep(H, layers, 0, skip_input, noise, rows, part)[0]

    def propagate_keep(
        self,
        H: Tensor,
        layers: int,
        keep: int,
        skip_input: bool = False,
        noise: Noise | None = None,
        rows: Tensor | None = None,
        part: Part = "all",
    ) -> tuple[Tensor, Tensor]:
        """:meth:`propagate` and layer ``keep`` beside it.

        XSimGCL contrasts the two (arXiv 2209.02544). Without a layer to keep (0) the second one is None.
        """
        if not 0 <= keep <= layers:
            raise ValueError(f"layer {keep} is not one of 1 … {layers}")
        H = H.to(torch.promote_types(H.dtype, torch.float32))  # of a tower in half precision
        nodes, place = None, rows
        if rows is not None and H.device.type == "cpu" and self.num_nodes >= SMALL:
            nodes, place = rows, None
            if not bool((rows[1:] > rows[:-1]).all()):
                nodes, position = distinct(rows, self.num_nodes)
                place = position.index_select(0, rows)
        both = _Mean.apply(H, _Plan(self, layers, skip_input, keep, part, nodes), noise)
        if place is None:
            return both
        return tuple(None if layer is None else layer.index_select(0, place) for layer in both)  # type: ignore[return-value]

    # ------------------------------------------------------------ without gradient

    @torch.no_grad()
    def hops(self, X: Tensor | np.ndarray, layers: int) -> list[Tensor]:
        """[X, ÂX, …, Â^L X] of frozen features X [N, t]; no memory beyond the result."""
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

    def _product(self, H: Tensor, part: Part = "all") -> Tensor:
        """Â H of features of a part, at the nodes of the other."""
        return _csr_product(*self.entries(part, H.dtype), H)

    def _rows_of(self, nodes: Tensor, part: Part, dtype: torch.dtype) -> sp.csr_array:
        """The rows ``nodes`` of what a hop from ``part`` multiplies with, on the CPU.

        SciPy cuts and transposes in one pass, index arithmetic in many.
        """
        offsets, columns, weights = (t.numpy() for t in self.entries(part, dtype))
        here = self.span(part)
        return sp.csr_array((weights, columns, offsets), shape=(len(offsets) - 1, here.stop - here.start))[
            nodes.numpy()
        ]


def _csr_product(offsets: Tensor, columns: Tensor, weights: Tensor, H: Tensor) -> Tensor:
    """A sparse matrix in CSR form times H [m, c]."""
    if H.device.type != "cpu":
        return _sparse_product(offsets, columns, weights, H)

    H = H.detach()  # else embedding_bag prepares a backward that is never asked for

    def product(H: Tensor) -> Tensor:
        return F.embedding_bag(columns, H, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True)

    if H.shape[1] <= 2 * BLOCK:
        return product(H)
    out = H.new_empty(len(offsets) - 1, H.shape[1])
    for start in range(0, H.shape[1], BLOCK):
        out[:, start : start + BLOCK] = product(H[:, start : start + BLOCK].contiguous())
    return out


def _sparse_product(offsets: Tensor, columns: Tensor, weights: Tensor, H: Tensor) -> Tensor:
    shape = (len(offsets) - 1, len(H))
    return torch.sparse_csr_tensor(offsets, columns, weights, shape, check_invariants=False) @ H


def _scipy_product(matrix: sp.csr_array | sp.csc_array, H: Tensor) -> Tensor:
    """A CSR matrix, or the transpose of a CSC matrix, times H."""
    offsets, columns, weights = (torch.from_numpy(a) for a in (matrix.indptr, matrix.indices, matrix.data))
    return _csr_product(offsets, columns, weights, H)


@dataclass(frozen=True)
class _Plan:
    """A linear map of node features: the mean over layers and one layer, of all nodes or of some."""

    graph: Graph
    layers: int
    skip_input: bool = False
    keep: int = 0
    part: Part = "all"  # of the input
    nodes: Tensor | None = None  # of the results; int64, ascending, unique

    def __post_init__(self):
        if self.skip_input and self.layers == 0:
            raise ValueError("nothing is left of the mean over layers: layers is 0 and skip_input is set")

    @property
    def terms(self) -> int:
        return self.layers + (not self.skip_input)

    @property
    def size(self) -> int:
        """Rows of the results."""
        return self.graph.num_nodes if self.nodes is None else len(self.nodes)

    @cached_property
    def users(self) -> int:
        """How many of the results' nodes are users."""
        assert self.nodes is not None
        return int(torch.searchsorted(self.nodes, self.graph.num_users))

    def part_at(self, layer: int) -> Part:
        """The nodes that a layer lives on."""
        return OTHER[self.part] if layer % 2 else self.part

    def places(self, part: Part) -> slice:
        """The rows of the results that are nodes of a part."""
        if self.nodes is None or part == "all":
            return slice(0, self.size) if part == "all" else self.graph.span(part)
        return slice(0, self.users) if part == "users" else slice(self.users, self.size)

    def nodes_of(self, part: Part) -> Tensor | None:
        """The nodes of the results that are of a part, counted from its first; None for all of them."""
        if self.nodes is None:
            return None
        return self.nodes[self.places(part)] - self.graph.span(part).start

    def cut(self, dtype: torch.dtype) -> sp.csr_array | None:
        """What the last hop multiplies with, where it leads to some of the nodes alone."""
        if self.nodes is None or self.layers == 0:
            return None
        there = self.nodes_of(self.part_at(self.layers))
        assert there is not None
        return self.graph._rows_of(there, self.part_at(self.layers - 1), dtype)

    def hop_back(self, cut: sp.csr_array, gradient: Tensor) -> Tensor:
        """The transpose of the last hop: [k, c] at the results' nodes it leads to → [m, c] at the layer below."""
        part = self.part_at(self.layers)
        offsets, columns, weights = self.graph.entries(part, gradient.dtype)
        if cut.nnz < FEW * len(columns):
            return _scipy_product(cut.tocsc(), gradient)
        nodes, here = self.nodes_of(part), self.graph.span(part)
        assert nodes is not None
        # Every other node has the row of zeros behind the gradient's, which never leaves the cache.
        place = columns.new_full((here.stop - here.start,), len(gradient))
        place[nodes] = torch.arange(len(nodes), dtype=place.dtype)
        padded = torch.cat([gradient, gradient.new_zeros(1, gradient.shape[1])])
        return _csr_product(offsets, place.index_select(0, columns), weights, padded)


class _Hop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, H: Tensor, graph: Graph) -> Tensor:
        ctx.graph = graph
        return graph._product(H)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return ctx.graph.hop(gradient), None


class _Mean(torch.autograd.Function):
    """H, of a part's nodes [m, c] → the plan's mean [n, c] and kept layer [n, c]."""

    @staticmethod
    def forward(ctx: Any, H: Tensor, plan: _Plan, noise: Noise | None) -> tuple[Tensor, Tensor | None]:
        ctx.set_materialize_grads(False)
        cut = plan.cut(H.dtype)
        ctx.plan, ctx.cut = plan, cut
        total = H.new_zeros(plan.size, H.shape[1])
        kept = torch.zeros_like(total) if plan.keep else None
        layer = H
        for number in range(plan.layers + 1):
            part = plan.part_at(number)
            places, nodes = plan.places(part), plan.nodes_of(part)
            last = number == plan.layers and cut is not None
            if number:
                layer = _scipy_product(cut, layer) if last else plan.graph._product(layer, plan.part_at(number - 1))
                if noise is not None:
                    whole, start = (
                        (plan.size, places.start) if last else (plan.graph.num_nodes, plan.graph.span(part).start)
                    )
                    layer += noise(layer, whole, start)
            here = layer if nodes is None or last else layer.index_select(0, nodes)
            if kept is not None and number == plan.keep:
                kept[places] = here
            if number or not plan.skip_input:
                total[places] += here
        return total.div_(plan.terms), kept

    @staticmethod
    def backward(ctx: Any, mean: Tensor | None, kept: Tensor | None) -> Any:
        if mean is None and kept is None:
            return None, None, None
        return _Adjoint.apply(mean, kept, ctx.plan, ctx.cut), None, None


class _Adjoint(torch.autograd.Function):
    """The transpose of :class:`_Mean`: gradients of mean and kept layer [n, c] → gradient of H [m, c].

    Horner's rule on Σ_l Âˡ g_l, where g_l reaches layer l from outside, at the plan's nodes alone.
    """

    @staticmethod
    def forward(
        ctx: Any, mean: Tensor | None, kept: Tensor | None, plan: _Plan, cut: sp.csr_array | None
    ) -> Tensor | None:
        ctx.plan = plan
        graph, last = plan.graph, plan.layers
        mean = None if mean is None else mean / plan.terms

        def outside(number: int) -> Tensor | None:
            """What reaches a layer from outside."""
            of_mean = None if number == 0 and plan.skip_input else mean
            places = plan.places(plan.part_at(number))
            if kept is None or number != plan.keep:
                return None if of_mean is None else of_mean[places]
            return kept[places] if of_mean is None else of_mean[places] + kept[places]

        def plus(gradient: Tensor | None, number: int) -> Tensor | None:
            """The gradient of a layer: what comes from the layer above, and from outside."""
            here, nodes = outside(number), plan.nodes_of(plan.part_at(number))
            if here is None:
                return gradient
            if nodes is None:
                return here if gradient is None else gradient.add_(here)
            if gradient is None:
                whole = graph.span(plan.part_at(number))
                gradient = here.new_zeros(whole.stop - whole.start, here.shape[1])
            return gradient.index_add_(0, nodes, here)

        gradient = plus(None, last) if cut is None else None
        for number in range(last - 1, -1, -1):
            if cut is not None and number == last - 1:
                here = outside(last)
                gradient = None if here is None else plan.hop_back(cut, here)
            elif gradient is not None:
                gradient = graph._product(gradient, plan.part_at(number + 1))
            gradient = plus(gradient, number)
        return gradient

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return (*_Mean.apply(gradient, ctx.plan, None), None, None)
