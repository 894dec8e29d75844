"""LIME on the words of reviews: which words hold the two sides of a pair together.

Ribeiro, Singh & Guestrin, *"Why Should I Trust You?"*, KDD 2016, with alignment (a cosine) in the place of a class
probability. Words are left out of a review at random, the variants are encoded, and a sparse linear model of "word is
there" is fitted to the alignment, weighted by how near a variant is to the review:

    π = exp(−D² / σ²),   D = 1 − sqrt(share of words kept)  (the cosine distance of the two masks),   σ = 0.25

One review is perturbed at a time. A profile is a *mean* over reviews, so their changes add up before the tower, and
n reviews of W words need n fits of W coefficients from S variants each, where perturbing all at once would have to find
n·W coefficients from S. Reviews that are left out of the draw stay in the profile as they are. The weight of a word in
the pair is the sum over the reviews; whether the sum holds when words leave *all* the reviews together is what the
deletion test measures.

The fit is scikit-learn's Lasso, its penalty chosen by cross-validation, whose error also is the honest R² of the local
model. (Captum's LimeBase forwards one interpretable vector of one input at a time through a model of tensors; encoding
in length-sorted batches over the reviews of many pairs, where all the time goes, would have to be built around it.)
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from symcere.explanation.alignment import Alignment, Response
from symcere.explanation.words import Worded, word_class

TEXTS = 2**14
"""Variants encoded together at most: the encoder sorts them by length; bounds the memory at TEXTS · t floats."""
ALPHAS = np.logspace(0, -3, 16)
FOLDS = 4
DELETED, DRAWS = 5, 5
"""Words that the deletion test removes from a pair at most, and random draws it compares with."""

Progress = Callable[[int, int], Any] | None


@dataclass(frozen=True)
class Lime:
    """How a pair is perturbed.

    Attributes:
        samples: S, variants of each review.
        reviews: of the node that are perturbed at most.
        choose: which: ``random``, or those whose absence changes the alignment the most (exact, nothing is encoded).
        removed: largest share of a review's words that a variant lacks.
        width: σ of the kernel.
    """

    samples: int = 100
    reviews: int = 4
    choose: Literal["random", "influence"] = "random"
    removed: float = 0.5
    width: float = 0.25
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Explained:
    """One perturbed review: training review ``row``, its words and their weights float64 [W]."""

    row: int
    worded: Worded
    weights: np.ndarray


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why the two sides of one pair are aligned.

    Attributes:
        user, item: numbers in the corpus.
        alignment: cosine of the unperturbed pair.
        words, weights: distinct words of the perturbed reviews, by falling weight; a weight is the part of the cosine
            that goes with the word: what is lost without it, in the linear model.
        r2: share of the variance of the alignment that the local models explain on variants that they did not see;
            NaN where the alignment does not depend on any word.
        drop_top, drop_random: how much the alignment falls without the words of the largest weights, and without as
            many random ones (the mean of several draws), left out of all perturbed reviews together.
        share: of the node's reviews with text that were perturbed.
    """

    user: int
    item: int
    side: str
    view: str
    alignment: float
    words: tuple[str, ...]
    weights: np.ndarray
    r2: float
    drop_top: float
    drop_random: float
    share: float
    reviews: list[Explained] = field(default_factory=list, repr=False)

    @property
    def classes(self) -> list[str]:
        return [word_class(word) for word in self.words]


