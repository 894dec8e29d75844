"""The MLflow registry: versions of a model, their cards, and which of them is champion."""

from __future__ import annotations

import importlib.metadata
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import symcere
from symcere.config import Experiment
from symcere.errors import UserError, nearest
from symcere.evaluation.significance import Comparison, compare
from symcere.serving import Request, Service, bundle
from symcere.tracking import tag
from symcere.tracking.runs import StoredRun, find_run
from symcere.tracking.store import client, mask, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHALLENGER, CHAMPION = "challenger", "champion"
ACCURACY = ("ndcg", "recall", "precision", "hit_rate", "mrr", "map")
"""Metrics of each user of which more is better."""
ARTIFACT = "recommender"
"""Name of the service's folder inside the MLflow model."""
LEVEL = 0.05
"""A challenger is better where the paired test says so with a smaller p."""

_ALWAYS = ("mlflow", "numpy", "pandas", "pyarrow", "PyYAML", "safetensors", "scipy", "torch")


@dataclass(frozen=True)
class Version:
    """One version of a registered model."""

    name: str
    version: int
    run_id: str
    uri: str
    """``models:/NAME/VERSION``"""
    aliases: tuple[str, ...]
    source: str
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Promotion:
    """What :func:`promote` decided, and why."""

    name: str
    version: int
    promoted: bool
    reason: str
    comparison: Comparison | None = None


# ---------------------------------------------------------------- registering


def register(
    service: Service,
    experiment: Experiment,
    run: StoredRun,
    corpus: Mapping[str, Any],
    name: str,
    uri: str | None = None,
) -> Version:
    """A new version of the model ``name``, with the alias ``challenger``.

    It carries the service, the package's own code, a signature, an input example, pinned requirements and a model
    card; its lineage is the run, among whose artifacts it is stored.

    Args:
        run: a finished run of the store.
        corpus: name, fingerprint and sizes, for the card.

    Raises:
        UserError: a name that cannot be one, a store without a registry, or a run that is not in the store.
    """
    import mlflow

    _check_name(name)
    if not run.id:
        raise UserError(f"{run.name} is a checkpoint without a run in {mask(uri or tracking_uri())}: register a run.")
    store = client(uri)
    with tempfile.TemporaryDirectory() as temporary:
        inside, model = Path(temporary) / ARTIFACT, Path(temporary) / "model"
        facts = {"corpus": dict(corpus), "run": {"id": run.id, "name": run.name}}
        manifest = bundle.save(service, inside, experiment, facts)
        text = card(name, run, experiment, corpus, manifest)
        mlflow.pyfunc.save_model(
            model,
            python_model=str(Path(__file__).with_name("pyfunc.py")),
            artifacts={ARTIFACT: str(inside)},
            code_paths=[str(Path(symcere.__file__).parent)],
            signature=signature(service),
            input_example=example(service),
            pip_requirements=requirements(manifest),
            metadata={"symcere": symcere.__version__, "run": run.name, **{f"corpus_{k}": v for k, v in corpus.items()}},
        )
        (model / "MODEL_CARD.md").write_text(text, encoding="utf-8")
        place = f"registered/{name}-{secrets.token_hex(4)}"
        store.log_artifacts(run.id, str(model), place)
    tags = {tag.CORPUS: str(corpus["fingerprint"]), tag.DATASET: str(corpus["name"]), tag.RUN: run.name}
    with _registry(uri):
        if not _exists(store, name):
            store.create_registered_model(name, description="A review-enhanced recommender, made by symcere.")
        made = store.create_model_version(
            name, source=f"{run.artifacts.rstrip('/')}/{place}", run_id=run.id, tags=tags, description=text[:90_000]
        )
        store.set_registered_model_alias(name, CHALLENGER, made.version)
        return version(f"{name}@{CHALLENGER}", uri)


def requirements(manifest: Mapping[str, Any]) -> list[str]:
    """What the model needs beside its own code, at the versions installed here (those of ``requirements.lock``)."""
    names = list(_ALWAYS)
    if manifest["encoders"]:
        names += ["scikit-learn", "transformers"]
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in names]


