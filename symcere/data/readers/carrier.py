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
    if b"\0" in head[:4096]:
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
