"""What a training step minimises: the weighted sum of the terms over a model's views.

    loss = ranking + λ_same · same + λ_cross · cross + λ_intra · intra + λ_augment · augment + reg · ‖…‖²

A term whose weight is zero is not computed. Graph and text vectors are l2-normalised inside the alignment terms;
the model's own normalisation governs the scored vectors alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, cast

import scipy.sparse
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symcere.config import Alignment, Experiment
from symcere.model.propagation import Graph
from symcere.model.recommender import Pair, Recommender, Views
from symcere.objective.candidates import Candidates, InBatch, Negatives, Sampled
from symcere.objective.contrastive import Kind, contrastive, pair_logits
from symcere.objective.history import History, locate
from symcere.objective.pairwise import alignment, bpr, uniformity
from symcere.objective.temperature import Temperature

KINDS: dict[str, Kind] = {"softmax": "infonce", "infonce": "infonce", "supcon": "supcon"}
"""Contrastive losses by their setting's name; sincere and symcere are both of kind sincere."""


class Batch(NamedTuple):
    """B training interactions; all int64 [B]."""

    users: Tensor
    items: Tensor
    edges: Tensor
    """Their places in the training matrix."""


@dataclass
class Side:
    """The users, or the items, of one step."""

    history: History
    """Seen from this side."""
    nodes: Tensor
    """int64 [n]: nodes whose views the step needs, distinct, ascending."""
    distinct: Tensor
    """int64 [m]: positions in ``nodes`` of the batch's distinct nodes."""
    of_pair: Tensor
    """int64 [B]: position in ``distinct`` of each pair's node."""
    candidates: Candidates | None = None
    """What the ranking term compares with; None for all nodes of this side."""

    @property
    def at_pair(self) -> Tensor:
        """int64 [B]: position in ``nodes`` of each pair's node."""
        return self.distinct[self.of_pair]

    def candidate_rows(self, rows: Tensor) -> Tensor:
        """The candidates' rows of ``rows`` [n, …]."""
        if self.candidates is None:
            return rows
        return rows[torch.searchsorted(self.nodes, self.candidates.ids)]


