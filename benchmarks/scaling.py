"""How step time and memory grow with users, items, interactions, d and batch, and what that predicts.

    python benchmarks/scaling.py [--quick] [--rounds 3] [--json] [--plot FILE] [--check]
                                 [--device cpu|cuda]

Every size runs in a process of its own: LightGCN with BPR, 3 layers, one thread on a CPU. Fitted to the steps' times
(CPU seconds on a CPU), in relative terms and with no negative coefficient, for N nodes, E interactions, d and batch B:

    step   = t0 + t1 · E + t2 · E·d + t3 · E·d·m + t4 · N·d + t5 · B·d
    memory = m0 + m1 · N·d + m2 · E + m3 · B·d

m is the share of a table [N, d] that the last cache does not hold. With ``--device cuda`` the steps and the memory are
the GPU's. The sizes at the wall of machines that were not measured are told by the memory law alone; their times are
not guessed. ``--check`` measures the first predicted size as well: 1 M users x 200,000 items x 20 M interactions.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

BASE = {"users": 40_000, "items": 20_000, "interactions": 400_000, "dim": 64, "batch": 2048}
GRID: list[dict[str, int]] = [
    {},
    {"users": 10_000, "items": 5_000, "interactions": 100_000},
    {"users": 160_000, "items": 80_000},
    {"interactions": 1_600_000},
    {"dim": 16},
    {"dim": 256},
    {"batch": 256},
    {"batch": 16_384},
    {"users": 160_000, "items": 80_000, "interactions": 1_600_000, "batch": 8192},
]
QUICK = [0, 1, 3, 4, 7]
PREDICTED = {
    "1M x 200k x 20M": {"users": 1_000_000, "items": 200_000, "interactions": 20_000_000, "dim": 64, "batch": 8192},
    "10M x 1M x 200M": {"users": 10**7, "items": 10**6, "interactions": 2 * 10**8, "dim": 64, "batch": 65_536},
}  # fmt: skip
MACHINES = {"24 GiB laptop": (24 * 2**30, 1), "80 GB GPU": (80 * 10**9, 1), "8 GPUs of 80 GB": (80 * 10**9, 8)}
"""Bytes of each device, and how many divide the columns of the node table; the graph is whole on each."""
Size = dict[str, int]


def time_terms(size: Size, cache: float) -> list[float]:
    """What the coefficients of time are multiplied by."""
    N, E, d, B = size["users"] + size["items"], size["interactions"], size["dim"], size["batch"]
    missed = max(0.0, 1 - cache / (4 * N * d))
    return [1, E, E * d, E * d * missed, N * d, B * d]


def memory_terms(size: Size) -> list[float]:
    """What the coefficients of memory are multiplied by."""
    N, E, d, B = size["users"] + size["items"], size["interactions"], size["dim"], size["batch"]
    return [1, N * d, E, B * d]


def cache_of(device: str) -> float:
    """Bytes of the last cache; 32 MB where the machine does not tell."""
    if device != "cpu":
        import torch

        return float(torch.cuda.get_device_properties(device).L2_cache_size)
    try:
        told = Path("/sys/devices/system/cpu/cpu0/cache/index3/size").read_text().strip()
        return float(told.rstrip("KM")) * {"K": 2**10, "M": 2**20}[told[-1]]
    except (OSError, ValueError, LookupError):
        return 32.0 * 2**20


def case(size: Size, rounds: int, device: str) -> dict[str, float]:
    """Seconds a step and bytes of one size, in this process."""
    import torch
    from peers import Case, symcere_run, symcere_steps
    from propagation import long_tailed

    torch.set_num_threads(1)
    train = long_tailed(size["users"], size["items"], size["interactions"])
    data = Case.__new__(Case)
    data.users = np.repeat(np.arange(train.shape[0]), np.diff(train.indptr))
    data.items = train.indices.astype(np.int64)
    data.num_users, data.num_items = (int(n) for n in train.shape)
    data.dim, data.layers, data.batch = size["dim"], 3, size["batch"]
    before = resident()
    run, _ = symcere_run(data, {"model.layers": 3}, device=device)
    step = symcere_steps(run)
    gpu = device != "cpu"

    def seconds(count: int) -> float:
        if gpu:
            torch.cuda.synchronize()
        clock = time.perf_counter if gpu else time.process_time
        begin = clock()
        for _ in range(count):
            step()
        if gpu:
            torch.cuda.synchronize()
        return (clock() - begin) / count

    once = seconds(2)
    count = max(2, min(20, int(0.3 / once)))
    found = statistics.median(seconds(count) for _ in range(rounds))
    taken = torch.cuda.max_memory_allocated() if gpu else peak() - before
    return {"seconds": found, "bytes": float(max(taken, 1))}


def resident() -> int:
    """Bytes held now: the data's own making peaks higher, which is no part of training."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def fit(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Coefficients that are not negative, by least squares of relative errors."""
    from scipy.optimize import nnls

    scale = rows.max(axis=0)
    scale[scale == 0] = 1  # a term that no size has
    return nnls(rows / scale / values[:, None], np.ones(len(values)))[0] / scale


