"""How much of a ranking is popularity: who is recommended, and who is served."""

import numpy as np

ITEM_THIRDS = ("tail", "middle", "head")
USER_THIRDS = ("light", "regular", "heavy")


def thirds(counts: np.ndarray) -> np.ndarray:
    """Thirds of nodes by their training interactions, each holding about a third of all *interactions*.

    Thirds by number of nodes would leave the tail without test interactions wherever popularity is skewed. Nodes
    with equal counts stay together (a cut between them would be a cut between indices): each level of count goes
    where the middle of its interactions lies, so a third may be empty, and is where all counts are equal.

    Args:
        counts: int [n], training interactions of each item (or user).

    Returns:
        int8 [n]: 0 the least popular (tail, light), 1, 2 the most popular (head, heavy).
    """
    levels, where, members = np.unique(counts, return_inverse=True, return_counts=True)
    mass = levels.astype(np.float64) * members
    below = np.cumsum(mass) - mass
    share = (below + mass / 2) / max(mass.sum(), 1)
    return np.clip(share * 3, 0, 2).astype(np.int8)[where]


def gini(counts: np.ndarray) -> float:
    """Gini coefficient of how often each item is recommended: 0 all equally, towards 1 all to one item.

    ``G = Σ_j (2j − n − 1) c_(j) / (n Σ c)`` over counts sorted upwards, never recommended items among them.

    Args:
        counts: int [I].
    """
    total, n = counts.sum(), len(counts)
    if total == 0:
        return 0.0
    return float((2 * np.arange(1, n + 1) - n - 1) @ np.sort(counts) / (n * total))


def coverage(counts: np.ndarray) -> float:
    """Share of the items that are recommended to anybody; ``counts`` int [I] as in :func:`gini`."""
    return float(np.count_nonzero(counts) / len(counts))


def norm_correlation(norms: np.ndarray, popularity: np.ndarray) -> float:
    """Spearman correlation of vector length with popularity: what "magnitude is popularity" means in a number.

    Args:
        norms: float [n], lengths of the nodes' vectors.
        popularity: int [n], their training interactions.

    Returns:
        -1..1; NaN where either is constant, as lengths are, up to rounding, after l2 normalisation.
    """
    from scipy import stats  # half a second that training does not need

    norms = np.asarray(norms, dtype=np.float64)
    if len(norms) < 2 or np.ptp(norms) <= 1e-5 * np.abs(norms).max() or np.ptp(popularity) == 0:
        return float("nan")
    return float(stats.spearmanr(norms, popularity).statistic)
