"""Is one model better than another? Paired over users and over seeds, with corrections for many comparisons.

Two samples stand behind every mean: users, of all that might have come, and seeds, of all that might have been
drawn. A test over users alone calls a lucky seed significant; a test over three seeds alone has no power. Both are
taken as random here, crossed: every seed is judged on every user. For the differences ``D[s, u]`` of two models

    D[s, u] = δ + seed_s + user_u + error_su        Var(mean D) = (MS_users + MS_seeds - MS_error) / (S n)

with the mean squares of the two-way table and Satterthwaite's degrees of freedom: the quasi-F of crossed random
effects (Satterthwaite 1946; Clark 1973, "The language-as-fixed-effect fallacy"). With one seed, or where seeds differ
by no more than chance, it is the paired t-test over users on the average of the seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import factorial

import numpy as np


@dataclass(frozen=True)
class Comparison:
    """Model a against model b on one data set, by one metric."""

    a: float
    """Mean of a over users and seeds."""
    b: float
    difference: float
    """a − b."""
    low: float
    """Lower end of the confidence interval of the difference, over users and seeds."""
    high: float
    p: float
    """Two-sided, over users and seeds."""
    p_users: float
    """Two-sided, over users alone: speaks of these trained models, not of their training."""
    effect: float
    """Difference in standard deviations of the users' differences (Cohen's d_z); 0.2 is called small."""
    df: float
    users: int
    seeds: int
    p_holm: float | None = None
    """``p`` corrected for the number of comparisons made together; None if it stood alone."""

    @property
    def relative(self) -> float:
        """Improvement of a over b as a share of b; infinite where b is 0."""
        return self.difference / self.b if self.b else float("inf") * np.sign(self.difference)

    @property
    def marks(self) -> str:
        """``***``, ``**``, ``*`` for a (corrected) p under .001, .01, .05, else nothing."""
        p = self.p if self.p_holm is None else self.p_holm
        return "***" if p < 0.001 else "**" if p < 0.01 else "*" if p < 0.05 else ""


def compare(a: np.ndarray, b: np.ndarray, level: float = 0.95) -> Comparison:
    """Two models, judged on the same users.

    Args:
        a, b: float [S, n] (or [n]), a metric of each user, users in the same order, one row for each seed, the same
            seeds in the same order; a model without randomness may have one row against S of the other. Users with
            a NaN in either are left out.
        level: of the confidence interval.

    Raises:
        ValueError: shapes do not fit, or fewer than two users remain.
    """
    from scipy import stats  # half a second that training does not need

    a, b = (np.atleast_2d(np.asarray(m, dtype=np.float64)) for m in (a, b))
    if a.shape[1] != b.shape[1] or (len(a) != len(b) and 1 not in (len(a), len(b))):
        raise ValueError(f"Models of {a.shape} and {b.shape} [seeds, users] cannot be paired.")
    kept = ~(np.isnan(a).any(0) | np.isnan(b).any(0))
    a, b = a[:, kept], b[:, kept]
    D = a - b  # [S, n]
    S, n = D.shape
    if n < 2:
        raise ValueError(f"{n} users are too few to compare on.")
    difference = float(D.mean())
    of_users = D.mean(0)
    variance, df = _variance(D)
    error = np.sqrt(variance)
    half = stats.t.ppf((1 + level) / 2, df) * error
    spread = float(of_users.std(ddof=1))
    return Comparison(
        a=float(a.mean()),
        b=float(b.mean()),
        difference=difference,
        low=float(difference - half),
        high=float(difference + half),
        p=_two_sided(difference, error, df),
        p_users=_two_sided(difference, spread / np.sqrt(n), n - 1),
        effect=difference / spread if spread else 0.0,
        df=float(df),
        users=n,
        seeds=S,
    )


def against(model: np.ndarray, others: Mapping[str, np.ndarray], level: float = 0.95) -> dict[str, Comparison]:
    """One model against each of several on one data set, ``p_holm`` corrected for their number.

    Args:
        model: float [S, n], as in :func:`compare`.
        others: the same for each other model, by name.
    """
    return correct({name: compare(model, other, level) for name, other in others.items()})


def correct(comparisons: Mapping[str, Comparison]) -> dict[str, Comparison]:
    """The same comparisons, ``p_holm`` filled in for all of them as one family."""
    adjusted = holm([c.p for c in comparisons.values()])
    return {name: replace(c, p_holm=float(p)) for (name, c), p in zip(comparisons.items(), adjusted, strict=True)}


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm's (1979) step-down correction: adjusted p-values [m], in the order given, which together keep the
    probability of any false positive at the level, whatever the dependence."""
    p = np.asarray(p, dtype=np.float64)
    order = np.argsort(p)
    raised = np.maximum.accumulate(np.arange(len(p), 0, -1) * p[order])
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(raised, 1)
    return adjusted


