"""Sending a command to a cluster."""

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from symcere.errors import UserError

if TYPE_CHECKING:
    from symcere.distributed.submit import Job


def submit(
    words: Sequence[str],
    *,
    cluster: str = "",
    address: str = "",
    wait: bool = True,
    env: Mapping[str, str] | None = None,
    cpus: float = 0,
    gpus: float = 0,
) -> "Job":
    """Run a ``symcere`` command as a job of a Ray cluster, with the code of the current directory.

    Args:
        words: the command, ``["train", "hotels", "--workers", "2"]``.
        cluster: the file that ``ray up`` was given; the cluster is reached through SSH.
        address: or the address of its dashboard, ``http://HEAD:8265``; by default ``RAY_API_SERVER_ADDRESS``.
        wait: stream the log and return the command's exit code.
        env: environment of the job.
        cpus: that the command itself holds, beside its workers (by default it runs on the head, with none).
        gpus: likewise.

    Raises:
        UserError: the cluster is not reached, or something that should not travel would.
    """
    from symcere.distributed.submit import reach
    from symcere.distributed.submit import submit as run

    address = address or ("" if cluster else os.environ.get("RAY_API_SERVER_ADDRESS", ""))
    if bool(cluster) == bool(address):
        raise UserError("Which cluster? Give --cluster FILE (as to `ray up`) or --address http://HEAD:8265.")
    with reach(cluster) if cluster else nullcontext(address) as at:
        return run(words, at, env=env, wait=wait, cpus=cpus, gpus=gpus, cluster=cluster)
