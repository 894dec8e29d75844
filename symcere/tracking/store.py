"""Where runs are stored, and a quiet client for it."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from symcere.errors import UserError
from symcere.home import alone, home

if TYPE_CHECKING:
    from mlflow import MlflowClient

_USERINFO = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/\s@]+@", re.IGNORECASE)
_SECRET = re.compile(
    r"([?&;][^=&;\s]*(?:token|key|secret|passw|signature|credential|\bsig)[^=&;\s]*=)[^&;\s]+", re.IGNORECASE
)


def mask(text: str) -> str:
    """``text`` with the credentials in its URIs replaced by ``***``.

    >>> mask("postgresql://ann:hunter2@db/mlflow?sslkey=abc")
    'postgresql://***@db/mlflow?sslkey=***'
    """
    return _SECRET.sub(r"\1***", _USERINFO.sub(r"\1***@", text))


def tracking_uri() -> str:
    """``MLFLOW_TRACKING_URI``, else the SQLite file of the home. Absolute, so that another process can use it."""
    given = os.environ.get("MLFLOW_TRACKING_URI")
    if not given and set(str(home())) & set("%?"):
        raise UserError(
            f"The home {home()} has a '%' or '?' in its path, which the address of a database cannot carry: set "
            "SYMCERE_HOME to another folder, or MLFLOW_TRACKING_URI to a store elsewhere."
        )
    given = given or f"sqlite:///{home() / 'mlflow.db'}"
    scheme, three, path = given.partition("sqlite:///")
    return f"{three}{Path(path).absolute()}" if not scheme and three and path != ":memory:" else given


def client(uri: str | None = None, patience: float = 0.0) -> MlflowClient:
    """A client of the store at ``uri``, by default :func:`tracking_uri`; a store that does not exist is made.

    Args:
        patience: seconds to wait for a server that nobody answers for, where others' work depends on it: for a person
            who starts a command it is an error at once. A client that was made before waits by itself.

    Raises:
        UserError: the store cannot be reached, read or written, or is of a kind that MLflow no longer takes.
    """
    uri = uri or tracking_uri()
    end = time.monotonic() + patience
    while True:
        try:
            found = _client(uri)
            here = _file(uri)
            if _files.setdefault(uri, here) != here:
                raise UserError(
                    f"The MLflow store {mask(uri)} was removed or replaced while this process had it open, and MLflow "
                    "keeps to the old one: start Python again."
                )
            return found
        except UserError as error:
            if not isinstance(error.__cause__, ConnectionError) or time.monotonic() >= end:
                raise
        time.sleep(1)


_files: dict[str, tuple[int, int] | None] = {}
"""Which file each SQLite store was when it was opened."""


def _file(uri: str) -> tuple[int, int] | None:
    if urlsplit(uri).scheme != "sqlite" or not _database(uri).exists():
        return None
    told = _database(uri).stat()
    return told.st_dev, told.st_ino


@functools.cache
def _client(uri: str) -> MlflowClient:
    _hush()
    try:
        _probe(uri)
        # MLflow lets every process make the tables of an SQLite file, and all but one fail.
        with alone(_database(uri)) if urlsplit(uri).scheme == "sqlite" else contextlib.nullcontext():
            _make(uri)
            found = _opened(uri)
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"Cannot use the MLflow store {mask(uri)}: {mask(reason[0])} Set MLFLOW_TRACKING_URI to a server that "
            "answers or to sqlite:////absolute/path.db, or unset it to use the home's own store."
        ) from error
    return found


def _opened(uri: str) -> MlflowClient:
    from mlflow import MlflowClient
    from mlflow.entities import ViewType

    found = MlflowClient(tracking_uri=uri, registry_uri=uri)
    found.search_experiments(view_type=ViewType.ALL, max_results=1)  # opens it, and makes its tables
    return found


def _make(uri: str) -> None:
    """A new SQLite store, whole or not at all: MLflow cannot open one whose making was cut short by Ctrl-C."""
    if urlsplit(uri).scheme != "sqlite" or sys.platform == "win32":
        return
    path = _database(uri)
    if not path.exists():
        # another name each time: MLflow keeps its connections by name, also to a file that is gone
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            made = Path(folder) / path.name
            _opened(f"sqlite:///{made}")
            made.replace(path)


def _probe(uri: str) -> None:
    """Fails at once on what MLflow would try for minutes (a lost server) or not make (a missing folder)."""
    address = urlsplit(uri)
    if address.scheme in ("http", "https"):
        try:
            urllib.request.urlopen(uri.rstrip("/") + "/health", timeout=10).close()
        except urllib.error.HTTPError:
            pass  # somebody answers; what it thinks of us shows in the first real request
        except OSError as error:
            raise ConnectionError(f"nobody answers ({getattr(error, 'reason', error)}).") from None
    elif address.scheme == "sqlite":
        _database(uri).parent.mkdir(parents=True, exist_ok=True)


def _database(uri: str) -> Path:
    return Path(uri.removeprefix("sqlite:///").partition("?")[0])


def _hush() -> None:
    """MLflow keeps to itself: no telemetry, no notes on database migrations, no links on stdout."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    for name in ("mlflow", "alembic", "alembic.runtime.migration"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)  # tells of a query that Ctrl-C cut short


def experiment_id(store: MlflowClient, name: str, uri: str) -> str:
    """The id of the experiment ``name``, made if need be; several processes may ask at once."""
    from mlflow.exceptions import MlflowException

    found = store.get_experiment_by_name(name)
    if found is None:
        # A server decides itself where artifacts go; a database alone would put them in the current directory.
        local = urlsplit(uri).scheme not in ("http", "https", "databricks", "databricks-uc")
        place = (home() / "artifacts").as_uri() if local else None
        try:
            return store.create_experiment(name, artifact_location=place)
        except MlflowException:
            found = store.get_experiment_by_name(name)  # another process was faster
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        store.restore_experiment(found.experiment_id)
    return found.experiment_id
