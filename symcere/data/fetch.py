"""Fetching the files of a card: terms first, resumed, checked, never half there.

A download grows as ``.NAME.part`` and takes its name when it is complete. What was fetched is recorded in
``.NAME.json`` (address, size, sha256), so that a later, different download is noticed.
"""

import hashlib
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from symcere.data.cards import Card, file_name
from symcere.errors import UserError
from symcere.home import alone, writing

BLOCK = 1 << 18
TIMEOUT = 60.0
"""Seconds without a byte before a connection is given up."""
ATTEMPTS = 5
"""Connections in a row that bring nothing new before a download is given up."""

Progress = Callable[[str, int, int | None], None]
"""Told the file's name, the bytes there so far, and all its bytes where the server says."""


def fetch(
    card: Card,
    folder: Path | None = None,
    *,
    accept: Callable[[str], bool],
    progress: Progress = lambda name, done, total: None,
    notice: Callable[[str], None] = warnings.warn,
    pause: float = 1.0,
) -> list[Path]:
    """The card's files of reviews, and of titles where it has an address for them, fetched where they are not there.

    Args:
        folder: where to; by default the card's own.
        accept: shown the terms (licence, citation, addresses) before anything is fetched; False stops.
        notice: told what is odd and no error: a file that differs from the one fetched before.
        pause: seconds before the second attempt; doubled before each further one.

    Returns:
        The files, reviews first.

    Raises:
        UserError: no address, terms not accepted, a download that fails, a wrong checksum: each with what to do.
    """
    folder = Path(folder) if folder else card.folder
    if not card.urls:
        raise UserError(f"'{card.name}' cannot be fetched without asking. {card.how_to_get()}")
    urls = _urls(card)
    if not accept(terms(card)):
        raise UserError(f"The terms of '{card.name}' were not accepted; nothing was fetched. --accept accepts them.")
    return [_file(card, url, folder, progress, notice, pause) for url in urls]


def _urls(card: Card) -> list[str]:
    """What is fetched: the reviews, and the file of titles where it has an address."""
    return [*card.urls, *([card.items] if card.items.startswith(("http://", "https://")) else [])]


def terms(card: Card) -> str:
    """What a person should have read before fetching."""
    lines = [card.title]
    lines.append(f"Terms: {card.licence or 'none are known; ask whoever publishes the data.'}")
    if card.citation:
        lines.append(f"Cite: {card.citation}")
    return "\n".join([*lines, *(f"From: {url}" for url in _urls(card))])


def _file(card: Card, url: str, folder: Path, progress: Progress, notice: Callable[[str], None], pause: float) -> Path:
    name = file_name(url)
    if not name or name.startswith("."):
        raise UserError(f"The address {url} names no file. Correct it in the card '{card.name}'.")
    path, part = folder / name, folder / f".{name}.part"
    expected = str(card.sha256.get(name, "")).lower()
    record = _record(path)
    if path.exists():
        if record.get("size") == path.stat().st_size and expected in ("", record.get("sha256")):
            return path
        digest = _sha256(path)
        if expected and digest != expected:
            raise UserError(
                f"{path} is not the file that the card '{card.name}' knows: its sha256 is {digest}, not {expected}. "
                "Remove it and fetch again."
            )
        if record.get("sha256") not in (None, digest):
            notice(f"{path} changed since it was fetched (sha256 {digest}, then {record['sha256']}).")
        _write_record(path, {"url": url, "size": path.stat().st_size, "sha256": digest})
        return path
    busy = f"Another symcere is fetching {path}. Wait for it, then try again."
    try:
        with alone(path, busy):
            if path.exists():  # another process was faster
                return path
            _download(card, url, part, lambda done, total: progress(name, done, total), pause)
            digest = _sha256(part)
            size = part.stat().st_size
            if not size:
                _discard(part)
                raise _failed(card, url, "the server sent an empty file")
            with part.open("rb") as opened:
                if re.match(rb"\s*<(!doctype )?html", opened.read(64), re.IGNORECASE):
                    _discard(part)
                    raise _failed(card, url, "the server sent a web page instead of the file")
            if expected and digest != expected:
                _discard(part)
                raise _failed(card, url, f"what came has the sha256 {digest}, not {expected}, so it was removed")
            if record.get("sha256") not in (None, digest):
                notice(
                    f"{name} differs from the one fetched before (sha256 {digest}, then {record['sha256']}): "
                    "results on the two are not comparable."
                )
            part.replace(path)
            _discard(part)
            _write_record(path, {"url": url, "size": size, "sha256": digest})
    except OSError as error:
        raise UserError(
            f"Cannot write to {folder}: {error.strerror or error}. What was fetched so far stays there, and the next "
            "fetch goes on from it."
        ) from None
    return path


