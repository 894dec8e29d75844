"""What is written is whole or not there; errors are paragraphs with help."""

import errno
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from symcere.errors import UserError, nearest
from symcere.home import alone, check_name, writing
from symcere.home import home as home_of


def left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_home(monkeypatch, tmp_path):
    monkeypatch.setenv("SYMCERE_HOME", str(tmp_path / "x"))
    assert home_of() == tmp_path / "x"
    monkeypatch.setenv("SYMCERE_HOME", "")
    monkeypatch.chdir(tmp_path)
    assert home_of() == tmp_path / ".symcere"


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    with writing(path) as part:
        part.write_text("new")
        assert not path.exists()
        assert part.parent == path.parent  # the same disk: a rename is enough
    assert path.read_text() == "new"
    assert left(path.parent) == ["file.txt"]


def test_a_folder_replaces_the_older_one(tmp_path):
    path = tmp_path / "corpus"
    for content in ("old", "new"):
        with writing(path) as part:
            (part / "sub").mkdir(parents=True)
            (part / "sub" / content).write_text(content)
            (part / "manifest.json").write_text("{}")
    assert left(path / "sub") == ["new"]
    assert left(tmp_path) == ["corpus"]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), UserError("x")])
@pytest.mark.parametrize("folder", [False, True])
def test_after_an_error_the_older_one_stands(tmp_path, error, folder):
    path = tmp_path / "thing"
    with writing(path) as part:
        part.write_text("old")

    def write() -> None:
        with writing(path) as part:
            if folder:
                part.mkdir()
                (part / "a").write_text("half")
            else:
                part.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert path.read_text() == "old"
    assert left(tmp_path) == ["thing"]


def test_what_somebody_keeps_is_never_replaced(tmp_path, monkeypatch):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years")
    file = tmp_path / "file"
    file.write_text("a file may be")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    for path in (mine, mine / "." / ".." / "mine", Path("."), Path("/"), tmp_path):
        with pytest.raises(UserError, match="holds something else: name a new one"), writing(path) as part:
            part.mkdir()
    (mine / "manifest.json").write_text("{}")  # now it is one of ours: a file does not take its place even so
    with pytest.raises(UserError, match="is a folder: name a file"), writing(mine) as part:
        part.write_text("page")
    assert (mine / "thesis.txt").read_text() == "years"
    with pytest.raises(UserError, match="holds something else"), writing(mine, mark="report.md") as part:
        part.mkdir()
    with writing(file) as part:
        part.write_text("written over")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "file", "mine"]


@pytest.mark.parametrize("name", ["", ".", "..", "../runs", "/tmp/x", "a/b", "a b", "-x", ".hidden", "a\\b"])
def test_what_cannot_name_a_folder(name):
    with pytest.raises(UserError, match="cannot name a run: a name begins with"):
        check_name(name, "a run")
    for fine in ("hotels", "my-shop.2", "läden", "2020_x"):
        check_name(fine, "a run")


def test_two_who_write_one_folder_both_do(tmp_path):
    """Without an error, and what stays is the whole of one of them."""
    path = tmp_path / "thing"

    def write(who: int) -> None:
        for _ in range(40):
            with writing(path) as part:
                part.mkdir()
                (part / "manifest.json").write_text(str(who))
                (part / "data").write_text(str(who))

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, range(3)))
    assert left(tmp_path) == ["thing"]
    assert (path / "manifest.json").read_text() == (path / "data").read_text()


def test_an_interruption_between_two_renames_puts_the_older_folder_back(tmp_path, monkeypatch):
    path = tmp_path / "corpus"
    with writing(path) as part:
        part.mkdir()
        (part / "manifest.json").touch()
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if self.name.endswith(".part"):
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), writing(path) as part:
        part.mkdir()
    assert left(path) == ["manifest.json"]
    assert left(tmp_path) == ["corpus"]


def test_one_at_a_time(tmp_path):
    """Locks of one process count each open file, so threads stand for processes here."""
    inside, most = [], []

    def work(_):
        with alone(tmp_path / "deep" / "thing"):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.002)
            inside.pop()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(40)))
    assert most == [1] * 40
    with (
        alone(tmp_path / "thing"),
        pytest.raises(UserError, match="come later"),
        alone(tmp_path / "thing", "come later"),
    ):
        pass
    with alone(tmp_path / "thing", "come later"):
        assert left(tmp_path) == [".thing.lock", "deep"]
    assert left(tmp_path / "deep") == []


def test_a_full_disk_is_said(tmp_path):
    def write() -> None:
        with writing(tmp_path / "thing"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(UserError, match=r"Cannot write .*thing: No space left on device\. Free some space"):
        write()
    assert left(tmp_path) == []


def test_a_really_full_device_is_said(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")

    def write() -> None:
        with writing(tmp_path / "thing") as part:
            part.symlink_to("/dev/full")
            part.write_text("x")

    with pytest.raises(UserError, match="No space left on device"):
        write()
    assert left(tmp_path) == []


def test_a_place_that_cannot_be_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Cannot write"), writing(tmp_path / "file" / "below"):
        pass


def test_a_source_that_cannot_be_read_is_another_story(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"source\.csv"), writing(tmp_path / "thing"):
        (tmp_path / "source.csv").read_text()


@pytest.mark.parametrize(
    ("name", "known", "help"),
    [
        ("temprature", ["temperature", "weight"], "Did you mean temperature?"),
        ("amazon-2018-beauty", ["amazon-2018-all-beauty", "yelp"], "Did you mean amazon-2018-all-beauty?"),
        ("zzz", ["b", "a"], "Known: a, b."),
        ("zzz", [], ""),
    ],
)
def test_nearest(name, known, help):
    assert nearest(name, known) == help
