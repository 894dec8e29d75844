"""One run: its start, what it logs, its certain end, and how it is found again."""

from __future__ import annotations

import functools
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import symcere
from symcere.errors import Terminated, UserError, nearest
from symcere.home import CHECKPOINT
from symcere.interrupt import interrupts_between_imports
from symcere.tracking import process, tag
from symcere.tracking.store import client, experiment_id, mask, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

COMMIT = "SYMCERE_COMMIT"
"""Environment of a job: the commit of the code that was sent, ``+changed`` if more was sent than that."""
_PARAM_LENGTH, _TAG_LENGTH = 6000, 5000  # MLflow's limits, in characters (tags: 5,000 on older servers)
_PARAMS_PER_BATCH, _METRICS_PER_BATCH = 100, 1000
_MOST = 50_000  # runs that one request of MLflow gives
DELAY = 1.0
"""Seconds that the figures of an epoch may wait for those of the next ones."""


def _text(value: Any, limit: int) -> str:
    text = mask(str(value))
    return text if len(text) <= limit else text[: limit - 1] + "…"


class Tracker:
    """Writes to one run. Several processes may each hold one on the same run.

    Attributes:
        run_id: MLflow's id.
        name: the run's unique, readable name.
        uri: the store; pass it with ``run_id`` to :func:`attach` in another process.
    """

    def __init__(self, store: MlflowClient, run_id: str, name: str, uri: str):
        self.store, self.run_id, self.name, self.uri = store, run_id, name, uri
        self._lock = threading.RLock()
        self._waiting: list[Metric] = []
        self._timer: threading.Timer | None = None
        self._trouble: Exception | None = None

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Parameters by dotted name, as text: cut at MLflow's limit, credentials in URIs masked."""
        from mlflow.entities import Param

        entries = [Param(k, _text(v, _PARAM_LENGTH)) for k, v in params.items()]
        for start in range(0, len(entries), _PARAMS_PER_BATCH):
            self.store.log_batch(self.run_id, params=entries[start : start + _PARAMS_PER_BATCH])

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """All of an epoch's (or the final) metrics, stored when this returns."""
        with self._lock:
            self._wait(metrics, step)
            self.flush()

    def log_epoch(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Figures that are stored within a second, in one request with all that come until then.

        A request takes some milliseconds, which is more than an epoch of a tiny corpus. Nothing is lost by an
        exception or a signal that ends the run, and at most the last second by a kill.

        Raises:
            Exception: why earlier ones could not be stored.
        """
        with self._lock:
            if self._trouble is not None:
                self.flush()
            self._wait(metrics, step)
            if self._timer is None:
                self._timer = threading.Timer(DELAY, self._flush_later)
                self._timer.daemon = True
                self._timer.start()

    def flush(self) -> None:
        """Stores what waits."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._trouble = None
            while self._waiting:
                self.store.log_batch(self.run_id, metrics=self._waiting[:_METRICS_PER_BATCH])
                del self._waiting[:_METRICS_PER_BATCH]

    def _wait(self, metrics: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._waiting += [Metric(k, float(v), now, step) for k, v in metrics.items()]

    def _flush_later(self) -> None:
        with self._lock:
            try:
                self.flush()
            except Exception as trouble:  # of a thread that nobody listens to: what waits stays, the next call tells
                self._trouble = trouble

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        from mlflow.entities import RunTag

        self.store.log_batch(self.run_id, tags=[RunTag(k, _text(v, _TAG_LENGTH)) for k, v in tags.items()])

    def log_text(self, text: str, name: str) -> None:
        """A text file ``name`` (``experiment.yaml``) among the run's artifacts."""
        self.store.log_text(self.run_id, text, name)

    def log_figure(self, figure: Any, name: str) -> None:
        """A matplotlib figure as the picture ``name`` (``figures/curve.png``)."""
        self.store.log_figure(self.run_id, figure, name)

    def log_file(self, path: Path | str, folder: str = "") -> None:
        """A file, or a folder with all in it, under ``folder`` of the run's artifacts."""
        path = Path(path)
        if path.is_dir():
            self.store.log_artifacts(self.run_id, str(path), folder or path.name)
        else:
            self.store.log_artifact(self.run_id, str(path), folder or None)

    def log_table(self, columns: Mapping[str, Any], name: str) -> None:
        """Columns (arrays or lists of one length) as the Parquet file ``name`` (``per_user.parquet``)."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        where = Path(name)
        with tempfile.TemporaryDirectory() as folder:
            pq.write_table(pa.table(dict(columns)), Path(folder) / where.name, compression="zstd")
            self.log_file(Path(folder) / where.name, "" if where.parent == Path() else where.parent.as_posix())

    def end(self, status: str, error: str = "") -> None:
        """FINISHED, FAILED or KILLED, with the reason as a tag; what waits is stored before."""
        try:
            self.flush()
        finally:
            if error:
                self.set_tags({tag.ERROR: error})
            self.store.set_terminated(self.run_id, status)


@contextmanager
def start_run(
    experiment: str,
    name: str,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, Any] | None = None,
    *,
    parent: str | None = None,
    again: str | None = None,
    uri: str | None = None,
) -> Iterator[Tracker]:
    """A new run of ``experiment``, which ends with the block: FINISHED; FAILED after an exception, with its text;
    KILLED after Ctrl-C, SIGTERM or SIGHUP. A run whose process was killed outright is ended by the next start.

    Args:
        name: ``<data set>-<method>``; :func:`unique_name` adds what makes it unique.
        params: flat, ``Experiment.flat()``.
        tags: more than the git commit, the version and the process, which every run has: the corpus fingerprint.
        parent: id of the run this one belongs to (a trial of a sweep).
        again: id of a run that ended before its work did, to go on with instead of making a new one.
        uri: the store, by default :func:`~symcere.tracking.store.tracking_uri`.

    Raises:
        UserError: the store cannot be used.
    """
    uri = uri or tracking_uri()
    store = client(uri)
    reap(uri)
    every = _origin(parent) | dict(tags or {})
    if again:
        store.update_run(again, status="RUNNING")
        tracker = attach(again, uri)
        tracker.set_tags(every)
    else:
        name = unique_name(name, uri)
        run = store.create_run(
            experiment_id(store, experiment, uri),
            run_name=name,
            tags={k: _text(v, _TAG_LENGTH) for k, v in every.items()},
        )
        tracker = Tracker(store, run.info.run_id, name, uri)
    with interrupts_between_imports("SIGTERM", "SIGHUP"):
        try:
            tracker.log_params(params or {})
            yield tracker
        except BaseException as error:
            _end_after(tracker, error)
            raise
        else:
            tracker.end("FINISHED")


def _end_after(tracker: Tracker, error: BaseException) -> None:
    try:
        if isinstance(error, KeyboardInterrupt):
            tracker.end("KILLED", "stopped by Ctrl-C")
        elif isinstance(error, Terminated):
            tracker.end("KILLED", f"stopped by signal {int(error.code or 0) - 128}")
        else:
            tracker.end("FAILED", f"{type(error).__name__}: {error}")
            if not isinstance(error, UserError):
                tracker.log_text(mask("".join(traceback.format_exception(error))), "traceback.txt")
    except Exception as trouble:  # the store may be what failed; the first error is the one to see
        print(f"warning: run {tracker.name} could not be marked as ended: {trouble}", file=sys.stderr)


def _origin(parent: str | None) -> dict[str, str]:
    """The tags that every run has: what made it, where, and the run that it belongs to."""
    every = {tag.VERSION: symcere.__version__, tag.HOST: process.host(), tag.PROCESS: process.identity(), **source()}
    return every | ({tag.PARENT: parent} if parent else {})


def record_run(
    experiment: str,
    name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, Any],
    history: Sequence[Mapping[str, float]],
    *,
    started: float,
    ended: float,
    parent: str | None = None,
    error: str = "",
    uri: str | None = None,
) -> str:
    """A run that is over, written at once: it is never RUNNING for longer than that takes.

    Args:
        name: of the run; that it is unique is the caller's affair.
        history: figures of each epoch with its number, ``{"epoch": 1, "loss": …}``; their times are told by
            ``epoch_seconds``.
        started, ended: seconds since 1970.
        error: why it failed; FINISHED where there is none.

    Returns:
        the run's id.

    Raises:
        UserError: the store cannot be used.
    """
    from mlflow.entities import Metric, Param

    uri = uri or tracking_uri()
    store = client(uri)
    every = _origin(parent) | dict(tags) | ({tag.ERROR: error} if error else {})
    run = store.create_run(
        experiment_id(store, experiment, uri),
        start_time=int(started * 1000),
        run_name=name,
        tags={k: _text(v, _TAG_LENGTH) for k, v in every.items()},
    )
    entries = [Param(k, _text(v, _PARAM_LENGTH)) for k, v in params.items()]
    now, metrics = started, []
    for figures in history:
        now += figures.get("epoch_seconds", 0.0)
        metrics += [
            Metric(k, float(v), int(now * 1000), int(figures["epoch"])) for k, v in figures.items() if k != "epoch"
        ]
    room = _METRICS_PER_BATCH - _PARAMS_PER_BATCH  # of one request that holds parameters, too
    while entries or metrics:
        store.log_batch(run.info.run_id, metrics=metrics[:room], params=entries[:_PARAMS_PER_BATCH])
        metrics, entries = metrics[room:], entries[_PARAMS_PER_BATCH:]
    store.set_terminated(run.info.run_id, "FAILED" if error else "FINISHED", int(ended * 1000))
    return run.info.run_id


def attach(run_id: str, uri: str | None = None) -> Tracker:
    """A tracker on a run that another process started and will end."""
    uri = uri or tracking_uri()
    store = client(uri)
    return Tracker(store, run_id, store.get_run(run_id).info.run_name, uri)


def reap(uri: str | None = None) -> list[str]:
    """Ends as FAILED what processes of this host left RUNNING when they died.

    Returns:
        ids of the runs ended.
    """
    store = client(uri)
    ended = []
    for run in _search(store, f"attributes.status = 'RUNNING' and tags.`{tag.HOST}` = '{process.host()}'"):
        if not process.alive(run.data.tags.get(tag.PROCESS, "")):
            Tracker(store, run.info.run_id, run.info.run_name, "").end("FAILED", "its process died")
            ended.append(run.info.run_id)
    return ended


def unique_name(stem: str, uri: str | None = None) -> str:
    """``stem`` and four hexadecimal digits that no run of the store has: ``hotels-symcere-3f2a``."""
    store = client(uri)
    while True:
        name = f"{stem}-{secrets.token_hex(2)}"
        if not _named(store, name):
            return name


# ---------------------------------------------------------------- finding


@dataclass(frozen=True)
class StoredRun:
    """What the store knows of a run. A checkpoint given by its path alone has no ``id``."""

    id: str
    name: str
    experiment: str = ""
    status: str = ""
    started: float = 0.0
    """Seconds since 1970."""
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    artifacts: str = ""
    """URI of the run's files."""
    path: Path | None = None
    """The checkpoint, or its folder, that was named by its path."""

    @property
    def checkpoint(self) -> Path | None:
        """The file itself."""
        return self.path / CHECKPOINT if self.path is not None and self.path.is_dir() else self.path

    def artifact(self, name: str) -> Path:
        """A file or folder of the run on this machine; fetched if the store is elsewhere.

        Raises:
            UserError: the run has no such file.
        """
        from mlflow.artifacts import download_artifacts

        try:
            return Path(download_artifacts(artifact_uri=f"{self.artifacts.rstrip('/')}/{name}"))
        except Exception as error:
            raise UserError(
                f"Run {self.name} ({self.status}) has no file '{name}' in {mask(self.artifacts)}: {mask(str(error))}"
            ) from error


class Named(Protocol):
    """What training returned, for one."""

    name: str


def list_runs(experiment: str | None = None, uri: str | None = None) -> list[StoredRun]:
    """Runs, newest first, of one experiment or of all: a sweep's own is older than its thousands of trials."""
    store = client(uri)
    return [_stored(store, run) for run in _search(store, "", [experiment] if experiment else None, _MOST)]


def find_run(run: str | Path | Named, uri: str | None = None) -> StoredRun:
    """RUN of a command line: a run's id, its unique name, a checkpoint's path, or what has a run's name.

    Raises:
        UserError: nothing has this name (the nearest are named), or several runs have it.
    """
    if not isinstance(run, (str, os.PathLike)):
        run = str(run.name)
    # A folder without one only happens to be called like a run.
    if os.path.isfile(run) or os.path.isfile(os.path.join(run, CHECKPOINT)):
        path = Path(run).resolve()
        return StoredRun(id="", name=path.stem if path.is_file() else path.name, path=path)
    store = client(uri)
    text = str(run)
    found = _by_id(store, text) or _named(store, text)
    if len(found) == 1:
        return _stored(store, found[0])
    if found:
        raise UserError(
            f"{len(found)} runs are named '{text}'; give the id: {', '.join(r.info.run_id for r in found)}."
        )
    names = [r.info.run_name for r in _search(store, "")]
    known = nearest(text, names) if names else "The store is empty: `symcere train DATASET` makes the first run."
    raise UserError(
        f"There is no run '{text}' in {mask(uri or tracking_uri())}, nor a checkpoint of this path. {known}"
    )


def _by_id(store: MlflowClient, run_id: str) -> list[Any]:
    from mlflow.exceptions import MlflowException

    if len(run_id) != 32 or not run_id.isalnum():
        return []
    try:
        return [store.get_run(run_id)]
    except MlflowException:
        return []


def _named(store: MlflowClient, name: str) -> list[Any]:
    if '"' in name or "\\" in name:  # what MLflow's filter cannot quote is no name of ours
        return []
    return _search(store, f'attributes.run_name = "{name}"')


def _search(store: MlflowClient, where: str, experiments: Sequence[str] | None = None, most: int = 1000) -> list[Any]:
    """Runs that are not deleted, newest first."""
    known = {e.name: e.experiment_id for e in _pages(store.search_experiments)}
    ids = [known[e] for e in experiments if e in known] if experiments else list(known.values())
    if not ids:
        return []
    return list(store.search_runs(ids, where, max_results=most, order_by=["attributes.start_time DESC"]))


def _pages(search: Any) -> Iterator[Any]:
    token = None
    while True:
        page = search(page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _stored(store: MlflowClient, run: Any) -> StoredRun:
    return StoredRun(
        id=run.info.run_id,
        name=run.info.run_name,
        experiment=_experiment_name(store, run.info.experiment_id),
        status=run.info.status,
        started=(run.info.start_time or 0) / 1000,
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        tags=dict(run.data.tags),
        artifacts=run.info.artifact_uri,
    )


@functools.lru_cache(maxsize=1024)
def _experiment_name(store: MlflowClient, number: str) -> str:
    return store.get_experiment(number).name


@functools.cache
def source() -> dict[str, str]:
    """The commit of the checkout that runs, and whether it was changed; nothing for an installed package.

    A job's package is no checkout: who submits it says what it was made of, in :data:`COMMIT`.
    """
    told = os.environ.get(COMMIT, "")
    if told:
        commit, _, changed = told.partition("+")
        return {tag.COMMIT: commit, tag.CHANGED: str(bool(changed)).lower()}

    def git(*words: str) -> str:
        told = subprocess.run(
            ["git", "-C", str(Path(symcere.__file__).parent), *words], capture_output=True, text=True, timeout=10
        )
        return told.stdout.strip() if told.returncode == 0 else ""

    try:
        # An installed package may lie in somebody else's checkout: only a tracked file of ours counts.
        if not git("ls-files", "__init__.py"):
            return {}
        changed = git("status", "--porcelain", "--untracked-files=no", ".")
        return {tag.COMMIT: git("rev-parse", "HEAD"), tag.CHANGED: str(bool(changed)).lower()}
    except (OSError, subprocess.TimeoutExpired):
        return {}
