"""What carries the records of a file: decided by its first bytes."""

import itertools
import re
from collections.abc import Iterator
from typing import Any

from symcere.data.opening import Member
from symcere.data.readers import jsonl, lara, table
from symcere.data.readers.jsonl import Lost
from symcere.errors import UserError

SAMPLE = 1000
"""Records whose keys decide what a file holds."""


def carrier(member: Member, lost: Lost) -> Iterator[list[dict[str, Any]]] | None:
    """Blocks of records of a member, by its first bytes; None when it is nothing that carries records.

    Raises:
        UserError: Parquet inside an archive, which cannot be read as a stream.
    """
    head = member.stream.peek(1 << 16)
    if head.startswith(b"PAR1"):
        if member.path is None:
            raise UserError(f"{member.name} is Parquet inside an archive. Unpack the archive, and give its files.")
        return table.parquet(member.path, lost)
    if _binary(head[:4096]):
        return None
    if lara.recognises(head):
        return lara.records(member, lost)
    first = head.lstrip()[:1]
    if first in (b"{", b"["):
        blocks = jsonl.records(member.stream, lost)
        if re.match(rb'\s*\{\s*"(Reviews|HotelInfo)"\s*:', head):
            return lara.from_json(blocks)
        return blocks
    if table.delimiter(head):
        return table.delimited(member.stream, lost)
    return None


def _binary(head: bytes) -> bool:
    """Whether bytes are those of no text. A few zeros are debris in a table, not in its first line and not beside
    other control characters."""
    return b"\0" in head and (
        b"\0" in head.lstrip().partition(b"\n")[0]
        or 10 * head.count(b"\0") > len(head)
        or re.search(rb"[\x01-\x08\x0e-\x1f]", head) is not None
    )


_FOREIGN = (
    (b"SQLite format 3\0", "an SQLite database", "sqlite3 -header -csv {file} 'SELECT * FROM reviews' > reviews.csv"),
    (b"ARROW1", "a Feather file", "pandas.read_feather('{file}').to_parquet('reviews.parquet')"),
    (b"FEA1", "a Feather file", "pandas.read_feather('{file}').to_parquet('reviews.parquet')"),
    (
        b"\xff\xff\xff\xff",
        "an Arrow stream, as `save_to_disk` of Hugging Face's datasets writes it",
        "datasets.load_from_disk(FOLDER).to_parquet('reviews.parquet')",
    ),
)


def foreign(head: bytes, name: str) -> str:
    """What a file is that others read, and how to export it; '' for none of those known.

    >>> foreign(b"FEA1", "a.feather")
    "a.feather is a Feather file. Export it: `pandas.read_feather('a.feather').to_parquet('reviews.parquet')`"
    """
    return next(
        (
            f"{name} is {what}. Export it: `{how.format(file=name)}`"
            for magic, what, how in _FOREIGN
            if head.startswith(magic)
        ),
        "",
    )


def looked_ahead(
    blocks: Iterator[list[dict[str, Any]]],
) -> tuple[Iterator[list[dict[str, Any]]], list[dict[str, Any]]]:
    """The blocks again, and the first records of them."""
    seen: list[list[dict[str, Any]]] = []
    sample: list[dict[str, Any]] = []
    for block in blocks:
        seen.append(block)
        sample += block[: SAMPLE - len(sample)]
        if sample:
            break
    return itertools.chain(seen, blocks), sample
