"""Corpora whose answer is known: what every method must find, and what each idea must be worth.

Reviews with planted truth (:mod:`symcere.data.synthetic`) go the whole way: prepared, embedded by LSA, trained, judged
on the test split. Figures in comments are test NDCG@10 as seen; the asserted margins leave room for another machine.
"""

import dataclasses
import statistics

import pytest

from symcere.config import Data, Encoder, Text
from symcere.config.baselines import baseline, baselines
from symcere.config.fields import build
from symcere.data import cards
from symcere.data.prepare import prepare
from symcere.data.synthetic import communities
from symcere.evaluation import Evaluator
from symcere.text import embed
from symcere.training import fit


def ndcg(corpus, embeddings, setup, *seeds: int) -> float:
    """Mean test NDCG@10 over seeds."""
    judge = Evaluator(corpus, "test", (10,))
    found = [fit(corpus, embeddings, setup.replace({"train.seed": seed})) for seed in seeds or (0,)]
    return statistics.mean(judge(fitted.scorer).metrics["ndcg_at_10"] for fitted in found)


# ---------------------------------------------------------------- two communities


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """30 users and 24 items each; all of the own community's items are in one of the splits."""
    folder = tmp_path_factory.mktemp("two")
    reviews, split = communities().write(folder)
    data = build(Data, {"dataset": "two", "core": 1, "split": {"kind": "files", "files": str(split)}})
    corpus = prepare(cards.own("two", [reviews]), data, [reviews], folder / "corpus")
    # 480 short reviews of two kinds: more dimensions than four would be noise.
    return corpus, embed(corpus, Text((Encoder("lsa", dim=4),)), folder / "embeddings")


FOR_TWO = {
    "simgcl": {"objective.augment.weight": 0.05},  # at the published 0.5, for far sparser data, equals are pushed apart
    "directau": {"objective.ranking.uniformity": 0.2},  # at gamma 1 likewise: 0.72
}


@pytest.mark.parametrize("method", [name for name in baselines() if name != "popularity"])
def test_every_personalised_method_tells_two_communities_apart(method, two):
    corpus, embeddings = two
    assert corpus.train.nnz == corpus.val.nnz == corpus.test.nnz == 480
    setup = baseline(method, {"train": {"epochs": 30, "patience": 30, "batch_size": 128, "lr": 0.02}})
    assert ndcg(corpus, embeddings, setup.replace(FOR_TWO.get(method, {}))) > 0.99


def test_popularity_does_not(two):
    """So the answer is not in the counts: it mixes the communities."""
    assert ndcg(*two, baseline("popularity")) < 0.5


# ---------------------------------------------------------------- planted attributes


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """The embedded default: 700 users of four training reviews on average."""
    folder, card = tmp_path_factory.mktemp("planted"), cards.find("synthetic")
    corpus = prepare(card, card.data, [], folder / "corpus")
    return corpus, embed(corpus, Text((Encoder("lsa", dim=64),)), folder / "embeddings")


def test_symcere_beats_lightgcn_beats_popularity(planted):
    """Seen: .193, .128, .085 (a second seed: .194, .118). Asserted: by a quarter and more each time."""
    popularity = ndcg(*planted, baseline("popularity"))
    settings = {"objective.reg": 0.01, "train": {"lr": 0.02, "batch_size": 512, "epochs": 300, "patience": 20}}
    lightgcn = ndcg(*planted, baseline("lightgcn", settings))
    symcere = ndcg(*planted, baseline("symcere", {"train": {"lr": 0.01, "epochs": 300, "patience": 15}}))
    assert lightgcn > 1.25 * popularity
    assert symcere > 1.35 * lightgcn


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """300 users of 32 training reviews, who like a quarter of 240 items: false negatives abound."""
    card = dataclasses.replace(cards.find("synthetic"), columns={"preset": "dense"})
    return prepare(card, card.data, [], tmp_path_factory.mktemp("dense") / "corpus")


@pytest.mark.parametrize(("temperature", "margin"), [pytest.param(0.1, 1.08, marks=pytest.mark.slow), (0.2, 1.05)])
def test_sincere_beats_infonce_where_known_positives_abound(temperature, margin, dense):
    """What leaving them out of the denominator is worth. Seen: .294 against .252 at τ 0.1, .323 against .289 at 0.2.

    It shrinks as τ grows (.341 against .332 at 0.4), where the logits tell few candidates from the rest anyway.
    """
    settings = {"model.features": "id", "train": {"epochs": 60, "patience": 6, "lr": 0.01}}
    found = {
        loss: ndcg(
            dense,
            None,
            baseline("symcere", settings, {"objective.ranking": {"loss": loss, "temperature": temperature}}),
            0,
            1,
        )
        for loss in ("softmax", "sincere", "symcere")
    }
    assert found["sincere"] > margin * found["softmax"]
    assert found["symcere"] > margin * found["softmax"]