class TotalLoss(nn.Module):
    """The objective of an experiment on one training matrix.

    What only the loss needs and scoring does not is kept here: learned temperatures, the activity bias of users.

    Args:
        model: the untrained model.
        train: training interactions [U, I]; validation and test interactions must not be in it.
    """

    def __init__(
        self,
        experiment: Experiment,
        model: Recommender,
        train: scipy.sparse.csr_array,
        device: torch.device | str = "cpu",
    ):
        super().__init__()
        self.settings, self.model_settings = experiment.objective, experiment.model
        self.users = History.of(train, device)
        self.items = History.of(scipy.sparse.csr_array(train.T), device)
        ranking = self.settings.ranking
        # Without a normalisation the pairwise losses have no temperature of their own: the length of Z plays its part.
        bare = ranking.loss in ("bpr", "directau") and self.model_settings.normalise == "none"
        self.temperature = Temperature(1.0 if bare else ranking.temperature, ranking.learn_temperature and not bare)
        draw = {"batch": InBatch, "sampled": Sampled}
        if ranking.loss == "bpr":
            weights = self._weights(self.items) if ranking.sampling == "popularity" else None
            self.negatives = Negatives(self.users, weights)
        elif ranking.loss != "directau" and ranking.candidates in draw:
            self.draw_items = self._drawer(self.items, experiment)
            self.draw_users = self._drawer(self.users, experiment) if ranking.loss == "symcere" else None
        if ranking.loss == "symcere" and self.model_settings.popularity != "none":
            # Seen from an item, the item's bias cancels: how active a user is takes its place.
            activity = torch.log1p(self.users.degree.float())
            if self.model_settings.popularity == "learned":
                self.user_bias: Tensor | None = nn.Parameter(activity)
            else:
                self.register_buffer("user_bias", activity, persistent=False)
        else:
            self.user_bias = None
        self.augmented: list[Graph] = []
        if self.settings.same.on and self.settings.same.loss == "reconstruct":
            # RLMRec-Gen: what stands for a masked node, and the way from the graph view back to a profile.
            d, t = self.model_settings.dim, model.text.shape[1]
            self.mask = nn.Parameter(torch.empty(d).normal_(std=0.1))
            self.decoder = nn.Sequential(nn.Linear(d, (d + t) // 2), nn.LeakyReLU(), nn.Linear((d + t) // 2, t))

    def _weights(self, side: History) -> Tensor:
        return side.degree.clamp_min(1)

    def _drawer(self, side: History, experiment: Experiment) -> InBatch | Sampled:
        ranking = experiment.objective.ranking
        if ranking.candidates == "batch":
            return InBatch(side.degree, experiment.train.batch_size)
        weights = self._weights(side) if ranking.sampling == "popularity" else torch.ones_like(side.degree)
        return Sampled(ranking.negatives, weights)

    def begin_epoch(self, model: Recommender, random: torch.Generator) -> None:
        """What changes once an epoch: the two graphs with dropped edges of SGL."""
        augment = self.settings.augment
        if augment.on and augment.kind == "sgl":
            size = (model.graph.num_edges,)
            keep = [torch.rand(size, generator=random, device=random.device) >= augment.drop for _ in range(2)]
            self.augmented = [model.graph.dropped(k) for k in keep]

    def forward(self, model: Recommender, batch: Batch, random: torch.Generator) -> dict[str, Tensor]:
        """Every weighted term of one step, scalars by name."""
        s = self.settings
        negatives = None
        if s.ranking.loss == "bpr":
            negatives = self.negatives.draw(batch.users, s.ranking.negatives, random)
        users = self._side(self.users, batch.users, "draw_users", random)
        items = self._side(self.items, batch.items, "draw_items", random, negatives)
        noise = self._noise(random) if s.augment.on and s.augment.kind == "xsimgcl" else None
        masked = self._masked(model, random) if s.same.on and s.same.loss == "reconstruct" else None
        views = model(
            users.nodes,
            items.nodes,
            need_text=(s.same.on and masked is None) or s.cross.on or (s.intra.on and model.settings.features != "id"),
            features=None if masked is None else torch.where(masked[:, None], self.mask, model.embedding),
            noise=noise,
            keep=s.augment.layer if noise is not None else 0,
        )
        terms: dict[str, Tensor | float] = {"ranking": self._ranking(model, views, batch, users, items, negatives)}
        if s.same.on:
            terms["same"] = s.same.weight * self._same(model, views, users, items, masked)
        if s.cross.on:
            pairs = [(views.graph.users, views.text.items), (views.text.users, views.graph.items)]
            terms["cross"] = s.cross.weight * sum(self._aligned(model, *p, users, items, s.cross) for p in pairs)
        if s.intra.on:
            present = [v for v in (views.graph, views.text) if v is not None]
            terms["intra"] = s.intra.weight * sum(
                self._aligned(model, v.users, v.items, users, items, s.intra, text=v is views.text) for v in present
            )
        if s.augment.on:
            terms["augment"] = s.augment.weight * self._augment(model, views, users, items, random)
        if s.reg > 0:
            terms["reg"] = s.reg / 2 * self._penalty(model, users, items, len(batch.users))
        return cast(dict[str, Tensor], terms)

    # ------------------------------------------------------------ who takes part

    def _side(
        self,
        history: History,
        of_batch: Tensor,
        drawer: str,
        random: torch.Generator,
        extra: Tensor | None = None,
    ) -> Side:
        ranking = self.settings.ranking
        ids, of_pair = of_batch.unique(return_inverse=True)
        both = ranking.loss == "symcere" or history is self.items
        if ranking.loss not in ("bpr", "directau") and both:
            if ranking.candidates == "all":
                nodes = torch.arange(history.num_nodes, device=ids.device)
                return Side(history, nodes, ids, of_pair)
            draw = getattr(self, drawer)
            drawn = draw.draw(of_batch) if ranking.candidates == "batch" else draw.draw(random)
            nodes = ids if ranking.candidates == "batch" else torch.cat([ids, drawn.ids]).unique()
            return Side(history, nodes, torch.searchsorted(nodes, ids), of_pair, drawn)
        nodes = ids if extra is None else torch.cat([ids, extra[extra >= 0]]).unique()
        return Side(history, nodes, torch.searchsorted(nodes, ids), of_pair)

    # ------------------------------------------------------------ terms

    def _ranking(
        self, model: Recommender, views: Views, batch: Batch, users: Side, items: Side, negatives: Tensor | None
    ) -> Tensor:
        s, z = self.settings.ranking, views.scored
        tau = self.temperature()
        model.temperature.fill_(float(tau) if not isinstance(tau, Tensor) else tau.detach())
        own = model.own_free(batch.edges, views.graph, users.at_pair, items.at_pair)
        left = own.users if own is not None else z.users[users.at_pair]
        right = own.items if own is not None else z.items[items.at_pair]
        if s.loss == "directau":
            spread = (uniformity(z.users[users.distinct]).value + uniformity(z.items[items.distinct]).value) / 2
            return alignment(left, right).value + s.uniformity * spread
        if s.loss == "bpr":
            assert negatives is not None
            valid = negatives >= 0
            at = torch.searchsorted(items.nodes, negatives.clamp_min(0)).clamp_max(len(items.nodes) - 1)
            bias, others = (None, None) if model.bias is None else (model.bias[batch.items], model.bias[negatives])
            positive = pair_logits(left, right, self.temperature.scale, bias)
            negative = pair_logits(left[:, None], z.items[at], self.temperature.scale, others)
            return bpr(positive, negative, valid).value

        forward = self._one_side(users, items, batch.items, z.users, z.items, left, right, own is not None, model.bias)
        if s.loss != "symcere":
            return forward
        back = self._one_side(items, users, batch.users, z.items, z.users, right, left, own is not None, self.user_bias)
        return (forward + back) / 2

    def _one_side(
        self,
        here: Side,
        there: Side,
        positives: Tensor,
        anchor_rows: Tensor,
        candidate_rows: Tensor,
        anchor_of_pair: Tensor,
        positive_of_pair: Tensor,
        pairwise: bool,
        bias: Tensor | None,
    ) -> Tensor:
        """The contrastive ranking term whose anchors are ``here``.

        With ``pairwise`` every pair has an anchor vector of its own; otherwise pairs of one node share it, and its sum
        over the candidates.
        """
        s = self.settings.ranking
        ids = None if there.candidates is None else there.candidates.ids
        distinct = here.nodes[here.distinct]
        correction = None if there.candidates is None or not s.logq else there.candidates.log_inclusion
        return contrastive(
            anchor_of_pair if pairwise else anchor_rows[here.distinct],
            positive_of_pair,
            there.candidate_rows(candidate_rows),
            kind=KINDS.get(s.loss, "sincere"),
            reduction=s.reduction,
            scale=self.temperature.scale,
            anchor_of=None if pairwise else here.of_pair,
            known=here.history.among(distinct[here.of_pair] if pairwise else distinct, ids),
            positive_at=locate(positives, ids, there.history.num_nodes),
            bias=None if bias is None else (bias if ids is None else bias[ids]),
            positive_bias=None if bias is None else bias[positives],
            log_inclusion=correction,
        ).value

    def _same(self, model: Recommender, views: Views, users: Side, items: Side, masked: Tensor | None) -> Tensor:
        """Each node's graph view against its own text, over the distinct nodes of the batch that have a text.

        With ``masked`` (bool [N]) only masked nodes count, and their profile is told from the graph view (RLMRec-Gen).
        """
        s, total = self.settings.same, model.temperature.new_zeros(())
        for side, shift in ((users, 0), (items, model.num_users)):
            nodes = side.nodes[side.distinct] + shift
            counts = model.has_text[nodes] if masked is None else model.has_text[nodes] & masked[nodes]
            rows = side.distinct[counts]
            graph = _of(views.graph, shift)[rows]
            if masked is None:
                left, right = graph, _of(views.text, shift)[rows]
            else:
                left, right = self.decoder(graph), model.text[nodes[counts]]
            total = total + self._identity(left, right, 1 / s.temperature, both=s.loss == "symcere")
        return total

    def _masked(self, model: Recommender, random: torch.Generator) -> Tensor:
        """bool [N]: nodes whose features are hidden in this step."""
        drawn = torch.rand(model.graph.num_nodes, generator=random, device=random.device)
        return drawn < self.settings.same.mask

    def _identity(self, left: Tensor, right: Tensor, scale: float, both: bool) -> Tensor:
        """InfoNCE between two views of the same nodes; SINCERE equals it, since a node's one positive is itself."""
        left, right = F.normalize(left, dim=-1), F.normalize(right, dim=-1)
        here = torch.arange(len(left), device=left.device)
        term = contrastive(left, right, right, kind="infonce", scale=scale, positive_at=here).value
        if both:
            back = contrastive(right, left, left, kind="infonce", scale=scale, positive_at=here).value
            term = (term + back) / 2
        return term

    def _aligned(
        self,
        model: Recommender,
        left: Tensor,
        right: Tensor,
        users: Side,
        items: Side,
        s: Alignment,
        text: bool = True,
    ) -> Tensor:
        """Users' vectors of one view against items' vectors of one view, over the distinct nodes of the batch.

        With ``text`` one of the views is made of text: nodes without a training review take no part.
        """
        u, i = users.nodes[users.distinct], items.nodes[items.distinct]
        left, right = F.normalize(left[users.distinct], dim=-1), F.normalize(right[items.distinct], dim=-1)
        of_user, of_item = users.of_pair, items.of_pair
        if text:
            has_u, has_i = model.has_text_of(u, False), model.has_text_of(i, True)
            pairs = has_u[of_user] & has_i[of_item]
            of_user = (has_u.cumsum(0) - 1)[of_user[pairs]]
            of_item = (has_i.cumsum(0) - 1)[of_item[pairs]]
            u, i, left, right = u[has_u], i[has_i], left[has_u], right[has_i]
        kind, scale = KINDS.get(s.loss, "sincere"), 1 / s.temperature
        forward = contrastive(
            left,
            right[of_item],
            right,
            kind=kind,
            scale=scale,
            anchor_of=of_user,
            known=users.history.among(u, i),
            positive_at=of_item,
        ).value
        if s.loss != "symcere":
            return forward
        back = contrastive(
            right,
            left[of_user],
            left,
            kind=kind,
            scale=scale,
            anchor_of=of_item,
            known=items.history.among(i, u),
            positive_at=of_user,
        ).value
        return (forward + back) / 2

    def _augment(self, model: Recommender, views: Views, users: Side, items: Side, random: torch.Generator) -> Tensor:
        """Two disturbed graph views of the batch's distinct nodes, contrasted node by node."""
        s = self.settings.augment
        u, i = users.nodes[users.distinct], items.nodes[items.distinct]
        if s.kind == "xsimgcl":
            views_of = [
                (v.users[users.distinct], v.items[items.distinct])
                for v in (cast(Pair, views.graph), cast(Pair, views.kept))
            ]
        else:
            graphs = self.augmented or [model.graph, model.graph]
            rows = torch.cat([u, i + model.num_users])
            views_of = []
            for graph in graphs:
                noise = self._noise(random) if s.kind == "simgcl" else None
                view = model.graph_view(rows, graph=graph, noise=noise)[0]
                views_of.append((view[: len(u)], view[len(u) :]))
        return sum(
            (self._identity(a, b, 1 / s.temperature, both=False) for a, b in zip(*views_of, strict=True)),
            start=model.temperature.new_zeros(()),
        )

    def _noise(self, random: torch.Generator) -> Callable[[Tensor], Tensor]:
        eps = self.settings.augment.eps

        def noise(layer: Tensor) -> Tensor:
            drawn = torch.rand(layer.shape, generator=random, device=layer.device, dtype=layer.dtype)
            return layer.sign() * F.normalize(drawn, dim=-1) * eps

        return noise

    def _penalty(self, model: Recommender, users: Side, items: Side, batch_size: int) -> Tensor:
        """Layer-0 rows of the batch and of what was drawn, each once, over B; without ids, the tower's weights."""
        if self.model_settings.features == "text":
            return cast(Tensor, sum(p.square().sum() for p in model.tower.parameters()))
        drawn = self.settings.ranking.loss == "bpr" or items.candidates is not None
        u, i = users.nodes[users.distinct], items.nodes if drawn else items.nodes[items.distinct]
        rows = torch.cat([u, i + model.num_users])
        return model.embedding[rows].square().sum() / batch_size


def _of(view: Pair | None, items: int) -> Tensor:
    assert view is not None
    return view.items if items else view.users
