"""What a sweep will cost, before any of it is spent."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from symcere.config import Experiment, Text
from symcere.config.sweep import Search, Stopping, check_seeds, load
from symcere.data.corpus import Corpus
from symcere.errors import UserError
from symcere.home import home
from symcere.steps.corpora import open_corpus
from symcere.steps.sweeps.ground import check_home
from symcere.steps.sweeps.needs import memory_of

if TYPE_CHECKING:
    from symcere.text import Embeddings

CALIBRATION = 3.0
"""Seconds of training that tell how long an epoch takes."""
EXTRA = 0.3
"""Seconds that a trial costs beyond its training."""


def expected_epochs(stopping: Stopping, epochs: int, patience: int) -> float:
    """Epochs of a trial on average, taking it that an undisturbed one ends after four times its patience."""
    whole = float(min(epochs, 4 * patience))
    if stopping.kind != "asha":
        return whole if stopping.kind == "none" else (whole + min(stopping.grace, whole)) / 2
    total, before, share = 0.0, 0.0, 1.0
    for milestone in [*stopping.milestones(int(whole)), whole]:
        total += share * (milestone - before)
        before, share = milestone, share / stopping.reduction
    return total


def seconds_per_epoch(corpus: Corpus, embeddings: "Embeddings | None", experiment: Experiment) -> tuple[float, float]:
    """Measured: seconds of an epoch with its evaluation, and of everything before the first."""
    from symcere.training import fit

    begun = time.perf_counter()
    times: list[float] = []
    first: list[float] = []

    def on_epoch(epoch: Any) -> bool:
        if not first:
            first.append(time.perf_counter() - begun - epoch.seconds)
        times.append(epoch.seconds)
        return time.perf_counter() - begun > CALIBRATION

    fit(corpus, embeddings, experiment.replace({"train.patience": 10**6}), on_epoch=on_epoch)
    if not times:  # a closed form
        return 0.0, time.perf_counter() - begun
    return sorted(times)[len(times) // 2], first[0]


def plan(
    file: str | Path,
    *,
    trials: int = 0,
    seeds: int | None = None,
    datasets: Sequence[str] = (),
    methods: Sequence[str] = (),
    address: str = "",
    progress: Any = None,
) -> dict[str, Any]:
    """What a sweep would do: trials, hours from a short calibration, memory and disk, and what is missing.

    Trains a few seconds on each data set with each method, and stores nothing but the built-in data set, if it is not
    there yet.
    """
    import torch

    from symcere.distributed.pool import pool, ray_address

    check_seeds(seeds)
    declared = load(file).only(methods, datasets, trials)
    sweep = declared.sweep
    resources: dict[str, float] = {"CPU": float(os.cpu_count() or 1)}
    missing: list[str] = []
    if address := ray_address(address):
        with pool(address) as found:
            resources |= found
            try:
                check_home(address)
            except UserError as error:
                missing.append(str(error))
    at_once = max(1.0, resources["CPU"] // sweep.resources.cpu)
    seeds = sweep.seeds if seeds is None else seeds
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, int(sweep.resources.cpu)))
    rows: list[dict[str, Any]] = []
    total = 0.0
    try:
        for number, dataset in enumerate(sweep.datasets):
            try:
                corpus = open_corpus(dataset)
            except UserError as error:
                missing.append(str(error))
                rows += [{"data set": dataset, "method": s.method, "trials": s.most} for s in declared.searches]
                continue
            for search in declared.searches:
                if progress:
                    progress("calibrate", number, len(sweep.datasets), f"{dataset}, {search.method}")
                row, lacks = _cost(corpus, search, sweep.stopping, seeds, at_once)
                total += row.get("hours") or 0.0
                rows.append(row)
                missing += [m for m in lacks if m not in missing]
    finally:
        torch.set_num_threads(threads)
    unknown = [r for r in rows if r.get("hours") is None]
    return {
        "sweep": declared.name,
        "trials": sum(s.most for s in declared.searches) * len(sweep.datasets),
        "final models": sum(r.get("final models", 0) for r in rows),
        "at once": int(at_once),
        "hours": total if len(unknown) < len(rows) else None,
        "table": rows,
        "missing": missing,
        "notes": [
            f"Hours are of this machine's cores, {int(at_once)} trials at a time, taking it that an undisturbed trial "
            "ends after four times its patience."
        ]
        + ([f"{len(unknown)} lines are not in the sum: see what is missing."] if unknown else []),
    }


def _cost(
    corpus: Corpus, search: Search, stopping: Stopping, seeds: int, at_once: float
) -> tuple[dict[str, Any], list[str]]:
    """One line of the plan, and what is missing for it."""
    experiment = search.base.replace({"data": corpus.settings})
    stored = {text: _stored(corpus, text) for text in search.texts}
    missing = [
        f"Embeddings of '{corpus.name}' with {names}: made at the start, or before by "
        f"`symcere embed {corpus.name} --text.encoders {names}`."
        for text, found in stored.items()
        if found is None
        for names in [",".join(e.name for e in text.encoders)]
    ]
    width = max((e.width for e in stored.values() if e is not None), default=256)
    row: dict[str, Any] = {"data set": corpus.name, "method": search.method, "trials": search.most}
    row["final models"] = min(seeds, 1) if experiment.closed_form.kind != "none" else seeds
    memory = max(memory_of(corpus, one, width) for one in search.experiments)
    disk = 1.2 * 4 * 4 * (corpus.num_users + corpus.num_items) * experiment.model.dim
    embeddings = stored.get(experiment.text)
    if experiment.needs_text and embeddings is None:
        row |= {"seconds per epoch": None, "hours": None}
    else:
        epoch, before = seconds_per_epoch(corpus, embeddings, experiment)
        train = experiment.train
        trial = before + EXTRA + epoch * expected_epochs(stopping, train.epochs, train.patience)
        final = before + epoch * min(train.epochs, 4 * train.patience)
        row["seconds per epoch"] = epoch
        row["hours"] = (search.most * trial + row["final models"] * final) / at_once / 3600
    return row | {"GB of memory": round(memory / 1e9, 2), "MB of disk": round(disk / 1e6, 1)}, missing


def _stored(corpus: Corpus, text: Text) -> "Embeddings | None":
    """Embeddings that are there already; none are made."""
    from symcere.text import Embeddings, make_encoder
    from symcere.text.cache import folder_name, key_of

    try:
        encoders = [make_encoder(settings) for settings in text.encoders]
    except UserError:  # a model that is found nowhere
        return None
    key = key_of(corpus.fingerprint, [e.identity for e in encoders])
    path = home() / "embeddings" / corpus.name / folder_name(text.encoders, key)
    return Embeddings.open(path, corpus) if path.exists() else None
