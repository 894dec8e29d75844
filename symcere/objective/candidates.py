"""Which items (or users) a loss compares with, and how likely each was to be among them."""

from typing import NamedTuple

import torch
from torch import Tensor

from symcere.model.nodes import distinct
from symcere.objective.history import History

UNIT = 1 << 40
"""What an inclusion probability of 1 is cut into; millions of nodes add up without overflow."""


class Candidates(NamedTuple):
    """Distinct nodes, shared by all anchors of a batch."""

    ids: Tensor
    """int64 [C]."""
    log_inclusion: Tensor
    """float32 [C], log π: π is the probability that the draw holds the node. Used by the log-π correction alone."""


class InBatch:
    """The distinct nodes of a batch of interactions, which are drawn without replacement from the training set.

    Args:
        counts: int64 [N], training interactions of each node.
    """

    def __init__(self, counts: Tensor):
        self.counts = counts
        self._known: dict[int, Tensor] = {}

    def log_inclusion(self, batch_size: int) -> Tensor:
        """float32 [N], log π of each node in a batch of some size; the last batch of an epoch may be a smaller one."""
        if batch_size not in self._known:
            self._known[batch_size] = self._inclusion(batch_size)
        return self._known[batch_size]

    def _inclusion(self, batch_size: int) -> Tensor:
        # A node of m interactions is missing from B of E with probability Π_{j<m} (E − B − j) / (E − j).
        total, most = int(self.counts.sum()), int(self.counts.max()) if len(self.counts) else 0
        j = torch.arange(most, dtype=torch.float64)
        missing = ((total - batch_size - j).clamp_min(0) / (total - j)).log().cumsum(0)
        table = torch.cat([missing.new_tensor([-torch.inf]), (-missing.expm1()).log()])
        return table[self.counts.cpu()].float().to(self.counts.device)

    def draw(self, of_batch: Tensor, generator: torch.Generator | None = None) -> Candidates:
        """The candidates of a batch whose interactions have these nodes, int64 [B]."""
        ids = of_batch.unique()
        return Candidates(ids, self.log_inclusion(len(of_batch))[ids])


class Uniform:
    """n of N nodes at a time, distinct, every set of n as likely as any other: each node with probability n/N.

    Where n is a small part, in time of n and not of N: what is distinct among 2n independent draws is as likely any set
    of its size, and so is what is left when some of it is taken away at random.
    """

    SMALL = 16
    """N / n from which n is a small part."""

    def __init__(self, n: int, num_nodes: int, device: torch.device | str = "cpu"):
        self.num_nodes, self.n = num_nodes, min(n, num_nodes)
        self.log_inclusion = torch.full((num_nodes,), self.n / max(num_nodes, 1), device=device).log()

    def draw(self, of_batch: Tensor | None = None, generator: torch.Generator | None = None) -> Candidates:
        """One draw. Workers that are to share their candidates seed their generators alike.

        Args:
            of_batch: the batch's own nodes, which mean nothing to it.
            generator: on the device of the nodes.
        """
        ids = self._draw(generator, self.log_inclusion.device)
        return Candidates(ids, self.log_inclusion[ids])

    def _draw(self, generator: torch.Generator | None, device: torch.device) -> Tensor:
        if self.num_nodes < self.SMALL * self.n:
            return torch.randperm(self.num_nodes, generator=generator, device=device)[: self.n]
        while True:  # hardly ever twice
            drawn = torch.randint(self.num_nodes, (2 * self.n,), generator=generator, device=device).unique()
            if len(drawn) >= self.n:
                return drawn[torch.randperm(len(drawn), generator=generator, device=device)[: self.n]]


