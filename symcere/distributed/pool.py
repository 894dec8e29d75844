"""A Ray to run in, without its noise, and with room for what is to run."""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from symcere.errors import Terminated, UserError

GROWTH = 1800.0
"""Seconds that a cluster gets to bring a node: a machine of a cloud, and its set-up."""


def ray_address(address: str = "") -> str:
    """The address of the cluster to run in, by default ``RAY_ADDRESS``, which is set in a job; "" for this machine."""
    return address or os.environ.get("RAY_ADDRESS", "")


@contextlib.contextmanager
def pool(address: str = "", cpus: int = 0, store: int = 0) -> Iterator[dict[str, float]]:
    """A Ray to run in: the one that is running already, the cluster at ``address``, or one of this machine alone.

    Args:
        address: see :func:`ray_address`.
        cpus: of a Ray of this machine alone; 0 for as many as there are.
        store: bytes of its object store; 0 for Ray's own choice.

    Yields:
        its resources, ``{"CPU": 2.0, "GPU": 1.0, …}``.

    Raises:
        UserError: no cluster answers at the address.
    """
    import ray

    address = ray_address(address)
    ours = not ray.is_initialized()
    term = signal.getsignal(signal.SIGTERM)
    if ours:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_DEDUP_LOGS", "0")
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
        own: dict[str, Any] = {"num_cpus": cpus or None, "object_store_memory": store or None}
        try:
            if address:
                ray.init(address=address, **quiet)
            else:
                ray.init(address="local", include_dashboard=False, **own, **quiet)
        except Exception as error:
            raise UserError(
                f"Cannot {'reach Ray at ' + address if address else 'start Ray'}: {' '.join(str(error).split())[:300]}"
            ) from error
    terminated = []

    def terminate(number: int, frame: Any) -> None:
        terminated.append(number)
        if callable(term):
            term(number, frame)
        else:
            raise Terminated(128 + number)

    try:
        if ours:  # Ray takes SIGTERM for itself, and aborts: what has to be ended or removed would stay
            _on_term(term if term is signal.SIG_IGN else terminate)
        yield ray.cluster_resources()
    except SystemExit:
        if terminated:  # Ray's core passes on that there was an exit, not which
            raise Terminated(128 + terminated[0]) from None
        raise
    finally:
        if ours:
            ray.shutdown()
            _on_term(term)


def _on_term(handler: Any) -> None:
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def room(
    bundles: Sequence[Mapping[str, float]],
    seconds: float = 0.0,
    *,
    asks: str = "A trial",
    remedy: str = "lower `resources` of the sweep",
) -> dict[str, float]:
    """The resources of the Ray that is running, once its nodes hold all ``bundles`` at the same time.

    Args:
        bundles: what each process asks for, ``[{"CPU": 1, "GPU": 0.1}]``; one is on one node.
        seconds: to wait for nodes, which an autoscaler is asked for: a cluster may begin without any.
        asks, remedy: who asks and what can be done, for the error.

    Raises:
        UserError: too little; Ray itself would wait for ever, without a word.
    """
    import ray

    end = time.monotonic() + seconds
    wanted = [{kind: amount for kind, amount in bundle.items() if amount} for bundle in bundles]
    if not _fit(wanted) and seconds:
        logging.getLogger(__name__).warning(
            "The cluster has no room for %s yet. Waiting up to %.0f minutes for nodes; `ray status` tells about them.",
            _told(wanted),
            seconds / 60,
        )
        ask_for(wanted)
        try:
            while not _fit(wanted) and time.monotonic() < end:
                time.sleep(1)
        finally:
            ask_for([])  # idle nodes may end again
    found = ray.cluster_resources()
    if not _fit(wanted):
        nodes = "; ".join(
            ", ".join(f"{node['Resources'].get(kind, 0):g} {kind}" for kind in wanted[0]) for node in living()
        )
        raise UserError(
            f"{asks} asks for {_told(wanted)}, and Ray's nodes have: {nodes}. It would never start; {remedy}."
        )
    return found


def living() -> list[dict[str, Any]]:
    """What Ray tells of the live nodes of the one that is running."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def most(kind: str, beside: Mapping[str, float]) -> float:
    """The most of a resource that a node of the running Ray has which also has what stands beside it; 0 if none has."""
    nodes = (node["Resources"] for node in living())
    return max((n.get(kind, 0.0) for n in nodes if all(n.get(k, 0) >= v for k, v in beside.items())), default=0.0)


def ask_for(bundles: Sequence[Mapping[str, float]]) -> None:
    """Tells an autoscaler, if there is one, what could run at the same time, until it is told something else."""
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=[{kind: float(amount) for kind, amount in one.items() if amount} for one in bundles])


def _fit(bundles: Sequence[Mapping[str, float]]) -> bool:
    """Whether the nodes, if they were idle, hold the bundles: each in the first that has room for it."""
    left = [dict(node["Resources"]) for node in living()]
    for bundle in bundles:
        for node in left:
            if all(node.get(kind, 0) >= amount for kind, amount in bundle.items()):
                for kind, amount in bundle.items():
                    node[kind] -= amount
                break
        else:
            return False
    return True


def _told(bundles: Sequence[Mapping[str, float]]) -> str:
    one = " and ".join(f"{amount:g} {kind}" for kind, amount in bundles[0].items())
    return one if len(bundles) == 1 else f"{len(bundles)} workers of {one} each"


@contextlib.contextmanager
def quiet(logger: str, settings: dict[str, str]) -> Iterator[None]:
    """Environment variables set, and one of Ray's loggers silent, for the time of the block."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def check(there: dict[str, float], wanted: dict[str, float], address: str) -> None:
    """Says what Ray lacks: an autoscaler may add it, and Ray waits for it without a word.

    Args:
        there: its resources, as :func:`pool` tells them.
        wanted: ``{"CPU": workers, "GPU": …}``.
        address: see :func:`ray_address`.

    Raises:
        UserError: this machine alone has not the GPUs.
    """
    for kind, count in wanted.items():
        found = there.get(kind, 0)
        if found >= count:
            continue
        if not ray_address(address) and kind == "GPU":
            raise UserError(f"{count:g} GPUs are asked for, and this machine has {found:g}: use fewer, or --address.")
        logging.getLogger(__name__).warning(
            "Waiting for %g %ss, of which the cluster has %g now. If nothing can add to it, use fewer workers.",
            count,
            kind,
            found,
        )


def cores(workers: int, address: str) -> None:
    """Says where more workers than cores are asked of this machine: correct, and no faster."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not ray_address(address) and workers > here:
        logging.getLogger(__name__).warning(
            "%d workers share the %d cores of this machine: that many are slower than %d.", workers, here, here
        )
