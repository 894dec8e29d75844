"""Text profiles of users and items: means over the embeddings of their own training reviews."""

from typing import Literal

import numpy as np
from scipy.sparse import csr_array

from symcere.data.corpus import Corpus
from symcere.text.embeddings import Embeddings

BLOCK = 2**15
"""Reviews at a time: bounds the memory beside the result at a few times BLOCK · t floats."""


def profiles(
    corpus: Corpus, embeddings: Embeddings, user_profile: Literal["reviews", "items"] = "reviews"
) -> tuple[np.ndarray, np.ndarray]:
    """Mean embedding of the training reviews of every node, users first, then items.

    A review without text (a zero row) does not count. Validation and test reviews never enter: there is no embedding
    of them.

    Args:
        user_profile: ``items`` makes a user's profile the mean of the profiles of the items of their training
            interactions instead (AlphaRec, arXiv 2407.05441).

    Returns:
        float32 ``[U + I, t]``, zero where there is no text, and bool ``[U + I]``, whether there is.
    """
    train, reviews = corpus.train, embeddings.reviews
    U, N, t = corpus.num_users, corpus.num_users + corpus.num_items, reviews.shape[1]
    total, count = np.zeros((N, t), np.float32), np.zeros(N, np.int64)
    user_of = np.repeat(np.arange(U), np.diff(train.indptr))
    for start in range(0, len(reviews), BLOCK):
        rows = slice(start, min(start + BLOCK, len(reviews)))
        X = np.asarray(reviews[rows], np.float32)
        with_text = np.flatnonzero(X.any(axis=1))
        # Review k belongs to two nodes, its user and its item: M [nodes of this block, reviews of this block].
        nodes = np.concatenate([user_of[rows][with_text], U + train.indices[rows][with_text]])
        nodes, row = np.unique(nodes, return_inverse=True)
        ones = np.ones(len(row), np.float32)
        M = csr_array((ones, (row, np.tile(with_text, 2))), shape=(len(nodes), len(X)))
        total[nodes] += M @ X
        count[nodes] += np.bincount(row, minlength=len(nodes))
    total /= np.maximum(count, 1)[:, None]
    has_text = count > 0
    if user_profile == "items":
        known = has_text[U:].astype(np.float32)
        items_with_text = train @ known
        total[:U] = (train @ total[U:]) / np.maximum(items_with_text, 1)[:, None]
        has_text[:U] = items_with_text > 0
    return total, has_text
