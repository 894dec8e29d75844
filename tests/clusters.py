"""Ray clusters of this machine."""

import contextlib
from collections.abc import Iterator


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
