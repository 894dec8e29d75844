"""A sweep as the MLflow store knows it: its trials, its final models, and their files. Nothing else is read.

Runs are told by tags: ``symcere.sweep`` (its name), ``symcere.dataset``, ``symcere.method``, ``symcere.role``
(``trial``: one setting of the search; ``final``: the chosen setting, one run for each seed, judged on test).
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from symcere import tracking
from symcere.errors import UserError, nearest
from symcere.tracking import tag

VALIDATION = "val_ndcg_at_10"
_READERS = 8
"""Runs whose histories are asked for at a time: a server answers in tens of milliseconds, a sweep has thousands."""


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep.

    Attributes:
        params: flat settings of the experiment, numbers as numbers.
        metrics: the latest value of each; ``validation`` is the best, which the store does not tell by itself.
        validation: best validation NDCG@10 over its epochs; NaN if none was logged.
        seconds: of its training and validation; NaN if none was logged.
        wall: seconds from its start to its end; NaN while it runs.
        error: why it failed, empty otherwise.
    """

    id: str
    name: str
    dataset: str
    method: str
    role: str
    status: str
    corpus: str = ""
    params: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    validation: float = math.nan
    seconds: float = math.nan
    wall: float = math.nan
    started: float = 0.0
    error: str = ""
    artifacts: str = ""

    @property
    def seed(self) -> Any:
        return self.params.get("train.seed", 0)

    @property
    def stopped(self) -> bool:
        """Whether the search stopped it early; it counts with the best it had reached."""
        return self.tags.get(tag.ENDED) == "stopped"

    @property
    def finished(self) -> bool:
        return self.status == "FINISHED"

    def table(self, name: str) -> dict[str, np.ndarray] | None:
        """The columns of a Parquet file among its artifacts; None if it has none."""
        import pyarrow.parquet as pq
        from mlflow.artifacts import download_artifacts

        with tempfile.TemporaryDirectory() as folder:
            try:
                path = download_artifacts(artifact_uri=f"{self.artifacts.rstrip('/')}/{name}", dst_path=folder)
                read = pq.read_table(path)
            except Exception:  # each kind of store has its own error for a file that is not there
                return None
            return {column: read[column].to_numpy(zero_copy_only=False) for column in read.column_names}


