"""All-ranking evaluation of a scorer on a corpus.

Every item that a user has not trained on is a candidate; at test time validation items are masked too. Means are
over the users with at least one relevant item. Users are ranked in fixed blocks, whose scores and metrics do not
depend on who computes them, and means are taken once over all of them: any number of workers gives the same bits.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.sparse import csr_array

from symcere.errors import UserError
from symcere.evaluation.metrics import ndcg, ranking_metrics
from symcere.evaluation.popularity import ITEM_THIRDS, USER_THIRDS, coverage, gini, thirds
from symcere.evaluation.ranking import entries, top_k
from symcere.model.scorer import FactorScorer, Scorer

if TYPE_CHECKING:
    from symcere.data.corpus import Corpus

KS = (5, 10, 20, 50)
"""Cut-offs when nobody asks for others."""

BLOCK = 4096
"""Users ranked as one unit; never depends on the number of workers."""


@dataclass(frozen=True)
class Evaluation:
    """What one scorer scores on one split."""

    metrics: dict[str, float]
    """Means over users (``ndcg_at_10``, ``recall_at_10``, ``precision_at_10``, ``hit_rate_at_10``, ``mrr_at_10``,
    ``map_at_10``); NDCG for the item-popularity thirds (``ndcg_at_10_tail``, ``_middle``, ``_head``: relevant items
    and their users of that third alone) and the user-activity thirds (``_light``, ``_regular``, ``_heavy``); and
    what is recommended: ``arp_at_10`` (mean training interactions), ``gini_at_10``, ``coverage_at_10``. A third in
    which nobody has a relevant item is left out."""

    per_user: dict[str, np.ndarray]
    """float64 [n] for each of these that is a mean over users; NaN where a user does not count (no relevant item in
    the third, nothing recommended)."""

    users: np.ndarray
    """int64 [n], ascending: the users with at least one relevant item."""

    notes: tuple[str, ...] = ()
    """What the reader must know, as sentences."""

    def interval(self, metric: str, level: float = 0.95) -> tuple[float, float]:
        """Confidence interval of a mean over users, these users being a sample of all (Student's t)."""
        from scipy.special import stdtrit  # of scipy.stats, which takes most of a second to load, this one quantile

        values = self.per_user[metric]
        values = values[~np.isnan(values)]
        if len(values) < 2:
            return float("nan"), float("nan")
        half = stdtrit(len(values) - 1, (1 + level) / 2) * values.std(ddof=1) / np.sqrt(len(values))
        return float(values.mean() - half), float(values.mean() + half)


@dataclass(frozen=True)
class Part:
    """One worker's share of an evaluation; plain arrays, so that it travels between processes."""

    positions: np.ndarray
    """int64 [m], positions in the evaluator's ``users``."""
    per_user: dict[str, np.ndarray]
    """float64 [m] each."""
    recommended: np.ndarray
    """int64 [len(ks), I]: how often each item is among the first k."""


class Evaluator:
    """Judges scorers on one split of a corpus; made once, used after every epoch.

    Args:
        corpus: its ``train``, ``val`` and ``test`` are CSR [U, I].
        split: which interactions are relevant.
        ks: cut-offs; the largest decides how many items are ranked.
        explicit_ks: whether somebody asked for these ``ks``. A default one beyond the catalogue is left out with a
            note, an explicit one is an error.
        seed: of the random item order that breaks exact ties.
        chunk_bytes: memory for scores, see :func:`symcere.evaluation.ranking.top_k`.

    Raises:
        UserError: nobody has a relevant item, or an explicit k is beyond the catalogue.
    """

    def __init__(
        self,
        corpus: "Corpus",
        split: Literal["val", "test"] = "test",
        ks: Sequence[int] = KS,
        *,
        explicit_ks: bool = False,
        seed: int = 0,
        chunk_bytes: int | None = None,
    ):
        if split not in ("val", "test"):
            raise UserError(f"split is 'val' or 'test', not {split!r}: on training nothing is left to predict.")
        self.num_items = corpus.train.shape[1]
        self.ks, self.notes = _cut_offs(ks, self.num_items, explicit_ks)
        self.relevant: csr_array = corpus.val if split == "val" else corpus.test
        self.exclude: csr_array = corpus.train if split == "val" else csr_array(corpus.train + corpus.val)
        self.users = np.flatnonzero(np.diff(self.relevant.indptr)).astype(np.int64)
        if len(self.users) == 0:
            raise UserError(f"Nobody has an interaction in the {split} split, so there is nothing to evaluate on.")
        self.seed, self.chunk_bytes = seed, chunk_bytes
        self.popularity = np.bincount(corpus.train.indices, minlength=self.num_items).astype(np.int64)
        self.item_third = thirds(self.popularity)
        self.user_third = thirds(np.diff(corpus.train.indptr))[self.users]

    def __call__(self, scorer: Scorer) -> Evaluation:
        """The whole evaluation in this process."""
        return self.join([self.part(scorer)])

    def part(self, scorer: Scorer, worker: int = 0, workers: int = 1) -> Part:
        """One worker's share: every ``workers``-th block of users.

        Raises:
            UserError: a score is NaN.
            ValueError: the scorer is of another corpus.
        """
        if (scorer.num_users, scorer.num_items) != self.relevant.shape:
            raise ValueError(f"A scorer of {scorer.num_users} x {scorer.num_items} for a {self.relevant.shape} corpus.")
        per_user: dict[str, list[np.ndarray]] = {}
        recommended = np.zeros((len(self.ks), self.num_items), dtype=np.int64)
        positions = [np.empty(0, dtype=np.int64)]
        for start in range(worker * BLOCK, len(self.users), workers * BLOCK):
            positions.append(np.arange(start, min(start + BLOCK, len(self.users))))
            for name, values in self._block(scorer, self.users[positions[-1]], recommended).items():
                per_user.setdefault(name, []).append(values)
        return Part(np.concatenate(positions), {n: np.concatenate(v) for n, v in per_user.items()}, recommended)

    def join(self, parts: Iterable[Part]) -> Evaluation:
        """The evaluation, from the shares of all workers in any order.

        Raises:
            ValueError: the parts do not hold every user exactly once.
        """
        parts = list(parts)
        positions = np.concatenate([part.positions for part in parts])
        if not np.array_equal(np.sort(positions), np.arange(len(self.users))):
            raise ValueError("The parts must hold every evaluated user exactly once.")
        order = np.argsort(positions)
        names = next(part.per_user for part in parts if len(part.positions))
        per_user = {
            name: np.concatenate([part.per_user[name] for part in parts if len(part.positions)])[order]
            for name in names
        }
        recommended = np.sum([part.recommended for part in parts], axis=0)
        metrics = {name: float(np.nanmean(v)) for name, v in per_user.items() if not np.isnan(v).all()}
        for row, k in enumerate(self.ks):
            metrics[f"gini_at_{k}"] = gini(recommended[row])
            metrics[f"coverage_at_{k}"] = coverage(recommended[row])
            for third, name in enumerate(USER_THIRDS):
                members = self.user_third == third
                if members.any():
                    metrics[f"ndcg_at_{k}_{name}"] = float(per_user[f"ndcg_at_{k}"][members].mean())
        return Evaluation(metrics, per_user, self.users, self.notes)

    def _block(self, scorer: Scorer, users: np.ndarray, recommended: np.ndarray) -> dict[str, np.ndarray]:
        """Metrics [n] of some users; adds to ``recommended``."""
        ranked, _ = top_k(scorer, users, max(self.ks), self.exclude, self.seed, chunk_bytes=self.chunk_bytes)
        items = ranked.numpy()
        rows, columns = entries(self.relevant, users)
        hits = _member(items, rows, columns, self.num_items)
        metrics = ranking_metrics(hits, np.bincount(rows, minlength=len(users)), self.ks)

        third_of = self.item_third[items]
        for third, name in enumerate(ITEM_THIRDS):
            inside = np.bincount(rows[self.item_third[columns] == third], minlength=len(users))
            for k, values in ndcg(hits & (third_of == third), inside, self.ks).items():
                metrics[f"ndcg_at_{k}_{name}"] = values

        real = items >= 0
        popularity = np.cumsum(np.where(real, self.popularity[items], 0), axis=1)
        number = np.cumsum(real, axis=1)
        previous = 0
        for row, k in enumerate(self.ks):
            with np.errstate(invalid="ignore"):  # nobody to recommend: 0 / 0
                metrics[f"arp_at_{k}"] = popularity[:, k - 1] / number[:, k - 1]
            new = items[:, previous:k]
            recommended[row:] += np.bincount(new[new >= 0], minlength=self.num_items)
            previous = k
        return metrics


def evaluate(
    scorer: Scorer,
    corpus: "Corpus",
    split: Literal["val", "test"] = "test",
    ks: Sequence[int] = KS,
    *,
    explicit_ks: bool = False,
    seed: int = 0,
    chunk_bytes: int | None = None,
) -> Evaluation:
    """How well a scorer ranks the interactions of a split: an :class:`Evaluator` used once, with its arguments."""
    return Evaluator(corpus, split, ks, explicit_ks=explicit_ks, seed=seed, chunk_bytes=chunk_bytes)(scorer)


def trade_off(scorer: FactorScorer, evaluator: Evaluator, weights: Sequence[float]) -> dict[float, Evaluation]:
    """Accuracy against popularity: the evaluation at each weight of the popularity term.

    Args:
        scorer: its ``bias`` is the popularity term at weight 1 (``τ·b``).
        evaluator: what judges.
        weights: w, 0 removes the term.

    Raises:
        UserError: the scorer has no popularity term, or a weight is none.
    """
    for weight in weights:
        if not np.isfinite(weight) or weight < 0:
            raise UserError(f"A popularity weight is a number of at least 0, not {weight}.")
    bias = getattr(scorer, "bias", None)
    if bias is None:
        raise UserError(
            "This model has no popularity term to weigh. Train one with model.popularity learned or log-count."
        )
    return {w: evaluator(scorer.of(scorer.users, w * bias)) for w in weights}


def _cut_offs(ks: Sequence[int], num_items: int, explicit: bool) -> tuple[tuple[int, ...], tuple[str, ...]]:
    wanted = sorted(set(ks))
    if not wanted or wanted[0] < 1:
        raise UserError(f"evaluate.ks is {list(ks)}: it needs at least one cut-off, each at least 1.")
    kept = tuple(k for k in wanted if k <= num_items)
    beyond = ", ".join(str(k) for k in wanted if k > num_items)
    if not beyond:
        return kept, ()
    if explicit:
        raise UserError(f"evaluate.ks asks for k = {beyond}, but there are only {num_items} items to rank.")
    kept = kept or (num_items,)
    said = ", ".join(map(str, kept))
    return kept, (f"k = {beyond} left out: there are only {num_items} items. Evaluated at k = {said}.",)


def _member(items: np.ndarray, rows: np.ndarray, columns: np.ndarray, num_items: int) -> np.ndarray:
    """Whether items [n, K] of each row are among the pairs (rows, columns) [m], which are sorted: bool [n, K]."""
    pairs = rows * num_items + columns
    asked = np.where(items < 0, -1, items + np.arange(len(items))[:, None] * num_items)
    at = np.minimum(np.searchsorted(pairs, asked), len(pairs) - 1)
    return pairs[at] == asked
