"""Tables: delimited text with a header line (CSV, TSV, …), and Parquet."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from symcere.data.dates import LATEST
from symcere.data.opening import Stream
from symcere.data.readers.jsonl import Lost, decoded
from symcere.errors import UserError

ROWS = 8192
"""Rows handed on at a time."""
_STATED = "sep="
"""Before the header a spreadsheet may say what separates its columns: ``sep=;``."""
LONGEST_FIELD = 1 << 20
"""Characters; a longer field is an unclosed quote that swallows the lines after it."""


def delimiter(head: bytes) -> str:
    """What separates the columns of the header line, or '' when nothing does."""
    line = head.lstrip().partition(b"\n")[0].decode("utf-8", "replace").strip()
    if line[:-1] == _STATED:
        return line[-1]
    best = max(",\t;|", key=line.count)
    return best if best in line else ""


def delimited(stream: Stream, lost: Lost) -> Iterator[list[dict[str, Any]]]:
    """Blocks of rows under the names in the first line; quoted fields may hold newlines.

    A row with more or fewer fields than the header is told to ``lost`` as ``bad_row``, the last one as
    ``truncated`` when the data end inside it. A blank field is None.
    """
    between = delimiter(stream.peek(1 << 16))
    quotes = between != "\t" or _quotes(stream.peek(1 << 16))
    csv.field_size_limit(LONGEST_FIELD)
    lines = _Lines(stream, lost)
    rows = csv.reader(lines, delimiter=between, quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE)
    header = _header(rows)
    block: list[dict[str, Any]] = []
    while True:
        before = lines.number
        lines.quotes, lines.since = 0, []
        try:
            row = next(rows)
        except StopIteration:
            break
        except csv.Error:
            for line in range(before + 1, lines.number + 1):
                lost("bad_row", line)
            continue
        if not row:
            continue
        cut = lines.ended and ((quotes and lines.quotes % 2) or stream.faults)
        if len(row) != len(header) or cut:
            ended = cut or lines.ended
            lost("truncated" if ended else "bad_row", before + 1)
            if not ended and lines.number > before + 1:  # a quote that was left open swallows rows
                for number, text in enumerate(lines.since[1:], before + 2):
                    if len(next(csv.reader([text], delimiter=between), [])) == len(header):
                        lost("bad_row", number)
            continue
        block.append({name: value or None for name, value in zip(header, row, strict=True)})
        if len(block) >= ROWS:
            yield block
            block = []
    yield block


def _header(rows: Iterator[list[str]]) -> list[str]:
    """The names of the columns; one that comes again is numbered, so that the first has the name.

    Raises:
        UserError: the line is none of a table.
    """
    try:
        first = next((row for row in rows if any(row) and row[0] != _STATED), [])
    except csv.Error as error:
        raise UserError(
            f"The first line of the table cannot be read ({error}): it should name the columns. Is it CSV with the "
            "line ends of today's systems (LF or CRLF)?"
        ) from None
    names = [name.strip() for name in first]
    again = [names[: n + 1].count(name) for n, name in enumerate(names)]
    return [name if n == 1 else f"{name} ({n})" for name, n in zip(names, again, strict=True)]


class _Lines:
    """Decoded lines for the csv module.

    Attributes:
        number: of the last line handed on, from 1.
        quotes: quote characters seen since it was last set to 0.
        since: the lines handed on since it was last emptied.
        ended: whether the last line handed on had no newline.
    """

    def __init__(self, stream: Stream, lost: Lost):
        self.number = self.quotes = 0
        self.since: list[str] = []
        self.ended = False
        self._lines = self._read(stream, lost)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return next(self._lines)

    def _read(self, stream: Stream, lost: Lost) -> Iterator[str]:
        for lines, is_open in stream.lines():
            for line in lines:
                self.number += 1
                text, clean = decoded(line.rstrip(b"\r"))
                if not clean:
                    lost("encoding", self.number)
                self.quotes += line.count(b'"')
                self.ended = is_open
                self.since.append(text)
                yield text + "\n"
        self.ended = True  # asked for more after the last line: inside a quoted field


def _quotes(head: bytes) -> bool:
    """Whether a table with tabs quotes its fields: read so, its rows are as wide as its header."""
    lines = head.decode("utf-8", "replace").rpartition("\n")[0].splitlines(keepends=True)
    try:
        widths = [len(row) for row in csv.reader(lines, delimiter="\t", strict=True)][:-1]
    except csv.Error:
        return False
    return len(set(widths)) <= 1


def parquet(path: Path, lost: Lost) -> Iterator[list[dict[str, Any]]]:
    """Blocks of rows; columns that cannot hold what a review is made of (vectors, maps, bytes) are left out. Times
    are in seconds, no later than :data:`LATEST`: no calendar of Python's reaches beyond the year 9999.

    Raises:
        UserError: the file is damaged or cut short (its directory stands at the end, so nothing can be saved).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            readable = [field.name for field in file.schema_arrow if _readable(field.type)]
            yield []
            row = 0
            for batch in file.iter_batches(batch_size=ROWS, columns=readable):
                for n, (field, values) in enumerate(zip(batch.schema, batch.columns, strict=True)):
                    if (plain := _plain(values, row, lost)) is not values:
                        batch = batch.set_column(n, field.name, plain)
                row += len(batch)
                yield batch.to_pylist()
    except (pa.ArrowInvalid, OSError, OverflowError) as error:
        raise UserError(
            f"{path} is no readable Parquet file ({' '.join(str(error).split())[:120]}). Fetch it again."
        ) from None


def _plain(values: Any, row: int, lost: Lost) -> Any:
    """A column as a review needs it, or a nested record's: times in seconds, bytes as text (so did old writers keep
    it) or nothing.

    Args:
        row: of the first value, for what is told to ``lost``.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_struct(values.type):
        parts = zip(values.type, values.flatten(), strict=True)
        plain = {field.name: _plain(part, row, lost) for field, part in parts if _readable(field.type)}
        return pa.StructArray.from_arrays(list(plain.values()), list(plain)) if plain else pa.nulls(len(values))
    if pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
        zone = getattr(values.type, "tz", None)
        seconds = values.cast(pa.timestamp("s", zone), safe=False).cast(pa.int64())
        return pc.if_else(pc.less(pc.abs(seconds), LATEST), seconds, LATEST)
    if pa.types.is_binary(values.type) or pa.types.is_large_binary(values.type):
        try:
            return values.cast(pa.string())
        except pa.ArrowInvalid:
            raw = values.to_pylist()
        if any(value and b"\0" in value for value in raw):  # a picture, a vector
            return pa.nulls(len(raw))
        texts = [None if value is None else decoded(value) for value in raw]
        for number, text in enumerate(texts, row + 1):
            if text and not text[1]:
                lost("encoding", number)
        return pa.array([text and text[0] for text in texts], pa.string())
    return values


def _readable(type: Any) -> bool:
    """Whether values of an Arrow type may be part of a review; a text may be a list of strings, as in JSON."""
    from pyarrow import types

    if types.is_list(type) or types.is_large_list(type):
        return types.is_string(type.value_type) or types.is_large_string(type.value_type)
    if types.is_nested(type):
        return types.is_struct(type)
    return not types.is_fixed_size_binary(type)
