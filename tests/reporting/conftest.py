"""A sweep's runs as they stand in a store, with numbers whose truth is known; nothing is trained."""

import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from symcere import tracking
from symcere.config.baselines import baseline

STRENGTH = {"popularity": 0.5, "mf-bpr": 0.8, "lightgcn": 0.82, "rlmrec-con": 0.86, "alpharec": 0.9, "symcere": 1.0}
"""Mean score of each method, as a share of the best."""
TAUS = (0.05, 0.1, 0.2, 0.4, 0.8)


def _metrics(pairs: dict[str, float], step: int = 0) -> list[Any]:
    from mlflow.entities import Metric

    return [Metric(k, float(v), int(time.time() * 1000), step) for k, v in pairs.items()]


def _run(sweep, dataset, method, role, experiment, metrics, status="FINISHED", error="", corpus="c0ffee", minutes=2.0):
    """One run in one request; returns a tracker for its files."""
    from mlflow.entities import Param, RunTag

    store = tracking.client()
    number = tracking.store.experiment_id(store, sweep, tracking.tracking_uri())
    now = int(time.time() * 1000)
    name = f"{dataset}-{method}-{role}"
    begun = now - int(minutes * 60_000)
    run_id = store.create_run(number, start_time=begun, run_name=name).info.run_id
    tags = {"sweep": sweep, "dataset": dataset, "method": method, "role": role, "corpus": f"{corpus}-{dataset}"}
    tags |= {"version": "0.1.0"} | ({"error": error} if error else {})
    store.log_batch(
        run_id,
        metrics=metrics,
        params=[Param(k, str(v)) for k, v in experiment.flat().items()],
        tags=[RunTag(f"symcere.{k}", v) for k, v in tags.items()],
    )
    if status != "RUNNING":
        store.set_terminated(run_id, status, now)
    return tracking.Tracker(store, run_id, name, "")


def _epochs(best: float, rng: np.random.Generator, epochs: int = 6) -> list[Any]:
    """A rise to ``best`` and a fall after it: the last value, which MLflow calls the metric's, is not the best."""
    top = epochs - 3
    found = []
    for epoch in range(1, epochs + 1):
        value = best * (1 - 0.5 * math.exp(-epoch / 2)) if epoch < top else best * (1 - 0.03 * (epoch - top))
        found += _metrics({"val_ndcg_at_10": value, "epoch_seconds": 1.5 + rng.random() / 10, "loss": 5 / epoch}, epoch)
    return found


