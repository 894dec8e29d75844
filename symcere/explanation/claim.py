"""A model as a whole: which words its alignments rest on, and whether objective words weigh more than sentiment.

The claim under test is the paper's (arXiv 2504.02195): alignment is anchored on objective vocabulary ("OEM",
"compatible", "gasket") rather than on generic sentiment ("good", "great"). Two readings of it are measured:

within pairs   Cliff's delta between the |weights| of the objective and of the sentiment words of one pair, averaged
               over the pairs: P(objective weighs more) − P(sentiment weighs more). Both stand in the same reviews, so
               length, encoder and strength of the pair cancel. Pairs are independent units: bootstrap over them,
               Wilcoxon's signed-rank test against 0. This decides.
over words     Cliff's delta between the mean |weights| of the distinct words, with Mann-Whitney's test. Its interval
               is a bootstrap over pairs as well, since words of one pair are not independent.

Both ask which word of two weighs more, whatever by how much. Weights have a heavy tail, so two plainer figures stand
beside them: the ratio of the classes' mean |weights|, and how many of the strongest words are of each class.

Cliff's delta goes from −1 (sentiment always weighs more) over 0 to 1; Romano et al. (2006) call below .147 negligible,
below .33 small, below .474 medium. Cliff, *Dominance statistics*, Psychological Bulletin 1993.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy import stats

from symcere.data.corpus import SPLITS, Corpus
from symcere.errors import UserError
from symcere.evaluation.popularity import ITEM_THIRDS, thirds
from symcere.explanation.alignment import Alignment
from symcere.explanation.lime import Explanation
from symcere.explanation.words import CLASSES, counts, english_share, word_class

RESAMPLES = 1000
LEVEL = 0.95
STRONGEST = 50
"""Words at the head of the list whose classes are counted; a tenth of it where it is short."""
SIZES = ((0.147, "negligible"), (0.33, "small"), (0.474, "medium"), (np.inf, "large"))
MIN_PAIRS = 3
"""Pairs that a word must stand in to be listed, or a fortieth of all: the mean over fewer says little."""
ENGLISH = 0.2
"""Least share of English function words for the classes to mean something."""


# ---------------------------------------------------------------- which pairs


def sample_pairs(
    corpus: Corpus, alignment: Alignment, number: int, split: str = "val", seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of a split, as many from each third of item popularity as there are, of different nodes first.

    Pairs of ``val`` are liked, and their reviews are in no profile: nothing is aligned because it is the same text.

    Returns:
        pairs int64 [n, 2] with n <= ``number``; their thirds int8 [n].

    Raises:
        UserError: the split has no pair whose node has a review with text.
    """
    if split not in SPLITS:
        raise UserError(f"split is one of {', '.join(SPLITS)}, not {split!r}.")
    entries = getattr(corpus, split).tocoo()
    users, items = entries.coords[0].astype(np.int64), entries.coords[1].astype(np.int64)
    nodes = items + corpus.num_users if alignment.side == "item" else users
    usable = np.flatnonzero(alignment.model.has_text.numpy()[nodes])
    if not len(usable):
        raise UserError(
            f"No {split} pair of '{corpus.name}' has a review text to perturb. Explain pairs of another split "
            "(--split train), or one pair (--user … --item …)."
        )
    rng = np.random.default_rng(seed)
    usable = rng.permutation(usable)
    repeat = _occurrence(nodes[usable])  # 0 for the first pair of a node, 1 for its second, …
    usable = usable[np.argsort(repeat, kind="stable")]
    third = thirds(corpus.item_popularity)[items[usable]]
    # Turn by turn from each third; what one lacks the others give.
    order = np.lexsort((third, _occurrence(third)))[:number]
    chosen = usable[order]
    return np.stack([users[chosen], items[chosen]], axis=1), third[order]


