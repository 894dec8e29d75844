"""Corpora of a few hundred reviews, drawn from a seed, and embeddings that need no encoder."""

import numpy as np
import pytest

from symcere.data.corpus import Corpus, Entries
from symcere.text import Embeddings

WORDS = ("gasket", "valve", "pump", "hose", "string", "fret", "amp", "pedal", "good", "bad", "fine", "late")
SPLITS = ("train", "val", "test")


def draw(seed: int = 0, users: int = 30, items: int = 20) -> dict[str, Entries]:
    """Reviews of two topics by split: a user mostly picks items of one, and words follow the item's topic."""
    rng = np.random.default_rng(seed)
    rows: dict[str, list[tuple[int, int, str]]] = {split: [] for split in SPLITS}
    for user in range(users):
        weights = np.where(np.arange(items) % 2 == user % 2, 4.0, 1.0) * (1 + np.arange(items) % 5)
        picked = rng.choice(items, size=rng.integers(5, 10), replace=False, p=weights / weights.sum())
        for number, item in enumerate(picked):
            topic = WORDS[4 * (item % 2) : 4 * (item % 2) + 4]
            text = " ".join([*rng.choice(topic, 4), *rng.choice(WORDS[8:], 2)]) if rng.random() > 0.15 else ""
            rows[SPLITS[(number == 0) + 2 * (number == 1)]].append((user, int(item), text))
    return {split: entries(found) for split, found in rows.items()}


def entries(rows: list[tuple[int, int, str]]) -> Entries:
    rows = sorted(rows)
    return Entries(np.array([u for u, _, _ in rows]), np.array([i for _, i, _ in rows]), [t for _, _, t in rows])


def write(path, splits: dict[str, Entries], users: int = 30, items: int = 20, name: str = "tiny") -> Corpus:
    ids = {"user_ids": [f"u{n:03}" for n in range(users)], "item_ids": [f"i{n:03}" for n in range(items)]}
    return Corpus.write(path, name=name, **ids, **splits)


def embedded(corpus: Corpus, width: int = 6, seed: int = 0) -> Embeddings:
    """A direction for each word, each review the sum of its words': float16 rows of length one, zero without text."""
    of_word = dict(zip(WORDS, np.random.default_rng(seed).normal(size=(len(WORDS), width)), strict=True))
    found = np.zeros((corpus.train.nnz, width), np.float16)
    for k, text in enumerate(corpus.texts("train").to_pylist()):
        if text:
            row = sum(of_word[word] for word in text.split())
            found[k] = row / np.linalg.norm(row)
    return Embeddings(corpus.path, found, [("words", width)], corpus.fingerprint)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Corpus:
    return write(tmp_path_factory.mktemp("corpora") / "tiny", draw())


@pytest.fixture(scope="session")
def embeddings(corpus) -> Embeddings:
    return embedded(corpus)


@pytest.fixture
def draw_reviews():
    return draw


@pytest.fixture
def write_corpus():
    return write


@pytest.fixture
def embed_words():
    return embedded