@dataclass(frozen=True)
class Ranks:
    """Average ranks of methods over data sets (Demšar 2006)."""

    methods: tuple[str, ...]
    ranks: np.ndarray
    """float64 [M], 1 is best; equal scores share the mean of their ranks."""
    p: float
    """Of Friedman's test: small if some method differs from some other."""
    critical_difference: float
    """Nemenyi's: two methods whose ranks differ by less are not told apart. NaN with one data set."""
    datasets: int


def average_ranks(scores: Mapping[str, Sequence[float]], level: float = 0.05) -> Ranks:
    """Ranks of at least two methods over data sets, with Friedman's test and Nemenyi's critical difference.

    ``CD = q_level,M sqrt(M (M + 1) / (6 N))``, q the studentised range at infinite degrees of freedom over √2.

    Args:
        scores: for each method its score on every data set, higher is better, in one order of data sets.
        level: probability of any false difference.

    Raises:
        ValueError: fewer than two methods, or not every method has every data set.
    """
    from scipy import stats  # half a second that training does not need

    table = np.array([list(row) for row in scores.values()], dtype=np.float64).T  # [N, M]
    if table.ndim != 2 or table.shape[1] < 2 or not np.isfinite(table).all():
        raise ValueError("Average ranks need two methods or more, each with a score on every data set.")
    N, M = table.shape
    ranked = stats.rankdata(-table, axis=1)
    ranks = ranked.mean(0)
    # Friedman's statistic with ties, in the F form of Iman & Davenport (1980), which is less conservative. Methods
    # that never change places leave no error term; the chance that all data sets agree on one order is exact.
    between = N * ((ranks - (M + 1) / 2) ** 2).sum()
    within = ((ranked - (M + 1) / 2) ** 2).sum()
    if N < 2:
        p = float("nan")
    elif within - between < 1e-9:
        orders = factorial(M) / np.prod([factorial(n) for n in np.unique(ranked[0], return_counts=True)[1]])
        p = float(orders) ** (1 - N)
    else:
        p = float(stats.f.sf((N - 1) * between / (within - between), M - 1, (M - 1) * (N - 1)))
    q = stats.studentized_range.ppf(1 - level, M, np.inf) / np.sqrt(2)
    width = float(q * np.sqrt(M * (M + 1) / (6 * N))) if N > 1 else float("nan")
    return Ranks(tuple(scores), ranks, p, width, N)


def _variance(D: np.ndarray) -> tuple[float, float]:
    """Variance of the mean of crossed differences [S, n] and its degrees of freedom."""
    S, n = D.shape
    users, seeds = D.mean(0), D.mean(1)
    total = D.mean()
    ms_users = S * ((users - total) ** 2).sum() / (n - 1)
    alone = ms_users / (S * n), n - 1.0
    if S == 1:
        return alone
    ms_seeds = n * ((seeds - total) ** 2).sum() / (S - 1)
    ms_error = ((D - users - seeds[:, None] + total) ** 2).sum() / ((S - 1) * (n - 1))
    if ms_seeds <= ms_error:  # seeds differ by no more than chance
        return alone
    if ms_users <= ms_error:
        return ms_seeds / (S * n), S - 1.0
    mean_squares = np.array([ms_users, ms_seeds, -ms_error])
    df = mean_squares.sum() ** 2 / (mean_squares**2 / [n - 1, S - 1, (n - 1) * (S - 1)]).sum()
    return mean_squares.sum() / (S * n), df


def _two_sided(difference: float, error: float, df: float) -> float:
    from scipy import stats  # half a second that training does not need

    if error == 0:
        return 1.0 if difference == 0 else 0.0
    return float(2 * stats.t.sf(abs(difference) / error, df))
