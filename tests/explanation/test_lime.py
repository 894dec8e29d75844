"""Weights of words against the plain answer (leave each word out), fidelity, and determinism."""

import numpy as np
import pytest
import torch

from symcere.config import Model
from symcere.explanation import Alignment, Lime, explain
from symcere.explanation.lime import _fit, _masks
from symcere.model.propagation import Graph
from symcere.model.recommender import Recommender, marked, text_input
from symcere.text import profiles


@pytest.fixture
def alignment(tiny, bag):
    settings = Model(features="text", dim=6)
    graph = Graph(tiny.train)
    x, has_text = profiles(tiny, bag)
    torch.manual_seed(0)
    text = text_input(settings, graph, marked(x, has_text, tiny.num_users))
    return Alignment(Recommender(settings, graph, tiny.item_popularity, text, has_text), tiny, bag)


def test_sparse_weights_of_a_known_linear_response():
    rng = np.random.default_rng(0)
    masks = _masks(20, Lime(samples=150), row=1)
    truth = np.zeros(20)
    truth[[2, 7, 11]] = 0.03, -0.02, 0.01
    weights, unexplained, total = _fit(masks, 0.4 + masks @ truth + rng.normal(0, 1e-4, 150), 0.25)
    np.testing.assert_allclose(weights, truth, atol=1e-3)
    assert unexplained < 0.01 * total


@pytest.mark.parametrize("words", [1, 2, 3, 10])
def test_a_linear_response_is_explained_however_few_the_words(words):
    """Of one word nearly all weight of the kernel is on the review itself, of two or three a variant lacks just one."""
    masks = _masks(words, Lime(), row=1)
    for truth in (np.random.default_rng(words).normal(0, 0.05, words), np.full(words, 0.05)):
        weights, unexplained, total = _fit(masks, 0.4 + masks @ truth, 0.25)
        assert 1 - unexplained / total == pytest.approx(1, abs=0.002)
        np.testing.assert_allclose(weights, truth, atol=0.05 * np.abs(truth).max())


def test_variants_count_by_limes_kernel(monkeypatch):
    """π = exp(−D² / σ²) with D = 1 − sqrt(share of words kept), by hand: of four words 4, 3, 2 and 1 are there."""
    from sklearn.linear_model import LassoCV

    seen = {}

    def fit(self, X, y, sample_weight=None):
        seen.update(X=X, weight=sample_weight)
        return plain(self, X, y, sample_weight)

    plain = LassoCV.fit
    monkeypatch.setattr(LassoCV, "fit", fit)
    masks = np.tri(4, dtype=bool)[::-1].repeat([1, 9, 9, 9], axis=0)
    _fit(masks, masks @ np.array([0.1, 0.2, 0.3, 0.4]), 0.3)
    shares = np.array([1, 0.75, 0.5, 0.25]).repeat([1, 9, 9, 9])
    np.testing.assert_allclose(seen["weight"], np.exp(-((1 - shares**0.5) ** 2) / 0.09))
    np.testing.assert_array_equal(seen["X"], masks)


def test_noise_is_not_explained():
    """R² is of variants that the fit did not see: words that do nothing explain nothing."""
    noise = np.random.default_rng(0).normal(size=100)
    weights, unexplained, total = _fit(_masks(30, Lime(samples=100), row=1), noise, 0.25)
    assert unexplained > 0.9 * total
    assert np.abs(weights).max() < 0.3


def test_variants_keep_half_of_the_words_at_least():
    masks = _masks(21, Lime(samples=200), row=5)
    lacking = 21 - masks.sum(1)
    assert masks[0].all()
    assert set(lacking[1:]) == set(range(1, 11))
    assert (_masks(21, Lime(samples=200), row=5) == masks).all()
    assert (_masks(21, Lime(samples=200), row=6) != masks).any()
    assert (_masks(21, Lime(samples=200, seed=1), row=5) != masks).any()


def test_weights_agree_with_leaving_each_word_out(alignment):
    """The plain form: re-encode the item's reviews without one word, rebuild the mean, compare the cosines."""
    pair = np.array([[2, 3]])
    (found,) = explain(alignment, pair, Lime(samples=300, reviews=9))
    (response,) = alignment.of(pair)
    texts = [alignment.corpus.texts()[int(r)].as_py() for r in response.reviews]
    before = alignment.embeddings.encode(texts).mean(0)
    plain = []
    for word in found.words:
        without = [" ".join(w for w in t.split() if w != word) for t in texts]
        plain.append(alignment.embeddings.encode(without).mean(0) - before)
    falls = found.alignment - response(np.array(plain))
    assert found.share == 1
    assert found.r2 > 0.8
    assert np.corrcoef(falls, found.weights)[0, 1] > 0.9
    assert (np.diff(found.weights) <= 0).all()


def test_the_deletion_test_is_what_it_says(alignment):
    (found,) = explain(alignment, np.array([[2, 3]]), Lime(samples=200, reviews=9))
    (response,) = alignment.of(np.array([[2, 3]]))
    texts = [alignment.corpus.texts()[int(r)].as_py() for r in response.reviews]
    top = set(found.words[:5])
    without = [" ".join(w for w in t.split() if w not in top) for t in texts]
    change = alignment.embeddings.encode(without).mean(0) - alignment.embeddings.encode(texts).mean(0)
    assert found.drop_top == pytest.approx(found.alignment - response(change[None])[0], abs=1e-5)
    assert found.drop_top > found.drop_random


