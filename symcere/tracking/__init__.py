"""MLflow: runs, their parameters, metrics and files, and finding them again.

A thin wrapper around ``MlflowClient``: no global active run, nothing printed, and no run left RUNNING.
MLflow itself is imported only when a store is opened.
"""

from symcere.tracking.runs import (
    StoredRun,
    Tracker,
    attach,
    find_run,
    list_runs,
    reap,
    record_run,
    start_run,
    unique_name,
)
from symcere.tracking.store import client, mask, tracking_uri

__all__ = [
    "StoredRun",
    "Tracker",
    "attach",
    "client",
    "find_run",
    "list_runs",
    "mask",
    "reap",
    "record_run",
    "start_run",
    "tracking_uri",
    "unique_name",
]
