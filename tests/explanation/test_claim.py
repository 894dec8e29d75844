"""The claim's statistics on hand-made weights, and the claim itself on planted words."""

import itertools

import numpy as np
import pytest

from symcere.errors import UserError
from symcere.evaluation.popularity import thirds
from symcere.explanation import Alignment, Explanation, Lime, cliffs_delta, explain, sample_pairs, summarise
from symcere.explanation.claim import _occurrence, size_of
from symcere.explanation.lime import Explained
from symcere.explanation.words import Worded


def made(weights: dict[str, float], user=0, item=0, top=0.2, random=0.01, r2=0.8) -> Explanation:
    """An explanation by hand."""
    ordered = dict(sorted(weights.items(), key=lambda w: -w[1]))
    values = np.array(list(ordered.values()))
    text = Explained(0, Worded.of("this is what it was for: " + " ".join(ordered)), values)
    return Explanation(user, item, "item", "text", 0.5, tuple(ordered), values, r2, top, random, 1.0, [text])


def test_cliffs_delta_against_all_pairs():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 6, 17), rng.integers(1, 7, 11)
    plain = np.mean([np.sign(a - b) for a, b in itertools.product(first, second)])
    assert cliffs_delta(first, second) == pytest.approx(plain)
    assert cliffs_delta(second, first) == pytest.approx(-plain)
    assert cliffs_delta(np.array([2.0]), np.array([1.0])) == 1
    assert np.isnan(cliffs_delta(np.array([]), second))
    assert [size_of(d) for d in (0.1, -0.2, 0.4, -0.9, np.nan)] == ["negligible", "small", "medium", "large", "unknown"]


def test_words_and_classes_by_hand():
    explanations = [
        made({"gasket": 0.5, "good": -0.1, "the": 0.0}),
        made({"gasket": -0.3, "good": 0.2, "great": 0.1}),
        made({"gasket": 0.1, "flange": 0.4, "good": 0.0}),
    ]
    found = summarise(explanations, np.array([0, 1, 1]))
    words = {w["word"]: w for w in found.words}
    assert list(words) == ["gasket", "good"]  # others stand in too few pairs
    assert words["gasket"]["mean_abs_weight"] == pytest.approx(0.3)
    assert words["gasket"]["mean_weight"] == pytest.approx(0.1)
    assert words["gasket"]["low"] >= 0.1 - 1e-12
    assert words["gasket"]["high"] <= 0.5 + 1e-12
    assert words["good"]["class"] == "sentiment"
    classes = {c["class"]: c for c in found.classes}
    assert classes["objective"]["words"] == 2
    assert classes["objective"]["mean_abs_weight"] == pytest.approx((0.5 + 0.3 + 0.1 + 0.4) / 4)
    assert classes["sentiment"]["share_of_weight"] == pytest.approx(0.4 / 1.7)
    assert found.ratio["value"] == pytest.approx((1.3 / 4) / (0.4 / 4))
    assert [(c["class"], c["strongest"], c["listed"]) for c in found.strongest] == [
        ("objective", 1, 1), ("sentiment", 0, 1), ("function", 0, 0),
    ]  # fmt: skip
    assert classes["function"]["share_of_words"] == pytest.approx(1 / 9)
    # Pairs: .5 > .1: 1; .3 against .2 and .1: 1; .1 and .4 against 0: 1.
    assert found.within.delta == pytest.approx(1)
    assert [s["pairs"] for s in found.strata] == [1, 2, 0]
    assert found.fidelity["r2_median"] == pytest.approx(0.8)
    assert found.fidelity["pairs_where_top_drops_more"] == 1
    assert "Pairs are few (3): intervals are wide, and too narrow if anything." in found.notes


def test_the_verdict_follows_the_interval():
    rng = np.random.default_rng(0)
    strong = [made({"gasket": rng.uniform(0.4, 1), "good": rng.uniform(0, 0.5)}) for _ in range(60)]
    weak = [made({"gasket": rng.uniform(0, 0.5), "good": rng.uniform(0.4, 1)}) for _ in range(60)]
    none = [made({"gasket": rng.uniform(0, 1), "good": rng.uniform(0, 1)}) for _ in range(60)]
    for explanations, verdict in (
        (strong, "Objective words weigh more than sentiment words; the effect is large."),
        (weak, "Sentiment words weigh more than objective words; the effect is large."),
        (none, "Objective and sentiment words cannot be told apart by their weight."),
        ([made({"gasket": 0.1})], "The reviews have no words of both classes: nothing can be said."),
    ):
        assert summarise(explanations).verdict == verdict
    found = summarise(strong)
    assert found.within.p < 1e-6
    assert found.within.low < found.within.delta <= found.within.high


