"""A small world with planted words, a model trained on it, and an encoder whose words simply add up."""

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest

from symcere import steps
from symcere.data.corpus import Corpus, Entries
from symcere.data.synthetic import Synthetic

WORLD = {"users": "150", "items": "80", "reviews": "1500", "min_reviews": "5", "values": "4", "seed": "1"}


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Home, run names (text by LSA; ids alone), and the truth of a planted world."""
    home = tmp_path_factory.mktemp("planted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYMCERE_HOME", str(home))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        corpus = steps.prepare("synthetic", columns=WORLD)
        text = steps.train(
            "synthetic",
            settings={"text.encoders": "lsa", "train.lr": 0.01, "train.epochs": 15, "train.batch_size": 512},
            test=False,
        )
        ids = steps.train("synthetic", method="lightgcn", settings={"train.epochs": 1}, test=False)
        restored = steps.restore(text.name)
    truth = Synthetic.from_options(WORLD).truth().numbered_as(corpus.user_ids, corpus.item_ids)
    return SimpleNamespace(
        home=home,
        text=text.name,
        ids=ids.name,
        corpus=corpus,
        model=restored.fitted.model,
        embeddings=restored.embeddings,
        truth=truth,
    )


@pytest.fixture
def in_world(world, monkeypatch):
    """The world, with its home as the current one."""
    monkeypatch.setenv("SYMCERE_HOME", str(world.home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return world


class Bag:
    """An encoder that adds the vectors of a text's words, each at random by its hash, and normalises the sum."""

    sample = 0
    width = 24

    def __init__(self, settings):
        self.settings, self.identity, self.asked = settings, {"kind": "bag", "name": settings.name}, 0

    @staticmethod
    def vector(word):
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
        return np.random.default_rng(seed).normal(size=Bag.width)

    def fit(self, texts):
        raise AssertionError

    def encode(self, texts, advance=None):
        self.asked += len(texts)
        sums = np.stack([sum((self.vector(w) for w in t.lower().split()), np.zeros(self.width)) for t in texts])
        if advance:
            advance(len(texts))
        return (sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)).astype(np.float32)

    def reads(self, text):
        return len(text)

    def save(self, folder):
        pass

    def restore(self, folder):
        pass


@pytest.fixture
def tiny(tmp_path):
    """Eight users and six items; item 0 has three reviews, one of them empty; item 5 has an empty one alone."""
    rng = np.random.default_rng(3)
    words = [f"word{n}" for n in range(30)]
    pairs = sorted({(u, (u + k) % 5) for u in range(8) for k in range(2)} | {(7, 5)})
    texts = ["" if pair in ((0, 0), (7, 5)) else " ".join(rng.choice(words, 12, replace=False)) for pair in pairs]
    users, items = (np.array(column) for column in zip(*pairs, strict=True))
    held = Entries(np.array([0, 7]), np.array([3, 1]), ["held out", "held out"])
    return Corpus.write(
        tmp_path / "tiny",
        name="tiny",
        user_ids=[f"u{n}" for n in range(8)],
        item_ids=[f"i{n}" for n in range(6)],
        train=Entries(users, items, texts),
        val=held,
        test=Entries(np.array([], int), np.array([], int), []),
    )


@pytest.fixture
def bag(tiny, tmp_path):
    """Embeddings of ``tiny`` by :class:`Bag`."""
    from symcere.config import Encoder, Text
    from symcere.text import embed

    return embed(tiny, Text((Encoder("bag"),)), tmp_path / "embeddings", encoder_factory=Bag)
