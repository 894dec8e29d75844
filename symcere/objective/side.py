"""Who takes part in a step: the batch's nodes of one side, and what they are compared with."""

from dataclasses import dataclass

from torch import Tensor

from symcere.objective.candidates import Candidates
from symcere.objective.history import History


@dataclass
class Side:
    """The users, or the items, of one step."""

    history: History
    """Seen from this side."""
    nodes: Tensor
    """int64 [n]: nodes whose views the step needs, distinct, ascending."""
    position: Tensor
    """int64 [all nodes of this side]: where each of ``nodes`` stands among them; 0 for others."""
    distinct: Tensor
    """int64 [m]: positions in ``nodes`` of the batch's distinct nodes."""
    of_pair: Tensor
    """int64 [B]: position in ``distinct`` of each pair's node."""
    candidates: Candidates | None = None
    """What the ranking term compares with; None for all nodes of this side."""

    @property
    def at_pair(self) -> Tensor:
        """int64 [B]: position in ``nodes`` of each pair's node."""
        return self.distinct.index_select(0, self.of_pair)

    def at(self, nodes: Tensor) -> Tensor:
        """Positions in ``nodes`` of some of them; any, where the node is none (−1)."""
        return self.position[nodes.clamp_min(0)]

    @property
    def num_candidates(self) -> int:
        return len(self.nodes if self.candidates is None else self.candidates.ids)

    def at_candidates(self, part: slice) -> Tensor | slice:
        """Positions in ``nodes`` of a part of the candidates."""
        return part if self.candidates is None else self.at(self.candidates.ids[part])

    def candidate_rows(self, rows: Tensor, part: slice) -> Tensor:
        """A part of the candidates' rows of ``rows`` [n, …]."""
        at = self.at_candidates(part)
        return rows[at] if isinstance(at, slice) else rows.index_select(0, at)

    def pairs_of(self, anchors: slice) -> Tensor | slice:
        """The pairs of some of the distinct nodes: their positions in the batch."""
        return pairs_of(self.of_pair, anchors, len(self.distinct))

    def of_batch(self, rows: Tensor) -> Tensor:
        """The rows of the batch's distinct nodes, of ``rows`` [n, …]."""
        return rows.index_select(0, self.distinct)


def pairs_of(of_pair: Tensor, anchors: slice, num_anchors: int) -> Tensor | slice:
    """Positions of the pairs whose anchor, ``of_pair`` [K], is one of a share of them."""
    if anchors == slice(0, num_anchors):
        return slice(0, len(of_pair))
    return ((of_pair >= anchors.start) & (of_pair < anchors.stop)).nonzero().squeeze(1)
