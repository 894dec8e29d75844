"""One trial of a sweep: what it is asked, what it found, and the files that outlive any process.

trials/hotels/symcere/0007/
  spec.json       what to train, written before it starts
  outcome.json    how far it came: after every report, and at its end with the status
  checkpoint.pt   while it is under way
"""

import dataclasses
import errno
import functools
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from symcere.config import Experiment
from symcere.config.experiment import SELECTED
from symcere.config.fields import build
from symcere.data.corpus import Corpus
from symcere.errors import UserError
from symcere.home import CHECKPOINT
from symcere.memory import return_freed_memory
from symcere.text import Embeddings

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ESTALE, errno.EIO)
REPORT_EVERY = 1.0
"""Seconds between reports, beside those that a decision about the trial waits for."""


@dataclass
class Spec:
    """What a trial is to do. Paths are absolute, on a disk that every node sees.

    Attributes:
        values: what was chosen, by parameter's key.
        experiment: the whole experiment, as a mapping.
        milestones: epochs after which it may be ended; the best value so far is reported at each.
        workers: processes that train it together.
        fingerprint: of the corpus.
    """

    id: str
    dataset: str
    method: str
    number: int
    corpus: str
    embeddings: str
    experiment: dict[str, Any]
    values: dict[str, Any]
    milestones: list[int]
    model: str = ""
    threads: int = 1
    gpu: float = 0.0
    workers: int = 1
    fingerprint: str = ""

    @property
    def study(self) -> str:
        return f"{self.dataset}/{self.method}"


@dataclass
class Outcome:
    """How far a trial came.

    Attributes:
        status: ``stopped`` by the scheduler counts as a result, with the best value so far.
        value: best validation NDCG@10 so far; None before the first evaluation.
        metric: the value's name (a catalogue of fewer than ten items has a smaller cut-off).
        history: figures of each epoch.
        reason: why it failed.
        started, ended: seconds since 1970.
        seconds: spent in ``fit``, reports left out.
    """

    status: Literal["running", "finished", "stopped", "failed"] = "running"
    value: float | None = None
    best_epoch: int = 0
    epoch: int = 0
    metric: str = "val_ndcg_at_10"
    history: list[dict[str, float]] = field(default_factory=list)
    reason: str = ""
    started: float = 0.0
    ended: float = 0.0
    seconds: float = 0.0

    @property
    def done(self) -> bool:
        return self.status != "running"

    def best_at(self, epoch: int) -> float | None:
        """The best value of the epochs up to ``epoch``."""
        values = [e[self.metric] for e in self.history if e["epoch"] <= epoch and self.metric in e]
        return max(values, default=None)


def write(path: Path, value: Spec | Outcome) -> None:
    """As JSON, whole or not at all. Not flushed to the disk: that outlives a killed process, and is quick."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(json.dumps(dataclasses.asdict(value)))
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def read_spec(folder: Path) -> Spec | None:
    """None where there is none, or it was not finished."""
    return _read(Spec, folder / "spec.json")


def read_outcome(folder: Path) -> Outcome | None:
    return _read(Outcome, folder / "outcome.json")


def visible(spec: Spec, folder: Path, seconds: float = 10.0) -> bool:
    """Whether this node sees the trial's files. Shared disks may show them late: it looks again for ``seconds``."""
    end = time.monotonic() + seconds
    while True:
        found = read_spec(folder)
        if found is not None and found.id == spec.id:
            return True
        if time.monotonic() >= end:
            return False
        time.sleep(0.2)


