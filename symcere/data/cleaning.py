"""What is done to the text of one review, and who is nobody."""

import html
import re

import pyarrow as pa
import pyarrow.compute as pc

PLACEHOLDERS = ("A TripAdvisor Member", "lass=", "TripAdvisor1")
"""Author names that a site or a crawler puts where there is no name: they join strangers into one user."""

MISSING = ("nan", "NaN", "NA", "<NA>", "N/A", "None", "null", "NULL", "undefined")
"""What programs write where there is no id, as pandas does in ``astype(str)``. Somebody may be called so."""

# White space as Unicode and `str.split` define it, with the zero-width characters that only look like nothing,
# and the control characters. RE2 and `re` both read this form.
_SPACE = r"\x00-\x20\x7f-\xa0\u1680\u2000-\u200b\u2028\u2029\u202f\u205f\u2060\u3000\ufeff"
_RE2_SPACE = re.sub(r"\\u([0-9a-f]{4})", r"\\x{\1}", _SPACE)
_ODD_SPACE = _RE2_SPACE.replace(r"\x20", r"\x1f")

_INLINE = "a|abbr|b|big|cite|code|em|font|i|mark|s|small|span|strike|strong|sub|sup|tt|u"
_BLOCK = (
    "article|blockquote|body|br|button|center|dd|div|dl|dt|form|h[1-6]|head|hr|html|iframe|img|input|label|li|link|meta"
    "|nobr|object|ol|option|p|param|pre|section|select|table|tbody|td|textarea|th|thead|title|tr|ul|video|wbr"
)
# Only names that HTML knows: "<3", "<grin>" and "a < b and c > d" are words of the reviewer.
_DROPPED = re.compile(r"<!--.*?-->|<(script|style)\b[^<>]*>.*?</\1\s*>", re.DOTALL | re.IGNORECASE)
# Some of the former are words, too: "<i think it is great>" is no tag, having no attribute.
_INLINE_TAG = re.compile(rf"</?(?:{_INLINE})(?:\s+[\w:-]+\s*=[^<>]*|\s*/?\s*)>", re.IGNORECASE)
_BLOCK_TAG = re.compile(rf"</?(?:{_BLOCK})(?:\s[^<>]*)?/?>", re.IGNORECASE)
# The call behind TripAdvisor's "more" link, scraped together with the text.
_SCRIPT_CALL = re.compile(r"\bshowReview\(\s*\d+\s*,\s*'\w*'\s*\)\s*;?")
_SPACES = re.compile(f"[{_SPACE}]+")

_MARKUP = r"[&<]|showReview\("
_UNTIDY = f"[&<{_ODD_SPACE}]|  |^ | $|showReview\\("
_RUNS = f"[{_RE2_SPACE}]{{2,}}|[{_ODD_SPACE}]"


def clean_text(text: str) -> str:
    """One text without HTML entities, tags and scraped debris, words separated by single spaces.

    This is the definition; :func:`clean` is the fast form of it.
    """
    return _SPACES.sub(" ", _without_markup(text)).strip(" ")


def _without_markup(text: str) -> str:
    if "&" in text:
        text = html.unescape(text)
        if "&" in text:  # "&amp;quot;" has been escaped twice on its way
            text = html.unescape(text)
    if "<" in text:
        text = _BLOCK_TAG.sub(" ", _INLINE_TAG.sub("", _DROPPED.sub(" ", text)))
    if "showReview(" in text:
        text = _SCRIPT_CALL.sub(" ", text)
    return text


def clean(texts: pa.Array) -> pa.Array:
    """:func:`clean_text` of every text of a string array ``[n]``.

    One scan finds the texts that need anything; of those, markup is handled in Python and white space by Arrow.
    """
    untidy = pc.match_substring_regex(texts, _UNTIDY)
    if not pc.any(untidy).as_py():
        return texts
    some = texts.filter(untidy)
    marked = pc.match_substring_regex(some, _MARKUP)
    plain = [_without_markup(text) for text in some.filter(marked).to_pylist()]
    some = pc.replace_with_mask(some, marked, pa.array(plain, some.type))
    some = pc.utf8_trim(pc.replace_substring_regex(some, _RUNS, " "), " ")
    return pc.replace_with_mask(texts, untidy, some)


def count_words(cleaned: pa.Array) -> pa.Array:
    """Words of each cleaned text, int32 ``[n]``."""
    return pc.if_else(pc.equal(cleaned, ""), 0, pc.add(pc.count_substring(cleaned, " "), 1)).cast(pa.int32())