def _occurrence(values: np.ndarray) -> np.ndarray:
    """How often each value stood before, int64 [n]."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(values) else np.zeros(0, int)
    rank = np.arange(len(values)) - np.repeat(starts, np.diff(np.r_[starts, len(values)]))
    found = np.empty(len(values), dtype=np.int64)
    found[order] = rank
    return found


# ---------------------------------------------------------------- effect sizes


def cliffs_delta(first: np.ndarray, second: np.ndarray) -> float:
    """P(a > b) − P(a < b) of a from ``first`` [n], b from ``second`` [m]; NaN where one is empty."""
    if not len(first) or not len(second):
        return float("nan")
    ordered = np.sort(second)
    below, upto = np.searchsorted(ordered, first, "left"), np.searchsorted(ordered, first, "right")
    return float((below.sum() - (len(second) - upto).sum()) / (len(first) * len(second)))


def size_of(delta: float) -> str:
    """Romano's word for the size of an effect."""
    return next(word for bound, word in SIZES if abs(delta) < bound) if np.isfinite(delta) else "unknown"


@dataclass(frozen=True)
class Effect:
    """Objective against sentiment words.

    Attributes:
        delta: Cliff's delta, with its 95 % bootstrap interval ``low`` to ``high`` over pairs.
        p: two-sided; of Wilcoxon's signed-rank test within pairs, of Mann-Whitney's over words.
        units: pairs, or objective and sentiment words, that it rests on.
    """

    delta: float
    low: float
    high: float
    p: float
    size: str
    units: str


# ---------------------------------------------------------------- the whole


@dataclass(frozen=True, eq=False)
class Summary:
    """What :func:`summarise` finds.

    Attributes:
        words: word, class, pairs it stands in, mean |weight| with interval, mean weight; strongest first, those in
            at least three pairs and a fortieth of all.
        classes: for each class of words: distinct words, mean |weight| of an occurrence with interval, and its share
            of all |weight| beside its share of all occurrences.
        within, over: the claim, read within pairs and over words.
        ratio: mean |weight| of objective over that of sentiment words, with its bootstrap interval.
        strongest: for each class, how many of the strongest listed words are of it, and of all listed ones.
        fidelity: how far the local models are to be trusted.
        strata: pairs from each third of item popularity, and the effect within each.
    """

    pairs: int
    words: list[dict[str, Any]]
    classes: list[dict[str, Any]]
    within: Effect
    over: Effect
    ratio: dict[str, float]
    strongest: list[dict[str, Any]]
    fidelity: dict[str, Any]
    strata: list[dict[str, Any]]
    notes: list[str]

    @property
    def verdict(self) -> str:
        """The claim, answered in a sentence."""
        effect = self.within
        if not np.isfinite(effect.delta):
            return "The reviews have no words of both classes: nothing can be said."
        if effect.low <= 0 <= effect.high:
            return "Objective and sentiment words cannot be told apart by their weight."
        heavy, light = ("Objective", "sentiment") if effect.delta > 0 else ("Sentiment", "objective")
        return f"{heavy} words weigh more than {light} words; the effect is {effect.size}."


