"""Where everything made lives, and how it is written: to a temporary name, flushed, renamed.

home/
  corpora/NAME/        one prepared corpus
  embeddings/...       caches of review embeddings
  runs/NAME/           checkpoints and files of runs
  mlflow.db, artifacts/  the MLflow store, unless MLFLOW_TRACKING_URI says otherwise
"""

import errno
import fnmatch
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from symcere.errors import UserError

CHECKPOINT = "checkpoint.pt"
"""In a run's folder: its model, and how far it came."""
NAME = r"\w[\w.-]*"
"""Of whatever becomes a folder: a data set, a run, a sweep, a method."""
NAMED = "a name begins with a letter or digit and holds letters, digits, '.', '_' and '-' only."


def home() -> Path:
    """``SYMCERE_HOME``, by default ``.symcere`` in the current directory, as an absolute path."""
    return Path(os.environ.get("SYMCERE_HOME") or ".symcere").absolute()


def checkpoint_of(run: str) -> Path:
    """Where the model of a run, by its name, is kept on this machine."""
    return home() / "runs" / run / CHECKPOINT


def check_name(name: str, of: str) -> None:
    """Refuses what cannot name something that is kept.

    Args:
        of: what it should name, ``a data set``.

    Raises:
        UserError: it cannot: it becomes that of a file, and part of a command.
    """
    if not re.fullmatch(NAME, name):
        raise UserError(f"'{name}' cannot name {of}: {NAMED}")


@contextmanager
def writing(path: Path, mark: str = "manifest.json", holds: Sequence[str] = ("*",)) -> Iterator[Path]:
    """A temporary path beside ``path`` to write a file or a folder to; it takes the name when all went well.

    After an exception (Ctrl-C included) nothing remains and an older ``path`` is untouched.

    Args:
        mark: a file that every folder of this kind holds: another folder is somebody's own, and never replaced.
        holds: patterns of the names of all that such a folder holds; with anything else it is somebody's own, too.

    Raises:
        UserError: the disk is full, the place cannot be written, or a folder is there that is not of this kind.
    """
    path = Path(path).absolute()
    swapping = path.parent / f"{path.name}.swap"  # what another process does with an older folder has an end
    if path.is_dir():
        with alone(swapping):
            _check_kind(path, mark, holds)
    token = secrets.token_hex(4)  # containers that share a home may all be process 7
    temporary = path.with_name(f".{path.name}.{token}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if path.is_dir() and not temporary.is_dir():
            raise UserError(f"{path} is a folder: name a file.")
        for file in [temporary, *temporary.rglob("*")] if temporary.is_dir() else [temporary]:
            _flush(file)
        if temporary.is_dir():
            with alone(swapping):
                _swap(temporary, path, path.with_name(f".{path.name}.{token}.old"))
        else:
            temporary.replace(path)
        _flush(path.parent)
    except OSError as error:
        if not _about(error, path, temporary):
            raise
        raise UserError(
            f"Cannot write {path}: {error.strerror or error}. Free some space or set SYMCERE_HOME to another disk; "
            "nothing half-written was kept."
        ) from error
    finally:
        _remove(temporary)


def _check_kind(path: Path, mark: str, holds: Sequence[str]) -> None:
    if not path.is_dir():
        return
    names = [entry.name for entry in path.iterdir() if entry.name != ".DS_Store"]
    other = [name for name in names if not any(fnmatch.fnmatch(name, pattern) for pattern in holds)]
    if Path.cwd().is_relative_to(path) or other or (names and mark not in names):
        raise UserError(f"{path} is a folder that holds something else: name a new one, or one that is empty.")


def _swap(new: Path, path: Path, aside: Path) -> None:
    """A folder cannot be replaced in one step: the old one steps aside first."""
    if not path.is_dir():
        new.rename(path)
        return
    path.rename(aside)
    try:
        new.rename(path)
    except BaseException:  # Ctrl-C between the two
        if not path.exists():
            aside.rename(path)
        raise
    _remove(aside)


@contextmanager
def alone(path: Path, busy: str = "") -> Iterator[None]:
    """One process at a time works on what ``path`` is the name of; others wait.

    Args:
        busy: what to say to the others instead of letting them wait.

    Raises:
        UserError: ``busy``, or the place cannot be written.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    lock = path.with_name(f".{path.name}.lock")
    while True:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            held = lock.open("w")
        except OSError as error:
            raise UserError(f"Cannot write to {lock.parent}: {error.strerror}.") from error
        with held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
            except BlockingIOError:
                raise UserError(busy) from None
            except OSError:
                pass  # a file system without locks
            try:
                same = os.path.samestat(os.fstat(held.fileno()), lock.stat())
            except FileNotFoundError:
                same = False
            if not same:  # its holder removed it while this process waited
                continue
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return


def _about(error: OSError, path: Path, temporary: Path) -> bool:
    """Whether an error came of writing ``path``, and not of reading something else meanwhile."""
    if error.filename is None:  # a write to an open file says only what is wrong
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO)
    place = Path(os.fsdecode(error.filename))
    return place == path or place in path.parents or place.is_relative_to(temporary)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    elif os.path.lexists(path):
        path.unlink()
