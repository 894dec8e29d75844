"""Small corpora, a counting encoder, and the packaged MiniLM."""

import hashlib
import json

import numpy as np
import pytest

from symcere.config import Encoder
from symcere.data.corpus import Corpus, Entries
from symcere.errors import UserError


def reviews(rng, users=20, items=15, n=120):
    """Sorted, distinct (user, item) pairs with every user and item present, and one text each."""
    every = (np.arange(users) * items, items + np.arange(items))
    pairs = np.unique(np.concatenate([rng.integers(0, users * items, n), *every]))
    words = ["good", "bad", "room", "gasket", "wall", "oil", "late", "cheap", "pool", "bus", "string", "amp", "neck"]
    texts = [" ".join(rng.choice(words, rng.integers(3, 12))) for _ in pairs]
    return Entries(pairs // items, pairs % items, texts)


def write(path, train, val=(), test=(), users=20, items=15, name="tiny"):
    """A corpus from entries of the three splits."""
    nothing = Entries(np.array([], int), np.array([], int), [])
    return Corpus.write(
        path,
        name=name,
        user_ids=[f"u{n:04}" for n in range(users)],
        item_ids=[f"i{n:04}" for n in range(items)],
        train=train,
        val=val or nothing,
        test=test or nothing,
    )


class Hashing:
    """A stand-in encoder: a random direction by the hash of a text; it writes down what it was asked."""

    sample = 0

    def __init__(self, settings, calls=None, version="1"):
        self.width, self.calls = 8, calls if calls is not None else []
        self.identity = {"kind": "hashing", "name": settings.name, "version": version}

    def fit(self, texts):
        raise AssertionError

    def encode(self, texts, advance=None):
        assert all(t.strip() for t in texts)
        self.calls.append(list(texts))
        seeds = [int.from_bytes(hashlib.sha256(t.encode()).digest()[:8], "little") for t in texts]
        vectors = np.stack([np.random.default_rng(s).normal(size=self.width) for s in seeds])
        if advance:
            advance(len(texts))
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    def save(self, folder):
        (folder / "hashing.json").write_text(json.dumps(self.identity))

    def restore(self, folder):
        assert (folder / "hashing.json").exists()


@pytest.fixture
def make_reviews():
    return reviews


@pytest.fixture
def write_corpus():
    return write


@pytest.fixture
def hashing():
    return Hashing


@pytest.fixture(scope="session")
def minilm():
    """all-MiniLM-L6-v2, or a skip with the reason."""
    from symcere.text.transformer import Transformer

    try:
        return Transformer(Encoder(max_tokens=64))
    except UserError as error:
        pytest.skip(str(error))
