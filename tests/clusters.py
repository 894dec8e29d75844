"""Ray clusters of this machine, and whether a training on one is what one process does."""

import contextlib
from collections.abc import Iterator

import pytest
import torch

from symcere.training.checkpoint import Checkpoint


@contextlib.contextmanager
def a_cluster(**head) -> Iterator:
    """A Ray cluster whose nodes are processes of this machine."""
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **head})
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def assert_same(one: Checkpoint, other: Checkpoint) -> None:
    assert one.epoch == other.epoch
    for name, value in one.last.items():
        torch.testing.assert_close(other.last[name], value, rtol=0, atol=1e-9)
    for ours, theirs in zip(one.history, other.history, strict=True):
        assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-9)
        assert theirs["val_ndcg_at_10"] == pytest.approx(ours["val_ndcg_at_10"], rel=1e-9)
