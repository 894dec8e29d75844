"""Phrases that say why: the sentence of an item's reviews whose vector lies closest to the user's."""

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest

import numpy as np
import torch
from torch import Tensor

from symcere.data.corpus import Corpus
from symcere.serving.newcomers import Newcomers

MOST = 24
"""Sentences of an item that are looked at: from as many reviews as there are, one of each in turn."""
WORDS = (4, 30)
"""Shorter sentences say nothing, longer ones are cut."""
MEMORY = 50_000
"""Sentences whose vectors are kept for the next request."""

_END = re.compile(r"(?<=[.!?…])[\"')\]]*\s+|\n+")


def split(text: str) -> list[str]:
    """The sentences of a text that are long enough to say something, each cut at a number of words.

    >>> split("Great! The neck is straight and fast. Ok.")
    ['The neck is straight and fast.']
    """
    found = []
    for sentence in _END.split(text):
        words = sentence.split()
        if len(words) >= WORDS[0]:
            found.append(" ".join(words) if len(words) <= WORDS[1] else " ".join(words[: WORDS[1]]) + " …")
    return found


def chosen(texts: Iterable[str], most: int = MOST) -> list[str]:
    """Up to ``most`` different sentences of some reviews, one of each review in turn."""
    rounds = zip_longest(*(split(text) for text in texts))
    distinct: dict[str, str] = {}
    for turn in rounds:
        for sentence in turn:
            if sentence:
                distinct.setdefault(sentence.casefold(), sentence)
                if len(distinct) == most:
                    return list(distinct.values())
    return list(distinct.values())


def sentences(corpus: Corpus) -> Callable[[int], list[str]]:
    """What yields the sentences of an item's *training* reviews, read when they are asked for."""
    by_item = np.argsort(corpus.train.indices, kind="stable")
    starts = np.concatenate([[0], np.cumsum(corpus.item_popularity)])
    texts = corpus.texts("train")

    def of(item: int) -> list[str]:
        rows = by_item[starts[item] : starts[item + 1]]
        # Enough reviews for all turns; those of a bestseller are not all read.
        return chosen(text for text in texts.take(rows[: 4 * MOST]).to_pylist() if text)

    return of


class Reasons:
    """Chooses, for a user's recommended items, a sentence of each item's reviews.

    Args:
        newcomers: whose text tower gives a sentence its vector, as to a new node that has no edges.
        encode: texts → float32 [n, t].
        sentences: of an item, by its number.
    """

    def __init__(
        self,
        newcomers: Newcomers,
        encode: Callable[[Sequence[str]], np.ndarray],
        sentences: Callable[[int], Sequence[str]],
    ):
        self.newcomers, self.encode, self.sentences = newcomers, encode, sentences
        self._vectors: dict[str, Tensor | None] = {}

    def choose(self, Z: Tensor, items: Sequence[Sequence[int]]) -> list[list[str | None]]:
        """The best sentence of each item, for each user; no sentence twice for one user, None where there is none.

        Args:
            Z: scored vectors of the users, [B, dim of Z].
            items: recommended to each, best first.
        """
        of_item = {item: self.sentences(item) for item in {i for row in items for i in row}}
        vectors = self._vectors_of([s for found in of_item.values() for s in found])
        users = self.newcomers.compared(Z)
        told: list[list[str | None]] = []
        for user, row in zip(users, items, strict=True):
            used: set[str] = set()
            phrases: list[str | None] = []
            for item in row:
                left = [s for s in of_item[item] if s.casefold() not in used and vectors[s] is not None]
                if not left:
                    phrases.append(None)
                    continue
                match = torch.stack([v for s in left if (v := vectors[s]) is not None]) @ user
                phrases.append(left[int(match.argmax())])
                used.add(left[int(match.argmax())].casefold())
            told.append(phrases)
        return told

    def _vectors_of(self, wanted: Sequence[str]) -> dict[str, Tensor | None]:
        """Vectors of length one, kept for the next time; None for a text without any known word."""
        vectors = self._vectors  # other threads may put another one in its place, never take from it
        new = list(dict.fromkeys(s for s in wanted if s not in vectors))
        if new:
            if len(vectors) + len(new) > MEMORY:
                kept = set(wanted)
                vectors = self._vectors = {s: v for s, v in vectors.items() if s in kept}
            X = self.encode(new)
            T = torch.nn.functional.normalize(self.newcomers.text(X), dim=1)
            known = np.any(X, axis=1)
            vectors.update({s: T[k].clone() if known[k] else None for k, s in enumerate(new)})
        return vectors