def explain(
    alignment: Alignment, pairs: np.ndarray, settings: Lime | None = None, progress: Progress = None
) -> list[Explanation]:
    """The explanation of each pair (user, item), int64 [n, 2].

    Raises:
        UserError: a node without any training review that has text.
    """
    settings = settings or Lime()
    nodes = pairs[:, 1] if alignment.side == "item" else pairs[:, 0]
    order = np.argsort(nodes, kind="stable")  # pairs that share a node share its variants
    responses = alignment.of(pairs[order])
    found: list[Explanation] = []
    step = max(1, TEXTS // (settings.samples * settings.reviews))
    for start in range(0, len(order), step):
        if progress:
            progress(start, len(order))
        some = slice(start, start + step)
        found += _explain_some(alignment, pairs[order[some]], responses[some], settings)
    if progress:
        progress(len(order), len(order))
    return [found[place] for place in np.argsort(order)]


def _explain_some(
    alignment: Alignment, pairs: np.ndarray, responses: Sequence[Response], settings: Lime
) -> list[Explanation]:
    texts = alignment.corpus.texts("train")
    chosen = [_choose(r, settings) for r in responses]
    whole = {int(row): texts[int(row)].as_py() for rows in chosen for row in rows}
    worded = {row: Worded.of(text, alignment.embeddings.encoder.reads(text)) for row, text in whole.items()}
    masks = {row: _masks(len(w.words), settings, row) for row, w in worded.items()}
    changes = _changes(alignment, {row: [w.without(~kept) for kept in masks[row]] for row, w in worded.items()})

    parts, qualities = [], []
    for response, rows in zip(responses, chosen, strict=True):
        fits = [
            _fit(masks[row], response(changes[row] / len(response.reviews)), settings.width) for row in map(int, rows)
        ]
        parts.append(
            [Explained(int(row), worded[int(row)], weights) for row, (weights, _, _) in zip(rows, fits, strict=True)]
        )
        unexplained, total = sum(f[1] for f in fits), sum(f[2] for f in fits)
        qualities.append(1 - unexplained / total if total > 0 else float("nan"))

    sums = [_sum(part) for part in parts]
    deleted = _deletions(alignment, responses, parts, sums, settings)
    return [
        Explanation(
            user=int(user),
            item=int(item),
            side=alignment.side,
            view=alignment.view,
            alignment=float(response(np.zeros((1, alignment.width), np.float32))[0]),
            words=words,
            weights=weights,
            r2=quality,
            drop_top=drop_top,
            drop_random=drop_random,
            share=len(part) / len(response.reviews),
            reviews=part,
        )
        for (user, item), response, part, (words, weights), quality, (drop_top, drop_random) in zip(
            pairs, responses, parts, sums, qualities, deleted, strict=True
        )
    ]


def _choose(response: Response, settings: Lime) -> np.ndarray:
    """The reviews that are perturbed, int64 [<= settings.reviews]."""
    rows = response.reviews
    if len(rows) <= settings.reviews:
        return rows
    if settings.choose == "random":
        rng = np.random.default_rng([settings.seed, response.node])
        return np.sort(rng.choice(rows, settings.reviews, replace=False))
    vectors = np.asarray(response.alignment.embeddings.reviews[rows], np.float32)
    without = response((vectors.mean(0) - vectors) / (len(rows) - 1))
    whole = response(np.zeros((1, vectors.shape[1]), np.float32))
    return rows[np.argsort(-np.abs(without - whole), kind="stable")[: settings.reviews]]


def _masks(words: int, settings: Lime, row: int) -> np.ndarray:
    """Which words each variant keeps, bool [S, W]; the first is the review itself."""
    rng = np.random.default_rng([settings.seed, row])
    most = max(1, int(settings.removed * words))
    lacking = rng.integers(1, most + 1, settings.samples)
    lacking[0] = 0
    return rng.random((settings.samples, words)).argsort(1).argsort(1) >= lacking[:, None]


def _changes(alignment: Alignment, variants: dict[int, list[str]]) -> dict[int, np.ndarray]:
    """Change of each review's embedding from its first variant: float32 [S, t] by review; encoded all together."""
    if not variants:
        return {}
    vectors = alignment.embeddings.encode([text for some in variants.values() for text in some])
    ends = np.cumsum([len(some) for some in variants.values()])
    return {row: part - part[0] for row, part in zip(variants, np.split(vectors, ends[:-1]), strict=True)}


def _fit(masks: np.ndarray, response: np.ndarray, width: float) -> tuple[np.ndarray, float, float]:
    """Sparse weights of W words, and what they leave unexplained on held-out variants of the variance that there is.

    Args:
        masks: bool [S, W], the words that each variant has; the first has all.
        response: float64 [S].
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LassoCV

    kernel = np.exp(-((1 - np.sqrt(masks.mean(1))) ** 2) / width**2) if masks.shape[1] else np.ones(len(masks))
    mean = np.average(response, weights=kernel)
    # Over the variants alone: the review itself is never held out, and would outweigh all of them where it is short.
    total = float(np.average((response[1:] - mean) ** 2, weights=kernel[1:]))
    scale = np.sqrt(total)
    if scale < 5e-7:  # rounding alone: no word that the encoder knows
        return np.zeros(masks.shape[1]), 0.0, 0.0
    there = masks.astype(np.float64)
    centred = there - np.average(there, axis=0, weights=kernel)
    strongest = np.abs(centred.T @ (kernel * (response - mean) / scale)).max() / kernel.sum()
    rows = np.arange(len(masks))
    # Without the review itself a fold cannot tell what all words do together: few words leave only one at a time.
    folds = [(np.setdiff1d(rows, held), held) for held in np.array_split(rows[1:], FOLDS)]
    model = LassoCV(alphas=strongest * ALPHAS, cv=folds, max_iter=5000, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(there, (response - mean) / scale, sample_weight=kernel)
    return model.coef_ * scale, float(model.mse_path_.mean(1).min()) * total, total


def _sum(parts: Sequence[Explained]) -> tuple[tuple[str, ...], np.ndarray]:
    """The words of several reviews and their summed weights, by falling weight."""
    sums: dict[str, float] = {}
    for part in parts:
        for word, weight in zip(part.worded.words, part.weights.tolist(), strict=True):
            sums[word] = sums.get(word, 0.0) + weight
    ordered = sorted(sums.items(), key=lambda found: -found[1])
    return tuple(word for word, _ in ordered), np.array([weight for _, weight in ordered])


def _deletions(
    alignment: Alignment,
    responses: Sequence[Response],
    parts: Sequence[Sequence[Explained]],
    sums: Sequence[tuple[tuple[str, ...], np.ndarray]],
    settings: Lime,
) -> list[tuple[float, float]]:
    """How far each alignment falls without its strongest words, and without random ones."""
    texts: list[str] = []
    for response, part, (words, _) in zip(responses, parts, sums, strict=True):
        rng = np.random.default_rng([settings.seed, response.node, len(words)])
        number = max(1, min(DELETED, len(words) // 4))
        draws = [set(words[:number])] + [
            {words[n] for n in rng.choice(len(words), min(number, len(words)), replace=False)} for _ in range(DRAWS)
        ]
        for one in part:
            marks = [np.array([word in gone for word in one.worded.words], dtype=bool) for gone in draws]
            texts += [one.worded.text, *(one.worded.without(mark) for mark in marks)]
    vectors = alignment.embeddings.encode(texts).reshape(-1, DRAWS + 2, alignment.width)
    falls, start = [], 0
    for response, part in zip(responses, parts, strict=True):
        some = vectors[start : start + len(part)]
        start += len(part)
        aligned = response((some - some[:, :1]).sum(0) / len(response.reviews))
        falls.append((float(aligned[0] - aligned[1]), float(aligned[0] - aligned[2:].mean())))
    return falls
