"""Small corpora, studies and sweeps, and what became of them."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from symcere.config import Experiment
from symcere.config.space import read_space
from symcere.config.sweep import Sampler, Search
from symcere.data.corpus import Corpus, Entries
from symcere.distributed.studies import Study, open_storage, open_study
from symcere.distributed.trial import Outcome, Spec, write

SPACE = {"train.lr": {"loguniform": [1e-4, 1e-1]}, "model.layers": {"int": [1, 3]}}


SWEEP = """\
datasets: [one, two]
methods:
  popularity: {}
  lightgcn:
    settings: {model.dim: 8}
    space: {objective.reg: {loguniform: [1e-5, 0.5]}}
space:
  train.lr: {choice: [0.01, 0.03, 0.1], when: {closed_form.kind: none}}
settings: {train.epochs: EPOCHS, train.patience: 100000}
trials: TRIALS
seeds: 2
stopping: {grace: 3, reduction: 2}
"""


CHOICES = """\
datasets: [one]
methods:
  lightgcn: {settings: {model.dim: 8}}
space:
  train.lr: [0.03, 0.05, 0.1, 1.0e-8, 2.0e-8]
settings: {train.epochs: 24, train.patience: 100000}
trials: 3
seeds: 1
"""


DRIVER = """
import json, sys
from symcere.steps import sweep
print(sweep(**json.loads(sys.argv[1]))["trials"])
"""


def make_corpus(path: Path, name: str, seed: int, users: int = 40, items: int = 20) -> Corpus:
    """Users who mostly pick every second item."""
    rng = np.random.default_rng(seed)
    rows: dict[str, list[tuple[int, int]]] = {"train": [], "val": [], "test": []}
    for user in range(users):
        weights = np.where(np.arange(items) % 2 == user % 2, 4.0, 1.0)
        for n, item in enumerate(rng.choice(items, size=7, replace=False, p=weights / weights.sum())):
            rows[("val", "test", "train")[min(n, 2)]].append((user, int(item)))
    ids = {"user_ids": [f"u{n:03}" for n in range(users)], "item_ids": [f"i{n:03}" for n in range(items)]}
    splits = {
        split: Entries(*np.array(sorted(found)).T, texts=[f"word{i} for {u}" for u, i in sorted(found)])
        for split, found in rows.items()
    }
    return Corpus.write(
        path, name=name, settings=dataclasses.asdict(Experiment().data) | {"dataset": name}, **ids, **splits
    )


def search(space: dict | None = None, trials: int = 6, method: str = "lightgcn", **settings) -> Search:
    base = Experiment().replace({"model.features": "id", "train.epochs": 30}, settings)
    found = read_space(SPACE if space is None else space, ())
    return Search(method, method, base, found, [found.nearest_point(base.flat())], trials)


def study(folder: Path, dataset: str = "hotels", searched: Search | None = None, kind: str = "tpe", **more) -> Study:
    found = searched or search()
    optimiser = open_study(open_storage("", folder), f"{dataset}/{found.method}", Sampler(kind=kind))
    return Study(dataset, folder / "corpus", found, {}, folder / "trials", optimiser, lambda epochs: [2, 6, 18], **more)


def done(value: float, status: str = "finished") -> Outcome:
    now = time.time()
    history = [{"epoch": n, "val_ndcg_at_10": value * n / 20} for n in range(1, 21)]
    return Outcome(status, value, 20, 20, history=history, started=now, ended=now, seconds=1.0)


def finish(one: Study, spec: Spec, value: float) -> None:
    write(one.folder / spec.id / "outcome.json", done(value))
    one.end(spec.id, done(value))


def write_sweep(home: Path, epochs: int = 12, trials: int = 4) -> Path:
    path = home / "tiny.yaml"
    path.write_text(SWEEP.replace("EPOCHS", str(epochs)).replace("TRIALS", str(trials)))
    return path


def runs_of(role: str) -> list:
    from symcere import tracking

    return [run for run in tracking.list_runs("tiny") if run.tags["symcere.role"] == role]


def outcomes(home: Path) -> dict[str, dict]:
    found = {}
    for path in (home / "sweeps" / "tiny" / "trials").rglob("outcome.json"):
        found[str(path.parent)] = json.loads(path.read_text())
    return found


def ended(home: Path) -> dict[str, dict]:
    return {name: outcome for name, outcome in outcomes(home).items() if outcome["status"] != "running"}


def optuna_studies(home: Path) -> list:
    import optuna

    storage = open_storage("", home / "sweeps" / "tiny")
    return [
        optuna.load_study(storage=storage, study_name=s.study_name) for s in optuna.get_all_study_summaries(storage)
    ]


def wait_for(condition, seconds: float = 180, pause: float = 0.05) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(pause)


@contextlib.contextmanager
def driver(home: Path, script: str = DRIVER, **words) -> Iterator[subprocess.Popen]:
    """A process that runs a sweep; with all that it started it is gone when the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, json.dumps(words)],
        env={**os.environ, "SYMCERE_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
