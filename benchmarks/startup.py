"""How long until something happens: `symcere --help` beside bare Python, and the first training step beside peers'.

    python benchmarks/startup.py [--quick] [--rounds 5] [--json] [--home HOME]
                                 [--peer lightgcn-pytorch=FOLDER] [--peer selfrec=FOLDER]

Whole processes, from start to end, in turns, on the corpora of the home and on a synthetic one of 400,000 interactions;
CPU seconds (of the process and its children) and seconds of the wall, which a busy machine stretches. Ours runs
`symcere train` on a prepared corpus, tracked in MLflow, and ends after its first step; RecBole its own `run_recbole` on
the same interactions as its atomic files, with the shims of peers.py, which spare it TensorBoard and Ray. The peers'
processes also write these files, a few tenths of a second at 400,000.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

FIRST_STEP = """
import importlib, os, sys
fit = importlib.import_module("symcere.training.fit")
step = fit._Run._step
def first(*args):
    step(*args)
    os._exit(0)
fit._Run._step = first
from symcere.cli import main
sys.exit(main(sys.argv[1:]) or 1)
"""
"""`symcere train …`, which ends after its first step."""
SYNTHETIC = "synthetic-400k"


def synthetic(path: Path) -> dict[str, Any]:
    """A corpus of 40,000 users x 20,000 items and 400,000 interactions to train on, without words, made at ``path``."""
    from propagation import long_tailed

    from symcere.data.corpus import Corpus, Entries

    def entries(matrix: Any) -> Entries:
        users, items = matrix.nonzero()
        return Entries(users, items, [""] * matrix.nnz)

    train, held = long_tailed(40_000, 20_000, 400_000), long_tailed(40_000, 20_000, 1000, seed=1)
    ids = ([f"{kind}{n:05}" for n in range(size)] for kind, size in zip("ui", train.shape, strict=True))
    Corpus.write(
        path,
        name=path.name,
        user_ids=next(ids),
        item_ids=next(ids),
        train=entries(train),
        val=entries(held),
        test=entries(held),
    )
    return {path.name: train}


def seconds(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """CPU seconds and wall seconds of a process.

    Raises:
        RuntimeError: it failed; the end of what it said.
    """
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env={**os.environ, **environment}
    )
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr[-300:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def measure(ways: dict[str, tuple[list[str], dict[str, str]]], rounds: int) -> dict[str, dict[str, Any]]:
    """Median CPU seconds, wall seconds, and the ratio of CPU seconds to the first way's of the same round."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    found: dict[str, dict[str, Any]] = {}
    for _ in range(rounds + 1):  # the first one fills the disk's cache
        for name, way in ways.items():
            if name not in found:
                try:
                    times[name].append(seconds(*way))
                except RuntimeError as why:
                    found[name] = {"not_run": " ".join(str(why).split())[-160:]}
    ours = np.array([cpu for cpu, _ in times[next(iter(ways))][1:]])
    for name in ways:
        if name not in found:
            cpu, wall = np.array(times[name][1:]).T
            low, middle, high = np.quantile(cpu / ours, [0.25, 0.5, 0.75])
            found[name] = {"ratio": middle, "low": low, "high": high}
            found[name] |= {"cpu_seconds": float(np.median(cpu)), "wall_seconds": float(np.median(wall))}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="two rounds")
    parser.add_argument("--home", default=os.environ.get("SYMCERE_HOME", ".symcere"), help="whose corpora to use")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rounds = 2 if args.quick else args.rounds
    from training import HERE, PEERS, NotRunError, corpora, python_of, save

    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary) / "home"
        ours = HERE | {"SYMCERE_HOME": str(home)}
        helps = {"symcere": ([sys.executable, "-m", "symcere.cli", "--help"], ours)}
        found = measure(helps | {"python -c pass": ([sys.executable, "-c", "pass"], {})}, 5 * rounds)
        rows += [{"data": "", "what": "--help", "peer": name, **of} for name, of in found.items()]
        cases = corpora(args.home)
        for name in cases:
            shutil.copytree(Path(args.home) / "corpora" / name, home / "corpora" / name)
        for name, train in {**cases, **synthetic(home / "corpora" / SYNTHETIC)}.items():
            command = [sys.executable, "-c", FIRST_STEP, "train", name, "--baseline", "lightgcn"]
            ways = {"symcere": (command, ours)}
            case = save(Path(temporary) / f"{name}.npz", train)
            try:
                ways["recbole"] = ([python_of("recbole"), str(PEERS), "recbole-first-step", str(case)], HERE)
            except NotRunError as why:
                rows.append({"data": name, "what": "first step", "peer": "recbole", "not_run": str(why)})
            for peer in args.peer:
                peer_name, folder = peer.split("=", 1)
                ways[peer_name] = ([sys.executable, str(PEERS), peer_name, str(case), folder], HERE)
            found = measure(ways, rounds)
            rows += [{"data": name, "what": "first step", "peer": n, **of} for n, of in found.items()]
    if args.json:
        print(json.dumps({"rows": rows}))
        return
    print("Median CPU seconds, wall seconds, and CPU seconds over those of symcere (quartiles)\n")
    for row in rows:
        told = f"not run: {row['not_run']}" if "not_run" in row else (
            f"{row['cpu_seconds']:6.2f} {row['wall_seconds']:6.2f}   "
            f"{row['ratio']:6.2f}  ({row['low']:.2f} to {row['high']:.2f})"
        )  # fmt: skip
        print(f"{row['data'][:20]:20}  {row['what']:12}  {row['peer']:18}  {told}")


if __name__ == "__main__":
    main()
