"""Where everything made lives, and how it is written: to a temporary name, flushed, renamed.

home/
  corpora/NAME/        one prepared corpus
  embeddings/...       caches of review embeddings
  runs/NAME/           checkpoints and files of runs
  mlflow.db, artifacts/  the MLflow store, unless MLFLOW_TRACKING_URI says otherwise
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from symcere.errors import UserError


def home() -> Path:
    """``SYMCERE_HOME``, by default ``.symcere`` in the current directory, as an absolute path."""
    return Path(os.environ.get("SYMCERE_HOME") or ".symcere").absolute()


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` to write a file or a folder to; it takes the name when all went well.

    After an exception (Ctrl-C included) nothing remains and an older ``path`` is untouched.

    Raises:
        UserError: the disk is full or the place cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(temporary)
        yield temporary
        for file in [temporary, *temporary.rglob("*")] if temporary.is_dir() else [temporary]:
            _flush(file)
        if path.is_dir():  # a folder cannot be replaced in one step: the old one steps aside first
            aside = path.with_name(f".{path.name}.{os.getpid()}.old")
            _remove(aside)
            path.rename(aside)
            try:
                temporary.rename(path)
            except BaseException:  # Ctrl-C between the two
                if not path.exists():
                    aside.rename(path)
                raise
            _remove(aside)
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