class Weighted:
    """n distinct nodes at a time, in proportion to a weight, with known inclusion probabilities.

    Systematic sampling over a random order (Madow 1949): π adds up to n along a random permutation of the nodes, and
    every node over which a grid of step 1 with a random start falls is drawn. So exactly n are drawn, none twice, and
    node c with probability exactly ``π_c = min(1, n · w_c / Σ w)``, where the nodes with π = 1 are certain and the rest
    share what they leave; n ≥ N draws all nodes, in order.

    Args:
        n: how many.
        weights: [N], all positive: popularity. A node without training interactions should weigh 1.
    """

    def __init__(self, n: int, weights: Tensor):
        if not bool((weights > 0).all()):
            raise ValueError("Every weight must be positive: a node that is never drawn has no inclusion probability.")
        self.num_nodes, self.n, device = len(weights), min(n, len(weights)), weights.device
        order = weights.cpu().argsort(descending=True, stable=True)
        heavy = weights.cpu()[order].double()
        # With the k heaviest certain, the next one has π = (n − k) · w / (weight left): certain as well if that is ≥ 1.
        left = heavy.flip(0).cumsum(0).flip(0)
        k = torch.arange(self.num_nodes)
        uncertain = (self.n - k) * heavy < left * (1 - 1e-9)
        certain = int(uncertain.int().argmax()) if self.n < self.num_nodes else self.n
        inclusion = torch.ones(self.num_nodes, dtype=torch.float64)
        # π in whole units that add up exactly: sums of integers are the same on every device, in any order.
        units = inclusion.new_zeros(0).long()
        if self.n < self.num_nodes:
            share = (self.n - certain) * heavy[certain:] / left[certain]
            inclusion[order[certain:]] = share
            units = (share * UNIT).long()
            short = (self.n - certain) * UNIT - int(units.sum())
            units[: abs(short)] += 1 if short > 0 else -1
        self.certain, self.rest = order[:certain].to(device), order[certain:].to(device)
        self.units = units.to(device)
        self.log_inclusion = inclusion.log().float().to(device)

    def draw(self, of_batch: Tensor | None = None, generator: torch.Generator | None = None) -> Candidates:
        """One draw, as of :class:`Uniform`."""
        device = self.rest.device
        if self.n == self.num_nodes:
            ids = torch.arange(self.n, device=device)
        else:
            shuffle = torch.randperm(len(self.rest), generator=generator, device=device)
            start = torch.randint(UNIT, (), generator=generator, device=device)
            grid = start + UNIT * torch.arange(self.n - len(self.certain), device=device)
            at = torch.searchsorted(self.units[shuffle].cumsum(0), grid, right=True)
            ids = torch.cat([self.certain, self.rest[shuffle[at]]])
        return Candidates(ids, self.log_inclusion[ids])


class AndBatch:
    """What is drawn, and the batch's own nodes: for losses that average over the known positives among the candidates.

    Args:
        drawn: where an anchor's positives are by chance.
        batch: where those of its pairs in the batch are.
    """

    def __init__(self, drawn: Uniform | Weighted, batch: InBatch):
        self.drawn, self.batch = drawn, batch

    def draw(self, of_batch: Tensor, generator: torch.Generator | None = None) -> Candidates:
        """As of :class:`Uniform`; a node is missing where both miss it."""
        ids, _ = distinct(torch.cat([of_batch, self.drawn.draw(of_batch, generator).ids]), self.drawn.num_nodes)
        one, other = (of[ids].exp() for of in (self.drawn.log_inclusion, self.batch.log_inclusion(len(of_batch))))
        return Candidates(ids, (one + other - one * other).log())


Drawer = InBatch | Uniform | Weighted | AndBatch
"""What draws the candidates of a batch."""


class Negatives:
    """Items that a user has no training interaction with, drawn independently, uniformly or in proportion to a weight.

    Exact and without rejection: the weight of the items unknown to a user is cut into units, one unit is drawn, and
    the item that holds it is found by adding back what the known items before it weigh.

    Args:
        history: training interactions from the users' side.
        weights: int64 [I], positive (popularity); None for uniform.
    """

    def __init__(self, history: History, weights: Tensor | None = None):
        device = history.crow.device
        self.uniform = weights is None
        if weights is None:
            weights = torch.ones(history.num_others, dtype=torch.int64, device=device)
        self.crow = history.crow
        self.item_end = weights.cumsum(0)  # item i holds the units [item_end[i] - weights[i], item_end[i])
        self.stride = int(self.item_end[-1]) + 1 if len(weights) else 1
        # known[k]: weight of the stored entries before entry k of the history
        self.known = torch.cat([weights.new_zeros(1), weights[history.col].cumsum(0)])
        user = torch.arange(history.num_nodes, device=device).repeat_interleave(history.degree)
        before = (self.item_end - weights)[history.col] - (self.known[:-1] - self.known[history.crow[user]])
        self.keys = user * self.stride + before  # ascending: unknown weight before each known item, user by user

    def draw(self, users: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
        """``n`` negatives of each user.

        Args:
            users: int64 [K].
            n: how many each; two may be the same.
            generator: on the device of the history.

        Returns:
            int64 [K, n]; −1 for a user who knows every item: leave those out.
        """
        begin = self.crow[users][:, None]
        known_all = self.known[self.crow[users + 1]][:, None] - self.known[begin]
        unknown = self.stride - 1 - known_all
        unit = torch.randint(1 << 62, (len(users), n), generator=generator, device=users.device)
        unit = unit % unknown.clamp_min(1)  # the bias of the remainder is below 1e-9 for any catalogue that fits
        passed = torch.searchsorted(self.keys, users[:, None] * self.stride + unit, right=True)
        unit = unit + self.known[passed] - self.known[begin]
        items = unit if self.uniform else torch.searchsorted(self.item_end, unit, right=True)
        return items.masked_fill_(unknown == 0, -1)
