"""Who is known to like what: the full training history, which no denominator may contradict."""

from typing import NamedTuple

import scipy.sparse
import torch
from torch import Tensor


class Known(NamedTuple):
    """The known positives of some anchors among some candidates: entries (row, col) of a sparse A × C matrix.

    The matrix itself is never built. Entries are sorted by row.
    """

    row: Tensor
    """int64 [nnz], position of the anchor."""
    col: Tensor
    """int64 [nnz], position of the candidate."""

    def transposed(self) -> "Known":
        """The same with anchors and candidates in each other's place."""
        order = self.col.argsort(stable=True)
        return Known(self.col[order], self.row[order])


class History:
    """Training interactions as CSR on the device, seen from one side (users or items).

    Validation and test interactions must not be in it: they would tell the loss what it is to predict.

    Args:
        crow: int64 [N + 1], where the entries of each node of this side begin.
        col: int64 [nnz], nodes of the other side, ascending within a row and each at most once.
        num_others: number of nodes on the other side.
    """

    def __init__(self, crow: Tensor, col: Tensor, num_others: int):
        self.crow, self.col, self.num_others = crow, col, num_others
        self.num_nodes = len(crow) - 1

    @classmethod
    def of(cls, train: scipy.sparse.csr_array, device: torch.device | str = "cpu") -> "History":
        """From the training matrix: of ``train`` from the users' side, of ``train.T`` from the items'."""
        csr = train.tocsr()
        if not csr.has_canonical_format:
            csr = csr.copy()
            csr.sum_duplicates()
        crow, col = (torch.from_numpy(part.astype("int64")).to(device) for part in (csr.indptr, csr.indices))
        return cls(crow, col, csr.shape[1])

    @property
    def degree(self) -> Tensor:
        """int64 [N], number of interactions of each node."""
        return self.crow.diff()

    def among(self, anchors: Tensor, candidates: Tensor | None = None) -> Known:
        """The interactions between ``anchors`` and ``candidates``, in time and memory of the anchors' histories.

        Args:
            anchors: int64 [A], nodes of this side.
            candidates: int64 [C], distinct nodes of the other side; None for all of them in order.
        """
        begin = self.crow[anchors]
        degree = self.crow[anchors + 1] - begin
        row = torch.arange(len(anchors), device=anchors.device).repeat_interleave(degree)
        shift = begin - (degree.cumsum(0) - degree)  # entry k of all rows joined is entry k + shift[row] of the history
        col = self.col.index_select(0, shift.index_select(0, row).add_(torch.arange(len(row), device=row.device)))
        if candidates is None:
            return Known(row, col)
        col = locate(col, candidates, self.num_others)
        here = (col >= 0).nonzero().squeeze(1)
        return Known(row.index_select(0, here), col.index_select(0, here))


def locate(nodes: Tensor, candidates: Tensor | None, num_nodes: int) -> Tensor:
    """Position of each node among the candidates, −1 where it is none of them.

    Args:
        nodes: int64 [K].
        candidates: int64 [C], distinct; None for all nodes in order.
        num_nodes: number of nodes that ids come from.

    Returns:
        int64 [K].
    """
    if candidates is None:
        return nodes
    position = torch.full((num_nodes,), -1, dtype=torch.int64, device=nodes.device)
    position[candidates] = torch.arange(len(candidates), device=nodes.device)
    return position.index_select(0, nodes)