def summarise(
    explanations: Sequence[Explanation], strata: np.ndarray | None = None, seed: int = 0, resamples: int = RESAMPLES
) -> Summary:
    """Aggregates the explanations of many pairs, and tests the claim.

    Args:
        strata: third of item popularity of each pair, int [n].
    """
    n = len(explanations)
    vocabulary = {w: k for k, w in enumerate(dict.fromkeys(w for e in explanations for w in e.words))}
    names = list(vocabulary)
    kinds = np.array([CLASSES.index(word_class(w)) for w in names], dtype=np.int64)
    row = np.repeat(np.arange(n), [len(e.words) for e in explanations])
    column = np.array([vocabulary[w] for e in explanations for w in e.words], dtype=np.int64)
    signed = np.concatenate([e.weights for e in explanations]) if n else np.zeros(0)
    shape = (n, len(names))
    weight = sp.csr_array((np.abs(signed), (row, column)), shape=shape)
    there = sp.csr_array((np.ones(len(row)), (row, column)), shape=shape)

    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / max(n, 1)), resamples).astype(np.float64)
    sums, occurrences = draws @ weight, draws @ there  # [resamples, words]
    with np.errstate(invalid="ignore", divide="ignore"):
        resampled = sums / occurrences
        mean = weight.sum(0) / there.sum(0)
        mean_signed = np.bincount(column, signed, len(names)) / there.sum(0)
    pairs_of = there.sum(0).astype(int)
    listed = np.flatnonzero(pairs_of >= min(max(MIN_PAIRS, n // 40), max(n, 1)))
    listed = listed[np.argsort(-mean[listed], kind="stable")]
    low, high = _interval(resampled[:, listed])
    words = [
        {
            "word": names[k],
            "class": CLASSES[kinds[k]],
            "pairs": int(pairs_of[k]),
            "mean_abs_weight": float(mean[k]),
            "low": float(low[j]),
            "high": float(high[j]),
            "mean_weight": float(mean_signed[k]),
        }
        for j, k in enumerate(listed)
    ]

    notes = []
    texts = [one.worded.text for e in explanations for one in e.reviews]
    if (english := english_share(texts)) < ENGLISH:
        notes.append(
            f"Only {english:.0%} of the words are English function words: the classes come from English lists and mean "
            "little for these reviews. The weights themselves hold in any language."
        )
    if n < 30:
        notes.append(f"Pairs are few ({n}): intervals are wide, and too narrow if anything.")
    within = _within(explanations, draws)
    return Summary(
        pairs=n,
        words=words,
        classes=_classes(kinds, weight, there, sums, occurrences),
        within=within[0],
        over=_over(kinds, mean, resampled),
        ratio=_ratio(kinds, weight, there, sums, occurrences),
        strongest=_strongest([w["class"] for w in words]),
        fidelity=_fidelity(explanations),
        strata=_strata(strata, within[1]),
        notes=notes,
    )


def _interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap interval over the first axis; NaN where a draw had nothing are left out."""
    if not values.size:
        return np.full(values.shape[1:], np.nan), np.full(values.shape[1:], np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a class that no pair has: NaN is the answer
        low, high = np.nanpercentile(values, [50 * (1 - LEVEL), 50 * (1 + LEVEL)], axis=0)
    return low, high


def _classes(
    kinds: np.ndarray, weight: sp.csr_array, there: sp.csr_array, sums: np.ndarray, occurrences: np.ndarray
) -> list[dict[str, Any]]:
    total_weight, total = weight.sum(), there.sum()
    number = counts([CLASSES[k] for k in kinds])
    told = []
    for kind, name in enumerate(CLASSES):
        mine = kinds == kind
        count = there[:, mine].sum()
        with np.errstate(all="ignore"):
            low, high = _interval(sums[:, mine].sum(1) / occurrences[:, mine].sum(1))
        told.append(
            {
                "class": name,
                "words": number[name],
                "mean_abs_weight": float(weight[:, mine].sum() / count) if count else float("nan"),
                "low": float(low),
                "high": float(high),
                "share_of_weight": float(weight[:, mine].sum() / total_weight) if total_weight else float("nan"),
                "share_of_words": float(count / total) if total else float("nan"),
            }
        )
    return told


def _ratio(
    kinds: np.ndarray, weight: sp.csr_array, there: sp.csr_array, sums: np.ndarray, occurrences: np.ndarray
) -> dict[str, float]:
    """Mean |weight| of an occurrence of an objective word over that of a sentiment word."""
    objective, sentiment = (kinds == CLASSES.index(name) for name in ("objective", "sentiment"))

    def ratio(sums: np.ndarray, occurrences: np.ndarray) -> np.ndarray:
        first, second = (sums[..., k].sum(-1) / occurrences[..., k].sum(-1) for k in (objective, sentiment))
        return first / second

    with np.errstate(all="ignore"):
        value = ratio(weight.sum(0), there.sum(0))
        low, high = _interval(ratio(sums, occurrences))
    return {"value": float(value), "low": float(low), "high": float(high)}


def _strongest(classes: Sequence[str]) -> list[dict[str, Any]]:
    """Classes among the head of the listed words, and among all of them; the words come by falling weight."""
    head = classes[: min(STRONGEST, max(len(classes) // 10, 1))]
    first, listed = counts(head), counts(classes)
    return [
        {"class": name, "strongest": first[name], "listed": listed[name], "of_all_listed": listed[name] / len(classes)}
        for name in CLASSES
        if classes
    ]


def _within(explanations: Sequence[Explanation], draws: np.ndarray) -> tuple[Effect, np.ndarray]:
    """The claim within pairs, and each pair's Cliff's delta [n], NaN where a class is missing."""
    deltas = np.full(len(explanations), np.nan)
    for k, e in enumerate(explanations):
        kinds, size = np.array(e.classes), np.abs(e.weights)
        if len(size):
            deltas[k] = cliffs_delta(size[kinds == "objective"], size[kinds == "sentiment"])
    known = np.isfinite(deltas)
    if not known.any():
        return Effect(np.nan, np.nan, np.nan, np.nan, "unknown", "0 pairs"), deltas
    with np.errstate(all="ignore"):
        low, high = _interval(draws[:, known] @ deltas[known] / draws[:, known].sum(1))
    mean = float(deltas[known].mean())
    p = float(stats.wilcoxon(deltas[known]).pvalue) if np.any(deltas[known]) else 1.0
    return Effect(mean, float(low), float(high), p, size_of(mean), f"{int(known.sum())} pairs"), deltas


def _over(kinds: np.ndarray, mean: np.ndarray, resampled: np.ndarray) -> Effect:
    """The claim over distinct words."""
    objective, sentiment = kinds == CLASSES.index("objective"), kinds == CLASSES.index("sentiment")
    units = f"{int(objective.sum())} objective and {int(sentiment.sum())} sentiment words"
    delta = cliffs_delta(mean[objective], mean[sentiment])
    if not np.isfinite(delta):
        return Effect(np.nan, np.nan, np.nan, np.nan, "unknown", units)
    drawn = np.array(
        [
            cliffs_delta(one[objective][np.isfinite(one[objective])], one[sentiment][np.isfinite(one[sentiment])])
            for one in resampled
        ]
    )
    low, high = _interval(drawn)
    p = float(stats.mannwhitneyu(mean[objective], mean[sentiment]).pvalue)
    return Effect(delta, float(low), float(high), p, size_of(delta), units)


def _fidelity(explanations: Sequence[Explanation]) -> dict[str, Any]:
    """R² of the local models on variants they did not see; the deletion test over the pairs."""
    r2 = np.array([e.r2 for e in explanations])
    top, random = np.array([e.drop_top for e in explanations]), np.array([e.drop_random for e in explanations])
    differing = np.any(top != random)
    return {
        "r2_median": float(np.nanmedian(r2)) if np.isfinite(r2).any() else float("nan"),
        "r2_quarter": float(np.nanpercentile(r2, 25)) if np.isfinite(r2).any() else float("nan"),
        "drop_without_top_words": float(top.mean()),
        "drop_without_random_words": float(random.mean()),
        "pairs_where_top_drops_more": float((top > random).mean()),
        "p": float(stats.wilcoxon(top, random, alternative="greater").pvalue) if differing else 1.0,
    }


def _strata(strata: np.ndarray | None, deltas: np.ndarray) -> list[dict[str, Any]]:
    if strata is None:
        return []
    told = []
    for third, name in enumerate(ITEM_THIRDS):
        mine = strata == third
        known = deltas[mine][np.isfinite(deltas[mine])]
        told.append(
            {"items": name, "pairs": int(mine.sum()), "delta": float(known.mean()) if len(known) else float("nan")}
        )
    return told
