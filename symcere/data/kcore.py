"""The iterated k-core of a bipartite graph: every user and every item keeps at least k interactions."""

import numpy as np


def core(users: np.ndarray, items: np.ndarray, k: int) -> np.ndarray:
    """Positions of the pairs that remain once nodes of degree below ``k`` are taken away again and again.

    Args:
        users, items: ``[n]`` whole numbers, one distinct (user, item) pair per position.

    Returns:
        int64 ``[kept]``, ascending. The result does not depend on the order of removal: the k-core is unique.
    """
    kept = np.arange(len(users))
    while True:
        u, i = users[kept], items[kept]
        stays = (np.bincount(u)[u] >= k) & (np.bincount(i)[i] >= k)
        if stays.all():
            return kept
        kept = kept[stays]


def deepest(users: np.ndarray, items: np.ndarray) -> int:
    """The largest k whose k-core is not empty; 0 without any pair. Cores are nested, so the search only shrinks."""
    k = 0
    while len(users):
        inside = core(users, items, k + 1)
        users, items = users[inside], items[inside]
        k += len(inside) > 0
    return k