def signature(service: Service) -> Any:
    """Input, output and parameters of the model, for MLflow."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType, Array

    text, ids = DataType.string, Array(DataType.string)
    # Of another type MLflow would turn "false" into true and 1.5 into 1, and no row could leave out what another has.
    asked: list[tuple[str, Any]] = [(f.name, text if f.name == "review_text" else AnyType()) for f in fields(Request)]
    params = [
        ParamSpec("k", DataType.long, min(10, service.num_items)),
        ParamSpec("exclude_seen", DataType.boolean, True),
        ParamSpec("why", DataType.boolean, False),
        ParamSpec("candidates", DataType.string, [], shape=(-1,)),
        ParamSpec("exclude", DataType.string, [], shape=(-1,)),
    ]
    if getattr(service.scorer, "bias", None) is not None:
        params.append(ParamSpec("popularity_weight", DataType.double, float(service.weight)))
    told: list[tuple[str, Any]] = [
        ("user_id", text),
        ("basis", text),
        ("items", ids),
        ("scores", Array(DataType.double)),
        ("titles", ids),
        ("why", ids),
        ("notes", ids),
    ]
    return ModelSignature(
        inputs=Schema([ColSpec(kind, name, required=False) for name, kind in asked]),
        outputs=Schema([ColSpec(kind, name, required=name != "user_id") for name, kind in told]),
        params=ParamSchema(params),
    )


def example(service: Service) -> Any:
    """A user by their id, which is made up, and a new one by their words and by an item they liked."""
    import pandas as pd

    return pd.DataFrame(
        {
            "user_id": ["somebody", None],
            "review_text": [None, "Exactly what I was looking for."],
            "liked_items": [[], [service.item_ids[0].as_py()]],
        }
    )


def card(
    name: str, run: StoredRun, experiment: Experiment, corpus: Mapping[str, Any], manifest: Mapping[str, Any]
) -> str:
    """The model card, in Markdown."""
    per_user = _per_user(run)
    cuts = sorted({int(k.rpartition("_at_")[2]) for k in per_user if k.startswith("ndcg_at_") and k[-1].isdigit()})
    rows = ["| metric | mean | 95 % interval |", "|---|---|---|"]
    for metric in ("ndcg", "recall", "hit_rate", "mrr"):
        for k in cuts:
            column = per_user.get(f"{metric}_at_{k}")
            if column is not None and len(column) > 1:
                low, high = _interval(np.asarray(column, dtype=float))
                rows.append(f"| {metric.replace('_', ' ')}@{k} | {np.nanmean(column):.4f} | {low:.4f} – {high:.4f} |")
    k = 10 if 10 in cuts else (cuts[0] if cuts else 10)
    bias = [
        ("mean training interactions of what is recommended", f"test_arp_at_{k}"),
        ("Gini coefficient of recommendations", f"test_gini_at_{k}"),
        ("share of the catalogue recommended to somebody", f"test_coverage_at_{k}"),
        ("NDCG on the most popular third of the items", f"test_ndcg_at_{k}_head"),
        ("NDCG on the middle third", f"test_ndcg_at_{k}_middle"),
        ("NDCG on the least popular third", f"test_ndcg_at_{k}_tail"),
    ]
    told = [f"| {text} | {run.metrics[key]:.4f} |" for text, key in bias if key in run.metrics]
    encoders = ", ".join(
        f"{e['name']} ({'carried inside' if e['place'] == 'inside' else 'needed as ' + e['place']})"
        for e in manifest["encoders"]
    )
    reads = experiment.closed_form.kind == "none" and experiment.model.features != "id"
    fallback = "their own words, " if reads else ""
    size = sum(1 for _ in manifest["files"])
    return "\n".join(
        [
            f"# {name}",
            "",
            f"Ranks items for users of review data. Trained by symcere {symcere.__version__} in run `{run.name}` "
            f"(`{run.id}`), method {run.tags.get('symcere.method', 'unknown')}.",
            "",
            "## Data",
            f"- corpus **{corpus['name']}**, fingerprint `{corpus['fingerprint']}`",
            f"- {corpus['users']:,} users, {corpus['items']:,} items, {corpus['training']:,} training interactions",
            f"- text encoders: {encoders or 'none'}",
            "",
            f"## Accuracy (test split, all items ranked, k = {', '.join(map(str, cuts))})",
            *(rows if len(rows) > 2 else ["The run holds no evaluation."]),
            "",
            "Intervals are over users (Student's t): they speak of this trained model, not of its training.",
            "",
            f"## Popularity bias (k = {k})",
            "| figure | value |",
            "|---|---|",
            *told,
            "",
            "## Limits",
            f"- Users who were not trained on are ranked by {fallback}items they liked, or by popularity, in this "
            "order; the answer says which.",
            "- New items are not known before the next training.",
            "- Accuracy was measured offline, on interactions that users chose to review.",
            "- Reasons are sentences of other people's reviews that lie close to the user's vector: they show what the "
            "model compares, and are no proof of cause.",
            "- Who the users are was not looked at: no figure here speaks of groups of people.",
            "",
            "## Configuration",
            "```yaml",
            experiment.to_yaml().rstrip(),
            "```",
            "",
            f"{size} files, each checked against its sha256 when the model is loaded.",
            "",
        ]
    )


# ---------------------------------------------------------------- finding


def version(model: str, uri: str | None = None) -> Version:
    """A version by ``NAME`` (its champion, or the only challenger), ``NAME@alias``, ``NAME/3`` or MLflow's
    ``models:/…``.

    Raises:
        UserError: no such model, version or alias, or a store without a registry.
    """
    from mlflow.exceptions import MlflowException

    store = client(uri)
    text = model.removeprefix("models:/")
    name, at, alias = text.partition("@")
    name, slash, number = (name, "", "") if at else text.partition("/")
    with _registry(uri):
        if not _exists(store, name):
            names = [m.name for m in store.search_registered_models()]
            known = nearest(name, names) if names else "`symcere register RUN --name NAME` makes the first one."
            raise UserError(f"There is no registered model '{name}' in {mask(uri or tracking_uri())}. {known}")
        try:
            if slash:
                return _version(store, store.get_model_version(name, number))
            for wanted in [alias] if at else [CHAMPION, CHALLENGER]:
                try:
                    return _version(store, store.get_model_version_by_alias(name, wanted))
                except MlflowException:
                    if at or wanted == CHALLENGER:
                        raise
        except MlflowException:
            held = store.get_registered_model(name).aliases
            told = ", ".join(f"{a} = version {v}" for a, v in sorted(held.items())) or "none"
            raise UserError(f"Model '{name}' has no '{number or alias or CHAMPION}'. Aliases: {told}.") from None
    raise AssertionError


def fetch(found: Version, uri: str | None = None, into: Path | None = None) -> Path:
    """The service's folder of a version, on this machine; load it with :func:`symcere.serving.load`.

    Args:
        into: folder to copy it to; by default it stays where it is, or goes to a temporary folder from another
            machine.

    Raises:
        UserError: its files cannot be read.
    """
    import mlflow.artifacts

    try:
        where = f"{found.source.rstrip('/')}/artifacts/{ARTIFACT}"
        there = None if into is None else str(into)
        return Path(
            mlflow.artifacts.download_artifacts(artifact_uri=where, dst_path=there, tracking_uri=uri or tracking_uri())
        )
    except Exception as error:
        raise UserError(f"The files of {found.uri} cannot be read from {mask(found.source)}: {error}") from error


# ---------------------------------------------------------------- promoting


def promote(name: str, metric: str = "ndcg_at_10", force: bool = False, uri: str | None = None) -> Promotion:
    """Makes the challenger champion if it is better: a paired test over the users of one corpus.

    What was decided, and on what figures, is kept in the version's tag ``symcere.promoted``.

    Args:
        metric: a column of the runs' per-user metrics.
        force: promote whatever the test says; the tag says that it was forced.

    Raises:
        UserError: no challenger, or, without ``force``, models of different corpora, or a run without the metric.
    """
    store = client(uri)
    challenger = version(f"{name}@{CHALLENGER}", uri)
    with _registry(uri):
        holder = store.get_registered_model(name).aliases.get(CHAMPION)
    if holder is not None and int(holder) == challenger.version:
        raise UserError(f"Version {holder} of '{name}' is challenger and champion: register another run first.")
    comparison = None
    if holder is None:
        better, reason = True, "there was no champion"
    else:
        champion = version(f"{name}@{CHAMPION}", uri)
        try:
            comparison = _compared(challenger, champion, metric, uri)
            better = comparison.difference > 0 and comparison.p < LEVEL
            reason = _told(comparison, metric, champion.version)
        except UserError as error:
            if not force:
                raise
            better, reason = False, str(error)
    promoted = better or force
    if force and not better:
        reason = f"forced; {reason}"
    with _registry(uri):
        told = f"{'yes' if promoted else 'no'}: {reason}"
        store.set_model_version_tag(name, str(challenger.version), tag.PROMOTED, told)
        if promoted:
            store.set_registered_model_alias(name, CHAMPION, str(challenger.version))
            store.delete_registered_model_alias(name, CHALLENGER)
    return Promotion(name, challenger.version, promoted, reason, comparison)


def _compared(challenger: Version, champion: Version, metric: str, uri: str | None) -> Comparison:
    """The challenger against the champion, user by user."""
    ours, theirs = (v.tags.get(tag.CORPUS, "") for v in (challenger, champion))
    if ours != theirs:
        raise UserError(
            f"Version {challenger.version} was trained on corpus {challenger.tags.get(tag.DATASET)} ({ours[:12]}), the "
            f"champion, version {champion.version}, on {champion.tags.get(tag.DATASET)} ({theirs[:12]}): their figures "
            "cannot be compared. Train both on one corpus, or use --force."
        )
    columns = []
    for one in (challenger, champion):
        run = find_run(one.run_id, uri)
        values = _per_user(run)
        if metric not in values or metric.partition("_at_")[0] not in ACCURACY:
            accuracy = [m for m in values if m.partition("_at_")[0] in ACCURACY]
            known = nearest(metric, accuracy) if values else "It was trained without a test."
            raise UserError(f"Run {run.name} has no accuracy of each user called '{metric}'. {known}")
        columns.append(dict(zip(values["user"], values[metric], strict=True)))
    users = sorted(columns[0].keys() & columns[1].keys())
    if len(users) < 2:
        raise UserError("The two runs were evaluated on different users: evaluate both on one split.")
    ours_of, theirs_of = (np.array([column[user] for user in users], dtype=float) for column in columns)
    return compare(ours_of, theirs_of)


def _told(c: Comparison, metric: str, champion: int) -> str:
    verdict = "better" if c.difference > 0 and c.p < LEVEL else "not better" if c.p >= LEVEL else "worse"
    return (
        f"{verdict} than version {champion}: {metric} {c.a:.4f} against {c.b:.4f}, difference {c.difference:+.4f} "
        f"(95 % interval {c.low:+.4f} to {c.high:+.4f}, paired over {c.users} users, p = {c.p:.2g})"
    )


# ---------------------------------------------------------------- helpers


def _per_user(run: StoredRun) -> dict[str, list[Any]]:
    """Per-user test metrics of a run; empty where it was not tested."""
    import pyarrow.parquet as pq

    try:
        return pq.read_table(run.artifact("per_user.parquet")).to_pydict()
    except UserError:
        return {}


def _interval(values: np.ndarray) -> tuple[float, float]:
    from symcere.evaluation import Evaluation

    return Evaluation({}, {"m": values}, np.arange(len(values))).interval("m")


def _exists(store: MlflowClient, name: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        store.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return True


def _version(store: MlflowClient, found: ModelVersion) -> Version:
    aliases = store.get_registered_model(found.name).aliases
    mine = tuple(sorted(alias for alias, v in aliases.items() if str(v) == str(found.version)))
    number = int(found.version)
    return Version(
        found.name,
        number,
        found.run_id or "",
        f"models:/{found.name}/{number}",
        mine,
        found.source or "",
        dict(found.tags),
    )


def _check_name(name: str) -> None:
    if not name or any(c in name for c in "/:@.%\"'\\ ") or name != name.strip():
        raise UserError(f"'{name}' cannot name a model: use letters, digits, '-' and '_'.")


class _registry:  # noqa: N801  a context manager, read as a noun
    """What the registry refuses becomes an error that a person can act on."""

    def __init__(self, uri: str | None):
        self.uri = uri

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        from mlflow.exceptions import MlflowException

        if isinstance(error, MlflowException):
            raise UserError(
                f"The registry of {mask(self.uri or tracking_uri())} refuses: {mask(str(error))} It needs an MLflow "
                "store with a registry: a database (sqlite:///…, postgresql://…), or a server that has one."
            ) from error


__all__: Sequence[str] = ("Promotion", "Version", "card", "fetch", "promote", "register", "requirements", "version")
