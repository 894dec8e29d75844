"""Whether all that a long job needs is there: on this machine, and on the nodes of a cluster."""

import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from symcere.config import Encoder, Experiment
from symcere.data import cards
from symcere.errors import UserError
from symcere.home import home
from symcere.steps.corpora import corpus_path
from symcere.storage import absolute
from symcere.tracking import attach, client, mask, tracking_uri

GIGABYTE = 1_000_000_000
LOW_DISK, NO_DISK = 20 * GIGABYTE, 2 * GIGABYTE
LOW_MEMORY = 4 * GIGABYTE
MOST_SKEW = 2.0
"""Seconds: beyond it times of runs and of leases mislead."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        result: ``fail``: a job that needs it will not work; ``warn``: it may not go well; ``skip``: nothing to check.
        found: what is there.
        advice: what to do, for all but ``ok``.
    """

    check: str
    result: Literal["ok", "warn", "fail", "skip"]
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Report:
    checks: list[Check]

    @property
    def exit_code(self) -> int:
        """1 if a check failed."""
        return int(any(check.result == "fail" for check in self.checks))

    def summary(self) -> dict[str, Any]:
        failed = [check.check for check in self.checks if check.result == "fail"]
        return {"failed": failed, "checks": [vars(check) for check in self.checks]}


def doctor(
    datasets: Sequence[str] = (),
    *,
    storage: str = "",
    address: str = "",
    experiment: Experiment | None = None,
    tracking: str = "",
) -> Report:
    """Look at all a long job needs: versions, GPUs, disk and memory, data sets, weights, MLflow, Ray, storage, clocks.

    Args:
        datasets: what should be prepared; by default those there are listed.
        storage: folder or URI (s3, gs, NFS) that this machine, and with a cluster every node, is to write and share.
        address: of a Ray cluster, by default ``RAY_ADDRESS``; without either Ray is not asked.
        experiment: whose encoders should be there, by default the default one.
        tracking: the MLflow store, by default that of the environment.
    """
    from symcere.distributed.pool import ray_address

    address = ray_address(address)
    checks = [
        _guarded("packages", _packages),
        _guarded("GPUs", _gpus),
        _guarded("disk", _disk),
        _guarded("memory", _memory),
        _guarded("shared memory", _shared_memory),
        *([_guarded(f"data set {name}", partial(_dataset, name)) for name in datasets] or [_prepared()]),
        *_guarded_all("model weights", lambda: _weights(experiment or Experiment())),
        _guarded("MLflow", lambda: _mlflow(tracking)),
    ]
    if storage:
        storage = absolute(storage)
        checks.append(_guarded("storage", lambda: _storage(storage)))
    else:
        checks.append(Check("storage", "skip", "not asked", "--storage URI checks that it can be written"))
    if address:
        checks += _guarded_all("Ray", lambda: _cluster(address, storage, tracking))
    else:
        checks.append(
            Check("Ray", "skip", "no address", "--address auto on the head; `symcere submit doctor --cluster FILE`")
        )
    return Report(checks)


def _guarded(name: str, look: Callable[[], Check]) -> Check:
    return _guarded_all(name, lambda: [look()])[0]


