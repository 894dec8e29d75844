"""Opening what reviews come in: plain files, folders, archives, compressed, one inside another.

What a file is shows in its first bytes, never in its name. Everything is a forward stream of blocks: nothing is
written to disk, a member's name is never used as a path, and memory stays bounded whatever the archive claims.
Data that end too early are no exception here: the stream ends, and its ``faults`` say why.
"""

import bz2
import codecs
import lzma
import re
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from isal import igzip_lib

from symcere.data.ahead import ahead
from symcere.errors import UserError

BLOCK = 1 << 17
"""Bytes handed on at a time. The records in so few die before Python's cyclic collector looks for them, which makes
reading JSON lines twice as fast as with blocks of 1 MiB."""
BLOCKS_AHEAD = 16
"""Unpacked while others are being parsed, 2 MiB."""
LONGEST_LINE = 64 << 20
"""A longer line, in bytes, is no line of text."""
DEEPEST = 6
"""Archives inside archives beyond this are a trap, not data."""

_SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".tgz", ".tar", ".zip")


class Stream:
    """Bytes in blocks, with look-ahead.

    Attributes:
        faults: what cut the data short, shared by everything read from the same file.
    """

    def __init__(self, blocks: Iterable[bytes], faults: list[str]):
        self._blocks = iter(blocks)
        self._ahead = b""
        self.faults = faults

    def peek(self, size: int) -> bytes:
        """The next ``size`` bytes, fewer at the end; they stay in the stream."""
        parts = [self._ahead]
        length = len(self._ahead)
        while length < size:
            block = next(self._blocks, None)
            if block is None:
                break
            parts.append(block)
            length += len(block)
        self._ahead = b"".join(parts)
        return self._ahead[:size]

    def read(self, size: int) -> bytes:
        """The next ``size`` bytes, fewer at the end."""
        taken = self.peek(size)
        self._ahead = self._ahead[len(taken) :]
        return taken

    def push_back(self, data: bytes) -> None:
        self._ahead = data + self._ahead

    def __iter__(self) -> Iterator[bytes]:
        """What is left, in blocks."""
        while True:
            block, self._ahead = self._ahead, b""
            if not block:
                following = next(self._blocks, None)
                if following is None:
                    return
                block = following
            if block:
                yield block

    def drain(self) -> None:
        for _ in self:
            pass

    def lines(self) -> Iterator[tuple[list[bytes], bool]]:
        """Lists of lines without their ``\\n``, and whether the last of them had none (the end of the data)."""
        rest = b""
        for block in self:
            head, newline, tail = block.rpartition(b"\n")
            if not newline:
                rest += block
                if len(rest) > LONGEST_LINE:
                    self.faults.append(f"a line is longer than {LONGEST_LINE >> 20} MiB")
                    yield [rest[:BLOCK]], True
                    return
                continue
            yield (rest + head).split(b"\n"), False
            rest = tail
        if rest:
            yield [rest], True


@dataclass
class Member:
    """One file of data: a file itself, or a part of a folder or an archive."""

    name: str
    """For messages: ``reviews.zip/yelp.tar/review.json``."""
    stream: Stream
    path: Path | None
    """The file on disk whose plain content this is, where there is one (Parquet needs to seek)."""

    @property
    def stem(self) -> str:
        """The innermost file name, without folders."""
        return self.name.replace("\\", "/").rpartition("/")[2]


def members(source: Path, on_bytes: Callable[[int], None] = lambda _: None) -> Iterator[Member]:
    """Every file of data in ``source``, unpacked, in order. A member is read before the next one is asked for.

    Args:
        source: a file, an archive, or a folder (its files in order of name, hidden ones left out).
        on_bytes: told how many bytes (as stored) were read from disk.

    Raises:
        UserError: missing, unreadable or empty file, Git-LFS pointer, web page, encrypted or unknown archive.
    """
    for file in files(source):
        faults: list[str] = []
        stream = Stream(_blocks(file, on_bytes), faults)
        shown = file.name if file == source else f"{source.name}/{file.relative_to(source).as_posix()}"
        if not stream.peek(1):
            if file != source:
                continue
            raise UserError(f"{source} is empty. Fetch it again, or point to the file that holds the reviews.")
        yield from _unpack(shown, stream, file, 0)


def files(source: Path) -> list[Path]:
    """The files on disk that ``source`` stands for.

    Raises:
        UserError: there is nothing at ``source``, or an empty folder.
    """
    if source.is_dir():
        found = sorted(
            f
            for f in source.rglob("*")
            if f.is_file() and not any(part.startswith((".", "__MACOSX")) for part in f.relative_to(source).parts)
        )
        if not found:
            raise UserError(f"The folder {source} holds no file.")
        return found
    if not source.exists():
        raise UserError(f"There is no file {source}. Check the path, or fetch the data first.")
    return [source]


