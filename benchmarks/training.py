"""A training step of LightGCN with BPR, beside PyG, RecBole, Cornac, LightGCN-PyTorch and SELFRec.

    python benchmarks/training.py [--quick] [--rounds 7] [--json] [--only pyg-csr,recbole] [--home HOME]
                                  [--peer lightgcn-pytorch=FOLDER] [--peer selfrec=FOLDER]

d = 64, 3 layers, batch 2,048, on synthetic data (40,000 users x 20,000 items x 400,000 interactions) and on prepared
corpora of the home. Every implementation runs in a process of its own and does some steps in its turn, round by round;
shown is the median over rounds of its CPU seconds (one thread) over ours of the same round, with quartiles. As an epoch
is the same number of steps for all, the ratio is that of epochs too.

RecBole and Cornac are installed into environments of their own under a cache folder (SYMCERE_BENCH_CACHE, by default
~/.cache/symcere-benchmarks), beside the torch and numpy that are here, so that all run on the same ones; RecBole
asks for an old Ray and needs shims for numpy 2, SELFRec asks for CUDA: what is patched at run time stands in peers.py.
LightGCN-PyTorch and SELFRec run from the folders of their repositories, which you name.
"""

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

PEERS = Path(__file__).with_name("peers.py")
INSTALLED = {
    "recbole": ["recbole==1.2.1", "thop", "texttable", "colorlog", "colorama"],
    "cornac": ["cornac", "powerlaw"],
}
FROM_FOLDER = ("lightgcn-pytorch", "selfrec")
"""No package index has them: ``--peer NAME=FOLDER``."""
DIM, LAYERS, BATCH = 64, 3, 2048
SYNTHETIC = "synthetic 40k x 20k x 400k"
HERE = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(PEERS.parents[1])}


class NotRunError(Exception):
    """Why a peer has no figure."""


