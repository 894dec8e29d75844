"""What a training step minimises: the weighted sum of the terms over a model's views.

    loss = ranking + λ_same · same + λ_cross · cross + λ_intra · intra + λ_augment · augment + reg · ‖…‖²

A term whose weight is zero is not computed. Graph and text vectors are l2-normalised inside the alignment terms;
the model's own normalisation governs the scored vectors alone.

Among several workers each takes a share of a term's distinct anchors, with all their pairs, against all candidates;
with candidates that are not of the batch, a share of these too. What it returns is its sum over the global count.
"""

from typing import Any, NamedTuple, cast

import scipy.sparse
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symcere.config import Alignment, Experiment, Ranking
from symcere.model.nodes import distinct
from symcere.model.product import Linear
from symcere.model.propagation import Graph, Noise
from symcere.model.recommender import Pair, Recommender, Views
from symcere.model.unit import unit
from symcere.model.workers import Needs
from symcere.objective.candidates import AndBatch, Drawer, InBatch, Negatives, Uniform, Weighted
from symcere.objective.contrastive import Kind, contrastive, pair_logits, symmetric
from symcere.objective.history import History, Known, locate
from symcere.objective.logsumexp import combine_logsumexp
from symcere.objective.pairwise import alignment, bpr, uniformity
from symcere.objective.side import Side, pairs_of
from symcere.objective.temperature import Temperature
from symcere.objective.term import Term

KINDS: dict[str, Kind] = {"softmax": "infonce", "infonce": "infonce", "supcon": "supcon"}
"""Contrastive losses by their setting's name; sincere and symcere are both of kind sincere."""


