"""What the final models show: scores over seeds, the strongest baseline, paired comparisons, average ranks.

Test figures come from final models alone. What is compared with what is decided without them: the baseline to beat
on a data set is the one with the best *validation* NDCG@10.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from symcere.config.baselines import DEFAULT
from symcere.config.baselines import baselines as known_baselines
from symcere.errors import UserError, nearest
from symcere.evaluation.significance import Comparison, Ranks, average_ranks, compare, correct
from symcere.reporting.collect import Sweep, SweepRun
from symcere.tracking import tag

NDCG, RECALL = "ndcg_at_10", "recall_at_10"
TITLES = {NDCG: "NDCG@10", RECALL: "Recall@10"}


@dataclass(frozen=True)
class Score:
    """A metric over the seeds of one method on one data set."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.values))

    @property
    def sd(self) -> float:
        """Over seeds (n − 1); NaN with one."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else math.nan


@dataclass(frozen=True)
class Gain:
    """The focus against one other method on one data set.

    Attributes:
        comparison: paired over users and seeds; None where ``missing`` says why there is none.
    """

    dataset: str
    other: str
    ours: float
    theirs: float
    comparison: Comparison | None = None
    missing: str = ""

    @property
    def relative(self) -> float:
        """(ours − theirs) / theirs, of the means over seeds; NaN where theirs is 0."""
        return (self.ours - self.theirs) / self.theirs if self.theirs else math.nan


@dataclass(eq=False)
class Results:
    """The final models of a sweep, arranged.

    Args:
        focus: the method whose gain is reported; by default ``symcere`` if it takes part, else the method with the
            best validation NDCG@10 on most data sets.

    Attributes:
        methods: every method with a final model, baselines as ``symcere baselines`` lists them, the focus last.
        rivals: the methods that the focus is measured against.
        elected: the focus was neither asked for nor proposed: it is the best on validation, of all that took part.

    Raises:
        UserError: a ``focus`` that the sweep does not have.
    """

    sweep: Sweep
    focus: str = ""
    methods: list[str] = field(init=False)
    datasets: list[str] = field(init=False)
    rivals: list[str] = field(init=False)
    notes: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.finals: dict[tuple[str, str], list[SweepRun]] = {}
        for run in sorted(self.sweep.finals, key=lambda r: str(r.seed).zfill(12)):
            self.finals.setdefault((run.dataset, run.method), []).append(run)
        self.trials: dict[tuple[str, str], list[SweepRun]] = {}
        for run in self.sweep.trials:
            self.trials.setdefault((run.dataset, run.method), []).append(run)
        self.notes = []
        self.datasets = sorted({dataset for dataset, _ in self.finals})
        present = {method for _, method in self.finals} or {method for _, method in self.trials}
        if self.focus and present and self.focus not in present:
            raise UserError(
                f"The sweep '{self.sweep.name}' has no final model of a method '{self.focus}'. "
                f"{nearest(self.focus, present)}"
            )
        self.elected = not self.focus and DEFAULT not in present
        self.focus = self.focus or (self._best_on_validation(present) if self.elected else DEFAULT)
        order = {name: n for n, name in enumerate(known_baselines())}
        self.methods = sorted({m for _, m in self.finals}, key=lambda m: (m == self.focus, order.get(m, len(order)), m))
        others = [m for m in self.methods if m != self.focus]
        # A variant of the proposed method is no baseline; only where there is nothing else is it what we compare with.
        self.rivals = [m for m in others if not self._proposed(m)] if self._proposed(self.focus) else others
        self.against_variants = not self.rivals and bool(others)
        if self.against_variants:
            self.rivals = others

    def _proposed(self, method: str) -> bool:
        """Whether a method is the proposed one, or a variant of it."""
        runs = (r for of in (self.finals, self.trials) for (_, m), each in of.items() if m == method for r in each)
        return next((r.tags[tag.BASELINE] for r in runs if tag.BASELINE in r.tags), method).startswith(DEFAULT)

    def _best_on_validation(self, methods: set[str]) -> str:
        wins: dict[str, list[float]] = {m: [0, 0.0] for m in sorted(methods)}
        for dataset in self.sweep.datasets:
            seen = {m: v for m in wins if not math.isnan(v := self.validation(dataset, m))}
            if seen:
                winner = max(seen, key=lambda m: seen[m])
                wins[winner][0] += 1
                wins[winner][1] += seen[winner]
        return max(wins, key=lambda m: wins[m]) if wins else ""

    # ------------------------------------------------------------ scores

    def score(self, dataset: str, method: str, metric: str) -> Score | None:
        """A test metric (``ndcg_at_10``) over seeds; None where no final model has it."""
        runs = self.finals.get((dataset, method), [])
        values = [r.metrics[f"test_{metric}"] for r in runs if math.isfinite(r.metrics.get(f"test_{metric}", math.nan))]
        return Score(tuple(values)) if values else None

    def validation(self, dataset: str, method: str) -> float:
        """Validation NDCG@10 of the chosen setting: the mean over final models, else the best finished trial's."""
        values = [r.validation for r in self.finals.get((dataset, method), []) if not math.isnan(r.validation)]
        if values:
            return float(np.mean(values))
        tried = [r.validation for r in self.trials.get((dataset, method), []) if r.finished]
        return max((v for v in tried if not math.isnan(v)), default=math.nan)

    def best(self, dataset: str, metric: str, methods: Sequence[str] = (), place: int = 1) -> list[str]:
        """The methods, all of them or among some, with the best (second best …) mean on the test split."""
        scores = {m: s.mean for m in methods or self.methods if (s := self.score(dataset, m, metric))}
        ranked = sorted(set(scores.values()), reverse=True)
        return [m for m, mean in scores.items() if len(ranked) >= place and mean == ranked[place - 1]]

    def strongest(self, dataset: str) -> str | None:
        """The baseline to beat: the best on validation; where none has a validation value, there is none."""
        seen = {
            m: v
            for m in self.rivals
            if self.score(dataset, m, NDCG) and not math.isnan(v := self.validation(dataset, m))
        }
        return max(seen, key=lambda m: seen[m]) if seen else None

    def without_validation(self) -> list[str]:
        """Baselines that took no part in some choice of the strongest, for want of a validation value."""
        return [
            m for m in self.rivals for d in self.datasets if (d, m) in self.finals and math.isnan(self.validation(d, m))
        ]

    @property
    def searched(self) -> list[str]:
        """Every method with trials, the focus first."""
        return sorted({m for _, m in self.trials}, key=lambda m: (m != self.focus, self.place(m)))

    def place(self, method: str) -> tuple[int, str]:
        """What orders methods: as in ``methods``, those without a final model after them."""
        return (self.methods.index(method) if method in self.methods else len(self.methods), method)

    def strength(self, method: str) -> float:
        """Mean over data sets of the validation value as a share of the best method's; 0 where there is none."""
        shares = []
        for dataset in self.datasets:
            values = {m: 0.0 if math.isnan(v := self.validation(dataset, m)) else v for m in self.methods}
            best = max(values.values(), default=0.0)
            shares.append(values.get(method, 0.0) / best if best else 0.0)
        return float(np.mean(shares)) if shares else 0.0

    def deterministic(self, dataset: str, method: str) -> bool:
        """Whether a method's final models are closed forms, which no seed changes."""
        runs = self.finals.get((dataset, method), [])
        return bool(runs) and all(r.params.get("closed_form.kind", "none") != "none" for r in runs)

    # ------------------------------------------------------------ comparisons

    @functools.cache  # noqa: B019 - lives as long as one report
    def per_user(self, dataset: str, method: str) -> dict[Any, dict[str, np.ndarray]]:
        """By seed, the columns of ``per_user.parquet`` of final models that have it, users in ascending order."""
        found = {}
        for run in self.finals.get((dataset, method), []):
            table = run.table("per_user.parquet")
            if table is not None and "user" in table:
                order = np.argsort(table["user"].astype(str), kind="stable")
                found[run.seed] = {name: column[order] for name, column in table.items()}
        return found

    @functools.cache  # noqa: B019
    def items(self, dataset: str, method: str) -> dict[str, np.ndarray] | None:
        """The columns of ``items.parquet`` of one final model; None without vectors, or with vectors of length 0."""
        runs = self.finals.get((dataset, method), [])
        table = runs[0].table("items.parquet") if runs else None
        usable = table is not None and "norm" in table and np.isfinite(table["norm"]).all()
        return table if usable and np.median(table["norm"]) > 0 else None  # type: ignore[index]

    def gain(self, dataset: str, other: str, metric: str) -> Gain | None:
        """The focus against another method; None where either has no score."""
        ours, theirs = self.score(dataset, self.focus, metric), self.score(dataset, other, metric)
        if ours is None or theirs is None:
            return None
        comparison, missing = self._paired(dataset, other, metric)
        if comparison is not None:  # of the same seeds; a figure and its stars must speak of one thing
            return Gain(dataset, other, comparison.a, comparison.b, comparison, missing)
        return Gain(dataset, other, ours.mean, theirs.mean, None, missing)

    def _paired(self, dataset: str, other: str, metric: str) -> tuple[Comparison | None, str]:
        """The comparison over common seeds (a method without randomness stands against each of the other's), or why
        there is none."""
        a, b = self.per_user(dataset, self.focus), self.per_user(dataset, other)
        if not a or not b:
            return None, "no per-user metrics were stored"
        fixed_a, fixed_b = (self.deterministic(dataset, m) for m in (self.focus, other))
        common = [seed for seed in a if seed in b]
        one = list(a)[:1] if fixed_a else list(a) if fixed_b else common
        two = list(b)[:1] if fixed_b else list(b) if fixed_a else common
        if not one or not two:
            return None, "the two methods have no seed in common"
        tables = [*(a[s] for s in one), *(b[s] for s in two)]
        if any(metric not in t for t in tables):
            return None, f"{metric} of each user was not stored"
        if any(not np.array_equal(t["user"], tables[0]["user"]) for t in tables):
            return None, "the two were judged on different users"
        ours, theirs = (np.stack([t[metric] for t in part]) for part in (tables[: len(one)], tables[len(one) :]))
        try:
            return compare(ours, theirs), ""
        except ValueError as error:
            return None, str(error)

    @functools.cache  # noqa: B019
    def headline(self, metric: str) -> dict[str, Gain]:
        """The focus against the strongest baseline of each data set; Holm over the data sets."""
        wanted = [(d, other) for d in self.datasets if (other := self.strongest(d))]
        return {gain.dataset: gain for gain in self._corrected(wanted, metric)}

    @functools.cache  # noqa: B019
    def everyone(self, metric: str) -> list[Gain]:
        """The focus against every other method on every data set; Holm over all of these."""
        wanted = [(d, m) for d in self.datasets for m in self.methods if m != self.focus]
        return self._corrected(wanted, metric)

    def _corrected(self, wanted: Sequence[tuple[str, str]], metric: str) -> list[Gain]:
        gains = [g for dataset, other in wanted if (g := self.gain(dataset, other, metric))]
        tested = correct({f"{n}": g.comparison for n, g in enumerate(gains) if g.comparison is not None})
        return [Gain(g.dataset, g.other, g.ours, g.theirs, tested.get(f"{n}"), g.missing) for n, g in enumerate(gains)]

    def ranks(self) -> tuple[Ranks | None, list[str], list[str]]:
        """Average ranks by test NDCG@10.

        Returns:
            the ranks of all methods that have every data set (None if fewer than two), these data sets (without those
            where no method has it, since their catalogue is too small), and the methods left out.
        """
        datasets = [d for d in self.datasets if any(self.score(d, m, NDCG) for m in self.methods)]
        complete = [m for m in self.methods if all(self.score(d, m, NDCG) for d in datasets)]
        left = [m for m in self.methods if m not in complete]
        if len(complete) < 2 or not datasets:
            return None, datasets, left
        scores = {m: [self.score(d, m, NDCG).mean for d in datasets] for m in complete}  # type: ignore[union-attr]
        return average_ranks(scores), datasets, left
