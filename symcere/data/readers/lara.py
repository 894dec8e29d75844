"""LARA TripAdvisor (Wang, Lu, Zhai, KDD 2010/2011): one text file a hotel, ``hotel_100562_parsed.txt`` or ``.dat``.

    <Author>somebody
    <Content>One line of text …
    <Date>Dec 23, 2008
    <Rating>5	-1	5 …          overall first; 0: missing, -1: none.   The raw form has <Overall>5 instead.

The hotel's id stands in the file's name alone. The JSON form (``HotelInfo``, ``Reviews``) is read as the same.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from symcere.data.opening import Member
from symcere.data.readers.jsonl import Lost, decoded
from symcere.data.readers.layout import Layout

LAYOUT = Layout(
    name="lara",
    signature=frozenset({"HotelID", "Author"}),
    user="Author",
    item="HotelID",
    rating="Overall",
    time="Date",
    text="Content",
)
_TAG = re.compile(r"<([A-Z][\w. /]*)>(.*)", re.DOTALL)


def recognises(head: bytes) -> bool:
    return re.search(rb"^<Author>", head, re.MULTILINE) is not None and b"<Content>" in head


def hotel_id(name: str) -> str:
    """
    >>> hotel_id("Texts/hotel_100562_parsed.txt")
    '100562'
    """
    stem = name.rpartition("/")[2].partition(".")[0]
    return stem.removeprefix("hotel_").removesuffix("_parsed")


def records(member: Member, lost: Lost) -> Iterator[list[dict[str, Any]]]:
    """One block: a hotel's reviews."""
    item = hotel_id(member.name)
    block: list[dict[str, Any]] = []
    record: dict[str, Any] = {}
    open_tag, number = "", 0
    for lines, _ in member.stream.lines():
        for line in lines:
            number += 1
            text, clean = decoded(line.rstrip(b"\r"))
            if not clean:
                lost("encoding", number)
            tag = _TAG.match(text)
            if tag:
                open_tag, text = tag.groups()
                if open_tag == "Author":
                    if record:
                        block.append(record)
                    record = {"HotelID": item, "Author": text.strip(), "Content": "", "Date": None, "Overall": None}
                elif open_tag in ("Content", "Date") and record:
                    record[open_tag] = text.strip()
                elif open_tag in ("Rating", "Overall") and record:
                    record["Overall"] = overall(text.split("\t")[0])
            elif open_tag == "Content" and text.strip() and not text.startswith("<"):
                record["Content"] += "\n" + text.strip()
    if record:
        if member.stream.faults:  # the data ended early, so this review may have too
            lost("truncated", number)
        else:
            block.append(record)
    yield block


def overall(value: Any) -> Any:
    """A rating, None where the source's 0 or -1 says there is none."""
    try:
        return value if float(value) > 0 else None
    except (TypeError, ValueError):
        return value


def from_json(blocks: Iterable[list[dict[str, Any]]]) -> Iterator[list[dict[str, Any]]]:
    """Reviews of the JSON form: one object a hotel, with its ``HotelInfo`` and ``Reviews``."""
    for block in blocks:
        for hotel in block:
            info = hotel.get("HotelInfo") or {}
            yield [
                {
                    "HotelID": info.get("HotelID"),
                    "Author": review.get("Author"),
                    "Content": review.get("Content"),
                    "Date": review.get("Date"),
                    "Overall": overall((review.get("Ratings") or {}).get("Overall")),
                }
                for review in hotel.get("Reviews") or []
                if isinstance(review, dict)
            ]
