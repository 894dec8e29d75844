"""One function for each command; the Python API a notebook uses.

    from symcere import steps
    steps.prepare("my-shop", sources=["reviews.csv"], settings={"core": 3})
    run = steps.train("my-shop")
    steps.recommend(run.name, ["user-17"], k=10)

A step composes the rooms below it and adds tracking; it holds no logic of its own.
"""

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from symcere.config import Experiment
from symcere.config.baselines import DEFAULT, baseline, baselines
from symcere.config.fields import build, merge, to_dict
from symcere.data import cards
from symcere.data.corpus import Corpus
from symcere.errors import UserError, nearest
from symcere.home import home

Settings = Mapping[str, Any]
Progress = Callable[..., Any] | None
CHECKPOINT = "checkpoint.pt"


# ---------------------------------------------------------------- data


def corpus_path(dataset: str) -> Path:
    """Where the corpus of a data set (a card's name or path, or the user's own name) is stored."""
    name = Path(dataset).stem if dataset.endswith((".yaml", ".yml")) else dataset
    return home() / "corpora" / name


def open_corpus(dataset: str) -> Corpus:
    """A prepared corpus; the synthetic one is prepared on first use, since it needs no file.

    Raises:
        UserError: unknown data set (nearest names), or known but not prepared (the command).
    """
    path = corpus_path(dataset)
    if path.exists():
        return Corpus.open(path)
    card = cards.find(dataset)
    if card.format == "synthetic":
        return prepare(dataset)
    raise UserError(
        f"Data set '{dataset}' is not prepared. Run `symcere prepare {dataset} --source FILE` first; "
        f"`symcere fetch {dataset}` gets the file or says how."
    )


def prepare(
    dataset: str,
    sources: Sequence[str | Path] = (),
    *,
    format: str = "",
    columns: Mapping[str, str] | None = None,
    settings: Settings | None = None,
    name: str = "",
    progress: Progress = None,
) -> Corpus:
    """Review files → corpus, under the home.

    Args:
        dataset: a card's name, a path to a card, or a new name given together with ``sources``.
        settings: dotted settings of the experiment's ``data`` part, without the ``data.``: ``{"core": 3}``.
        name: store it under another name than the data set's.
    """
    from symcere.data.prepare import prepare as run

    card = cards.find(dataset, own=bool(sources), format=format, columns=columns or {})
    found = [Path(s) for s in sources] or card.files(home() / "raw" / card.name)
    wanted = merge(to_dict(card.data), settings or {}, {"dataset": name or card.name})
    from symcere.config import Data

    return run(card, build(Data, wanted, "data"), found, corpus_path(name or card.name), progress)


def embeddings_of(corpus: Corpus, experiment: Experiment, progress: Progress = None):
    """Embeddings of the training reviews, made or resumed where they are not there yet; None without text."""
    if not experiment.needs_text:
        return None
    from symcere.text import embed as run

    return run(corpus, experiment.text, home() / "embeddings", progress)


def embed(dataset: str, settings: Settings | None = None, progress: Progress = None):
    """Review texts → embeddings, in a cache that a killed run resumes."""
    return embeddings_of(open_corpus(dataset), Experiment().replace(settings or {}), progress)


# ---------------------------------------------------------------- training and evaluation


@dataclass
class Run:
    """A finished training run.

    Attributes:
        metrics: of the test split, by MLflow's names (``test_ndcg_at_10``), and ``val_ndcg_at_10`` of the best epoch.
        reused: it was found finished, not trained again.
    """

    name: str
    id: str
    dataset: str
    method: str
    metrics: dict[str, float]
    best_epoch: int = 0
    epochs: int = 0
    seconds: float = 0.0
    path: Path | None = None
    notes: list[str] = field(default_factory=list)
    reused: bool = False


def experiment_for(
    corpus: Corpus, experiment: Experiment | None = None, settings: Settings | None = None, method: str = ""
) -> Experiment:
    """The whole experiment on a corpus: a method's settings, the user's over them, the corpus' own data part.

    Raises:
        UserError: unknown method, or settings of the ``data`` part that contradict the prepared corpus.
    """
    base = experiment.to_dict() if experiment is not None else baseline(method or DEFAULT).to_dict()
    wanted = merge({}, settings or {})
    for key, value in merge({}, wanted.get("data", {})).items():
        if key != "dataset" and key in corpus.settings and to_dict(value) != corpus.settings[key]:
            raise UserError(
                f"data.{key} is {corpus.settings[key]!r} in the prepared corpus '{corpus.name}'; settings of data belong to "
                f"`symcere prepare {corpus.name} --data.{key} {value}`."
            )
    return build(Experiment, merge(base, wanted, {"data": corpus.settings}))


