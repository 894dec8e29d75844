"""Training, evaluating and finding again: one run is one row of the MLflow store and one checkpoint."""

import hashlib
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from symcere import tracking
from symcere.config import Data, Experiment
from symcere.config.baselines import DEFAULT, baseline, named
from symcere.config.baselines import baselines as known_baselines
from symcere.config.experiment import SELECTED
from symcere.config.fields import build, flatten, listed, merge
from symcere.data.corpus import Corpus
from symcere.errors import UserError
from symcere.home import CHECKPOINT, check_name, checkpoint_of
from symcere.steps.corpora import Progress, Settings, embeddings_of, open_corpus
from symcere.storage import absolute, check, exists, within
from symcere.tracking import StoredRun, Tracker, mask, tag

if TYPE_CHECKING:
    from symcere.evaluation import Evaluation
    from symcere.model.scorer import Scorer
    from symcere.model.workers import Parallel
    from symcere.text import Embeddings
    from symcere.training import Checkpoint, Epoch, Fitted

EXPERIMENT = "experiment.yaml"
"""Beside a checkpoint and among the run's artifacts: what `train --config` takes to repeat the run."""
NOTE = "run.json"
"""Beside a checkpoint: what it depends on and how it was made, readable without opening it."""


@dataclass
class Run:
    """A finished training run.

    Attributes:
        metrics: of the test split, by MLflow's names (``test_ndcg_at_10``), and ``val_ndcg_at_10`` of the best epoch.
        reused: it was found finished, not trained again.
        next: commands that go on from here.
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
    next: list[str] = field(default_factory=list)


def experiment_for(
    corpus: Corpus, experiment: Experiment | None = None, settings: Settings | None = None, method: str = ""
) -> Experiment:
    """The whole experiment on a corpus: a method's settings, the user's over them, the corpus' own data part.

    Raises:
        UserError: unknown method, or settings of the ``data`` part that contradict the prepared corpus.
    """
    base = experiment.to_dict() if experiment is not None else baseline(method or DEFAULT).to_dict()
    wanted = merge({}, settings or {})
    prepared = flatten(build(Data, corpus.settings, "data"))
    asked = flatten(build(Data, merge(corpus.settings, wanted.pop("data", {})), "data"))
    for key, value in prepared.items():
        if key != "dataset" and asked[key] != value:
            raise UserError(
                f"data.{key} is {value!r} in the prepared corpus '{corpus.name}'; to change it prepare it again, from "
                f"the same files: `symcere prepare {corpus.name} … --data.{key} {asked[key]}`."
            )
    return build(Experiment, merge(base, wanted, {"data": corpus.settings}))


def train(
    dataset: str | Corpus = "",
    *,
    experiment: Experiment | None = None,
    settings: Settings | None = None,
    method: str = "",
    name: str = "",
    resume: str = "",
    reuse: bool = False,
    test: bool = True,
    group: str = "",
    tags: Mapping[str, str] | None = None,
    parent: str = "",
    workers: int = 1,
    gpus_per_worker: int = 0,
    parallel: "Parallel" = "blocks",
    address: str = "",
    storage: str | Path = "",
    progress: Progress = None,
    on_epoch: Callable[..., bool | None] | None = None,
) -> Run:
    """Corpus → trained, evaluated, tracked model.

    Args:
        dataset: may be left out with ``resume``.
        experiment: the whole experiment; its ``data`` part is replaced by the corpus' own.
        settings: dotted settings laid over it, ``{"objective.ranking.temperature": 0.3}``.
        method: a named baseline instead of ``experiment``; beside one, what to call it where it is none of them.
        name: stem of the run's name, by default ``<data set>-<method>``.
        resume: a run that was interrupted; it goes on with the numbers of an uninterrupted one, by its own experiment
            where none is given.
        reuse: return a finished run of the very same experiment on the same corpus, of this method and with the same
            part in a sweep, if there is one.
        test: evaluate the chosen epoch on the test split, once. A sweep's trials never do.
        group: MLflow experiment that the run is filed under, by default the data set's name.
        tags: more tags of the run.
        parent: id of the run that it belongs to.
        workers: processes that train together through Ray; one needs no Ray.
        gpus_per_worker: GPUs that each of them holds; given, a single one is started through Ray, too.
        parallel: what each holds of the node table, see :mod:`symcere.model.workers`.
        address: of a running Ray cluster; by default ``RAY_ADDRESS``, else Ray is started on this machine.
        storage: folder that all nodes see, or URI (``s3://…``), which keeps the checkpoint while training.
        on_epoch: called with each :class:`symcere.training.Epoch`; training ends early where it returns True.
    """
    from symcere.evaluation import Evaluator

    state = begun = None
    if name:
        check_name(name, "a run")
    if workers < 1:
        raise UserError(f"workers is how many processes train together, at least 1, not {workers}.")
    if experiment is not None and not isinstance(experiment, Experiment):
        raise UserError(
            "experiment is a symcere.config.Experiment: Experiment.load(FILE) reads one, and settings= takes a mapping."
        )
    place = _storage(str(storage)) if storage else ""
    if resume:
        begun, state = _interrupted(resume)
        if experiment is None and not method:
            experiment, method = state.experiment, begun.tags.get(tag.METHOD, "")
            if begun.checkpoint is not None:
                method = method_of(begun.checkpoint.with_name(EXPERIMENT), experiment)
    corpus = open_corpus(dataset or (state.corpus["name"] if state else ""))
    if state is not None:  # before there is a run that could only fail
        state.check_corpus(corpus.name, corpus.fingerprint)
    whole = experiment_for(corpus, experiment, settings, method)
    method = method or (DEFAULT if experiment is None else named(experiment) or "custom")
    if state and begun and begun.status == "FINISHED" and state.finished and state.experiment == whole:
        raise UserError(f"Run {begun.name} is finished: nothing is left to train. For longer, raise --train.epochs.")
    identity = {tag.EXPERIMENT: experiment_hash(whole), tag.CORPUS: corpus.fingerprint}
    group = group or corpus.name
    part = {key: value for key, value in (tags or {}).items() if key in (tag.SWEEP, tag.ROLE)}
    if reuse and (found := _finished_run(group, corpus, {**identity, tag.METHOD: method, **part}, test)):
        return found
    judge = Evaluator(corpus, "test", whole.evaluate.ks, explicit_ks=_asks_for_ks(settings)) if test else None
    embeddings = embeddings_of(corpus, whole, progress)

    every = {**identity, tag.METHOD: method, tag.DATASET: corpus.name, **(tags or {})}
    every |= ({tag.STORAGE: place} if place else {}) | ({tag.RESUMES: begun.name} if begun else {})
    stem = name or f"{corpus.name}-{method}"
    with tracking.start_run(group, stem, whole.flat(), every, parent=parent or None) as run:
        run.log_text(whole.to_yaml(), EXPERIMENT)
        path = checkpoint_of(run.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        note = {"corpus": corpus.name, "run": run.run_id, "method": method, "reads_text": whole.needs_text}
        (path.parent / NOTE).write_text(json.dumps(note))
        (path.parent / EXPERIMENT).write_text(whole.to_yaml(), encoding="utf-8")
        kept: Path | str = within(place, run.name, CHECKPOINT) if place else path
        if state is not None:
            state.save(kept)
            for epoch in state.history:
                run.log_epoch({k: v for k, v in epoch.items() if k != "epoch"}, step=int(epoch["epoch"]))

        def report(epoch: "Epoch") -> bool | None:
            run.log_epoch(epoch.flat(), step=epoch.number)
            return on_epoch(epoch) if on_epoch is not None else None

        try:
            if workers > 1 or address or gpus_per_worker:
                from symcere.distributed.train import fit as fit_together

                fitted = fit_together(
                    corpus,
                    embeddings,
                    whole,
                    path=kept,
                    workers=workers,
                    gpus_per_worker=gpus_per_worker,
                    parallel=parallel,
                    address=address,
                    on_epoch=report,
                )
            else:
                from symcere.training import fit

                fitted = fit(corpus, embeddings, whole, on_epoch=report, path=kept, resume=state is not None)
        except KeyboardInterrupt:
            if not exists(kept):
                raise
            raise KeyboardInterrupt(f"Interrupted; `symcere train --resume {run.name}` goes on with it.") from None
        state = fitted.checkpoint
        if place:
            state.save(path)
        metrics: dict[str, float] = {}
        notes: list[str] = []
        if whole.closed_form.kind != "none":
            metrics |= {f"val_{k}": v for k, v in Evaluator(corpus, "val", (10,))(fitted.scorer).metrics.items()}
        elif state.best_epoch:
            metrics[state.metric] = state.best_value
            run.log_figure(_curve(state, run.name), "figures/training_curve.png")
        if judge is not None:
            result = judge(fitted.scorer)
            metrics |= {f"test_{k}": v for k, v in result.metrics.items()}
            notes += result.notes
            _log_evaluation(run, corpus, fitted.scorer, result)
        # at the last epoch's step: the store shows the value of the highest one
        run.log_metrics({**metrics, "best_epoch": state.best_epoch}, step=state.epoch)
        run.log_file(path)
    seconds = sum(e["epoch_seconds"] for e in state.history)
    told = Run(run.name, run.run_id, corpus.name, method, metrics, state.best_epoch, state.epoch, seconds, path, notes)
    told.next = _next(run.name, corpus)
    return told


def somebody(corpus: Corpus) -> str:
    """A user to try a command with, as a shell takes it."""
    return shlex.quote(corpus.user_ids[0].as_py())


def _storage(address: str) -> str:
    """The address as a later command will find it, once it has been seen to work.

    Raises:
        UserError: it holds a credential, or cannot be written.
    """
    if mask(address) != address:
        raise UserError(
            f"--storage {mask(address)} holds a credential, and the run keeps the address: leave it out, and set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (S3) or GOOGLE_APPLICATION_CREDENTIALS instead."
        )
    address = absolute(address)
    check(address)
    return address


def _interrupted(run: str) -> tuple[StoredRun, "Checkpoint"]:
    """A run, and how far it came: its checkpoint on the storage it was given, or else under the home."""
    from symcere.training import Checkpoint

    found = tracking.find_run(run)
    if found.checkpoint is not None:
        return found, Checkpoint.load(found.checkpoint)
    storage = found.tags.get(tag.STORAGE, "")
    if storage and exists(kept := within(storage, found.name, CHECKPOINT)):
        return found, Checkpoint.load(kept)
    return found, Checkpoint.load(checkpoint_of(found.name))


def method_of(file: Path, experiment: Experiment) -> str:
    """The method that an experiment's file is of: a named one, that of the run beside it, or one of its own."""
    try:
        beside = json.loads((file.parent / NOTE).read_text()).get("method", "") if file.name == EXPERIMENT else ""
    except (OSError, ValueError, AttributeError):
        beside = ""
    return named(experiment) or beside or "-".join(file.stem.split())


def experiment_hash(experiment: Experiment) -> str:
    """What tells two experiments apart, seed included: 16 hexadecimal digits."""
    return hashlib.sha256(experiment.to_yaml().encode()).hexdigest()[:16]


def _finished_run(group: str, corpus: Corpus, identity: Mapping[str, str], tested: bool) -> Run | None:
    """What :func:`train` said of a finished run, from the store; a ``tested`` one has figures of the test split."""
    for run in tracking.list_runs(group):
        path = checkpoint_of(run.name)
        same = run.status == "FINISHED" and all(run.tags.get(k) == v for k, v in identity.items())
        if not (same and path.exists()) or (tested and not any(k.startswith("test_") for k in run.metrics)):
            continue
        epochs = tracking.client().get_metric_history(run.id, "epoch_seconds")
        # Of an epoch's figures the store has the last; what chose the epoch is there as it was then.
        best = f"val_ndcg_at_{min(SELECTED, corpus.num_items)}"
        wanted = ("test_", "val_") if not epochs else ("test_",)
        kept = {k: v for k, v in run.metrics.items() if k.startswith(wanted) or k == best}
        told = Run(run.name, run.id, corpus.name, run.tags[tag.METHOD], kept, path=path, reused=True)
        told.best_epoch, told.epochs = int(run.metrics.get("best_epoch", 0)), len(epochs)
        told.seconds = sum(point.value for point in epochs)
        told.next = _next(run.name, corpus)
        return told
    return None


def _next(run: str, corpus: Corpus) -> list[str]:
    return [f"symcere evaluate {run}", f"symcere recommend {run} --user={somebody(corpus)}"]


def _curve(state: "Checkpoint", title: str) -> Any:
    from symcere.plots import training_curve

    columns = (np.array([e.get(key, np.nan) for e in state.history]) for key in ("epoch", "loss", state.metric))
    return training_curve(*columns, metric_name=f"validation NDCG@{state.metric.rpartition('_')[2]}", title=title)


def _log_evaluation(run: Tracker, corpus: Corpus, scorer: "Scorer", result: "Evaluation") -> None:
    """What reports need later: per-user metrics, and each item's popularity and vector length."""
    run.log_table({"user": corpus.user_ids.take(result.users), **result.per_user}, "per_user.parquet")
    items: dict[str, Any] = {"item": corpus.item_ids, "popularity": corpus.item_popularity}
    vectors = getattr(scorer, "items", None)
    if vectors is not None:
        items["norm"] = vectors.float().norm(dim=1).cpu().numpy()
    run.log_table(items, "items.parquet")


# ---------------------------------------------------------------- finding a run again


@dataclass
class Restored:
    """A run brought back: what it was trained on and its best model."""

    name: str
    corpus: Corpus
    embeddings: "Embeddings | None"
    fitted: "Fitted"
    path: Path


def restore(run: str | Path | Run, progress: Progress = None) -> Restored:
    """The model of a run: an MLflow run id, a run's unique name, or a checkpoint's path.

    Raises:
        UserError: no such run, no checkpoint, or a corpus that has changed since.
    """
    from symcere.training import Checkpoint, restore

    found = tracking.find_run(run)
    path = found.checkpoint or checkpoint_of(found.name)
    if not path.exists():  # trained on another machine
        if found.status in ("FAILED", "KILLED"):
            raise UserError(
                f"Run {found.name} ended before its model was stored ({found.status.lower()}). Train it again."
            )
        path = found.artifact(CHECKPOINT)
    state = Checkpoint.load(path)
    corpus = open_corpus(state.corpus["name"])
    state.check_corpus(corpus.name, corpus.fingerprint)
    embeddings = embeddings_of(corpus, state.experiment, progress)
    return Restored(found.name, corpus, embeddings, restore(corpus, embeddings, state), path)


def evaluate(
    run: str | Path | Run,
    *,
    split: Literal["val", "test"] = "test",
    popularity_weights: Sequence[float] = (),
    settings: Settings | None = None,
    out: str | Path | None = None,
    cold: bool = False,
) -> dict[str, Any]:
    """All-ranking metrics of a run's best model, and what each weight of the popularity term trades.

    Args:
        popularity_weights: evaluate each of these too, and draw the trade-off.
        settings: of the experiment's ``evaluate`` part, ``{"evaluate.ks": "1,10"}``.
        out: folder of the trade-off's picture, by default the run's.
        cold: also train anew without a tenth of the users and items, and rank those from their texts alone.
    """
    from symcere.evaluation import Evaluator, trade_off
    from symcere.plots import popularity_trade_off, save

    folder = None if out is None else Path(out)
    if folder is not None and folder.exists() and not folder.is_dir():
        raise UserError(f"{out} is a file: name a folder.")
    weights = listed(popularity_weights)
    asked = merge({}, settings or {})
    if others := sorted(asked.keys() - {"evaluate"}):
        raise UserError(f"An evaluation takes settings of its own part alone (evaluate.ks), not of '{others[0]}'.")
    restored = restore(run)
    wanted = build(Experiment, merge(restored.fitted.checkpoint.experiment.to_dict(), asked)).evaluate
    judge = Evaluator(restored.corpus, split, wanted.ks, explicit_ks=_asks_for_ks(settings))
    model = restored.fitted.model
    scorer = restored.fitted.scorer if model is None else model.scorer(wanted.popularity_weight)
    result = judge(scorer)
    told: dict[str, Any] = {"run": restored.name, "split": split, "users": len(result.users), "metrics": result.metrics}
    metric = f"ndcg_at_{10 if 10 in judge.ks else judge.ks[0]}"
    low, high = result.interval(metric)
    told["interval_95"] = {"of": metric, "low": low, "high": high}
    if weights:
        judged = trade_off(scorer if model is None else model.scorer(1.0), judge, weights)  # type: ignore[arg-type]
        cut = f"at_{10 if 10 in judge.ks else judge.ks[0]}"
        rows = [
            {
                "weight": weight,
                f"ndcg_{cut}": e.metrics[f"ndcg_{cut}"],
                f"arp_{cut}": e.metrics[f"arp_{cut}"],
                f"ndcg_{cut}_tail": e.metrics.get(f"ndcg_{cut}_tail", float("nan")),
            }
            for weight, e in judged.items()
        ]
        title = f"Accuracy against popularity, {'test' if split == 'test' else 'validation'} split"
        figure = popularity_trade_off(*(np.array([row[key] for row in rows]) for key in rows[0]), title=title)
        told["popularity_weights"] = rows
        folder = folder or restored.path.parent
        folder.mkdir(parents=True, exist_ok=True)
        told["figure"] = save(figure, folder / "popularity_trade_off.png")
    told["notes"] = list(result.notes)
    if weights and split == "test":
        told["notes"].append(
            "Shown on the test split; to choose a weight, look at the same on validation: --split val."
        )
    if cold:
        from symcere.serving.cold import cold_start

        if restored.embeddings is None:
            raise UserError(f"Cold start is measured on models that read text, and {restored.name} reads none.")
        found = cold_start(restored.corpus, restored.embeddings, restored.fitted.checkpoint.experiment)
        told |= {**found, "notes": told["notes"] + found["notes"]}
    return told


def _asks_for_ks(settings: Settings | None) -> bool:
    evaluate = merge({}, settings or {}).get("evaluate")
    return isinstance(evaluate, Mapping) and "ks" in evaluate


def baselines() -> dict[str, dict[str, Any]]:
    """The named methods and their settings."""
    return known_baselines()
