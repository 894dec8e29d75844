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
