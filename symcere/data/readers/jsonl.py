"""JSON: one object a line, or one array, or objects one after another over many lines."""

import ast
import codecs
import itertools
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import orjson

from symcere.data.opening import Stream

Lost = Callable[[str, int], None]
"""Told what kind of loss happened and at which line or record (from 1)."""
ROUNDED = 2.0**63
"""From here on the fast parser may make a whole number floating-point (from 2**64, and below this): digits are lost."""
LONGEST_RECORD = 64 << 20
"""Characters; an object of an array that is longer is taken for damage."""


def records(stream: Stream, lost: Lost) -> Iterator[list[dict[str, Any]]]:
    """Blocks of objects. Blank lines are nothing; what is no object is told to ``lost`` (``bad_json``, and
    ``truncated`` where the data end inside one)."""
    lines = stream.peek(1 << 20).lstrip().split(b"\n", 20)[:20]
    objects = [line for line in lines if line.startswith(b"{")]
    by_line = lines[0].startswith(b"{'") or (
        lines[0].startswith(b"{") and 2 * sum(map(_is_json, objects)) >= len(objects)
    )
    return _by_line(stream, lost) if by_line else _by_object(stream, lost)


class Lines(list[dict[str, Any]]):
    """Objects, with the lines that they stand in."""

    def __init__(self, records: list[dict[str, Any]], lines: list[bytes]):
        super().__init__(records)
        self.lines = lines

    def exact(self) -> list[dict[str, Any]]:
        """The objects, every digit of a whole number kept, which takes longer."""
        records = (_slowly(decoded(line)[0]) for line in self.lines)
        return [record for record in records if type(record) is dict]


def rounded(values: list[Any]) -> bool:
    """Whether one of the values may be a whole number that lost digits."""
    try:
        "".join(values)  # the quickest way to see that all are strings
        return False
    except TypeError:
        return any(type(value) is float and abs(value) >= ROUNDED for value in values)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(decoded(line)[0], strict=False)
    except (ValueError, RecursionError):
        return False
    return True


def _by_line(stream: Stream, lost: Lost) -> Iterator[list[dict[str, Any]]]:
    number = 0
    for lines, is_open in stream.lines():
        try:
            block: list[Any] = list(map(orjson.loads, lines))
        except orjson.JSONDecodeError:
            block = []
            for offset, line in enumerate(lines, 1):
                if line.strip():
                    record = _mended(line, lost, number + offset)
                    if record is None:
                        lost("truncated" if is_open else "bad_json", number + offset)
                    else:
                        block.append(record)
        number += len(lines)
        kept = [record for record in block if type(record) is dict]
        for _ in range(len(block) - len(kept)):
            lost("bad_json", number)
        yield Lines(kept, lines)


def _mended(line: bytes, lost: Lost, number: int) -> Any:
    """What the fast parser refuses and others write: NaN, lone surrogates, Latin letters, Python literals."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        text, clean = decoded(line)
    record = _slowly(text)
    if record is not None and not clean:
        lost("encoding", number)
    return record


def _slowly(text: str) -> Any:
    """What a line holds; None where it is nothing that can be read."""
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        if not text.lstrip().startswith("{'"):
            return None
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None


def decoded(line: bytes) -> tuple[str, bool]:
    """Text of a line, and whether it was UTF-8. What is not is read as Windows-1252, which keeps different names
    different where replacement characters would make them one."""
    try:
        return line.decode("utf-8"), True
    except UnicodeDecodeError:
        try:
            return line.decode("cp1252"), False
        except UnicodeDecodeError:
            return line.decode("latin-1"), False


_BETWEEN = re.compile(r"[\[\s,\]]*")
_NEXT = re.compile(r"\}\s*,?\s*(?=\{)")
_NOT_UTF8 = re.compile("[\udc80-\udcff]+")
"""What the decoder leaves of bytes that are no UTF-8."""


def _by_object(stream: Stream, lost: Lost) -> Iterator[list[dict[str, Any]]]:
    scan = json.JSONDecoder(strict=False).raw_decode
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    number = 0
    parts, length, wanted = [""], 0, 0  # characters not yet read as objects, and how many make an attempt worth while
    for data in itertools.chain(stream, [b""]):
        text = decoder.decode(data, final=not data)
        if not text.isascii() and _NOT_UTF8.search(text):
            for line in text.split("\n"):
                if _NOT_UTF8.search(line):
                    lost("encoding", number + 1)
            text = _NOT_UTF8.sub(lambda found: decoded(found[0].encode("utf-8", "surrogateescape"))[0], text)
        parts.append(text)
        length += len(text)
        if data and length < wanted:
            continue
        buffer, position = "".join(parts), 0
        block: list[dict[str, Any]] = []
        while (position := _BETWEEN.match(buffer, position).end()) < len(buffer):  # type: ignore[union-attr]
            try:
                record, after = scan(buffer, position)
            except (ValueError, RecursionError):
                left = len(buffer) - position
                if data and left < LONGEST_RECORD:  # perhaps only unfinished: try again with twice as much
                    wanted = 2 * left
                    break
                number += 1
                following = _NEXT.search(buffer, position)
                if not following:
                    if data:
                        stream.faults.append(f"object {number} is longer than {LONGEST_RECORD >> 20} MiB, or damaged")
                    lost("truncated", number)
                    yield block
                    return
                lost("bad_json", number)
                position = following.end()
                continue
            number, position, wanted = number + 1, after, 0
            if type(record) is dict:
                block.append(record)
            else:
                lost("bad_json", number)
        parts = [buffer[position:]]
        length = len(parts[0])
        yield block