def _read(cls: type, path: Path) -> Any:
    try:
        return cls(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


@functools.lru_cache(maxsize=8)
def _corpus(path: str) -> Corpus:
    return Corpus.open(Path(path))


@functools.lru_cache(maxsize=8)
def _embeddings(path: str, corpus: str) -> Embeddings:
    return Embeddings.open(Path(path), _corpus(corpus))


def run(spec: Spec, folder: Path, report: Callable[[int, float], None]) -> Outcome:
    """Trains a trial, going on from its checkpoint if there is one, and stores its outcome.

    Corpus and embeddings are mapped into memory and stay open for the next trial of this process.

    Args:
        folder: of the trial's files.
        report: called with an epoch and the best value up to it, first with those of an earlier attempt. It may raise
            to end the trial; the outcome then says ``running``, with all figures up to here.

    Returns:
        the outcome: ``finished``, or ``failed`` with the reason; an error of one trial is not raised.

    Raises:
        OSError, UserError: a full disk, or one that is gone; the next trial would meet it, too.
    """
    record = _Record(folder, sorted(spec.milestones), report)
    outcome = record.outcome
    try:
        _train(spec, folder / CHECKPOINT, record)
        outcome.status = "finished"
    except Exception as error:
        if of_the_disk(error):
            raise
        outcome.status, outcome.reason = "failed", _reason(error)
    finally:
        return_freed_memory()  # what the largest trial took would else stay with this process
    record.save()
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return outcome


class _Record:
    """The outcome of a trial as it grows, and when it is told."""

    def __init__(self, folder: Path, milestones: list[int], report: Callable[[int, float], None]):
        self.folder, self.milestones, self.report = folder, milestones, report
        self.outcome = Outcome(started=time.time())
        self.begun = self.told = time.perf_counter()
        self.telling = 0.0

    def add(self, figures: dict[str, float]) -> None:
        """Adds an epoch that may have been evaluated."""
        outcome = self.outcome
        outcome.history.append(figures)
        outcome.epoch = int(figures["epoch"])
        outcome.metric = next((k for k in figures if k.startswith("val_ndcg_at_")), outcome.metric)
        value = figures.get(outcome.metric)
        if value is not None and (outcome.value is None or value > outcome.value):
            outcome.value, outcome.best_epoch = value, outcome.epoch

    def reach(self, figures: dict[str, float]) -> None:
        """Adds an epoch, and reports at a milestone (the next evaluation after it), or when it is time."""
        self.add(figures)
        outcome = self.outcome
        if outcome.metric not in figures or outcome.value is None:
            return
        due = False
        while self.milestones and outcome.epoch >= self.milestones[0]:
            self.milestones.pop(0)
            due = True
        if due or time.perf_counter() - self.told >= REPORT_EVERY:
            start = time.perf_counter()
            self.save()
            self.report(outcome.epoch, outcome.value)
            self.told = time.perf_counter()
            self.telling += self.told - start

    def save(self) -> None:
        self.outcome.ended = time.time()
        self.outcome.seconds = time.perf_counter() - self.begun - self.telling
        write(self.folder / "outcome.json", self.outcome)


def _train(spec: Spec, path: Path, record: _Record) -> None:
    import torch

    from symcere.evaluation import Evaluator
    from symcere.training import Checkpoint, Epoch, fit

    torch.set_num_threads(max(1, spec.threads))
    corpus = _corpus(spec.corpus)
    corpus.check(spec.fingerprint or corpus.fingerprint)
    embeddings = _embeddings(spec.embeddings, spec.corpus) if spec.embeddings else None
    experiment = build(Experiment, spec.experiment)
    if path.exists():
        try:
            begun = Checkpoint.load(path).history
        except UserError:  # of another version of symcere: start anew
            begun = []
            path.unlink()
        for figures in begun:
            record.reach(figures)

    def on_epoch(epoch: Epoch) -> None:
        record.reach({"epoch": epoch.number, **epoch.flat()})

    if spec.workers > 1 and experiment.closed_form.kind == "none":
        from symcere.distributed.train import fit as fit_together

        fitted = fit_together(
            corpus,
            embeddings,
            experiment,
            path=path,
            workers=spec.workers,
            gpus_per_worker=int(spec.gpu > 0),
            on_epoch=on_epoch,
        )
    else:
        device = "cuda" if spec.gpu else "cpu"
        fitted = fit(corpus, embeddings, experiment, device=device, on_epoch=on_epoch, path=path, resume=path.exists())
    if experiment.closed_form.kind != "none":
        evaluator = Evaluator(corpus, "val", ks=(SELECTED,))
        k = evaluator.ks[-1]
        value = evaluator(fitted.scorer).metrics[f"ndcg_at_{k}"]
        record.add({"epoch": 1, f"val_ndcg_at_{k}": value, "epoch_seconds": time.perf_counter() - record.begun})
    if record.outcome.value is None:
        raise UserError("No epoch was evaluated: train.epochs is 0, or no user has a validation item.")


def of_the_disk(error: BaseException | None) -> bool:
    """Whether an error, or what it came of, says that the disk is full, read-only or gone."""
    while error is not None:
        # PyTorch's writer of checkpoints has an error of its own for a file that did not take all.
        if (isinstance(error, OSError) and error.errno in _DISK) or "inline_container.cc" in str(error):
            return True
        error = error.__cause__
    return False


def _reason(error: BaseException) -> str:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return f"out of memory: {' '.join(str(error).split())[:500]}"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:1000]}"