def test_the_interval_covers_the_truth():
    """Ninety-five in a hundred repetitions should; fewer than eighty-five would be a broken bootstrap."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(60):
        pairs = [made({"gasket": rng.normal(0.3, 1), "good": rng.normal(0, 1)}) for _ in range(40)]
        found = summarise(pairs, resamples=200, seed=int(rng.integers(1 << 30))).within
        covered += found.low <= TRUTH <= found.high
    assert covered / 60 > 0.85


TRUTH = 2 * np.mean(np.abs(np.random.default_rng(0).normal(0.3, 1, 10**6)) > np.abs(
    np.random.default_rng(1).normal(0, 1, 10**6))) - 1  # fmt: skip


def test_reviews_in_another_language_are_noted():
    german = [made({"gitarre": 0.2, "kabel": 0.1}) for _ in range(3)]
    texts = [Explained(0, Worded.of("Die Gitarre klingt sauber, das Kabel hält gut."), np.zeros(8))]
    german = [Explanation(**{**vars(e), "reviews": texts}) for e in german]
    assert any("function words" in note for note in summarise(german).notes)


def test_pairs_come_from_every_third_and_from_different_items(world):
    alignment = Alignment(world.model, world.corpus, world.embeddings)
    pairs, third = sample_pairs(world.corpus, alignment, 45)
    val = world.corpus.val.tocoo()
    assert {tuple(p) for p in pairs} <= set(zip(*(c.tolist() for c in val.coords), strict=True))
    assert len({tuple(p) for p in pairs}) == 45
    assert np.bincount(third, minlength=3).min() >= 14
    assert (third == thirds(world.corpus.item_popularity)[pairs[:, 1]]).all()
    heads = pairs[third == 2, 1]
    distinct = len(np.unique(val.coords[1][thirds(world.corpus.item_popularity)[val.coords[1]] == 2]))
    assert len(set(heads)) == min(len(heads), distinct)
    again, _ = sample_pairs(world.corpus, alignment, 45)
    other, _ = sample_pairs(world.corpus, alignment, 45, seed=1)
    assert (pairs == again).all()
    assert (pairs != other).any()
    np.testing.assert_array_equal(_occurrence(np.array([4, 1, 4, 4, 1, 0])), [0, 0, 1, 2, 1, 0])


def test_a_split_without_pairs_says_what_to_do(world):
    alignment = Alignment(world.model, world.corpus, world.embeddings)
    known = alignment.model.has_text
    try:
        alignment.model.has_text = known & False
        with pytest.raises(UserError, match="--split train"):
            sample_pairs(world.corpus, alignment, 5)
    finally:
        alignment.model.has_text = known


def test_planted_attribute_words_weigh_more_than_planted_sentiment(world):
    """What decides who likes what is planted: the weights must find it, and not the words that follow the rating."""
    alignment = Alignment(world.model, world.corpus, world.embeddings)
    pairs, third = sample_pairs(world.corpus, alignment, 40)
    explanations = explain(alignment, pairs, Lime(samples=60, reviews=2))
    objective, sentiment = world.truth.objective_words, world.truth.sentiment_words
    deltas, means = [], {True: [], False: []}
    for e in explanations:
        size = np.abs(e.weights)
        mine = np.array([w in objective for w in e.words]), np.array([w in sentiment for w in e.words])
        deltas.append(cliffs_delta(size[mine[0]], size[mine[1]]))
        means[True] += size[mine[0]].tolist()
        means[False] += size[mine[1]].tolist()
    assert np.nanmean(deltas) > 0.3
    assert np.mean(means[True]) > 1.5 * np.mean(means[False])
    found = summarise(explanations, third)
    assert found.fidelity["r2_median"] > 0.6
    assert found.fidelity["drop_without_top_words"] > 5 * abs(found.fidelity["drop_without_random_words"])
    top = [w["word"] for w in found.words[:10]]
    assert sum(w in objective for w in top) >= 8