class Batch(NamedTuple):
    """B training interactions; all int64 [B]."""

    users: Tensor
    items: Tensor
    edges: Tensor
    """Their places in the training matrix."""


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
        self.settings, self.model_settings, self.workers = experiment.objective, experiment.model, model.workers
        self.users = History.of(train, device)
        self.items = History.of(scipy.sparse.csr_array(train.T), device)
        ranking = self.settings.ranking
        # These two average over the known positives among the candidates.
        self.over_known = ranking.loss == "supcon" or ranking.reduction == "history"
        # Without a normalisation the pairwise losses have no temperature of their own: the length of Z plays its part.
        bare = ranking.loss in ("bpr", "directau") and self.model_settings.normalise == "none"
        self.temperature = Temperature(1.0 if bare else ranking.temperature, ranking.learn_temperature and not bare)
        self.draw_items: Drawer | None = None
        self.draw_users: Drawer | None = None
        if ranking.loss == "bpr":
            weights = self._weights(self.items) if ranking.sampling == "popularity" else None
            self.negatives = Negatives(self.users, weights)
        elif ranking.loss != "directau":
            self.draw_items = self._drawer(self.items)
            self.draw_users = self._drawer(self.users) if ranking.loss == "symcere" else None
        if ranking.loss == "symcere" and self.model_settings.popularity != "none":
            # Seen from an item, the item's bias cancels: how active a user is takes its place.
            activity = torch.log1p(self.users.degree.float())
            if self.model_settings.popularity == "learned":
                self.user_bias: Tensor | None = nn.Parameter(activity)
            else:
                self.register_buffer("user_bias", activity, persistent=False)
        else:
            self.user_bias = None
        # Known positives among the candidates are known only where all candidates are.
        self.shard_candidates = (
            self.workers.size > 1
            and ranking.candidates != "batch"
            and ranking.loss not in ("bpr", "directau")
            and not self.over_known
        )
        # Both directions then compare the same two sets of unit vectors, and nothing is added to their logits.
        self.alike = (
            ranking.loss == "symcere"
            and ranking.candidates == "batch"
            and ranking.reduction == "pair"
            and not ranking.logq
            and not ranking.learn_temperature
            and self.model_settings.normalise == "l2"
            and (self.model_settings.features, self.model_settings.fusion) != ("both", "concat")  # longer than one
            and self.model_settings.popularity == "none"
            and self.model_settings.drop_own == "none"
        )
        self.augmented: list[Graph] = []
        if self.settings.same.on and self.settings.same.loss == "reconstruct":
            # RLMRec-Gen: what stands for a masked node, and the way from the graph view back to a profile.
            d, t = self.model_settings.dim, model.text.shape[1]
            self.mask = nn.Parameter(torch.empty(d).normal_(std=0.1))
            self.decoder = nn.Sequential(Linear(d, (d + t) // 2), nn.LeakyReLU(), Linear((d + t) // 2, t))

    def _weights(self, side: History) -> Tensor:
        return side.degree.clamp_min(1)

    def _drawer(self, side: History) -> Drawer | None:
        """What draws the candidates of one side; None where they are all its nodes."""
        ranking = self.settings.ranking
        if ranking.candidates == "batch":
            return InBatch(side.degree)
        if ranking.candidates == "all" or ranking.sample >= side.num_nodes:
            return None
        if ranking.sampling == "uniform":
            drawn: Uniform | Weighted = Uniform(ranking.sample, side.num_nodes, side.crow.device)
        else:
            drawn = Weighted(ranking.sample, self._weights(side))
        # Without the batch's own positives among the candidates most pairs would have none.
        return AndBatch(drawn, InBatch(side.degree)) if self.over_known else drawn

    def begin_epoch(self, model: Recommender, random: torch.Generator) -> None:
        """What changes once an epoch: the two graphs with dropped edges of SGL."""
        augment = self.settings.augment
        if augment.on and augment.kind == "sgl":
            size = (model.graph.num_edges,)
            keep = [torch.rand(size, generator=random, device=random.device) >= augment.drop for _ in range(2)]
            self.augmented = [model.graph.dropped(k) for k in keep]

    @torch.no_grad()
    def tell_temperature(self, model: Recommender) -> None:
        """Gives the model τ as it is now, by which scoring weighs the item bias."""
        model.temperature.fill_(self.temperature())

    def forward(self, model: Recommender, batch: Batch, random: torch.Generator) -> dict[str, Tensor]:
        """Every weighted term of one step, scalars by name: this worker's part, which add up over workers."""
        s = self.settings
        negatives = None
        if s.ranking.loss == "bpr":
            negatives = self.negatives.draw(batch.users, s.ranking.negatives, random)
        users = self._side(self.users, batch.users, self.draw_users, random)
        items = self._side(self.items, batch.items, self.draw_items, random, negatives)
        noise = self._noise(model, random) if s.augment.on and s.augment.kind == "xsimgcl" else None
        masked = self._masked(model, random) if s.same.on and s.same.loss == "reconstruct" else None
        views = model(
            users.nodes,
            items.nodes,
            need_text=(s.same.on and masked is None) or s.cross.on or (s.intra.on and model.settings.features != "id"),
            features=None if masked is None else self._without(model, masked),
            noise=noise,
            keep=s.augment.layer if noise is not None else 0,
            needs=self._needs(users, items, negatives),
        )
        terms: dict[str, Tensor | float] = {"ranking": self._ranking(model, views, batch, users, items, negatives)}
        if s.same.on:
            terms["same"] = s.same.weight * self._same(model, views, users, items, masked)
        graph: Any = None
        text: Any = None
        if s.cross.on or s.intra.on:  # of each view once, for all terms
            graph, text = (
                None if v is None else Pair(unit(users.of_batch(v.users)), unit(items.of_batch(v.items)))
                for v in (views.graph, views.text)
            )
        if s.cross.on:
            pairs = [(graph.users, text.items), (text.users, graph.items)]
            terms["cross"] = s.cross.weight * sum(self._aligned(model, *p, users, items, s.cross) for p in pairs)
        if s.intra.on:
            # With ids alone the text view is there for other terms, if at all.
            present = [v for v in (graph, text) if v is not None and (v is graph or model.settings.features != "id")]
            terms["intra"] = s.intra.weight * sum(
                self._aligned(model, v.users, v.items, users, items, s.intra, text=v is text) for v in present
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
        draw: Drawer | None,
        random: torch.Generator,
        extra: Tensor | None = None,
    ) -> Side:
        ranking = self.settings.ranking
        ids, position = distinct(of_batch, history.num_nodes)
        of_pair = position.index_select(0, of_batch)
        both = ranking.loss == "symcere" or history is self.items
        if ranking.loss not in ("bpr", "directau") and both:
            if draw is None:
                nodes = torch.arange(history.num_nodes, device=ids.device)
                return Side(history, nodes, nodes, ids, of_pair)
            drawn, nodes = draw.draw(of_batch, random), ids
            if not isinstance(draw, InBatch):
                nodes, position = distinct(torch.cat([ids, drawn.ids]), history.num_nodes)
            return Side(history, nodes, position, position[ids], of_pair, drawn)
        nodes = ids
        if extra is not None:
            nodes, position = distinct(torch.cat([ids, extra[extra >= 0]]), history.num_nodes)
        return Side(history, nodes, position, position[ids], of_pair)

    def _needs(self, users: Side, items: Side, negatives: Tensor | None) -> Needs:
        """The rows of users, then items, that each worker works on; None where all work on all."""
        s = self.settings
        every = s.same.on or s.cross.on or s.intra.on or (s.augment.on and s.augment.kind == "xsimgcl")
        if self.workers.size == 1 or every or not (self.shard_candidates or s.ranking.loss == "bpr"):
            return None
        needs = []
        for worker in range(self.workers.size):
            marks = torch.zeros(len(users.nodes) + len(items.nodes), dtype=torch.bool, device=users.nodes.device)
            of = marks.split([len(users.nodes), len(items.nodes)])
            sides = [(users, of[0], items, of[1])]
            if s.ranking.loss == "symcere":
                sides.append((items, of[1], users, of[0]))
            for here, mine, there, theirs in sides:
                _, pairs = self._anchors(here, worker)
                mine[here.at_pair[pairs]] = True
                theirs[there.at_pair[pairs]] = True
                if negatives is not None:
                    theirs[there.at(negatives[pairs])] = True
                if self.shard_candidates:
                    theirs[there.at_candidates(self.workers.share(there.num_candidates, worker))] = True
            needs.append(marks.nonzero().squeeze(1))
        return needs

    def _anchors(self, here: Side, worker: int | None = None) -> tuple[slice, Tensor | slice]:
        """A worker's share of a term's anchors, and their pairs.

        Anchors are the distinct nodes of a side; with ``drop_own``, where each pair has its own vectors, the pairs.
        """
        if self.model_settings.drop_own != "none":
            pairs = self.workers.share(len(here.of_pair), worker)
            return pairs, pairs
        anchors = self.workers.share(len(here.distinct), worker)
        return anchors, here.pairs_of(anchors)

    def _mean(self, term: Term, count: Tensor | int | None = None) -> Tensor:
        """This worker's part of a mean over all workers.

        Args:
            count: of all workers, where it is known without asking them.
        """
        if self.workers.size == 1:
            return term.value
        total = self.workers.sum(term.count) if count is None else torch.as_tensor(count).to(term.sum)
        return Term(term.sum, total).value

    # ------------------------------------------------------------ terms

    def _ranking(
        self, model: Recommender, views: Views, batch: Batch, users: Side, items: Side, negatives: Tensor | None
    ) -> Tensor:
        s, z = self.settings.ranking, views.scored
        if s.loss == "directau":
            # A logarithm of a mean is no sum over workers: each has it all, and counts it for its part.
            spread = (uniformity(users.of_batch(z.users)).value + uniformity(items.of_batch(z.items)).value) / 2
            spread = spread / self.workers.size
            _, pairs = self._anchors(users)
            left, right = self._pair_rows(model, views, batch, users, items, pairs)
            return self._mean(alignment(left, right), len(batch.users)) + s.uniformity * spread
        if s.loss == "bpr":
            assert negatives is not None
            _, pairs = self._anchors(users)
            left, right = self._pair_rows(model, views, batch, users, items, pairs)
            every, negatives = negatives, negatives[pairs]
            bias, others = (
                (None, None) if model.bias is None else (model.bias[batch.items[pairs]], model.bias[negatives])
            )
            positive = pair_logits(left, right, self.temperature.scale, bias)
            drawn = z.items.index_select(0, items.at(negatives).flatten()).unflatten(0, negatives.shape)
            negative = pair_logits(left[:, None], drawn, self.temperature.scale, others)
            return self._mean(bpr(positive, negative, negatives >= 0), (every >= 0).sum())

        if self.alike:
            return self._aligned(model, users.of_batch(z.users), items.of_batch(z.items), users, items, s, text=False)
        own = None
        if model.own is not None:  # once for both directions, which then have the same anchors
            own = self._pair_rows(model, views, batch, users, items, self._anchors(users)[1])
        forward = self._one_side(users, items, batch.items, z.users, z.items, own, model.bias)
        if s.loss != "symcere":
            return forward
        reverse = None if own is None else own[::-1]
        back = self._one_side(items, users, batch.users, z.items, z.users, reverse, self.user_bias)
        return (forward + back) / 2

    def _pair_rows(
        self, model: Recommender, views: Views, batch: Batch, users: Side, items: Side, pairs: Tensor | slice
    ) -> tuple[Tensor, Tensor]:
        """Z of some of the batch's pairs, users and items, both [K, d]."""
        at_users, at_items = users.at_pair[pairs], items.at_pair[pairs]
        own = model.own_free(batch.edges[pairs], views.graph, at_users, at_items)
        if own is not None:
            return own.users, own.items
        return views.scored.users.index_select(0, at_users), views.scored.items.index_select(0, at_items)

    def _one_side(
        self,
        here: Side,
        there: Side,
        positives: Tensor,
        anchor_rows: Tensor,
        candidate_rows: Tensor,
        own: tuple[Tensor, Tensor] | None,
        bias: Tensor | None,
    ) -> Tensor:
        """The contrastive ranking term whose anchors are ``here``.

        With ``own`` every pair of this worker has an anchor and a positive vector of its own; otherwise pairs of one
        node share it, and its sum over the candidates.
        """
        s, workers = self.settings.ranking, self.workers
        mine, pairs = self._anchors(here)
        of_rows, positives = positives, positives[pairs]
        nodes = here.of_batch(here.nodes)
        if own is None:
            anchors = anchor_rows.index_select(0, here.distinct[mine])
            of_positive = candidate_rows.index_select(0, there.at_pair[pairs])
            anchor_of = here.of_pair[pairs] - mine.start
        else:
            anchors, of_positive = own
            nodes = nodes[here.of_pair]
            anchor_of = None
        ids = None if there.candidates is None else there.candidates.ids
        positive_at = locate(positives, ids, there.history.num_nodes)
        log_inclusion = positive_inclusion = None
        if there.candidates is not None and s.logq:
            log_inclusion = there.candidates.log_inclusion
            positive_inclusion = log_inclusion.index_select(0, positive_at.clamp_min(0))
        if self.shard_candidates:  # everybody's anchors against this worker's candidates
            shard = workers.share(there.num_candidates)
            ids = torch.arange(shard.start, shard.stop, device=nodes.device) if ids is None else ids[shard]
            if anchor_of is None:
                anchor_of = torch.arange(len(anchors), device=anchors.device)
            anchors, anchor_of = workers.gather(anchors, len(nodes)), anchor_of + mine.start
        else:
            shard = slice(0, there.num_candidates)
            nodes, of_rows = nodes[mine], positives
        candidates = there.candidate_rows(candidate_rows, shard)
        kind, known = KINDS.get(s.loss, "sincere"), here.history.among(nodes, ids)
        if own is not None and kind == "infonce" and s.reduction != "history":
            # The pair's own vector takes the place of its positive's, which holds what was left out: as if that one
            # candidate were the whole history.
            at = locate(of_rows, ids, there.history.num_nodes)
            (row,) = torch.where(at >= 0)
            kind, known = "sincere", Known(row, at[row])
        term = contrastive(
            anchors,
            of_positive,
            candidates,
            kind=kind,
            reduction=s.reduction,
            scale=self.temperature.scale,
            anchor_of=anchor_of,
            known=known,
            positive_at=positive_at,
            bias=None if bias is None else (bias if ids is None else bias[ids]),
            positive_bias=None if bias is None else bias.index_select(0, positives),
            log_inclusion=None if log_inclusion is None else log_inclusion[shard],
            positive_inclusion=positive_inclusion,
            across=self._across if self.shard_candidates else None,
        )
        by_pair = s.reduction == "pair" and s.loss != "supcon"
        return self._mean(term, len(here.of_pair) if by_pair else None)

    def _across(self, log_sums: Tensor) -> Tensor:
        return log_sums if self.workers.size == 1 else combine_logsumexp(self.workers.stack(log_sums))

    def _same(self, model: Recommender, views: Views, users: Side, items: Side, masked: Tensor | None) -> Tensor:
        """Each node's graph view against its own text, over the distinct nodes of the batch that have a text.

        With ``masked`` (bool [N]) only masked nodes count, and their profile is told from the graph view (RLMRec-Gen).
        """
        s, total = self.settings.same, model.temperature.new_zeros(())
        for side, shift in ((users, 0), (items, model.num_users)):
            nodes = side.of_batch(side.nodes) + shift
            counts = model.has_text[nodes] if masked is None else model.has_text[nodes] & masked[nodes]
            rows = side.distinct[counts]
            graph = _of(views.graph, shift).index_select(0, rows)
            if masked is None:
                left, right = graph, _of(views.text, shift).index_select(0, rows)
            else:
                left, right = self.decoder(graph), model.text.index_select(0, nodes[counts])
            total = total + self._identity(left, right, 1 / s.temperature, both=s.loss == "symcere")
        return total

    def _masked(self, model: Recommender, random: torch.Generator) -> Tensor:
        """bool [N]: nodes whose features are hidden in this step."""
        drawn = torch.rand(model.graph.num_nodes, generator=random, device=random.device)
        return drawn < self.settings.same.mask

    def _without(self, model: Recommender, masked: Tensor) -> Tensor:
        """E with the learned mask in place of hidden nodes; this worker's block."""
        mine = model.table.mine
        return torch.where(masked[mine.nodes, None], self.mask[mine.columns], model.embedding)

    def _identity(self, left: Tensor, right: Tensor, scale: float, both: bool) -> Tensor:
        """InfoNCE between two views of the same nodes; SINCERE equals it, since a node's one positive is itself."""
        left, right = unit(left), unit(right)
        mine = self.workers.share(len(left))
        here = torch.arange(mine.start, mine.stop, device=left.device)
        if not both:
            return self._mean(
                contrastive(left[mine], right[mine], right, kind="infonce", scale=scale, positive_at=here)
            )
        itself = Known(here - mine.start, here)
        return self._mean(
            symmetric(
                left[mine], right, left_of=itself.row, right_of=here, known=itself, scale=scale, across=self._across
            )
        )

    def _aligned(
        self,
        model: Recommender,
        left: Tensor,
        right: Tensor,
        users: Side,
        items: Side,
        s: Alignment | Ranking,
        text: bool = True,
    ) -> Tensor:
        """Users' vectors against items' vectors, of length one, of the distinct nodes of the batch.

        With ``text`` one of them is a text view: nodes without a training review take no part.
        """
        u, i = users.of_batch(users.nodes), items.of_batch(items.nodes)
        of_user, of_item = users.of_pair, items.of_pair
        if text:
            has_u, has_i = model.has_text_of(u, False), model.has_text_of(i, True)
            pairs = has_u[of_user] & has_i[of_item]
            of_user = (has_u.cumsum(0) - 1)[of_user[pairs]]
            of_item = (has_i.cumsum(0) - 1)[of_item[pairs]]
            u, i, left, right = u[has_u], i[has_i], left[has_u], right[has_i]
        mine = self.workers.share(len(left))
        share = pairs_of(of_user, mine, len(left))
        of_user, of_item = of_user[share] - mine.start, of_item[share]
        known, scale = users.history.among(u[mine], i), 1 / s.temperature
        if s.loss == "symcere":
            return self._mean(
                symmetric(
                    left[mine],
                    right,
                    left_of=of_user,
                    right_of=of_item,
                    known=known,
                    scale=scale,
                    across=self._across,
                )
            )
        return self._mean(
            contrastive(
                left[mine],
                right.index_select(0, of_item),
                right,
                kind=KINDS.get(s.loss, "sincere"),
                scale=scale,
                anchor_of=of_user,
                known=known,
                positive_at=of_item,
            )
        )

    def _augment(self, model: Recommender, views: Views, users: Side, items: Side, random: torch.Generator) -> Tensor:
        """Two disturbed graph views of the batch's distinct nodes, contrasted node by node."""
        s = self.settings.augment
        u, i = users.of_batch(users.nodes), items.of_batch(items.nodes)
        if s.kind == "xsimgcl":
            views_of = [
                (users.of_batch(v.users), items.of_batch(v.items))
                for v in (cast(Pair, views.graph), cast(Pair, views.kept))
            ]
        else:
            graphs = self.augmented or [model.graph, model.graph]
            rows = torch.cat([u, i + model.num_users])
            views_of = []
            for graph in graphs:
                noise = self._noise(model, random) if s.kind == "simgcl" else None
                view = model.graph_view(rows, graph=graph, noise=noise)[0]
                views_of.append((view[: len(u)], view[len(u) :]))
        return sum(
            (self._identity(a, b, 1 / s.temperature, both=False) for a, b in zip(*views_of, strict=True)),
            start=model.temperature.new_zeros(()),
        )

    def _noise(self, model: Recommender, random: torch.Generator) -> Noise:
        eps, d = self.settings.augment.eps, self.model_settings.dim

        def noise(layer: Tensor, n: int, start: int) -> Tensor:
            # Drawn for all rows and columns, that workers may draw alike; one adds those of its own.
            drawn = torch.rand((n, d), generator=random, device=layer.device, dtype=layer.dtype)
            mine = F.normalize(drawn[start : start + len(layer)], dim=-1)
            return layer.sign() * mine[:, model.table.mine.columns] * eps

        return noise

    def _penalty(self, model: Recommender, users: Side, items: Side, batch_size: int) -> Tensor:
        """Layer-0 rows of the batch and of bpr's negatives, each once, over B; without ids, the tower's weights."""
        if self.model_settings.features == "text":
            return cast(Tensor, sum(p.square().sum() for p in model.tower.parameters())) / self.workers.size
        # Candidates are not in it: all items are one batch's as much as another's, and a part of them stands for all.
        i = items.nodes if self.settings.ranking.loss == "bpr" else items.of_batch(items.nodes)
        rows = torch.cat([users.of_batch(users.nodes), i + model.num_users])
        if not model.table.divided:
            rows = rows[self.workers.share(len(rows))]
        # Sparse: a gradient of these rows is added to that of the table, instead of another table of zeros.
        return F.embedding(model.table.own_rows(rows), model.embedding, sparse=True).square().sum() / batch_size


def _of(view: Pair | None, items: int) -> Tensor:
    assert view is not None
    return view.items if items else view.users