@dataclass(frozen=True)
class Sweep:
    """All runs of one sweep.

    Attributes:
        experiment: the MLflow experiment that holds its runs.
        finals: finished final models with test metrics, one for each data set, method and seed.
        unfinished: final models that failed, were stopped or still run.
        notes: what was left out and why, as sentences.
    """

    name: str
    experiment: str
    trials: tuple[SweepRun, ...]
    finals: tuple[SweepRun, ...]
    unfinished: tuple[SweepRun, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def runs(self) -> tuple[SweepRun, ...]:
        return (*self.trials, *self.finals, *self.unfinished)

    @property
    def datasets(self) -> list[str]:
        return sorted({run.dataset for run in self.runs})


def collect(name: str, uri: str | None = None) -> Sweep:
    """Everything that the store holds of the sweep ``name``.

    Args:
        uri: the store, by default :func:`symcere.tracking.tracking_uri`.

    Raises:
        UserError: the store cannot be reached, or it holds no such sweep (the nearest names are told).
    """
    from mlflow.exceptions import MlflowException

    store = tracking.client(uri)
    try:
        found = [] if set(name) & set("'\"\\`") else _search(store, f"tags.`{tag.SWEEP}` = '{name}'")
        if not found:
            raise _unknown(name, store, uri)
        with ThreadPoolExecutor(_READERS) as pool:
            runs = list(pool.map(lambda run: _read(store, run), found))
        experiments = Counter(run.info.experiment_id for run in found)
        experiment = store.get_experiment(experiments.most_common(1)[0][0]).name
    except MlflowException as error:
        raise UserError(
            f"The MLflow store {tracking.mask(uri or tracking.tracking_uri())} stopped answering while the sweep "
            f"'{name}' was read: {tracking.mask(str(error).splitlines()[0])} Nothing was written; run it again."
        ) from error
    return _sweep(name, experiment, runs)


def _sweep(name: str, experiment: str, runs: list[SweepRun]) -> Sweep:
    trials = [run for run in runs if run.role == "trial"]
    finals = [run for run in runs if run.role == "final"]
    if not trials and not finals:
        raise UserError(
            f"The sweep '{name}' has no trial yet, so there is nothing to report. `symcere sweep --resume {name}` goes "
            "on with it."
        )
    notes: list[str] = []
    # Two corpora under one name are two data sets: their figures must never stand in one column.
    newest: dict[str, str] = {}
    for run in (*trials, *finals):  # each oldest first; a final model decides where there is one
        newest[run.dataset] = run.corpus
    other = [r for r in (*trials, *finals) if r.corpus != newest[r.dataset]]
    for dataset, count in sorted(Counter(r.dataset for r in other).items()):
        notes.append(
            f"{count} runs on {dataset} belong to another version of its corpus than the newest one "
            f"({newest[dataset][:12] or 'no fingerprint'}); they are left out."
        )
    trials, finals = ([r for r in group if r.corpus == newest[r.dataset]] for group in (trials, finals))
    judged = [r for r in finals if r.finished and any(key.startswith("test_") for key in r.metrics)]
    chosen = {(r.dataset, r.method): r.tags.get(tag.TRIAL) for r in judged}  # by the newest of them
    old = [r for r in judged if r.tags.get(tag.TRIAL) != chosen[r.dataset, r.method]]
    if old:
        told = ", ".join(sorted({f"{r.method} on {r.dataset}" for r in old}))
        notes.append(f"{len(old)} final models have a setting that a better one has replaced ({told}); left out.")
    replaced = {r.id for r in old}
    finals = [r for r in finals if r.id not in replaced]
    judged = [r for r in judged if r.id not in replaced]
    latest = {(r.dataset, r.method, r.seed): r for r in judged}
    if len(latest) < len(judged):
        notes.append(
            f"{len(judged) - len(latest)} final models were trained again with the same seed; the latest of each "
            "counts."
        )
    # A failed attempt that succeeded later is no gap.
    unfinished = [r for r in finals if (r.dataset, r.method, r.seed) not in latest]
    return Sweep(name, experiment, tuple(trials), tuple(latest.values()), tuple(unfinished), tuple(notes))


def _unknown(name: str, store: Any, uri: str | None) -> UserError:
    known = {run.data.tags[tag.SWEEP] for run in _search(store, f"tags.`{tag.SWEEP}` LIKE '%'")}
    told = nearest(name, known) if known else "It holds no sweep yet: `symcere sweep FILE` runs one."
    return UserError(f"There is no sweep '{name}' in {tracking.mask(uri or tracking.tracking_uri())}. {told}")


def _search(store: Any, where: str) -> list[Any]:
    """All runs that fit, oldest first, however many."""
    experiments = [e.experiment_id for e in _pages(lambda token: store.search_experiments(page_token=token))]
    if not experiments:
        return []
    order = ["attributes.start_time ASC"]
    return list(
        _pages(lambda token: store.search_runs(experiments, where, max_results=1000, order_by=order, page_token=token))
    )


def _pages(search: Any) -> Iterable[Any]:
    token = None
    while True:
        page = search(token)
        yield from page
        token = page.token
        if not token:
            return


def _read(store: Any, run: Any) -> SweepRun:
    tags, info = run.data.tags, run.info
    found = SweepRun(
        id=info.run_id,
        name=info.run_name,
        dataset=tags.get(tag.DATASET, ""),
        method=tags.get(tag.METHOD, ""),
        role=tags.get(tag.ROLE, ""),
        status=info.status,
        corpus=tags.get(tag.CORPUS, ""),
        params={key: _number(value) for key, value in run.data.params.items()},
        metrics=dict(run.data.metrics),
        tags=dict(tags),
        wall=(info.end_time - info.start_time) / 1000 if info.end_time else math.nan,
        started=(info.start_time or 0) / 1000,
        error=tags.get(tag.ERROR, ""),
        artifacts=info.artifact_uri,
    )
    if found.role not in ("trial", "final"):
        return found
    # What a search has summed up already needs no further request.
    best = next((v for k, v in found.metrics.items() if k.startswith("best_val_ndcg_at_")), None)
    if best is None:
        values = (m.value for m in _history(store, found, VALIDATION))
        best = max((v for v in values if math.isfinite(v)), default=math.nan)
    seconds = found.metrics.get("trial_seconds")
    if seconds is None:
        steps = {m.step: m.value for m in _history(store, found, "epoch_seconds")}  # a resumed epoch stands twice
        seconds = sum(steps.values()) if steps else math.nan
    return replace(found, validation=best, seconds=seconds)


def _history(store: Any, run: SweepRun, metric: str) -> list[Any]:
    return store.get_metric_history(run.id, metric) if metric in run.metrics else []


def _number(text: str) -> Any:
    """A parameter's text as the number that it is; MLflow keeps text only."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