def train(
    dataset: str,
    *,
    experiment: Experiment | None = None,
    settings: Settings | None = None,
    method: str = "",
    name: str = "",
    resume: str = "",
    reuse: bool = False,
    test: bool = True,
    progress: Progress = None,
    on_epoch: Callable[..., bool | None] | None = None,
) -> Run:
    """Corpus → trained, evaluated, tracked model.

    Args:
        experiment: the whole experiment; its ``data`` part is replaced by the corpus' own.
        settings: dotted settings laid over it, ``{"objective.ranking.temperature": 0.3}``.
        method: a named baseline instead of ``experiment``.
        name: stem of the run's name, by default ``<data set>-<method>``.
        resume: a run that was interrupted; it goes on with the numbers of an uninterrupted one.
        reuse: return a finished run of the very same experiment on the same corpus, if there is one.
        test: evaluate the chosen epoch on the test split, once. A sweep's trials never do.
        on_epoch: called with each :class:`symcere.training.Epoch`; training ends early where it returns True.
    """
    from symcere import tracking
    from symcere.evaluation import Evaluator
    from symcere.plots import training_curve
    from symcere.training import fit

    corpus = open_corpus(dataset)
    whole = experiment_for(corpus, experiment, settings, method)
    method = method or (DEFAULT if experiment is None else "custom")
    identity = {"symcere.experiment": experiment_hash(whole), "symcere.corpus": corpus.fingerprint}
    if reuse and (found := _finished_run(corpus.name, identity)):
        return found
    embeddings = embeddings_of(corpus, whole, progress)

    tags = {**identity, "symcere.method": method, "symcere.dataset": corpus.name}
    stem = name or f"{corpus.name}-{method}"
    begun = tracking.find_run(resume) if resume else None
    with tracking.start_run(corpus.name, stem, whole.flat(), tags) as run:
        run.log_text(whole.to_yaml(), "experiment.yaml")
        path = home() / "runs" / run.name / CHECKPOINT
        if begun is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(home() / "runs" / begun.name / CHECKPOINT, path)

        def report(epoch) -> bool | None:
            run.log_metrics(epoch.flat(), step=epoch.number)
            return on_epoch(epoch) if on_epoch is not None else None

        fitted = fit(corpus, embeddings, whole, on_epoch=report, path=path, resume=begun is not None)
        state = fitted.checkpoint
        metrics, notes = {}, []
        if state.best_epoch:
            metrics["val_ndcg_at_10"] = state.history[state.best_epoch - 1]["val_ndcg_at_10"]
            run.log_figure(training_curve(**_curve(state.history)), "figures/training_curve.png")
        if test:
            result = Evaluator(corpus, "test", whole.evaluate.ks)(fitted.scorer)
            metrics |= {f"test_{k}": v for k, v in result.metrics.items()}
            notes += result.notes
            _log_evaluation(run, corpus, fitted.scorer, result)
        run.log_metrics({**metrics, "best_epoch": state.best_epoch})
        run.log_file(path)
    seconds = sum(e["epoch_seconds"] for e in state.history)
    return Run(run.name, run.run_id, corpus.name, method, metrics, state.best_epoch, state.epoch, seconds, path, notes)


def experiment_hash(experiment: Experiment) -> str:
    """What tells two experiments apart, seed included: 16 hexadecimal digits."""
    return hashlib.sha256(experiment.to_yaml().encode()).hexdigest()[:16]


def _finished_run(dataset: str, identity: Mapping[str, str]) -> Run | None:
    from symcere import tracking

    for run in tracking.list_runs(dataset):
        path = home() / "runs" / run.name / CHECKPOINT
        if run.status == "FINISHED" and path.exists() and all(run.tags.get(k) == v for k, v in identity.items()):
            wanted = {k: v for k, v in run.metrics.items() if k.startswith(("test_", "val_"))}
            return Run(run.name, run.id, dataset, run.tags["symcere.method"], wanted, path=path, reused=True)
    return None


def _curve(history: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    evaluated = [e for e in history if "val_ndcg_at_10" in e]
    return {
        "epochs": [e["epoch"] for e in history],
        "losses": [e["loss"] for e in history],
        "evaluated": [e["epoch"] for e in evaluated],
        "ndcg": [e["val_ndcg_at_10"] for e in evaluated],
    }


def _log_evaluation(run, corpus: Corpus, scorer, result) -> None:
    """What reports need later: per-user metrics, and each item's popularity and vector length."""
    users = {"user": corpus.user_ids.take(result.users) if hasattr(corpus.user_ids, "take") else result.users}
    run.log_table({**users, **result.per_user}, "per_user.parquet")
    items: dict[str, Any] = {"item": corpus.item_ids, "popularity": corpus.item_popularity}
    if hasattr(scorer, "items"):
        items["norm"] = np.linalg.norm(scorer.items.float().cpu().numpy(), axis=1)
    run.log_table(items, "items.parquet")


__all__ = ["Run", "UserError", "baselines", "nearest"]
