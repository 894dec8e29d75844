"""What every node of a cluster has, asked of each of them: versions, disk, clock, and what it can reach."""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from symcere.distributed.pool import living, pool
from symcere.errors import UserError
from symcere.storage import get, put, remove, within
from symcere.tracking import mask

PACKAGES = ("ray", "torch", "numpy", "pyarrow", "mlflow")
"""Whose versions have to be the same everywhere: they read each other's files and messages."""


@dataclass(frozen=True)
class Node:
    """One node, as it sees itself.

    Attributes:
        versions: of Python and :data:`PACKAGES`; ``""`` where one is not installed.
        free: bytes on the disk of the node's home.
        memory: bytes in all.
        skew: seconds that its clock is ahead of this machine's.
        uncertain: how far ``skew`` can be wrong, in seconds: half of the fastest answer's time.
        troubles: what it could not reach, by name (``storage``, ``mlflow``), with the reason.
    """

    name: str
    address: str
    versions: dict[str, str]
    gpus: int
    free: int
    memory: int
    skew: float = 0.0
    uncertain: float = 0.0
    troubles: dict[str, str] = field(default_factory=dict)


# ---------------------------------------------------------------- what runs on a node


def facts() -> dict[str, Any]:
    """Of the process that calls it: the fields of :class:`Node` that need nobody else."""

    def version(package: str) -> str:
        try:
            return metadata.version(package).partition("+")[0]  # which build of torch is the machine's affair
        except metadata.PackageNotFoundError:
            return ""

    home = Path(os.environ.get("SYMCERE_HOME") or Path.home())
    while not home.exists():
        home = home.parent
    return {
        "name": socket.gethostname(),
        "versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
        "free": shutil.disk_usage(home).free,
        "memory": memory(),
    }


def memory() -> int:
    """Bytes of this machine, or those its container may use."""
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            return min(whole, int(Path(limit).read_text()))
        except (OSError, ValueError):
            continue
    return whole


def write_to(folder: str, name: str, marks: Sequence[str] = ()) -> str:
    """Writes the file ``name`` to a folder on the storage, reads it and each of ``marks`` back, and leaves it there.

    Returns:
        ``""``, or why it failed.
    """
    try:
        put(within(folder, name), name.encode(), patient=False)
        for mark in (name, *marks):
            if get(within(folder, mark), patient=False) != mark.encode():
                return f"{mark} reads otherwise than it was written"
    except Exception as error:  # each kind of storage has errors of its own
        cause = error.__cause__ or error
        if isinstance(cause, FileNotFoundError):
            return f"what another node wrote is not there ({mask(str(cause))}): the storage is not shared"
        return mask(" ".join(str(cause).split())[:300]) or type(cause).__name__
    return ""


def reach_mlflow(uri: str) -> str:
    """``""``, or why the MLflow store at ``uri`` cannot be used from here."""
    from symcere.tracking import client

    try:
        client(uri)
    except UserError as error:
        return mask(str(error))
    return ""


class Probe:
    """The actor that answers for one node."""

    def facts(self) -> dict[str, Any]:
        return facts()

    def now(self) -> float:
        return time.time()

    def write(self, folder: str, name: str, marks: list[str]) -> str:
        return write_to(folder, name, marks)

    def remove(self, folder: str) -> None:  # storage that is not shared has a folder on each node
        remove(folder)

    def mlflow(self, uri: str) -> str:
        return reach_mlflow(uri)


# ---------------------------------------------------------------- asking all nodes


