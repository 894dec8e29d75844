import numpy as np
import pytest
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

from symcere.config import Encoder
from symcere.errors import UserError
from symcere.text.lsa import LSA


def corpus(rng, n=400, words=150):
    """Texts of Zipf-distributed words of a topic each."""
    weight = 1 / np.arange(1, words + 1)
    texts = []
    for _ in range(n):
        p = weight * np.where(np.arange(words) % 8 == rng.integers(8), 20, 1)
        texts.append(" ".join(f"word{w}" for w in rng.choice(words, rng.integers(5, 40), p=p / p.sum())))
    return texts


def fitted(texts, dim=16):
    encoder = LSA(Encoder(name="lsa", dim=dim))
    encoder.fit(texts)
    return encoder


def test_it_is_scikit_learns():
    texts = corpus(np.random.default_rng(0))
    encoder = fitted(texts)
    vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=3, max_df=0.3)
    weighted = vectorizer.fit_transform(texts)
    expected = normalize(TruncatedSVD(16, random_state=0).fit_transform(weighted))
    ours = encoder.encode(texts)
    assert encoder.width == 16
    np.testing.assert_allclose(ours, expected, atol=2e-3)  # the projection is stored in float16


def test_new_texts_are_folded_in_with_the_fitted_statistics():
    rng = np.random.default_rng(1)
    encoder = fitted(corpus(rng))
    new = corpus(rng, 10)
    together = encoder.encode(new)
    for k, text in enumerate(new):
        np.testing.assert_allclose(encoder.encode([text])[0], together[k], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


def test_words_never_fitted_are_nothing():
    encoder = fitted(corpus(np.random.default_rng(2)))
    vectors = encoder.encode(["zebra quagga", "!!! ??", "word3 zebra", "word3"])
    assert not vectors[:2].any()
    np.testing.assert_allclose(vectors[2], vectors[3], atol=1e-6)


def test_it_is_stored_without_pickle_and_comes_back_to_the_bit(tmp_path):
    texts = corpus(np.random.default_rng(3))
    encoder = fitted(texts)
    encoder.save(tmp_path)
    assert {f.name for f in tmp_path.iterdir()} == {"vocabulary.json", "lsa.npz"}
    again = LSA(Encoder(name="lsa", dim=16))
    again.restore(tmp_path)
    assert again.width == 16
    np.testing.assert_array_equal(again.encode(texts), encoder.encode(texts))
    (tmp_path / "lsa.npz").write_bytes(b"cut")
    with pytest.raises(UserError, match="damaged"):
        LSA(Encoder(name="lsa")).restore(tmp_path)


def test_it_repeats_itself():
    texts = corpus(np.random.default_rng(4))
    np.testing.assert_array_equal(fitted(texts).encode(texts), fitted(texts).encode(texts))


@pytest.mark.parametrize(
    "texts",
    [
        ["one"],
        ["good good good", "good"],
        ["good pool", "bad bus", "good bus"],
        ["same words here"] * 3 + ["others there"],
        ["good pool"] * 3,
        [f"word{n}" for n in range(40)],
    ],
)
@pytest.mark.filterwarnings("error")
def test_tiny_corpora(texts):
    encoder = fitted(texts, dim=256)
    vectors = encoder.encode(texts)
    assert 1 <= encoder.width <= len(set(texts))
    assert vectors.shape == (len(texts), encoder.width)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)


def test_texts_without_a_word():
    with pytest.raises(UserError, match="no words"):
        fitted(["!!!", "? a b"])


def test_words_of_any_language():
    encoder = fitted(["Ωραίο ξενοδοχείο", "très bon hôtel", "очень хороший отель"])
    similar = encoder.encode(["ξενοδοχείο", "hôtel", "отель"]) @ encoder.encode(["Ωραίο", "très", "очень"]).T
    np.testing.assert_allclose(similar, np.eye(3), atol=1e-3)
