"""A sweep in MLflow: a run for each data set, and below it those of its trials."""

import queue
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from symcere import tracking
from symcere.config import Experiment
from symcere.config.fields import build
from symcere.config.sweep import Declared
from symcere.errors import UserError
from symcere.steps.runs import experiment_hash
from symcere.steps.sweeps.ground import Ready
from symcere.tracking import Tracker, tag

if TYPE_CHECKING:
    from symcere.distributed.studies import Study
    from symcere.distributed.trial import Outcome, Spec

RECORDED = "run"
"""Beside a trial's outcome: the id of its MLflow run."""


def parent_of(name: str, declared: Declared, one: Ready) -> AbstractContextManager[Tracker]:
    """The run of a data set, to which those of its trials and final models belong."""
    corpus = one.corpus
    tags = {
        tag.SWEEP: name,
        tag.ROLE: "dataset",
        tag.DATASET: corpus.name,
        tag.CORPUS: corpus.fingerprint,
        tag.SWEEP_FILE: declared.sha256,
    }
    params = {
        "methods": ", ".join(s.method for s in declared.searches),
        "trials": declared.sweep.trials,
        "sampler": declared.sweep.sampler.kind,
        "stopping": declared.sweep.stopping.kind,
    }
    for run in tracking.list_runs(name):
        if run.tags.get(tag.ROLE) == "dataset" and all(run.tags.get(k) == tags[k] for k in (tag.SWEEP, tag.CORPUS)):
            return tracking.start_run(name, run.name, {}, tags, again=run.id)
    return tracking.start_run(name, f"{name}-{corpus.name}", params, tags)


class Recorder:
    """Writes every trial that has ended into MLflow, beside the search and from the trial's own file.

    So a trial costs the search no time, no run is ever left RUNNING, and what a kill or a lost server prevented is
    written by the next start.
    """

    def __init__(
        self,
        name: str,
        declared: Declared,
        ready: Sequence[Ready],
        parents: Mapping[str, Tracker],
        studies: Sequence["Study"],
    ):
        self.name, self.declared, self.parents = name, declared, parents
        self.folder = studies[0].folder
        self.baselines = {search.method: search.baseline for search in declared.searches}
        self.fingerprints = {one.corpus.name: one.corpus.fingerprint for one in ready}
        self.queue: queue.Queue[tuple[Spec, Outcome] | None] = queue.Queue()
        self.trouble: Exception | None = None
        self._half_written(studies)

    def _half_written(self, studies: Sequence["Study"]) -> None:
        """Queues what this store does not have from an earlier process, and removes what that left half-written."""
        done = [(study.specs[name], outcome) for study in studies for name, outcome in study.done.items()]
        there = {run.id: run for run in tracking.list_runs(self.name)} if done else {}
        left = [(spec, outcome) for spec, outcome in done if self._recorded(spec.id) not in there]
        names = {spec.id for spec, _ in left}
        for run in there.values():
            if run.tags.get(tag.ROLE) == "trial" and run.tags.get(tag.TRIAL) in names:
                tracking.client().delete_run(run.id)
        for one in left:
            self.queue.put(one)

    def _recorded(self, trial: str) -> str:
        """The id of its MLflow run, in this store or in the one that the sweep had before; "" if it has none."""
        path = self.folder / trial / RECORDED
        return path.read_text() if path.exists() else ""

    def put(self, spec: "Spec", outcome: "Outcome") -> None:
        self.queue.put((spec, outcome))

    def __enter__(self) -> "Recorder":
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        self.queue.put(None)
        self.thread.join()
        if self.trouble is not None and kind is None:
            raise UserError(
                f"Some trials could not be written to MLflow ({self.trouble}). Nothing is lost: "
                f"`symcere sweep --resume {self.name}` writes them when the store answers again."
            ) from self.trouble

    def _work(self) -> None:
        while (one := self.queue.get()) is not None:
            if self.trouble is not None:  # each would wait for the store as long again
                continue
            try:
                self._record(*one)
            except Exception as error:  # the search goes on; the next start writes it
                self.trouble = error

    def _record(self, spec: "Spec", outcome: "Outcome") -> None:
        experiment = build(Experiment, spec.experiment) if spec.experiment else None
        tags = {
            tag.SWEEP: self.name,
            tag.ROLE: "trial",
            tag.TRIAL: spec.id,
            tag.DATASET: spec.dataset,
            tag.METHOD: spec.method,
            tag.BASELINE: self.baselines[spec.method],
            tag.CORPUS: self.fingerprints[spec.dataset],
            tag.SWEEP_FILE: self.declared.sha256,
            tag.ENDED: outcome.status,
        }
        if experiment is not None:
            tags |= {tag.EXPERIMENT: experiment_hash(experiment), tag.MODEL: spec.model}
        last = {"epoch": outcome.epoch, "best_epoch": outcome.best_epoch, "trial_seconds": outcome.seconds}
        if outcome.value is not None:
            last[f"best_{outcome.metric}"] = outcome.value
        run = tracking.record_run(
            self.name,
            f"{self.name}-{spec.id.replace('/', '-')}",
            experiment.flat() if experiment is not None else {},
            tags,
            [*outcome.history, last],
            started=outcome.started,
            ended=outcome.ended,
            parent=self.parents[spec.dataset].run_id,
            error=(outcome.reason or "failed") if outcome.status == "failed" else "",
        )
        (self.folder / spec.id / RECORDED).write_text(run)
