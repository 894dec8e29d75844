"""Fetching, against a server on this machine that misbehaves in every way one should expect."""

import contextlib
import dataclasses
import hashlib
import http.server
import json
import re
import threading
from pathlib import Path

import pytest

from symcere.data import fetch as module
from symcere.data.cards import Card, find
from symcere.data.fetch import fetch
from symcere.errors import UserError

DATA = bytes(range(256)) * 4096  # 1 MiB
DIGEST = hashlib.sha256(DATA).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files``; ``cut`` answers end after that many bytes, ``fail`` answers are errors."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"/reviews.json.gz": DATA, "/meta.json.gz": b"titles"}
        self.cut: list[int] = []
        self.fail: list[int] = []
        self.ranges = True
        self.tag = '"one"'
        self.asked: list[str | None] = []


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.asked.append(asked)
        if server.fail:
            self.send_error(server.fail.pop(0))
            return
        data = server.files.get(self.path)
        if data is None:
            self.send_error(404)
            return
        start = 0
        same = self.headers.get("If-Range") in (None, server.tag)
        if asked and server.ranges and same:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            if start >= len(data):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data) - start))
        if server.tag:
            self.send_header("ETag", server.tag)
        self.end_headers()
        end = start + server.cut.pop(0) if server.cut else len(data)
        with contextlib.suppress(ConnectionError):  # the other side may stop
            self.wfile.write(data[start:end])
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def card(server, home):
    return Card(
        name="here",
        title="A set",
        urls=(f"http://127.0.0.1:{server.server_port}/reviews.json.gz",),
        by_hand="Ask the librarian.",
        licence="For research.",
        citation="Somebody, 2020",
    )


def get(card, folder=None, **other):
    return fetch(card, folder, accept=lambda terms: True, pause=0.0, **other)