def predict(time_law: np.ndarray, memory_law: np.ndarray, cache: float) -> list[dict[str, Any]]:
    rows = []
    for name, size in PREDICTED.items():
        step, memory = float(time_terms(size, cache) @ time_law), float(memory_terms(size) @ memory_law)
        steps = -(-size["interactions"] // size["batch"])
        rows.append({"size": name, "gigabytes": memory / 1e9, "step_seconds": step, "epoch_hours": steps * step / 3600})
        for machine, (room, parts) in MACHINES.items():
            divided = memory_terms(size) / np.array([1, parts, 1, 1])
            rows[-1][f"fits {machine}"] = bool(divided @ memory_law < room)
    return rows


def wall(memory_law: np.ndarray, room: float, parts: int, d: int = 64, degree: int = 10) -> float:
    """Nodes at which memory is full: ``degree`` interactions a node, batch 8,192."""
    nothing = memory_terms({"users": 0, "items": 0, "interactions": 0, "dim": d, "batch": 8192})
    return float((room - nothing @ memory_law) / (memory_law[1] * d / parts + memory_law[2] * degree))


def plot(path: Path, measured: list[np.ndarray], fitted: list[np.ndarray]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 4))
    for axis, title, unit, real, told in zip(axes, ("ms a step", "MB"), (1e3, 1e-6), measured, fitted, strict=True):
        axis.loglog(real * unit, told * unit, "o")
        low = unit * min(real.min(), told.min())
        axis.axline((low, low), (10 * low, 10 * low), color="0.7", zorder=0)
        axis.set(xlabel="measured", ylabel="fitted", title=title)
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="five sizes, one round")
    parser.add_argument("--check", action="store_true", help="measure the first predicted size too, on this device")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args()
    rounds = 1 if args.quick else args.rounds
    if args.case:
        print(json.dumps(case(json.loads(args.case), rounds, args.device)))
        return
    from training import HERE

    def measure(size: Size) -> dict[str, float]:
        command = [sys.executable, __file__, "--case", json.dumps(size), "--rounds", str(rounds)]
        command += ["--device", args.device]
        environment = {**os.environ, **HERE}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        told = ", ".join(f"{k} {v:,}" for k, v in size.items())
        print(f"{told}: {1e3 * found['seconds']:.1f} ms, {found['bytes'] / 1e6:.0f} MB", file=sys.stderr)
        return found

    sizes = [{**BASE, **change} for n, change in enumerate(GRID) if not args.quick or n in QUICK]
    found = [measure(size) for size in sizes]
    cache = cache_of(args.device)
    rows = [np.array([time_terms(size, cache) for size in sizes]), np.array([memory_terms(size) for size in sizes])]
    measured = [np.array([f[key] for f in found]) for key in ("seconds", "bytes")]
    laws = [fit(r, m) for r, m in zip(rows, measured, strict=True)]
    fitted = [r @ law for r, law in zip(rows, laws, strict=True)]
    errors = [float(np.abs(f / m - 1).max()) for f, m in zip(fitted, measured, strict=True)]
    if args.plot:
        plot(args.plot, measured, fitted)
    result = {
        "device": args.device,
        "sizes": [{**s, **f} for s, f in zip(sizes, found, strict=True)],
        "time_law": dict(zip(("1", "E", "E·d", "E·d·m", "N·d", "B·d"), laws[0].tolist(), strict=True)),
        "memory_law": dict(zip(("1", "N·d", "E", "B·d"), laws[1].tolist(), strict=True)),
        "largest_relative_error": dict(zip(("time", "memory"), errors, strict=True)),
        "predicted": predict(*laws, cache),
        "nodes_at_the_wall": {machine: wall(laws[1], *of) for machine, of in MACHINES.items()},
    }
    if args.check:
        name, size = next(iter(PREDICTED.items()))
        result["checked"] = {"size": name, **measure(size)}
    if args.json:
        print(json.dumps(result))
        return
    for name in ("time_law", "memory_law"):
        print(name.replace("_", " "), ", ".join(f"{k}: {v:.3g}" for k, v in result[name].items()))  # type: ignore[attr-defined]
    print(f"largest relative error: time {errors[0]:.0%}, memory {errors[1]:.0%}")
    for row in result["predicted"]:  # type: ignore[attr-defined]
        fits = ", ".join(m for m in MACHINES if row[f"fits {m}"])
        print(
            f"{row['size']}: {row['gigabytes']:.1f} GB, {row['step_seconds']:.3g} s a step and "
            f"{row['epoch_hours']:.2g} h an epoch on this device (one thread on a CPU); fits {fits or 'none'}"
        )
    for machine, nodes in result["nodes_at_the_wall"].items():  # type: ignore[attr-defined]
        print(f"{machine}: memory is full at {nodes / 1e6:.0f} M nodes with 10 interactions each (d = 64)")


if __name__ == "__main__":
    main()
