"""Ranking metrics of each user, from which of the recommended items are relevant.

Relevance is binary. A user's ideal ranking has ``min(k, |relevant|)`` hits: the ideal DCG and the average precision
are over that many, so that a perfect list scores 1 whatever its user holds.
"""

from collections.abc import Sequence

import numpy as np


def discounts(k: int) -> np.ndarray:
    """``1 / log2(r + 1)`` for the ranks r = 1..k: float64 [k]."""
    return 1 / np.log2(np.arange(2, k + 2))


def ndcg(hits: np.ndarray, relevant: np.ndarray, ks: Sequence[int]) -> dict[int, np.ndarray]:
    """Normalised discounted cumulative gain (Järvelin & Kekäläinen 2002), ``DCG@k / IDCG@k``.

    Args:
        hits: bool [n, K], whether the item at each rank is relevant; K ≥ max(ks).
        relevant: int [n], how many items are relevant to each user.
        ks: cut-offs.

    Returns:
        for each k float64 [n]; NaN where nothing is relevant.
    """
    weights = discounts(hits.shape[1])
    dcg = np.cumsum(hits * weights, axis=1)
    ideal = np.concatenate([[np.nan], np.cumsum(weights)])
    return {k: dcg[:, k - 1] / ideal[np.minimum(relevant, k)] for k in ks}


def ranking_metrics(hits: np.ndarray, relevant: np.ndarray, ks: Sequence[int]) -> dict[str, np.ndarray]:
    """All metrics of users who have a relevant item.

    ``ndcg``; ``recall``: hits / |relevant|; ``precision``: hits / k; ``hit_rate``: whether there is a hit; ``mrr``:
    1 / rank of the first hit, 0 without one; ``map``: precision at each hit, summed, over min(k, |relevant|).

    Args:
        hits, relevant, ks: as in :func:`ndcg`; ``relevant`` ≥ 1.

    Returns:
        float64 [n] under names like ``recall_at_10``.
    """
    places = np.arange(1, hits.shape[1] + 1)
    found = np.cumsum(hits, axis=1)
    precision = np.cumsum(hits * (found / places), axis=1)
    first = np.where(hits.any(axis=1), hits.argmax(axis=1), hits.shape[1])  # 0-based; beyond the list without a hit
    gains = ndcg(hits, relevant, ks)
    metrics: dict[str, np.ndarray] = {}
    for k in ks:
        number = found[:, k - 1]
        metrics |= {
            f"ndcg_at_{k}": gains[k],
            f"recall_at_{k}": number / relevant,
            f"precision_at_{k}": number / k,
            f"hit_rate_at_{k}": (number > 0).astype(np.float64),
            f"mrr_at_{k}": np.where(first < k, 1 / (first + 1), 0.0),
            f"map_at_{k}": precision[:, k - 1] / np.minimum(relevant, k),
        }
    return metrics
