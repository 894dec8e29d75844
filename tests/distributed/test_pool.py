"""A Ray that grows."""

import time

import pytest
from clusters import a_cluster

from symcere.errors import UserError


@pytest.mark.slow
def test_a_cluster_that_has_no_node_yet_is_waited_for():
    """As one that an autoscaler brings when it is asked."""
    from concurrent.futures import ThreadPoolExecutor

    from symcere.distributed.pool import pool, room

    with a_cluster() as cluster, pool(cluster.address), ThreadPoolExecutor() as beside:
        with pytest.raises(UserError, match="asks for 1 CPU, and Ray's nodes have: 0 CPU"):
            room([{"CPU": 1}], seconds=2)
        waiting = beside.submit(room, [{"CPU": 1}, {"CPU": 1, "GPU": 0}], seconds=120)
        time.sleep(2)
        assert not waiting.done()
        cluster.add_node(num_cpus=2)
        assert waiting.result()["CPU"] == 2
        with pytest.raises(UserError, match="2 workers of 2 CPU each"):
            room([{"CPU": 2}] * 2)