def python_of(peer: str) -> str:
    """The Python that runs a peer, installed first if need be."""
    if peer not in INSTALLED:
        return sys.executable
    cache = Path(os.environ.get("SYMCERE_BENCH_CACHE", Path.home() / ".cache" / "symcere-benchmarks"))
    where = cache / f"{peer}-{sys.version_info.major}.{sys.version_info.minor}"
    python = where / "bin" / "python"
    if not (where / "ready").exists():
        print(f"Installing {peer} into {where}", file=sys.stderr)
        library = where / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
        try:
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(where)], check=True)
            (library / "shared.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
            command = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps"]
            subprocess.run([*command, *INSTALLED[peer]], check=True, timeout=600, stdout=sys.stderr)
        except (subprocess.SubprocessError, OSError) as error:
            raise NotRunError(f"its installation failed: {type(error).__name__}") from error
        (where / "ready").touch()
    return str(python)


class Implementation:
    """A process that does steps when told to."""

    def __init__(self, name: str, case: Path, folder: str = ""):
        command = [python_of(name), str(PEERS), name, str(case), *([folder] if folder else [])]
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={**os.environ, **HERE},
        )
        self._answer()

    def __enter__(self) -> "Implementation":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        told = json.loads(line) if line else {"error": "it ended"}
        if "error" in told:
            raise NotRunError(" ".join(told["error"].split())[:160])
        return told

    def steps(self, count: int) -> float:
        """CPU seconds a step."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        return self._answer()["seconds"] / count


# ---------------------------------------------------------------- data


def save(path: Path, train: Any, layers: int = LAYERS) -> Path:
    users = np.repeat(np.arange(train.shape[0]), np.diff(train.indptr))
    sizes = {"num_users": train.shape[0], "num_items": train.shape[1], "dim": DIM, "layers": layers, "batch": BATCH}
    np.savez(path, users=users, items=train.indices.astype(np.int64), **sizes)
    return path


def corpora(home: str) -> dict[str, Any]:
    """Training matrices of the prepared corpora, by name."""
    from symcere.data.corpus import Corpus

    folder = Path(home) / "corpora"
    return {
        path.name: Corpus.open(path).train for path in sorted(folder.glob("*")) if (path / "manifest.json").exists()
    }


# ---------------------------------------------------------------- measuring


def compare(
    case: Path, names: list[str], rounds: int, steps: dict[str, int], folders: dict[str, str]
) -> dict[str, dict[str, Any]]:
    """Ratios of each to the first of ``names``, or why there are none."""
    found: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        running: dict[str, Implementation] = {}
        for name in names:
            try:
                running[name] = stack.enter_context(Implementation(name, case, folders.get(name, "")))
            except NotRunError as why:
                found[name] = {"not_run": str(why)}
        if names[0] not in running:
            sys.exit(f"{names[0]} itself does not run: {found[names[0]]['not_run']}")
        times: dict[str, list[float]] = {name: [] for name in running}
        for number in range(rounds):
            for name in list(running)[:: 1 if number % 2 else -1]:
                times[name].append(running[name].steps(steps.get(name, 10)))
    ours = np.array(times[names[0]])
    for name, values in times.items():
        low, middle, high = np.quantile(np.array(values) / ours, [0.25, 0.5, 0.75])
        found[name] = {"ratio": middle, "low": low, "high": high, "cpu_ms": 1000 * float(np.median(values))}
    return {name: found[name] for name in names}


def spread(row: dict[str, Any]) -> str:
    return f"{row['ratio']:8.2f}  ({row['low']:.2f} to {row['high']:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="three rounds of few steps")
    parser.add_argument("--only", default="", help="peers, by name")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--home", default=os.environ.get("SYMCERE_HOME", ".symcere"), help="whose corpora to use")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    folders = dict(p.split("=", 1) for p in args.peer)
    rounds = 3 if args.quick else args.rounds
    few = 2 if args.quick else 5
    wanted = set(filter(None, args.only.split(",")))
    from propagation import long_tailed

    rows = []
    cases = {SYNTHETIC: long_tailed(40_000, 20_000, 400_000), **corpora(args.home)}
    for title, train in cases.items():
        ours = ["symcere-full", "symcere-all", "symcere-batch", "symcere-abstract"]
        steps = {"symcere": 4 * few, "pyg-edge-index": 2, "recbole": few, "pyg-csr": few}
        steps |= dict.fromkeys([*ours, *FROM_FOLDER], few)
        if title != SYNTHETIC:
            steps = {name: 10 * count for name, count in steps.items()}
        names = [*ours, "pyg-csr", "pyg-edge-index", "recbole", *FROM_FOLDER]
        names = ["symcere", *(n for n in names if not wanted or n in wanted)]
        with tempfile.TemporaryDirectory() as folder:
            missing = set(FROM_FOLDER) - set(folders)
            case = save(Path(folder) / "case.npz", train)
            found = compare(case, [n for n in names if n not in missing], rounds, steps, folders)
            found |= {n: {"not_run": f"give its folder: --peer {n}=FOLDER"} for n in names if n in missing}
            rows += [{"data": title, "what": "step", "peer": n, **of} for n, of in found.items()]
            if title != SYNTHETIC and (not wanted or "cornac" in wanted):
                # Cornac's answer is 100 passes; ours is one, of matrix factorisation in batches of 2,048.
                case = save(Path(folder) / "mf.npz", train, layers=0)
                found = compare(case, ["symcere-mf", "cornac"], rounds, {"symcere-mf": 20, "cornac": 1}, {})
                if "ratio" in found["cornac"]:
                    found["cornac"] = {k: v / 100 for k, v in found["cornac"].items()}
                rows += [{"data": title, "what": "pass, BPR without graph", "peer": n, **of} for n, of in found.items()]
    if args.json:
        print(json.dumps({"rows": rows}))
        return
    print("CPU seconds of one thread, peer / symcere: median (quartiles) of paired rounds\n")
    for row in rows:
        told = f"not run: {row['not_run']}" if "not_run" in row else spread(row)
        print(f"{row['data'][:28]:28}  {row['what']:24}  {row['peer']:16}  {told}")


if __name__ == "__main__":
    main()
