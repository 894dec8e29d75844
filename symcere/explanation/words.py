"""Words of a review: taken apart, left out, and sorted into classes by published lists.

Classes of words, for the claim that alignment rests on objective vocabulary rather than on sentiment:

    function    scikit-learn's ENGLISH_STOP_WORDS, and what has no two letters: numbers, single letters
    sentiment   the lexicon of VADER (Hutto & Gilbert, ICWSM 2014; MIT licence), of any valence
    objective   every other word: parts, materials, brands, but also plain verbs and nouns

A word on both lists is a function word ("well", "no"). The lists are English; of a text in another language nearly
every word is "objective", which :func:`english_share` tells.
"""

import functools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

WordClass = Literal["objective", "sentiment", "function"]
CLASSES: tuple[WordClass, ...] = ("objective", "sentiment", "function")

_MARKS = "\u200c\u200d\U000e0100-\U000e01ef" + "".join(
    mark for mark in map(chr, range(0x300, 0x20000)) if unicodedata.category(mark) in ("Mn", "Mc")
)
"""Vowel signs, accents and joiners, as characters of a class: they belong to a word, but are no letters to ``re``."""
WORD = re.compile(rf"[^\W_]+(?:(?:[{_MARKS}]+|['’](?=[^\W_]))[^\W_]*)*")
"""A run of letters and digits of any script with their marks; an apostrophe inside belongs to it, a hyphen does not."""
MAX_WORDS = 256
"""Distinct words of one review that are left out at most, the first ones: a fit has one coefficient for each."""


@dataclass(frozen=True, eq=False)
class Worded:
    """A text and its W distinct words, in lower case and in order of first appearance.

    Attributes:
        spans: int64 [n, 3] of the n occurrences: start and end in the text, number of the word.
    """

    text: str
    words: tuple[str, ...]
    spans: np.ndarray

    @classmethod
    def of(cls, text: str, read: int | None = None, most: int = MAX_WORDS) -> "Worded":
        """The words of a text; those beyond ``most`` distinct ones are part of the text, but never left out.

        Args:
            read: characters that an encoder reads. What follows is dropped, or it would move up where words leave; a
                word that is cut there stays in the text, but is none of the words.
        """
        read = len(text) if read is None else read
        number: dict[str, int] = {}
        spans = []
        for found in WORD.finditer(text):
            if found.end() > read:
                break
            word = found.group().lower().replace("’", "'")
            if word not in number and len(number) == most:
                continue
            spans.append((found.start(), found.end(), number.setdefault(word, len(number))))
        return cls(text[:read], tuple(number), np.array(spans, dtype=np.int64).reshape(-1, 3))

    def without(self, removed: np.ndarray) -> str:
        """The text without every occurrence of the words marked in ``removed``, bool [W]."""
        kept, end = [], 0
        for start, stop, word in self.spans.tolist():
            if removed[word]:
                kept.append(self.text[end:start])
                end = stop
        kept.append(self.text[end:])
        return "".join(kept)


@functools.cache
def _lists() -> tuple[frozenset[str], frozenset[str]]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return frozenset(ENGLISH_STOP_WORDS), frozenset(SentimentIntensityAnalyzer().lexicon)


@functools.lru_cache(maxsize=2**16)
def word_class(word: str) -> WordClass:
    """The class of a lower-case word.

    >>> [word_class(w) for w in ("gasket", "great", "the", "don't", "12")]
    ['objective', 'sentiment', 'function', 'function', 'function']
    """
    function, sentiment = _lists()
    stem, _, ending = word.partition("'")  # the lists know neither "it's" nor "camera's"
    if sum(letter.isalpha() for letter in word) < 2 or word in function:
        return "function"
    if ending == "t" or (ending and stem in function):  # "don't", "it's"
        return "function"
    if word in sentiment or stem in sentiment:
        return "sentiment"
    return "objective"


def english_share(texts: Iterable[str]) -> float:
    """Share of function words of English among all words, 0..1: about a half in English, near 0 in other languages."""
    words = [w for text in texts for w in WORD.findall(text.lower())]
    function, _ = _lists()
    return sum(w in function for w in words) / max(len(words), 1)


def counts(classes: Sequence[str]) -> dict[str, int]:
    """How many of each class, in the order of :data:`CLASSES`."""
    return {c: sum(k == c for k in classes) for c in CLASSES}
