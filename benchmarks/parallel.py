"""Step time of several workers beside one, on this machine's CPUs, and what that says of eight GPUs.

    python benchmarks/parallel.py [--workers 2] [--users 40000 --items 20000 --interactions 600000] [--rounds 7]
                                   [--only ids]

One thread a worker, over gloo. Each round times some steps of one worker alone, of all workers with the table divided
into blocks, by columns, and with plain data parallelism (ddp), one after the other in the same processes; shown is the
median over rounds of each one's ratio to the lone worker of its round, with quartiles. Beside wall-clock time stands
the CPU time of the busiest worker, which a machine with other work does not stretch but which leaves waiting out. All
must train the same losses first.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from propagation import long_tailed

from symcere.config import Experiment
from symcere.config.baselines import baseline
from symcere.model.workers import Workers
from symcere.training.fit import _Run, generator

METHODS = {
    "ids": ("ids, bpr (LightGCN)", "lightgcn"),
    "text": ("linear text (SymCERE)", "symcere"),
}
WIDTH = 256
"""Columns of the random text embeddings."""


class Counted(Workers):
    """Counts messages and the bytes this worker sends to others."""

    messages = 0
    sent = 0

    def swap(self, give: Any, take: Any) -> Any:
        self.messages += 1
        self.sent += sum(g.numel() * g.element_size() for w, g in enumerate(give) if w != self.rank)
        return super().swap(give, take)

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        self.messages += self.size > 1
        return super().sum(x)

    def sum_gradients(self, parameters: Any) -> None:
        parameters = list(parameters)
        if self.size > 1 and parameters:
            self.messages += 1
            self.sent += sum(2 * p.numel() * p.element_size() * (self.size - 1) // self.size for p in parameters)
        super().sum_gradients(parameters)


def worker(rank: int, size: int, args: argparse.Namespace, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/group", rank=rank, world_size=size)
    train = long_tailed(args.users, args.items, args.interactions)
    width = WIDTH if "text" in args.only else 1  # of what nobody reads
    reviews = np.random.default_rng(0).standard_normal((train.nnz, width), dtype=np.float32).astype(np.float16)
    corpus: Any = SimpleNamespace(
        name="random",
        fingerprint="",
        train=train,
        num_users=args.users,
        num_items=args.items,
        item_popularity=np.bincount(train.indices, minlength=args.items),
    )
    embeddings: Any = SimpleNamespace(reviews=reviews, width=width, corpus_fingerprint="")
    for title, method in (METHODS[name] for name in args.only):
        experiment = baseline(method, {"train.batch_size": args.batch_size})
        measure(rank, size, args, title, experiment, corpus, embeddings)
    dist.destroy_process_group()


def measure(
    rank: int, size: int, args: argparse.Namespace, title: str, experiment: Experiment, corpus: Any, embeddings: Any
) -> None:
    device = torch.device("cpu")
    ways = {
        "one": Counted(),
        "blocks": Counted(rank, size, "blocks"),
        "columns": Counted(rank, size, "columns"),
        "ddp": Counted(rank, size, "ddp"),
    }
    together = Workers(rank, size)
    runs = {
        name: _Run(corpus, embeddings, experiment, device, workers)
        for name, workers in ways.items()
        if name != "one" or rank == 0
    }
    order = torch.randperm(corpus.train.nnz, generator=generator(device, 0, 1)).split(args.batch_size)
    steps = max(2, args.steps)

    def time_of(name: str, first: int) -> tuple[float, float, list[float]]:
        """Seconds a step, CPU seconds a step, losses."""
        dist.barrier()
        if name not in runs:
            return 0.0, 0.0, []
        run, losses = runs[name], []
        wall, cpu = time.perf_counter(), time.process_time()
        for n in range(first, first + steps):
            losses.append(run._step(order[n % len(order)], generator(device, 0, 1, n))["total"])
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return wall / steps, cpu / steps, torch.stack(losses).tolist()

    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in range(args.rounds + 1):  # the first one warms up, and is checked
        losses = {}
        for name in ways:
            wall, cpu, here = time_of(name, number * steps)
            told = together.collect((wall, cpu, here))
            found[name].append((max(t[0] for t in told), max(t[1] for t in told)))
            losses[name] = np.sum([t[2] for t in told if t[2]], axis=0)
        for name in list(ways)[1:]:
            np.testing.assert_allclose(losses[name], losses["one"], rtol=1e-4)
    if rank:
        return
    print(
        f"\n{title}: {corpus.num_users + corpus.num_items:,} nodes, {corpus.train.nnz:,} edges, B {args.batch_size:,}"
    )
    print(f"{'':9}{'ms a step':>10}{'CPU ms':>8}   {'speed-up, wall':26}{'speed-up, CPU':26}messages, sent a step")
    done = (args.rounds + 1) * steps
    for name, times in found.items():
        ms = [1000 * statistics.median(t[kind] for t in times[1:]) for kind in (0, 1)]
        ratios = [
            ratio([one[kind] / many[kind] for one, many in zip(found["one"][1:], times[1:], strict=True)])
            for kind in (0, 1)
        ]
        counted = ways[name]
        traffic = f"{counted.messages / done:.0f}, {counted.sent / done / 1e6:.2f} MB"
        print(f"{name:9}{ms[0]:10.1f}{ms[1]:8.1f}   {ratios[0]:26}{ratios[1]:26}{traffic}", flush=True)


def ratio(values: list[float]) -> str:
    low, middle, high = (float(q) for q in np.quantile(values, [0.25, 0.5, 0.75]))
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


# ---------------------------------------------------------------- on paper


def model(
    nodes: int, edges: int, d: int, layers: int, batch: int, gpus: int, memory: float, link: float, delay: float
) -> dict[str, dict[str, float]]:
    """Milliseconds of a step with id features and BPR, by part, from what has to be moved.

    Propagation reads a row of c columns for each of 2E entries and writes N rows, L times forward and L times backward;
    Adam reads four tables and writes three, the gradient is written and zeroed once more.

    Args:
        memory: bytes a second that a GPU really reads and writes.
        link: bytes a second that it really sends to its peers.
        delay: seconds before a message is under way.
    """

    def parts(columns: float, exchanged: float, messages: int, side: float = 1) -> dict[str, float]:
        moved = 2 * layers * (2 * edges * (4 * columns + 8) + 4 * nodes * columns)
        found = {
            "propagation": side * moved / memory,
            "optimiser": side * 9 * 4 * nodes * columns / memory,
            "loss": 3 * batch * d * 4 * 12 / gpus_of(messages) / memory + 40 * 5e-6,
            "exchange": exchanged / link + messages * delay,
        }
        found["step"] = sum(found.values())
        return {name: 1000 * seconds for name, seconds in found.items()}

    def gpus_of(messages: int) -> int:
        return gpus if messages else 1

    rows = 3 * batch * d * 4 * (gpus - 1) / gpus**2  # what each sends, forward; as much backward
    table = 2 * 4 * nodes * d * (gpus - 1) / gpus  # all-reduce of the gradient in a ring
    return {
        "one": parts(d, 0, 0),
        "blocks": parts(2 * d / gpus, 4 * rows, 4, side=1 / 2),  # of sides of one size
        "columns": parts(d / gpus, 2 * rows, 4),
        "ddp": parts(d, table, 2),
    }


def on_paper() -> None:
    settings = {"nodes": 10_000_000, "edges": 100_000_000, "d": 64, "layers": 3, "batch": 65_536, "gpus": 8}
    print("\nOn paper: 10 M nodes, 100 M edges, d 64, 3 layers, batch 65,536, 8 GPUs; ms a step")
    for title, constants in {
        "one node, NVLink (1.7 TB/s memory, 200 GB/s link, 30 us)": (1.7e12, 200e9, 30e-6),
        "eight nodes, 100 Gbit/s (1.7 TB/s memory, 10 GB/s link, 60 us)": (1.7e12, 10e9, 60e-6),
    }.items():
        memory, link, delay = constants
        found = model(**settings, memory=memory, link=link, delay=delay)  # type: ignore[arg-type]
        print(title)
        for name, parts in found.items():
            said = ", ".join(f"{part} {ms:.1f}" for part, ms in parts.items() if part != "step")
            print(f"  {name:8} {parts['step']:7.1f}  x {found['one']['step'] / parts['step']:4.1f}   ({said})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--users", type=int, default=40_000)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--interactions", type=int, default=600_000)
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=10, help="of each way in a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--paper", action="store_true", help="the cost model alone")
    args = parser.parse_args()
    if not args.paper:
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(worker, (args.workers, args, str(Path(folder))), nprocs=args.workers)
    on_paper()


if __name__ == "__main__":
    main()