def _blocks(file: Path, on_bytes: Callable[[int], None]) -> Iterator[bytes]:
    try:
        with file.open("rb", buffering=0) as opened:
            while block := opened.read(BLOCK):
                on_bytes(len(block))
                yield block
    except OSError as error:
        raise UserError(f"Cannot read {file}: {error.strerror or error}.") from None


def _unpack(name: str, stream: Stream, path: Path | None, depth: int) -> Iterator[Member]:
    if depth > DEEPEST:
        raise UserError(f"{name} nests archives more than {DEEPEST} deep. Unpack it by hand.")
    head = stream.peek(512)
    below = _without_suffix(name)
    if head.startswith(b"version https://git-lfs"):
        raise UserError(
            f"{name} is a Git-LFS pointer, not the data it stands for. Run `git lfs pull` in the repository it came "
            "from, then try again."
        )
    if head.startswith(b"\x1f\x8b"):
        yield from _unpack(below, _inflated(name, stream, "gzip", _gzip, depth), None, depth + 1)
    elif re.match(rb"BZh[1-9]1AY&SY", head):
        yield from _unpack(below, _inflated(name, stream, "bz2", _bz2, depth), None, depth + 1)
    elif head.startswith(b"\xfd7zXZ\x00"):
        yield from _unpack(below, _inflated(name, stream, "xz", _xz, depth), None, depth + 1)
    elif head.startswith(b"\x28\xb5\x2f\xfd"):
        yield from _unpack(below, Stream(_zstd(name, stream), stream.faults), None, depth + 1)
    elif head[257:262] == b"ustar":
        yield from _tar(name, stream, depth)
    elif head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        yield from _zip(name, stream, depth)
    elif head.startswith((b"7z\xbc\xaf\x27\x1c", b"Rar!")):
        raise UserError(f"{name} is a 7z or RAR archive. Unpack it, and give the folder or the files in it.")
    elif re.match(rb"\s*<(!doctype )?html", head, re.IGNORECASE):
        raise UserError(f"{name} is a web page, not data: the download was answered by a page. Fetch it by hand.")
    else:
        yield Member(name, _as_utf8(stream), path)


def _without_suffix(name: str) -> str:
    for suffix in _SUFFIXES:
        if name.lower().endswith(suffix) and suffix not in (".tar", ".zip"):
            return name[: -len(suffix)]
    return name


