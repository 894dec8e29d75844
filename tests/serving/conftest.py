"""A tiny world with three tastes: each third of the users writes about, and buys from, one third of the items."""

import numpy as np
import pytest

from symcere.config import Experiment
from symcere.config.fields import to_dict
from symcere.data.corpus import Corpus, Entries
from symcere.text import embed

WORDS = (
    ("guitar neck is straight", "the maple fretboard feels fast", "strings stay in tune"),
    ("pool water was warm", "the breakfast room was sunny", "beach is a short walk away"),
    ("gasket fits the pump", "rubber seal does not leak", "oil filter thread matches exactly"),
)
USERS, ITEMS = 36, 18
QUICK = {
    "text.encoders": "lsa",
    "model.dim": 8,
    "train.epochs": 8,
    "train.lr": 0.02,
    "train.batch_size": 64,
    "data.core": 1,
}


def make_corpus(path, name="tiny"):
    rng = np.random.default_rng(5)
    splits = {"train": ([], [], []), "val": ([], [], []), "test": ([], [], [])}
    for user in range(USERS):
        taste = user % 3
        liked = rng.permutation(np.arange(taste, ITEMS, 3))
        for n, item in enumerate(liked):
            split = "test" if n == 0 else "val" if n == 1 else "train"
            said = rng.permutation(WORDS[taste])[:2]
            number = rng.integers(1000)
            text = f"I tell you the {said[0]}. And {said[1]}, model {number}." if rng.random() > 0.05 else ""
            for column, value in zip(splits[split], (user, item, text), strict=True):
                column.append(value)
    entries = {}
    for split, (users, items, texts) in splits.items():
        order = np.lexsort((items, users))
        entries[split] = Entries(np.array(users)[order], np.array(items)[order], [texts[k] for k in order])
    return Corpus.write(
        path,
        name=name,
        user_ids=[f"ann-{n:03}" for n in range(USERS)],
        item_ids=[f"thing-{n:03}" for n in range(ITEMS)],
        item_titles=[f"Thing number {n}" if n else None for n in range(ITEMS)],
        settings=to_dict(Experiment().replace({"data.dataset": name, "data.core": 1}).data),
        **entries,
    )


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("served") / "tiny")


@pytest.fixture(scope="session")
def embeddings(corpus, tmp_path_factory):
    text = Experiment().replace(QUICK).text
    return embed(corpus, text, tmp_path_factory.mktemp("embedded"))


@pytest.fixture(scope="session")
def service(corpus, embeddings):
    from symcere.serving import Service
    from symcere.training import fit

    return Service.of(fit(corpus, embeddings, Experiment().replace(QUICK)), corpus, embeddings, "tiny-symcere")


@pytest.fixture(scope="session")
def served_home(tmp_path_factory):
    """A home that holds the tiny corpus."""
    home = tmp_path_factory.mktemp("served") / "home"
    make_corpus(home / "corpora" / "tiny")
    return home


@pytest.fixture(autouse=True)
def _in_served_home(request, monkeypatch):
    if "served_home" in request.fixturenames:
        monkeypatch.setenv("SYMCERE_HOME", str(request.getfixturevalue("served_home")))
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="session")
def stored_run(served_home):
    """A trained, tracked run."""
    from symcere import steps

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYMCERE_HOME", str(served_home))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return steps.train("tiny", settings={k: v for k, v in QUICK.items() if not k.startswith("data")})