def survey(address: str, storage: str = "", mlflow: str = "", seconds: float = 120) -> list[Node]:
    """Asks every live node of the Ray cluster at ``address`` (``auto``, ``HOST:6379``, ``ray://HOST:10001``).

    Args:
        storage: a folder, or a URI with a scheme that pyarrow knows: each node writes a file and reads those of the
            others; all are removed again.
        mlflow: a tracking server's address that each node is to reach.
        seconds: to wait for all answers.

    Raises:
        UserError: no cluster answers, or one of its nodes does not.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    with pool(address):
        alive = living()
        remote: Any = ray.remote(num_cpus=0)(Probe)
        probes: list[Any] = [
            remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote()
            for node in alive
        ]
        try:
            told = ray.get([probe.facts.remote() for probe in probes], timeout=seconds)
            clocks = [_skew(partial(_now, probe, seconds)) for probe in probes]
            troubles: list[dict[str, str]] = [{} for _ in probes]
            if storage:
                _ask_for_storage(probes, storage, troubles, seconds)
            if mlflow:
                reasons = ray.get([probe.mlflow.remote(mlflow) for probe in probes], timeout=seconds)
                for found, why in zip(troubles, reasons, strict=True):
                    if why:
                        found["mlflow"] = why
        except ray.exceptions.RayError as error:
            raise UserError(
                f"A node of the Ray cluster does not answer: {' '.join(str(error).split())[:300]} `ray status` shows "
                "the nodes; is the same Python with the same packages installed on each?"
            ) from error
        finally:
            for probe in probes:
                ray.kill(probe)
    return [
        Node(
            address=node["NodeManagerAddress"],
            gpus=int(node["Resources"].get("GPU", 0)),
            skew=skew,
            uncertain=uncertain,
            troubles=trouble,
            **fact,
        )
        for node, fact, (skew, uncertain), trouble in zip(alive, told, clocks, troubles, strict=True)
    ]


def blind(folder: Path, seconds: float = 120) -> list[str]:
    """The nodes of the Ray that is running that do not share this machine's ``folder``, each with its reason.

    Args:
        folder: which all are to read and write; it exists here.
        seconds: that a node gets to answer.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task: Any = ray.remote(num_cpus=0, max_retries=0)(_look)
    mark = folder / f".seen-{secrets.token_hex(4)}"
    mark.write_text(mark.name)
    try:
        asked = [
            (
                f"{node['NodeManagerAddress']} ({node['NodeManagerHostname']})",
                task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                    mark
                ),
            )
            for node in living()
        ]
        found = []
        end = time.monotonic() + seconds
        for name, reference in asked:
            try:
                why = ray.get(reference, timeout=max(0.0, end - time.monotonic()))
            except ray.exceptions.GetTimeoutError:
                why = f"did not answer for {seconds:.0f} s"
            except ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None)
                why = f"failed: {' '.join(str(cause or error).split())[-300:]}"
            if why:
                found.append(f"{name} {why}")
        return found
    finally:
        mark.unlink(missing_ok=True)


def _look(mark: Path) -> str:
    """``""``, or why the node of this process cannot use the folder in which another one made ``mark``."""
    try:
        if mark.read_text() != mark.name:
            return "reads something else there"
        beside = mark.with_name(f"{mark.name}-{secrets.token_hex(4)}")
        beside.touch()
        beside.unlink()
    except FileNotFoundError:
        return "does not see it"
    except OSError as error:
        return f"cannot write there: {error.strerror}"
    return ""


def _ask_for_storage(probes: list[Any], storage: str, troubles: list[dict[str, str]], seconds: float) -> None:
    """One node after the other writes a file and reads those that the nodes before it wrote."""
    import ray

    folder = within(storage, f".doctor-{secrets.token_hex(4)}")
    marks: list[str] = []
    for number, probe in enumerate(probes):
        why = ray.get(probe.write.remote(folder, f"node-{number}", marks), timeout=seconds)
        if why:
            troubles[number]["storage"] = why
        else:
            marks.append(f"node-{number}")
    ray.get([probe.remove.remote(folder) for probe in probes], timeout=seconds)


def _now(probe: Any, seconds: float) -> float:
    import ray

    return ray.get(probe.now.remote(), timeout=seconds)


def _skew(ask: Callable[[], float], times: int = 5) -> tuple[float, float]:
    """How far another clock is ahead, and how far that can be wrong; the fastest of a few answers tells best."""
    best = (0.0, float("inf"))
    for _ in range(times):
        before = time.time()
        there = ask()
        after = time.time()
        if (after - before) / 2 < best[1]:
            best = (there - (before + after) / 2, (after - before) / 2)
    return best
