"""Speed of graph propagation, forward and backward, beside other ways to do the same.

    python benchmarks/propagation.py [--users 40000 --items 20000 --interactions 400000 --dim 64 --layers 3] [--ms]

One thread, CPU seconds, every way once in each round; the table shows the median over rounds of its time divided by
that of propagating for the rows alone in the same round, with quartiles. Each is first checked to give the same value
and gradient. Where there is a GPU, milliseconds there follow.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from symcere.model.propagation import Graph


def long_tailed(users: int, items: int, interactions: int, seed: int = 0) -> sp.csr_array:
    """Random interactions; the activity of users and the popularity of items fall off as powers."""
    rng = np.random.default_rng(seed)
    chance = [(np.arange(n) + 20.0) ** -power for n, power in ((users, 0.6), (items, 0.9))]
    pairs = np.empty(0, dtype=np.int64)
    while len(pairs) < interactions:
        u, i = (rng.choice(len(p), interactions, p=p / p.sum()) for p in chance)
        pairs = np.unique(np.concatenate([pairs, u * items + i]))
    u, i = np.divmod(rng.permutation(pairs)[:interactions], items)
    u, i = rng.permutation(users)[u], rng.permutation(items)[i]  # a node's number says nothing about its degree
    return sp.csr_array((np.ones(interactions, dtype=np.float32), (u, i)), shape=(users, items))


def batch_nodes(train: sp.csr_array, size: int, seed: int = 0) -> Tensor:
    """Users, items and uniform negatives of a batch of interactions, as node numbers."""
    rng = np.random.default_rng(seed)
    edges = rng.choice(train.nnz, size, replace=False)
    users = np.repeat(np.arange(train.shape[0]), np.diff(train.indptr))[edges]
    items = np.concatenate([train.indices[edges], rng.integers(0, train.shape[1], size)])
    return torch.from_numpy(np.concatenate([users, items + train.shape[0]]))


def ways(train: sp.csr_array, layers: int, device: str) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Each takes features [N, d] and nodes [n], and gives the mean over layers of these nodes [n, d]."""
    graph = Graph(train).to(device)
    adjacency = torch.sparse_csr_tensor(
        graph.offsets, graph.columns, graph.weights(), (graph.num_nodes,) * 2, check_invariants=False
    )

    def mean(hop: Callable[[Tensor], Tensor], H: Tensor) -> Tensor:
        total = layer = H
        for _ in range(layers):
            layer = hop(layer)
            total = total + layer
        return total / (layers + 1)

    found: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "rows alone": lambda H, nodes: graph.propagate(H, layers, rows=nodes),
        "propagate, then rows": lambda H, nodes: graph.propagate(H, layers)[nodes],
        "hop by hop, then rows": lambda H, nodes: mean(graph.hop, H)[nodes],
        "torch.sparse CSR": lambda H, nodes: mean(lambda x: adjacency @ x, H)[nodes],
    }
    try:
        from torch_geometric.nn import LGConv
    except ImportError:
        print("PyG is not installed: its rows are missing.")
        return found
    conv = LGConv(normalize=False)
    degrees = graph.offsets.diff().long()
    rows = torch.repeat_interleave(torch.arange(graph.num_nodes, device=device), degrees)
    edges, weights = torch.stack([graph.columns.long(), rows]), graph.weights()
    found["PyG LGConv, CSR"] = lambda H, nodes: mean(lambda x: conv(x, adjacency), H)[nodes]
    found["PyG LGConv, edge_index"] = lambda H, nodes: mean(lambda x: conv(x, edges, weights), H)[nodes]
    return found


def compare(train: sp.csr_array, dim: int, layers: int, batch: int, rounds: int, device: str) -> dict[str, np.ndarray]:
    """Seconds of each way in each round, forward and backward."""
    torch.manual_seed(0)
    H = torch.randn(sum(train.shape), dim, device=device, requires_grad=True)
    nodes = batch_nodes(train, batch).to(device)
    weight = torch.randn(len(nodes), dim, device=device)

    def step(way: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        H.grad = None
        value = way(H, nodes)
        value.backward(weight)
        assert H.grad is not None
        return value.detach(), H.grad

    def clock() -> float:
        if device == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    candidates = ways(train, layers, device)
    reference = step(candidates["propagate, then rows"])
    for name, way in candidates.items():
        for ours, theirs in zip(step(way), reference, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=f"{name} computes something else")
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, way in candidates.items():
            step(way)  # the way before it has filled the cache with other things
            start = clock()
            step(way)
            seconds[name].append(clock() - start)
    return {name: np.array(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"users": 40_000, "items": 20_000, "interactions": 400_000, "dim": 64, "layers": 3, "batch": 2048}
    for name, default in {**sizes, "rounds": 11}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--ms", action="store_true", help="milliseconds too: they say little about other machines")
    options = parser.parse_args()
    torch.set_num_threads(1)
    train = long_tailed(options.users, options.items, options.interactions)
    print(", ".join(f"{name} {getattr(options, name):,}" for name in sizes))
    for device in ["cpu"] + ["cuda"] * torch.cuda.is_available():
        seconds = compare(train, options.dim, options.layers, options.batch, options.rounds, device)
        print(f"\n{device}: forward + backward   times rows alone (quartiles)")
        for name, values in seconds.items():
            low, middle, high = np.quantile(values / seconds["rows alone"], [0.25, 0.5, 0.75])
            absolute = f"   {1e3 * np.median(values):8.2f} ms" if options.ms or device != "cpu" else ""
            print(f"{name:24}  {middle:6.2f}  ({low:.2f} - {high:.2f}){absolute}")


if __name__ == "__main__":
    main()