def test_one_review_of_several_moves_the_mean_by_its_part(alignment):
    """Weights and the deletion test of a single review, whose profile has others that stay as they are."""
    pair = np.array([[2, 3]])
    (response,) = alignment.of(pair)
    assert len(response.reviews) > 1
    (found,) = explain(alignment, pair, Lime(samples=300, reviews=1))
    (one,) = found.reviews
    texts = [alignment.corpus.texts()[int(r)].as_py() for r in response.reviews]
    own = response.reviews.tolist().index(one.row)
    before = alignment.embeddings.encode(texts).mean(0)

    def without(gone):
        left = " ".join(w for w in texts[own].split() if w not in gone)
        return alignment.embeddings.encode([*texts[:own], left, *texts[own + 1 :]]).mean(0) - before

    falls = found.alignment - response(np.array([without({word}) for word in found.words]))
    assert 0.75 < falls @ found.weights / (falls @ falls) < 1.33  # of one word alone, and among others that are gone
    top = response(without(set(found.words[: len(found.words) // 4]))[None])[0]
    assert found.drop_top == pytest.approx(found.alignment - top, abs=1e-6)


def test_random_draws_alone_make_the_random_fall(alignment, monkeypatch):
    """Where one word alone is known, each of the five random draws has it, or loses nothing."""
    (response,) = alignment.of(np.array([[2, 3]]))
    word = alignment.corpus.texts()[int(response.reviews[0])].as_py().split()[0]
    direction = np.linspace(-1, 1, alignment.width, dtype=np.float32)
    drawn = set()
    for sign in (1, -1):
        monkeypatch.setattr(
            type(alignment.embeddings),
            "encode",
            lambda self, texts, sign=sign: np.array([[word in t.split()] for t in texts]) * sign * direction,
        )
        for seed in range(8):
            (found,) = explain(alignment, np.array([[2, 3]]), Lime(samples=30, reviews=9, seed=seed))
            if found.drop_top > 0:  # the word binds the pair
                parts = 5 * found.drop_random / found.drop_top
                assert parts == pytest.approx(round(parts), abs=1e-4)
                drawn.add(round(parts))
    assert len(drawn) > 1


def test_what_the_encoder_cuts_is_no_word_and_moves_into_no_variant(alignment, monkeypatch):
    """An encoder of the first five words: what stands beyond must neither be left out nor come up where words leave."""
    bag = type(alignment.embeddings.encoder.encoders[0])
    whole, asked = bag.encode, []

    def encode(self, texts, advance=None):
        asked.extend(texts)
        return whole(self, [" ".join(text.split()[:5]) for text in texts], advance)

    monkeypatch.setattr(bag, "encode", encode)
    monkeypatch.setattr(bag, "reads", lambda self, text: len(" ".join(text.split()[:5])))
    (found,) = explain(alignment, np.array([[2, 3]]), Lime(samples=60, reviews=1))
    (one,) = found.reviews
    read = alignment.corpus.texts()[one.row].as_py().split()[:5]
    assert set(found.words) == set(read)
    assert one.worded.text == " ".join(read)
    assert {word for text in asked for word in text.split()} == set(read)


def test_many_pairs_are_explained_as_each_alone_and_share_their_variants(alignment):
    pairs = np.array([[1, 3], [2, 2], [4, 3], [1, 3]])
    encoder = alignment.embeddings.encoder.encoders[0]
    settings = Lime(samples=60, reviews=2)
    encoder.asked = 0
    together = explain(alignment, pairs, settings)
    asked, encoder.asked = encoder.asked, 0
    for pair, found in zip(pairs, together, strict=True):
        (alone,) = explain(alignment, pair[None], settings)
        assert (found.user, found.item) == tuple(pair)
        assert found.words == alone.words
        np.testing.assert_allclose(found.weights, alone.weights, atol=1e-9)
    assert asked < 0.7 * encoder.asked


def test_the_most_influential_reviews_are_those_that_move_the_alignment(alignment):
    pair = np.array([[2, 1]])
    (response,) = alignment.of(pair)
    rows = response.reviews
    vectors = np.asarray(alignment.embeddings.reviews[rows], np.float32)
    moved = [
        abs(response((np.delete(vectors, k, 0).mean(0) - vectors.mean(0))[None])[0] - response(0 * vectors[:1])[0])
        for k in range(len(rows))
    ]
    (found,) = explain(alignment, pair, Lime(samples=30, reviews=1, choose="influence"))
    assert [one.row for one in found.reviews] == [int(rows[np.argmax(moved)])]
    assert found.share == pytest.approx(1 / len(rows))


def test_random_reviews_are_not_always_the_first(alignment):
    pair = np.array([[2, 1]])
    (response,) = alignment.of(pair)
    drawn = {explain(alignment, pair, Lime(samples=20, reviews=1, seed=seed))[0].reviews[0].row for seed in range(12)}
    assert drawn == set(response.reviews.tolist())


def test_words_that_the_encoder_does_not_know_weigh_nothing(alignment, monkeypatch):
    width = alignment.width
    monkeypatch.setattr(
        type(alignment.embeddings), "encode", lambda self, texts: np.ones((len(texts), width), np.float32)
    )
    (found,) = explain(alignment, np.array([[2, 3]]), Lime(samples=30))
    assert np.isnan(found.r2)
    assert not found.weights.any()
