"""Latent semantic analysis: TF-IDF of words and word pairs, then a truncated SVD. Needs no download.

It keeps what a transformer blurs: rare words, names, part numbers. Fitted on training reviews alone.
Deerwester et al., *Indexing by Latent Semantic Analysis*, 1990; the SVD is randomised (Halko et al., 2011).
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_matrix

from symcere.config import Encoder
from symcere.errors import UserError

# scikit-learn takes half a second to load, which a run whose embeddings are already made does not need.
if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer

PRUNING = ((3, 0.3), (2, 0.5), (1, 1.0))
"""(min_df, max_df): texts, and share of the texts, that a term must and may stand in. The first for any real corpus;
the others where it would leave fewer terms than ``MIN_TERMS``."""
MIN_TERMS = 32
MAX_TERMS = 2**18
"""The most frequent terms are kept beyond this, which bounds the model at 2 · dim bytes a term."""
SAMPLE = 200_000
"""Texts to fit on at most: the vocabulary of all their word pairs is held in memory while fitting."""
BLOCK = 4096


class LSA:
    """TF-IDF (sublinear, 1- and 2-grams) projected on its leading right singular vectors, rows of length one.

    A text without any known term is a zero row. ``width`` is ``dim``, or less where the corpus has a smaller rank.
    """

    def __init__(self, settings: Encoder):
        self.settings = settings
        self.sample = SAMPLE
        self.width = 0
        self.identity: dict[str, Any] = {
            "kind": "lsa",
            "dim": settings.dim,
            "pruning": [list(p) for p in PRUNING],
            "terms": MAX_TERMS,
            "sample": SAMPLE,
        }

    def fit(self, texts: Sequence[str]) -> None:
        """Learns vocabulary, inverse document frequencies and projection from distinct, non-empty training reviews.

        Raises:
            UserError: they hold no word of two letters.
        """
        from sklearn.decomposition import TruncatedSVD

        for min_df, max_df in PRUNING:
            vectorizer = _vectorizer(min_df=min_df, max_df=max_df, max_features=MAX_TERMS)
            try:
                weighted = vectorizer.fit_transform(texts)
            except ValueError:  # scikit-learn's way to say that nothing is left
                continue
            if weighted.shape[1] >= MIN_TERMS or min_df == 1:
                break
        else:
            raise UserError(
                f"LSA finds no words in the {len(texts):,} training reviews. Name another encoder (--text.encoders "
                "minilm), or train without text (--model.features id)."
            )
        components = np.ones((1, 1))  # of a single term, which scikit-learn refuses
        if weighted.shape[1] > 1:
            with np.errstate(invalid="ignore"):  # of texts all alike it divides their variance, none, by itself
                svd = TruncatedSVD(min(self.settings.dim, *weighted.shape), random_state=0).fit(weighted)
            # Directions beyond the rank are rounding noise, which the normalisation would blow up.
            components = svd.components_[svd.singular_values_ > 1e-5 * svd.singular_values_[0]]
        self._set(vectorizer.vocabulary_, vectorizer.idf_, components.astype(np.float16))

    def _set(self, vocabulary: dict[str, int], idf: np.ndarray, components: np.ndarray) -> None:
        self.width = len(components)
        self._components = components  # float16, as it is stored, so that a restored encoder gives the same bits
        self._projection = np.ascontiguousarray(components.T, np.float32)  # [terms, width]
        # Plain whole numbers: what scikit-learn counts in are numpy's, which JSON does not know.
        self._vectorizer = _vectorizer(vocabulary={term: int(column) for term, column in vocabulary.items()})
        self._vectorizer.idf_ = np.asarray(idf, np.float32)

    def encode(self, texts: Sequence[str], advance: Callable[[int], Any] | None = None) -> np.ndarray:
        """float32 ``[n, width]``."""
        from sklearn.preprocessing import normalize

        vectors = np.empty((len(texts), self.width), np.float32)
        for start in range(0, len(texts), BLOCK):
            rows = slice(start, min(start + BLOCK, len(texts)))
            weighted: csr_matrix = self._vectorizer.transform(texts[rows])
            vectors[rows] = normalize(weighted @ self._projection)
            if advance:
                advance(rows.stop - rows.start)
        return vectors

    def reads(self, text: str) -> int:
        """All of it."""
        return len(text)

    def save(self, folder: Path) -> None:
        """``vocabulary.json``: terms in the order of columns; ``lsa.npz``: idf, components."""
        terms = sorted(self._vectorizer.vocabulary_, key=self._vectorizer.vocabulary_.__getitem__)
        (folder / "vocabulary.json").write_text(json.dumps(terms, ensure_ascii=False), encoding="utf-8")
        np.savez(folder / "lsa.npz", idf=self._vectorizer.idf_, components=self._components)

    def restore(self, folder: Path) -> None:
        """What :meth:`save` stored.

        Raises:
            UserError: it is missing or damaged.
        """
        try:
            terms = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
            with np.load(folder / "lsa.npz", allow_pickle=False) as arrays:
                self._set({term: column for column, term in enumerate(terms)}, arrays["idf"], arrays["components"])
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"The fitted LSA in {folder} is missing or damaged ({error}). Embed the data again."
            ) from None


def _vectorizer(**settings: Any) -> "TfidfVectorizer":
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), dtype=np.float32, **settings)