def _guarded_all(name: str, look: Callable[[], list[Check]]) -> list[Check]:
    """A check that breaks is a check that failed: the others are made all the same."""

    try:
        return look()
    except UserError as error:
        return [Check(name, "fail", "not usable", mask(" ".join(str(error).split())))]
    except Exception as error:
        told = mask(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        return [Check(name, "fail", told, "This check itself broke; the text tells where to look.")]


def _packages() -> Check:
    import platform
    from importlib import metadata

    from packaging.requirements import Requirement

    wrong, shown = [], [f"Python {platform.python_version()}"]
    for line in metadata.requires("symcere") or []:
        need = Requirement(line)
        if need.marker and not need.marker.evaluate():
            continue
        try:
            has = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{need.name} is missing")
            continue
        if not need.specifier.contains(has, prereleases=True):
            wrong.append(f"{need.name} is {has}, not {need.specifier}")
        if need.name in ("torch", "ray", "mlflow", "transformers"):
            shown.append(f"{need.name} {has}")
    if wrong:
        advice = "pip install --constraint requirements.lock --editable . (in the checkout), or `make test` once"
        return Check("packages", "fail", "; ".join(wrong), advice)
    return Check("packages", "ok", ", ".join(shown))


def _gpus() -> Check:
    import torch

    if torch.cuda.is_available():
        found = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
        return Check("GPUs", "ok", ", ".join(f"{g.name} {g.total_memory / GIGABYTE:.0f} GB" for g in found))
    if shutil.which("nvidia-smi") or Path("/proc/driver/nvidia/version").exists():
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
        advice = (
            "torch does not see the GPU of this machine: compare the driver (`nvidia-smi`) with torch's build, and "
            "install the build for that CUDA."
        )
        return Check("GPUs", "fail", f"a driver, but torch is built for {built} and sees no GPU", advice)
    advice = "Fine for small data sets; encoding and large corpora want a GPU (`symcere submit` sends them to one)."
    return Check("GPUs", "warn", f"none; {os.cpu_count()} CPUs", advice)


def _disk() -> Check:
    place = home()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    found = f"{free / GIGABYTE:.0f} GB free at {home()}"
    if not os.access(place, os.W_OK):
        return Check("disk", "fail", f"{place} cannot be written", "Set SYMCERE_HOME to a folder of yours.")
    if free < LOW_DISK:
        advice = "`symcere ls` shows what is stored and `symcere rm` frees it; SYMCERE_HOME may name another disk."
        return Check("disk", "fail" if free < NO_DISK else "warn", found, advice)
    return Check("disk", "ok", found)


def _memory() -> Check:
    from symcere.distributed.nodes import memory

    whole = memory()
    found = f"{whole / GIGABYTE:.0f} GB"
    if whole < LOW_MEMORY:
        return Check("memory", "warn", found, "Ray and MLflow alone take 2 GB; a larger machine, or small data sets.")
    return Check("memory", "ok", found)


def _shared_memory() -> Check:
    from symcere.distributed.nodes import memory

    place = Path("/dev/shm")
    if not place.is_dir():
        return Check("shared memory", "skip", "none on this system", "Ray uses files instead")
    size = shutil.disk_usage(place).total
    found = f"{size / GIGABYTE:.1f} GB"
    if size < min(GIGABYTE, memory() / 10):
        advice = "Ray falls back to slow files: start the container with --shm-size=30% of its memory, or --ipc=host."
        return Check("shared memory", "warn", found, advice)
    return Check("shared memory", "ok", found)


def _dataset(name: str) -> Check:
    label = f"data set {name}"
    if (corpus_path(name) / "manifest.json").exists():
        return Check(label, "ok", f"prepared at {corpus_path(name)}")
    try:
        card = cards.find(name)
    except UserError as error:
        return Check(label, "fail", "unknown", " ".join(str(error).split()))
    if (corpus_path(card.name) / "manifest.json").exists():
        return Check(label, "ok", f"prepared at {corpus_path(card.name)}")
    if card.format == "synthetic":
        return Check(label, "ok", "is generated on first use")
    there = card.sources()
    advice = f"`symcere prepare {card.name}`" if there else card.how_to_get()
    return Check(label, "fail", "fetched, not prepared" if there else "not on this machine", " ".join(advice.split()))


def _prepared() -> Check:
    folder = home() / "corpora"
    names = sorted(p.parent.name for p in folder.glob("*/manifest.json"))
    if names:
        return Check("data sets", "ok", f"prepared: {', '.join(names)}")
    return Check("data sets", "skip", "none prepared", "`symcere doctor DATASET …` checks those that a job needs")


def _found_model(label: str, encoder: Encoder) -> Check:
    from symcere.text.models import find_model

    return Check(label, "ok", str(find_model(encoder)))


def _weights(experiment: Experiment) -> list[Check]:
    found = []
    for encoder in experiment.text.encoders if experiment.needs_text else ():
        label = f"encoder {encoder.name}"
        if encoder.name == "lsa":
            found.append(Check(label, "ok", "needs no weights"))
        else:
            found.append(_guarded(label, partial(_found_model, label, encoder)))
    return found


def _mlflow(uri: str) -> Check:
    """Makes an experiment, a run with a metric and a file, reads them back, and deletes them."""
    from symcere.tracking.store import experiment_id

    uri = uri or tracking_uri()
    store = client(uri)
    name = f"doctor-{secrets.token_hex(4)}"
    number = experiment_id(store, name, uri)
    try:
        run = attach(store.create_run(number).info.run_id, uri)
        run.log_metrics({"doctor": 1.0})
        kept = store.get_run(run.run_id).data.metrics
        if kept != {"doctor": 1.0}:
            return Check("MLflow", "fail", f"{mask(uri)} lost a metric", "Look at the server's log and its database.")
        try:
            run.log_text("doctor", "doctor.txt")
            files = [f.path for f in store.list_artifacts(run.run_id)]
        except Exception as error:
            told = mask(" ".join(str(error).split())[:200])
            advice = (
                "The server answers, but files cannot be stored: see its --artifacts-destination and the credentials "
                "of its object storage (cluster/README.md)."
            )
            return Check("MLflow", "fail", f"no file can be stored: {told}", advice)
        run.end("FINISHED")
        store.delete_run(run.run_id)
    finally:
        store.delete_experiment(number)
    return Check("MLflow", "ok" if files else "warn", f"{mask(uri)} takes runs and files")


def _storage(storage: str) -> Check:
    from symcere.distributed.nodes import write_to
    from symcere.storage import remote, remove, within

    folder = within(storage, f".doctor-{secrets.token_hex(4)}")
    if remote(storage) or Path(storage).parent.is_dir():
        why = write_to(folder, "here")
    else:  # writing would make it, where perhaps only a mount is missing
        why = f"there is no folder {Path(storage).parent}"
    if why:
        advice = (
            f"This machine cannot write {mask(storage)}: check that it exists, and the credentials of this machine "
            "(an instance profile, AWS_… or GOOGLE_APPLICATION_CREDENTIALS; for NFS the mount and its rights)."
        )
        return Check("storage", "fail", why, advice)
    remove(folder)
    return Check("storage", "ok", f"{mask(storage)} can be written and read")


def _cluster(address: str, storage: str, tracking: str) -> list[Check]:
    from symcere.distributed.nodes import PACKAGES, facts, survey

    uri = tracking or tracking_uri()
    shared = uri if uri.startswith(("http://", "https://")) else ""
    nodes = survey(address, storage, shared)
    gpus = sum(node.gpus for node in nodes)
    found = [
        Check("Ray", "ok", f"{len(nodes)} {'node' if len(nodes) == 1 else 'nodes'}, {gpus} GPUs at {mask(address)}")
    ]

    here = facts()["versions"]
    odd = {
        node.address: ", ".join(
            f"{p} {node.versions[p] or 'missing'} instead of {here[p]}"
            for p in ("python", *PACKAGES)
            if node.versions[p] != here[p]
        )
        for node in nodes
    }
    found.append(
        _of_nodes(
            "versions on nodes",
            odd,
            f"the same on all: Python {here['python']}, ray {here['ray']}, torch {here['torch']}",
            "Install requirements.lock on each node (the setup_commands of the cluster file; `ray up` again).",
        )
    )
    found.append(
        _of_nodes(
            "disk on nodes",
            {n.address: f"{n.free / GIGABYTE:.1f} GB free" if n.free < NO_DISK else "" for n in nodes},
            f"at least {min(n.free for n in nodes) / GIGABYTE:.0f} GB free on each",
            "Free or enlarge the disks: each node keeps corpora and embeddings while it works on them.",
        )
    )
    found.append(
        _of_nodes(
            "clocks",
            {n.address: f"{n.skew:+.1f} s" if abs(n.skew) > MOST_SKEW + n.uncertain else "" for n in nodes},
            f"within {max(abs(n.skew) + n.uncertain for n in nodes):.2f} s of each other",
            "Times of runs will mislead: start a time service (chrony, systemd-timesyncd) on these nodes.",
        )
    )
    if storage:
        found.append(
            _of_nodes(
                "storage from nodes",
                {n.address: n.troubles.get("storage", "") for n in nodes},
                f"each node writes {mask(storage)} and reads what the others wrote",
                "Every node needs the same storage: the same mount, or credentials (an instance profile) for it.",
            )
        )
    if shared:
        found.append(
            _of_nodes(
                "MLflow from nodes",
                {n.address: n.troubles.get("mlflow", "") for n in nodes},
                f"each node reaches {mask(shared)}",
                "Open the server's port to the nodes' network, and put its password into ~/.mlflow/credentials there.",
            )
        )
    else:
        advice = "Other machines cannot write to this file: start a server (cluster/mlflow) and set its address."
        several = len({node.address for node in nodes}) > 1
        told = f"{mask(uri)} is on one machine"
        found.append(Check("MLflow from nodes", "warn" if several else "ok", told, advice if several else ""))
    return found


def _of_nodes(name: str, troubles: Mapping[str, str], fine: str, advice: str) -> Check:
    """One check of all nodes: those with a trouble are named."""
    wrong = {node: why for node, why in troubles.items() if why}
    if wrong:
        return Check(name, "fail", "; ".join(f"{node}: {why}" for node, why in wrong.items()), advice)
    return Check(name, "ok", fine)
