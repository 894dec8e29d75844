"""After the search: the best setting of every study trained with other seeds, and tested once."""

import json
import os
import socket
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from symcere import tracking
from symcere.config import Experiment
from symcere.config.fields import build
from symcere.config.sweep import Declared
from symcere.errors import UserError
from symcere.home import checkpoint_of, home
from symcere.steps.corpora import open_corpus
from symcere.steps.runs import experiment_hash, train
from symcere.steps.sweeps.ground import together
from symcere.tracking import Tracker, tag

if TYPE_CHECKING:
    from symcere.distributed.studies import Study

PATIENCE = 240.0
"""Seconds that the start of a final model waits for a lost MLflow server: as long as MLflow's client does later."""

OnStanding = Callable[[list[dict[str, Any]]], None]


def train_finals(
    name: str,
    declared: Declared,
    studies: Sequence["Study"],
    parents: Mapping[str, Tracker],
    seeds: int,
    resources: Mapping[str, float],
    memory: float,
    on_standing: OnStanding | None,
) -> None:
    """Trains the best setting of each study with several seeds, and tests these models alone, once."""
    from symcere.distributed import sweep as distributed

    wanted = []
    for study in studies:
        best = study.best()
        if best is None:
            continue
        spec = best[0]
        # Other seeds than the search's own: that one helped to choose. A closed form has no use for any.
        count = min(seeds, 1) if spec.experiment["closed_form"]["kind"] != "none" else seeds
        for seed in range(1, count + 1):
            wanted.append(
                {
                    "sweep": name,
                    "dataset": spec.dataset,
                    "method": spec.method,
                    "experiment": spec.experiment,
                    "seed": seed,
                    "workers": study.workers,
                    "gpus": int(study.gpu > 0),
                    "parent": parents[spec.dataset].run_id,
                    "tags": {
                        tag.TRIAL: spec.id,
                        tag.SWEEP_FILE: declared.sha256,
                        tag.BASELINE: study.search.baseline,
                    },
                    "environment": _environment(),
                }
            )
    done = {study.name: [0, 0] for study in studies}
    for one in wanted:
        done[f"{one['dataset']}/{one['method']}"][1] += 1
    errors: list[str] = []

    def tell() -> None:
        if on_standing is not None:
            on_standing(
                [
                    {"data set": s.dataset, "method": s.method, "final models": f"{at}/{of}"}
                    for s in studies
                    for at, of in [done[s.name]]
                ]
            )

    def ended(argument: dict[str, Any], result: Any, error: str) -> None:
        if error:
            errors.append(f"{argument['dataset']}/{argument['method']}, seed {argument['seed']}: {error}")
        done[f"{argument['dataset']}/{argument['method']}"][0] += 1
        tell()

    tell()
    asked = declared.sweep.resources
    alone = asked.workers == 1
    distributed.each(
        final,
        wanted,
        cpu=asked.cpu if alone else 0,
        gpu=max((s.gpu for s in studies), default=0) if alone else 0,
        memory=memory if alone else 0,
        at_once=together(declared, resources),
        on_result=ended,
    )
    if errors:
        raise UserError(
            f"{len(errors)} final models failed, {errors[-1]} `symcere sweep --resume {name}` tries them again."
        )


def _environment() -> dict[str, str]:
    """What a worker has to share with this process."""
    return {"SYMCERE_HOME": str(home()), "MLFLOW_TRACKING_URI": tracking.tracking_uri()}


def final(one: Mapping[str, Any]) -> dict[str, float]:
    """Trains and tests one final model, in a worker: one that is finished is found again, one that was cut off goes on.

    Returns:
        its metrics.
    """
    os.environ.update(one["environment"])
    if not one["gpus"]:  # as its trials; Ray shows a task that asks for none all there are
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        plan = json.loads((home() / "sweeps" / one["sweep"] / "plan.json").read_text())
    except FileNotFoundError:
        raise UserError(
            f"The node {socket.gethostname()} does not see {home()}, which all nodes have to share."
        ) from None
    corpus = open_corpus(one["dataset"])
    corpus.check(plan.get("corpora", {}).get(corpus.name, corpus.fingerprint))  # what its settings were chosen on

    tracking.client(patience=PATIENCE)
    experiment = build(Experiment, one["experiment"]).replace({"train.seed": one["seed"]})
    # Two methods may have come to one setting: each has its own models.
    own = {tag.DATASET: one["dataset"], tag.METHOD: one["method"], tag.ROLE: "final"}
    identity = {tag.EXPERIMENT: experiment_hash(experiment), **own}
    begun = ""
    for run in tracking.list_runs(one["sweep"]):
        same = all(run.tags.get(k) == v for k, v in identity.items())
        if not same or run.status == "FINISHED":
            continue
        if run.status == "RUNNING":  # on a node that is gone: this sweep's lock, and Ray, let nobody else train it
            tracking.attach(run.id).end("FAILED", "its process died")
        if not begun and checkpoint_of(run.name).exists():
            begun = run.name
    return train(
        one["dataset"],
        experiment=experiment,
        method=one["method"],
        name=f"{one['sweep']}-{one['dataset']}-{one['method']}-s{one['seed']}",
        group=one["sweep"],
        tags={tag.SWEEP: one["sweep"], tag.ROLE: "final", **one["tags"]},
        parent=one["parent"],
        reuse=True,
        resume=begun,
        workers=one["workers"],
        gpus_per_worker=one["gpus"] if one["workers"] > 1 else 0,
    ).metrics


def table_of(name: str, studies: Sequence["Study"]) -> list[dict[str, Any]]:
    """What the final models show, beside what chose them."""
    finals: dict[str, dict[str, Any]] = {}  # of each trial, whose setting they have
    for run in reversed(tracking.list_runs(name)):  # the latest of a seed counts
        if run.tags.get(tag.ROLE) == "final" and run.status == "FINISHED":
            finals.setdefault(run.tags.get(tag.TRIAL, ""), {})[run.params.get("train.seed", "")] = run.metrics
    table = []
    for study in studies:
        standing, best = study.standing(), study.best()
        row: dict[str, Any] = {
            "data set": study.dataset,
            "method": study.method,
            "trials": standing.done,
            "best validation NDCG@10": standing.best,
        }
        models = list(finals.get(best[0].id, {}).values()) if best else []
        for metric, label in (("test_ndcg_at_10", "test NDCG@10"), ("test_recall_at_10", "test Recall@10")):
            values = [m[metric] for m in models if metric in m]
            row[label] = statistics.mean(values) if values else None
            row[f"± {label}"] = statistics.stdev(values) if len(values) > 1 else None
        row["chosen"] = ", ".join(
            f"{key.rpartition('/')[2].rpartition('.')[2]} {f'{value:.4g}' if isinstance(value, float) else value}"
            for key, value in (best[0].values if best else {}).items()
        )
        table.append(row)
    return table