def _download(card: Card, url: str, part: Path, progress: Callable[[int, int | None], None], pause: float) -> None:
    """Bring ``part`` to its full length, going on from what is there."""
    in_vain = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            if _connection(url, part, progress):
                return
            problem = "the connection ended early"
        except urllib.error.HTTPError as error:
            problem = f"the server answered {error.code} {error.reason}"
            error.close()
            if error.code == 416:  # nothing behind what is there, and that was not known to be all: start over
                _discard(part)
            elif error.code < 500 and error.code not in (408, 429):
                raise _failed(card, url, problem) from None
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            problem = str(getattr(error, "reason", error)) or type(error).__name__
        in_vain = 0 if part.exists() and part.stat().st_size > before else in_vain + 1
        if in_vain >= ATTEMPTS:
            raise _failed(card, url, problem)
        time.sleep(pause * 2 ** max(0, in_vain - 1))


def _connection(url: str, part: Path, progress: Callable[[int, int | None], None]) -> bool:
    """One request; whether all of the file is there after it."""
    done = part.stat().st_size if part.exists() else 0
    tag = _tag(part)
    headers = {"User-Agent": "symcere", "Accept-Encoding": "identity"}
    if done and tag.exists():  # without a mark of the version, two versions could be spliced: start over
        headers |= {"Range": f"bytes={done}-", "If-Range": tag.read_text()}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as answer:
        goes_on = answer.status == 206 and (answer.headers.get("Content-Range") or "").startswith(f"bytes {done}-")
        if answer.status == 206 and not goes_on:
            _discard(part)
            return False
        if not goes_on:
            done = 0
        length = answer.headers.get("Content-Length")
        total = done + int(length) if length and length.isdigit() else None
        mark = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        if mark and not mark.startswith("W/"):
            tag.write_text(mark)
        else:
            tag.unlink(missing_ok=True)
        progress(done, total)
        with part.open("ab" if goes_on else "wb") as file:
            while True:
                try:
                    block = answer.read(BLOCK)
                except http.client.IncompleteRead as error:
                    file.write(error.partial)
                    return False
                if not block:
                    break
                file.write(block)
                done += len(block)
                progress(done, total)
            file.flush()
            os.fsync(file.fileno())
    return total is None or done >= total


def _failed(card: Card, url: str, why: str) -> UserError:
    by_hand = card.by_hand.strip() or f"Open {url} in a browser."
    return UserError(
        f"Fetching '{card.name}' from {url} failed: {why}. Try again (it goes on from what is there), or get it by "
        f"hand: {by_hand} Put the files into {card.folder}, or name them with --source."
    )


def _tag(part: Path) -> Path:
    """Beside a partial download: the server's mark of the version it is of."""
    return part.with_name(part.name + ".tag")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _tag(part).unlink(missing_ok=True)


def _sidecar(path: Path) -> Path:
    return path.with_name(f".{path.name}.json")


def _record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(_sidecar(path).read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _write_record(path: Path, record: dict[str, Any]) -> None:
    with writing(_sidecar(path)) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
