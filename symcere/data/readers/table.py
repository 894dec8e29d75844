"""Tables: delimited text with a header line (CSV, TSV, …), and Parquet."""

import csv
import re
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
_ESCAPED: dict[str, Any] = {"escapechar": "\\"}
r"""Spark and MySQL write a quote inside a quoted field so: ``\"``, and a backslash ``\\``."""
_BACKSLASH = re.compile(r'(\\["\\])|\\')
AHEAD = 1 << 20
"""Bytes that are looked at for how the fields are quoted."""
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
    csv.field_size_limit(LONGEST_FIELD)
    between = delimiter(stream.peek(1 << 16))
    form = _form(stream.peek(AHEAD), between)
    quotes = form.get("quoting") != csv.QUOTE_NONE
    lines = _Lines(stream, lost, form is _ESCAPED)
    rows = csv.reader(lines, delimiter=between, **form)
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
                    if len(next(csv.reader([text], delimiter=between, **form), [])) == len(header):
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
        quotes: quote characters seen since it was last set to 0, without those that a backslash makes letters.
        since: the lines handed on since it was last emptied.
        ended: whether the last line handed on had no newline.
    """

    def __init__(self, stream: Stream, lost: Lost, escaped: bool):
        self.number = self.quotes = 0
        self.since: list[str] = []
        self.ended = False
        self._escaped = escaped
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
                if self._escaped:
                    text = _lone_kept(text)
                    line = re.sub(rb"\\.", b"", line)
                self.quotes += line.count(b'"')
                self.ended = is_open
                self.since.append(text)
                yield text + "\n"
        self.ended = True  # asked for more after the last line: inside a quoted field


def _form(head: bytes, between: str) -> dict[str, Any]:
    """How a table quotes, for the csv module: that in which its rows are as wide as its header. An ordinary table may
    hold backslashes, one before a closing quote among them: it is read as one wherever that can be."""
    if b'\\"' in head and not _even(_widths(head, between)):
        escaped = _widths(head, between, _ESCAPED)
        ordinary = _widths(head, between, strict=False) or [0]
        if _even(escaped) and len(escaped or ()) >= ordinary.count(ordinary[0]):
            return _ESCAPED
    if between == "\t" and not _even(_widths(head[: 1 << 16], between)):
        return {"quoting": csv.QUOTE_NONE}
    return {}


def _lone_kept(text: str) -> str:
    """Text in which a backslash before anything but a quote or another stands for itself when it is read as escaped."""
    return _BACKSLASH.sub(lambda found: found[1] or r"\\", text) if "\\" in text else text


def _even(widths: list[int] | None) -> bool:
    return widths is not None and len(set(widths[:-1])) <= 1  # the last row may be cut


def _widths(head: bytes, between: str, form: dict[str, Any] | None = None, strict: bool = True) -> list[int] | None:
    """Fields of each row in the first bytes of a table; None where a quote closes in the middle of a field."""
    text = head.decode("utf-8", "replace").replace("\r\n", "\n")
    lines = [line + "\n" for line in (_lone_kept(text) if form is _ESCAPED else text).split("\n")]
    rows = csv.reader(lines, delimiter=between, strict=strict, **form or {})
    widths = []
    try:
        for row in rows:
            if row and row[0] != _STATED:
                widths.append(len(row))
    except csv.Error:
        return widths if rows.line_num >= len(lines) else None  # inside a field at the end is only cut
    return widths


def uneven(head: bytes) -> str:
    """What is wrong with a table of which no row is as wide as its header; '' where that is not it.

    >>> uneven(b"user,item\\n1,ann,x\\n2,bob,y\\n")
    'its header names 2 columns, and its rows have 3'
    """
    between = "" if head.lstrip().startswith((b"{", b"[")) else delimiter(head)
    header, *widths = (between and _widths(head, between, strict=False)) or [0]
    widths = widths[:-1] or widths  # the last row may be cut
    if not widths or header in widths:
        return ""
    found = f"{min(widths)}" + (f" to {max(widths)}" if len(set(widths)) > 1 else "")
    return f"its header names {header} columns, and its rows have {found}"


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
