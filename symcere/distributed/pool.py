"""A Ray to run in, without its noise."""

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

from symcere.errors import UserError


@contextlib.contextmanager
def pool(address: str = "", cpus: int = 0) -> Iterator[dict[str, float]]:
    """A Ray to run in: the one that is running already, the cluster at ``address``, or one of this machine alone.

    Args:
        address: by default ``RAY_ADDRESS``, which is set in a job of a cluster.
        cpus: of a Ray of this machine alone; 0 for as many as there are.

    Yields:
        its resources, ``{"CPU": 2.0, "GPU": 1.0, …}``.

    Raises:
        UserError: no cluster answers at the address.
    """
    import ray

    address = address or os.environ.get("RAY_ADDRESS", "")
    ours = not ray.is_initialized()
    if ours:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_DEDUP_LOGS", "0")
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
        try:
            if address:
                ray.init(address=address, **quiet)
            else:
                ray.init(address="local", num_cpus=cpus or None, include_dashboard=False, **quiet)
        except Exception as error:
            raise UserError(
                f"Cannot {'reach Ray at ' + address if address else 'start Ray'}: {' '.join(str(error).split())[:300]}"
            ) from error
    try:
        yield ray.cluster_resources()
    finally:
        if ours:
            ray.shutdown()


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

    Raises:
        UserError: this machine alone has not the GPUs.
    """
    for kind, count in wanted.items():
        found = there.get(kind, 0)
        if found >= count:
            continue
        if not address and kind == "GPU":
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
    if not (address or os.environ.get("RAY_ADDRESS")) and workers > here:
        logging.getLogger(__name__).warning(
            "%d workers share the %d cores of this machine: that many are slower than %d.", workers, here, here
        )