def _as_utf8(stream: Stream) -> Stream:
    """The stream without a byte-order mark, and in UTF-8 where the mark says UTF-16."""
    if stream.peek(3) == codecs.BOM_UTF8:
        stream.read(3)
    elif stream.peek(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        text = codecs.iterdecode(stream, "utf-16", "replace")
        return Stream((part.encode("utf-8", "replace") for part in text), stream.faults)
    return stream


# ---------------------------------------------------------------- compressed streams


_gzip = partial(igzip_lib.IgzipDecompressor, flag=igzip_lib.DECOMP_GZIP)
_deflate: Callable[[], Any] = partial(igzip_lib.IgzipDecompressor, flag=igzip_lib.DECOMP_DEFLATE)
_bz2, _xz = bz2.BZ2Decompressor, lzma.LZMADecompressor


def _inflated(name: str, packed: Stream, kind: str, new: Callable[[], Any], depth: int) -> Stream:
    blocks = _inflate(name, packed, kind, new)
    # A file of its own is unpacked by a thread; a part of an archive is not, as its reader also reads the archive.
    return Stream(blocks if depth else ahead(blocks, BLOCKS_AHEAD), packed.faults)


def _inflate(name: str, packed: Stream, kind: str, new: Callable[[], Any], once: bool = False) -> Iterator[bytes]:
    """Unpacked blocks; several compressed parts in a row count as one (``once``: what follows stays packed)."""
    part = new()
    try:
        for block in packed:
            while True:
                out = part.decompress(block, BLOCK)
                if out:
                    yield out
                if part.eof:
                    block = part.unused_data
                    if once:
                        packed.push_back(block)
                        return
                    if not block.strip(b"\0"):  # padding
                        block = packed.peek(1)
                        if not block.strip(b"\0"):
                            return
                        block = packed.read(BLOCK)
                    part = new()
                elif part.needs_input and (not out or len(out) < BLOCK):
                    break
                else:
                    block = b""
    except (igzip_lib.IsalError, OSError, lzma.LZMAError) as error:  # type: ignore[misc]  # wrong in its stubs
        packed.faults.append(f"{name} has damaged {kind} data ({error})")
        return
    if not part.eof:
        packed.faults.append(f"{name} ends in the middle of its {kind} data")


def _zstd(name: str, packed: Stream) -> Iterator[bytes]:
    import pyarrow as pa

    try:
        with pa.CompressedInputStream(pa.PythonFile(_Readable(packed), mode="r"), "zstd") as unpacked:
            while block := unpacked.read(1 << 16):  # what is asked for is lost when the data end in it
                yield block
    except OSError as error:
        packed.faults.append(f"{name} ends in the middle of its zstd data, or is damaged ({error})")


class _Readable:
    """The little of a file object that pyarrow asks for."""

    closed = False

    def __init__(self, stream: Stream):
        self._stream = stream

    def read(self, size: int = BLOCK) -> bytes:
        return self._stream.read(size)

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True


# ---------------------------------------------------------------- archives


def _wanted(name: str) -> bool:
    return not any(part.startswith((".", "__MACOSX")) for part in name.split("/") if part not in (".", ".."))


def _tar(name: str, stream: Stream, depth: int) -> Iterator[Member]:
    try:
        with tarfile.open(fileobj=stream, mode="r|", bufsize=BLOCK) as archive:  # type: ignore[call-overload]
            for entry in archive:
                if not entry.isreg() or not entry.size or not _wanted(entry.name):
                    continue
                shown = f"{name}/{entry.name}"
                if entry.issparse():
                    raise UserError(f"{shown} is stored sparse. Unpack the archive, and give the files.")
                inner = Stream(_tar_member(shown, archive.fileobj, entry, stream.faults), stream.faults)
                yield from _unpack(shown, inner, None, depth + 1)
    except (tarfile.TarError, EOFError) as error:
        if not stream.faults:
            stream.faults.append(f"{name} ends in the middle of the tar archive, or is damaged ({error})")


def _tar_member(name: str, archive: Any, entry: tarfile.TarInfo, faults: list[str]) -> Iterator[bytes]:
    # Not by `extractfile`: where the data end early, it raises and takes the block before the end along.
    archive.seek(entry.offset_data)
    left = entry.size
    while left:
        block = archive.read(min(left, BLOCK))
        if not block:
            if not faults:
                faults.append(f"{name} ends in the middle of the tar archive")
            return
        left -= len(block)
        yield block


def _zip(name: str, stream: Stream, depth: int) -> Iterator[Member]:
    """Members by their local headers, front to back: works inside another archive, on a file cut short, and on
    archives beyond 4 GiB whose directory overflowed (as macOS writes them)."""
    while stream.peek(4) == b"PK\x03\x04":
        header = stream.read(30)
        if len(header) < 30:
            break
        _, _, flags, method, _, _, crc, packed_size, _, name_size, extra_size = struct.unpack("<IHHHHHIIIHH", header)
        raw, extra = stream.read(name_size), stream.read(extra_size)
        inner_name = raw.decode("utf-8" if flags & 0x800 else "cp437", "replace")
        shown = f"{name}/{inner_name}"
        if flags & 1:
            raise UserError(f"{shown} is encrypted. Unpack the archive, and give the folder or the files in it.")
        new: Callable[[], Any] | None = {8: _deflate, 12: _bz2}.get(method)
        if new:
            blocks = _inflate(shown, stream, "zip", new, once=True)
        elif method == 0 and not flags & 8:
            blocks = _take(shown, stream, _zip64(extra, packed_size))
        else:
            raise UserError(
                f"{shown} is packed in a way that cannot be streamed. Unpack the archive, and give the files."
            )
        checked = _Checked(blocks)
        inner = Stream(checked, stream.faults)
        if inner_name.endswith("/") or not _wanted(inner_name) or not inner.peek(1):
            inner.drain()
        else:
            yield from _unpack(shown, inner, None, depth + 1)
            inner.drain()
        if flags & 8 and not stream.faults:
            crc = _descriptor(stream)
        if checked.crc != crc and not stream.faults:
            stream.faults.append(f"{shown} is damaged: its checksum differs")
    if not stream.faults and stream.peek(2) != b"PK":
        stream.faults.append(f"{name} ends in the middle of the zip archive")
    stream.drain()


class _Checked:
    def __init__(self, blocks: Iterator[bytes]):
        self._blocks = blocks
        self.crc = 0

    def __iter__(self) -> Iterator[bytes]:
        for block in self._blocks:
            self.crc = zlib.crc32(block, self.crc)
            yield block


def _take(name: str, stream: Stream, size: int) -> Iterator[bytes]:
    while size:
        block = stream.read(min(size, BLOCK))
        if not block:
            stream.faults.append(f"{name} ends in the middle of the zip archive")
            return
        size -= len(block)
        yield block


def _zip64(extra: bytes, size: int) -> int:
    """The packed size, from the zip64 extra field where the header's 32 bits were too few."""
    while size == 0xFFFFFFFF and len(extra) >= 4:
        kind, length = struct.unpack("<HH", extra[:4])
        if kind == 1 and length >= 16:
            return int(struct.unpack("<Q", extra[12:20])[0])
        extra = extra[4 + length :]
    return size


def _descriptor(stream: Stream) -> int:
    """The checksum behind a member whose header did not know it; sizes are 4 or 8 bytes, the signature optional."""
    if stream.peek(4) == b"PK\x07\x08":
        stream.read(4)
    after = stream.peek(24)
    length = 12 if after[12:14] == b"PK" else 20
    return int.from_bytes(stream.read(length)[:4], "little")