def make_sweep(
    name: str = "losses",
    datasets: tuple[str, ...] = ("hotels", "instruments", "magazines"),
    methods: tuple[str, ...] = ("popularity", "lightgcn", "symcere"),
    seeds: int = 2,
    trials: int = 10,
    users: int = 200,
    items: int = 120,
    per_user: bool = True,
    failures: int = 1,
    sampled: bool = False,
) -> None:
    """A finished sweep in the store of the home.

    Args:
        sampled: temperatures are drawn from a log-uniform range instead of a grid.
    """
    rng = np.random.default_rng(7)
    for d, dataset in enumerate(datasets):
        level = 0.02 * (d + 1)
        difficulty = rng.gamma(0.5, 2, users)  # what all models find easy or hard about a user
        popularity = np.sort(rng.zipf(1.6, items).clip(max=2000))[::-1] + 4
        for method in methods:
            strength = STRENGTH[method]
            text = method not in ("popularity", "lightgcn", "mf-bpr")
            for n in range(trials if method != "popularity" else 1):
                tau = math.exp(rng.uniform(math.log(0.05), math.log(0.8))) if sampled else TAUS[n % len(TAUS)]
                normalise, loss = ("l2", "none")[n % 2], ("sincere", "softmax", "bpr")[n % 3]
                settings: dict[str, Any] = {
                    "train.lr": 10 ** rng.uniform(-3.5, -2),
                    "objective.reg": 10 ** rng.uniform(-5, -1),
                }
                value = level * strength * (0.97 + 0.03 * rng.random())
                if text:
                    settings |= {
                        "objective.ranking.temperature": tau,
                        "model.normalise": normalise,
                        "objective.ranking.loss": loss,
                    }
                    value *= math.exp(-0.15 * math.log(tau / 0.25) ** 2) * (1 if normalise == "l2" else 0.7)
                experiment = baseline(method, settings)
                _run(name, dataset, method, "trial", experiment, _epochs(value, rng))
            for n in range(failures if method == "symcere" else 0):
                error = ("the loss is not finite at step 12 (term: ranking)", "CUDA out of memory")[n % 2]
                _run(name, dataset, method, "trial", baseline(method), [], "FAILED", error)
            for seed in range(seeds if method != "popularity" else 1):
                luck = 1 + 0.01 * rng.standard_normal()
                ndcg = np.clip(level * strength * luck * difficulty + 0.01 * rng.standard_normal(users), 0, 1)
                table = {
                    "user": [f"u{u:04}" for u in range(users)],
                    "ndcg_at_10": ndcg,
                    "recall_at_10": np.clip(2 * ndcg, 0, 1),
                }
                test = {
                    "test_ndcg_at_10": ndcg.mean(),
                    "test_recall_at_10": table["recall_at_10"].mean(),
                    "test_ndcg_at_10_head": 1.5 * ndcg.mean(),
                    "test_ndcg_at_10_middle": 0.8 * ndcg.mean(),
                    "test_ndcg_at_10_tail": (0.4 if text else 0.1) * ndcg.mean(),
                    "test_arp_at_10": 200 * (2 - strength),
                    "test_gini_at_10": 0.9 - 0.4 * strength,
                    "test_coverage_at_10": strength / 2,
                }
                # the chosen setting's own validation; popularity, a closed form, logs none
                validation = [] if method == "popularity" else _epochs(level * strength, rng)
                chosen = baseline(method, {"train.seed": seed})
                run = _run(name, dataset, method, "final", chosen, [*validation, *_metrics(test)])
                if per_user:
                    run.log_table(table, "per_user.parquet")
                norm = np.ones(items) if text else 0.3 * np.log(popularity) + 0.1 * rng.random(items)
                columns = {"item": [f"i{i}" for i in range(items)], "popularity": popularity}
                if seed == 0:  # as much as a report reads
                    run.log_table(columns | ({} if method == "popularity" else {"norm": norm}), "items.parquet")


@pytest.fixture(scope="session")
def _empty_store(tmp_path_factory) -> Path:
    """A store without a run: making its tables takes longer than most tests."""
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    tracking.client(f"sqlite:///{path}")
    return path


def _use(home: Path, empty: Path, patch: pytest.MonkeyPatch) -> None:
    home.mkdir()
    shutil.copy(empty, home / "mlflow.db")
    patch.setenv("SYMCERE_HOME", str(home))
    patch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def home(tmp_path, monkeypatch, _empty_store) -> Path:
    """A home of its own, its store empty."""
    _use(tmp_path / "home", _empty_store, monkeypatch)
    return tmp_path / "home"


@pytest.fixture(scope="session")
def store(tmp_path_factory, _empty_store) -> Path:
    """A home whose store holds the sweep ``losses``: three data sets, three methods, two seeds."""
    folder = tmp_path_factory.mktemp("store") / "home"
    with pytest.MonkeyPatch.context() as patch:
        _use(folder, _empty_store, patch)
        make_sweep()
    return folder


@pytest.fixture
def losses(store, monkeypatch) -> Path:
    """The home of :func:`store`, in use."""
    monkeypatch.setenv("SYMCERE_HOME", str(store))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return store


@pytest.fixture
def sweep(home) -> Callable[..., None]:
    """:func:`make_sweep` in an empty home of its own."""
    return make_sweep
