"""Why a recommender aligns a user with an item: LIME on review words, classes of vocabulary, and a page to explore."""

from symcere.explanation.alignment import Alignment
from symcere.explanation.claim import Summary, cliffs_delta, sample_pairs, summarise
from symcere.explanation.lime import Explanation, Lime, explain
from symcere.explanation.words import CLASSES, Worded, word_class

__all__ = [
    "CLASSES",
    "Alignment",
    "Explanation",
    "Lime",
    "Summary",
    "Worded",
    "cliffs_delta",
    "explain",
    "sample_pairs",
    "summarise",
    "word_class",
]
