"""Titles of items, from the metadata file that goes with some sources.

Review files seldom say what an item is called. Amazon keeps that in ``meta_….jsonl.gz``, Yelp in
``business.json``, Google Local in ``meta-….json.gz``, CMU TripAdvisor in ``offering.txt``; a table of one's own may
have a column for it.
"""

import html
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from symcere.data import opening
from symcere.data.cards import file_name
from symcere.data.readers import generic, hotelrec
from symcere.data.readers.carrier import carrier, looked_ahead
from symcere.data.readers.jsonl import Lines, rounded
from symcere.data.readers.layout import unwrapped
from symcere.data.schema import as_text

_OWN = ("item_title", "item_name", "product_title", "product_name", "hotel_name", "business_name", "place_name",
        "movie_title", "book_title")  # fmt: skip
"""Columns that name an item even beside its reviews, where ``title`` and ``name`` are a review's and a user's."""
LONGEST = 300
"""Characters of a title that are kept."""


def titles(sources: Sequence[Path], keep: Collection[str], items: str = "", item: str = "") -> dict[str, str]:
    """Titles of the items in ``keep``, as far as they are known; memory is bounded by ``keep``.

    Args:
        sources: what reviews were read from.
        items: the card's metadata file (a path, or a name looked for beside the sources); without it, or when it is
            not there, the sources themselves are searched (an archive may hold both, a table may have a column).
        item: the column of the items' ids, where it was named.
    """
    wanted = keep if isinstance(keep, (set, frozenset, dict)) else set(keep)
    name = file_name(items)
    beside = [s / name if s.is_dir() else s.parent / name for s in map(Path, sources)] if name else []
    found = [path for path in dict.fromkeys([*([Path(items)] if items else []), *beside]) if path.is_file()]
    known: dict[str, str] = {}
    for source in found or list(map(Path, sources)):
        for member in opening.members(source):
            _read(member, wanted, known, item)
    return known


def _read(member: opening.Member, wanted: Collection[str], known: dict[str, str], named: str) -> None:
    blocks = carrier(member, lambda kind, where: None)
    if blocks is None:
        return
    blocks, sample = looked_ahead(blocks)
    keys = list(dict.fromkeys(key for record in sample for key in record))
    if hotelrec.LAYOUT.recognises(keys):
        known.update((item, hotelrec.title(item)) for item in wanted if hotelrec.title(item))
        return
    item, title = _columns(keys)
    item = named if named in keys else item
    if not (item and title):
        return
    for block in blocks:
        if isinstance(block, Lines) and rounded([record.get(item) for record in block]):
            block = block.exact()
        for record in block:
            name, value = as_text(unwrapped(record.get(item))), record.get(title)
            if name and value and (name := name.strip()) in wanted and name not in known and (text := _clean(value)):
                known[name] = text


def _columns(keys: Sequence[str]) -> tuple[str, str]:
    """The columns of an item's id and title; '' where there is none."""
    layout = generic.layout(keys)
    plain = {generic.plain(key): key for key in reversed(keys)}
    of_reviews = bool(layout.user and layout.rating)
    names = _OWN if of_reviews else (*_OWN, "title", "name")
    title = next((plain[generic.plain(name)] for name in names if generic.plain(name) in plain), "")
    return layout.item or ("" if of_reviews else plain.get("id", "")), title


def _clean(value: Any) -> str:
    text = " ".join(html.unescape(str(value)).split())
    return "" if text.startswith("<") else text[:LONGEST]  # some of Amazon's are scraps of a page's source
