"""What belongs to a word of any script though it is no letter to ``re``."""

import unicodedata

MARKS = "\u200c\u200d\U000e0100-\U000e01ef" + "".join(
    mark for mark in map(chr, range(0x300, 0x20000)) if unicodedata.category(mark) in ("Mn", "Mc")
)
"""Vowel signs, accents and joiners, as characters of a class."""