def get_some(card):
    """What the server gives before it ends the first connection."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ATTEMPTS", 0)
        with pytest.raises(UserError, match="ended early"):
            get(card)


def changed(card, **fields):
    return dataclasses.replace(card, **fields)


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def test_fetched_once_and_recorded(server, card):
    seen = []
    (path,) = get(card, progress=lambda *step: seen.append(step))
    assert path == card.folder / "reviews.json.gz"
    assert path.read_bytes() == DATA
    assert card.sources() == [path]
    assert hidden(card.folder) == [".reviews.json.gz.json"]
    record = json.loads((card.folder / ".reviews.json.gz.json").read_text())
    assert record == {"url": card.urls[0], "size": len(DATA), "sha256": DIGEST}
    assert seen[0] == ("reviews.json.gz", 0, len(DATA))
    assert seen[-1] == ("reviews.json.gz", len(DATA), len(DATA))
    assert get(card) == [path]
    assert len(server.asked) == 1, "what is there is not fetched again"


def test_titles_are_fetched_too_where_they_have_an_address(server, card, tmp_path):
    card = changed(card, items=card.urls[0].replace("reviews", "meta"))
    assert [path.name for path in get(card, tmp_path)] == ["reviews.json.gz", "meta.json.gz"]
    assert (tmp_path / "meta.json.gz").read_bytes() == b"titles"


@pytest.mark.parametrize("end", ["/all.csv?download=1", "/my%20reviews.csv"])
def test_what_was_fetched_is_found_whatever_its_address(server, card, end):
    server.files[end] = DATA
    card = changed(card, urls=(f"http://127.0.0.1:{server.server_port}{end}",))
    assert card.sources() == []
    assert get(card) == card.sources()
    assert card.sources()[0].read_bytes() == DATA


def test_one_process_fetches_a_file_at_a_time(server, card):
    busy = threading.Event()

    def progress(name, done, total):
        if done and not busy.is_set():
            busy.set()
            with pytest.raises(UserError, match="Another symcere is fetching"):
                get(card)

    (path,) = get(card, progress=progress)
    assert busy.is_set()
    assert path.read_bytes() == DATA
    assert hidden(path.parent) == [".reviews.json.gz.json"]


def test_terms_come_first(server, card):
    shown = []
    with pytest.raises(UserError, match="not accepted; nothing was fetched"):
        fetch(card, accept=lambda terms: shown.append(terms) or False)
    assert all(text in shown[0] for text in ("For research.", "Somebody, 2020", card.urls[0]))
    assert server.asked == []
    assert not card.folder.exists()


def test_a_connection_that_ends_early_is_taken_up_again(server, card):
    server.cut = [100_000, 0, 300_000]
    (path,) = get(card)
    assert path.read_bytes() == DATA
    assert server.asked == [None, "bytes=100000-", "bytes=100000-", "bytes=400000-"]


def test_an_interrupted_fetch_goes_on_next_time(server, card):
    def stop(name, done, total):
        if done > 200_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(card, progress=stop)
    assert card.sources() == [], "a half file is not taken for a whole one"
    assert ".reviews.json.gz.part" in hidden(card.folder)
    (path,) = get(card)
    assert path.read_bytes() == DATA
    assert re.fullmatch(r"bytes=\d{6}-", server.asked[1])


def test_two_versions_are_never_spliced(server, card):
    server.cut, server.tag = [100_000], '"one"'
    get_some(card)
    server.files["/reviews.json.gz"] = other = b"another version" * 50_000
    server.tag = '"two"'
    (path,) = get(card)
    assert path.read_bytes() == other


@pytest.mark.parametrize("way", ["no ranges", "no version mark"])
def test_a_server_without_resume_starts_over(server, card, way):
    server.cut = [100_000]
    server.ranges = way != "no ranges"
    server.tag = server.tag if server.ranges is False else ""
    (path,) = get(card)
    assert path.read_bytes() == DATA


def test_a_complete_part_is_taken(server, card):
    """The machine stopped between the last byte and the renaming."""
    card.folder.mkdir(parents=True)
    (card.folder / ".reviews.json.gz.part").write_bytes(DATA)
    (card.folder / ".reviews.json.gz.part.tag").write_text('"one"')
    (path,) = get(card)
    assert path.read_bytes() == DATA
    assert hidden(card.folder) == [".reviews.json.gz.json"]


def test_a_busy_server_is_asked_again(server, card):
    server.fail = [503, 429]
    assert get(card)[0].read_bytes() == DATA


@pytest.mark.parametrize("code", [403, 404])
def test_a_refusal_says_how_to_get_the_file_by_hand(server, card, code):
    server.fail = [code]
    with pytest.raises(UserError) as error:
        get(card)
    assert len(server.asked) == 1
    for text in (str(code), card.urls[0], "Ask the librarian.", str(card.folder), "--source"):
        assert text in str(error.value)


def test_nobody_there(card, server):
    card = changed(card, urls=("http://127.0.0.1:9/reviews.json.gz",))
    with pytest.raises(UserError, match=r"refused.*Ask the librarian"):
        get(card)


def test_a_wrong_checksum_is_not_kept(server, card):
    with pytest.raises(UserError, match="sha256"):
        get(changed(card, sha256={"reviews.json.gz": "0" * 64}))
    assert list(card.folder.iterdir()) == []
    good = changed(card, sha256={"reviews.json.gz": DIGEST.upper()})
    assert get(good)[0].read_bytes() == DATA


def test_a_file_put_there_by_hand_is_checked_and_kept(server, card):
    card.folder.mkdir(parents=True)
    path = card.folder / "reviews.json.gz"
    path.write_bytes(DATA)
    assert get(card) == [path]
    assert json.loads((card.folder / ".reviews.json.gz.json").read_text())["sha256"] == DIGEST
    path.write_bytes(b"something else")
    with pytest.raises(UserError, match="is not the file that the card"):
        get(changed(card, sha256={"reviews.json.gz": DIGEST}))
    assert path.read_bytes() == b"something else"
    assert server.asked == []


def test_a_different_file_later_is_noticed(server, card):
    (path,) = get(card)
    path.unlink()
    server.files["/reviews.json.gz"] = b"other"
    said = []
    get(card, notice=said.append)
    assert len(said) == 1
    assert "differs from the one fetched before" in said[0]


@pytest.mark.parametrize(("data", "says"), [(b"", "empty"), (b"\n<!DOCTYPE html><p>Log in", "web page")])
def test_what_is_no_file_is_not_kept(server, card, data, says):
    server.files["/reviews.json.gz"] = data
    with pytest.raises(UserError, match=says):
        get(card)
    assert card.sources() == []


def test_a_card_without_an_address_says_how(home):
    with pytest.raises(UserError, match=r"cannot be fetched without asking.*Accept the terms.*raw/yelp"):
        get(find("yelp"))


def test_a_full_disk_is_said(server, card, monkeypatch):
    real = Path.open

    def full(self, mode="r", *rest, **other):
        if self.name.endswith(".part") and "w" in mode:
            raise OSError(28, "No space left on device")
        return real(self, mode, *rest, **other)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(UserError, match="No space left on device"):
        get(card)
