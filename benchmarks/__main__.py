"""All benchmarks in one go, and one table of ratios: peer / symcere.

    python -m benchmarks [--quick] [--only training,startup] [--json] [--peer NAME=FOLDER] [--reviews FILE]

Each runs in a process of its own, one after the other: with the CPU always, on the GPU too where there is one. What
prints its own kind of figures (memory, sizes, workers) stands below the table as it came. A benchmark that cannot
run, or that was not asked for, is a row that says so. What each measures: benchmarks/README.md.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
Row = dict[str, Any]
LINE = re.compile(r"^(\S.{1,40}?)\s{2,}([\d.]+)\s+\(([\d.]+) (?:-|to) ([\d.]+)\)")
"""A name, a ratio and its spread, as the tables of propagation.py have them."""


def of_rows(told: dict[str, Any]) -> list[Row]:
    """training.py, startup.py and preparing.py give their rows as they are wanted here."""
    return told["rows"]


def of_encoding(told: dict[str, Any]) -> list[Row]:
    spread = {"low": told["ratio_cpu_low"], "high": told["ratio_cpu_high"]}
    return [{"what": "encoding", "peer": "sentence-transformers", "ratio": told["ratio_cpu"], **spread}]


def of_evaluating(told: dict[str, Any]) -> list[Row]:
    """Its ratios are to the bare matrix product, the limit: turned, ours is what the others are measured by."""
    low, high = (1 / told[f"evaluation_over_product_{end}"] for end in ("max", "min"))
    ours = told["evaluation_over_product"]
    return [
        {"what": "evaluation", "peer": "bare product", "ratio": 1 / ours, "low": low, "high": high},
        {"what": "evaluation", "peer": "product, mask, topk", "ratio": told["plain_topk_over_product"] / ours},
    ]


JSON: dict[str, Callable[[dict[str, Any]], list[Row]]] = {
    "training": of_rows,
    "startup": of_rows,
    "encoding": of_encoding,
    "evaluating": of_evaluating,
    "preparing": of_rows,
}
QUICK = {
    "training": ["--quick"],
    "startup": ["--quick"],
    "scaling": ["--quick"],
    "encoding": ["--reviews", "100", "--repeats", "1"],
    "evaluating": ["--users", "10000", "--items", "5000", "--interactions", "100000", "--repeats", "3"],
    "preparing": ["--reviews", "100000"],
    "propagation": ["--rounds", "3"],
    "losses": ["--sizes", "1024x1024", "--steps", "3"],
    "parallel": ["--rounds", "2", "--steps", "3"],
    "sweep": ["--trials", "8", "--epochs", "10"],
    "serving": ["--users", "10000", "--items", "5000", "--times", "100"],
}
ON_GPU = {"evaluating", "encoding", "scaling"}
"""These take ``--device cuda``; propagation and losses use the GPU by themselves."""
HELPERS = {"__main__", "__init__", "peers"}


def names() -> list[str]:
    return sorted(path.stem for path in HERE.glob("*.py") if path.stem not in HELPERS)


def largest_corpus() -> str:
    """The prepared corpus of the home with most text, '' where there is none."""
    found = (Path(os.environ.get("SYMCERE_HOME", ".symcere")) / "corpora").glob("*/train/texts.arrow")
    return max(((file.stat().st_size, str(file.parents[1])) for file in found), default=(0, ""))[1]


def run(name: str, arguments: list[str]) -> tuple[list[Row], str]:
    """Rows for the table, and what the benchmark printed where it has none."""
    command = [sys.executable, str(HERE / f"{name}.py"), *arguments, *(["--json"] if name in JSON else [])]
    print(f"{name}: {' '.join(command[1:])}", file=sys.stderr, flush=True)
    begin = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return [{"what": name, "not_run": last[:160]}], ""
    try:
        rows = JSON[name](json.loads(done.stdout.splitlines()[-1])) if name in JSON else []
    except (ValueError, KeyError, IndexError) as error:
        return [{"what": name, "not_run": f"its answer was not understood: {error!r}"}], done.stdout
    for line in done.stdout.splitlines() if name == "propagation" else ():
        if found := LINE.match(line):
            ratio, low, high = (float(x) for x in found.groups()[1:])
            rows.append({"what": name, "peer": found[1], "ratio": ratio, "low": low, "high": high})
    for row in rows:
        row["benchmark"] = name
    print(f"{name}: {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
    return rows, "" if rows else done.stdout


def line(row: Row) -> str:
    head = f"{row.get('data', '')[:26]:26}  {row['what'][:24]:24}  {row.get('peer', '')[:24]:24}"
    if "not_run" in row:
        return f"{head}  not run: {row['not_run']}"
    spread = f"({row['low']:.2f} to {row['high']:.2f})" if "low" in row else ""
    return f"{head}  {row['ratio']:9.2f}  {spread}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--only", default="", metavar="NAME,NAME", help=", ".join(names()))
    parser.add_argument("--quick", action="store_true", help="small sizes and few repeats: does everything run?")
    parser.add_argument(
        "--peer", action="append", default=[], metavar="NAME=FOLDER", help="lightgcn-pytorch=FOLDER, selfrec=FOLDER"
    )
    parser.add_argument("--reviews", default="", metavar="FILE", help="of encoding; else the home's largest corpus")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    wanted = [n for n in args.only.split(",") if n] or names()
    if unknown := sorted(set(wanted) - set(names())):
        parser.error(f"no benchmark named {', '.join(unknown)}; there are {', '.join(names())}")
    import torch

    devices = ["cpu", *["cuda"] * torch.cuda.is_available()]
    rows: list[Row] = []
    texts: dict[str, str] = {}
    for name in names():
        if name not in wanted:
            rows.append({"what": name, "benchmark": name, "not_run": "not asked for"})
            continue
        reviews = args.reviews or largest_corpus()
        if name == "encoding" and not reviews:
            rows.append({"what": name, "benchmark": name, "not_run": "prepare a data set, or give --reviews FILE"})
            continue
        arguments = [reviews] if name == "encoding" else []
        arguments += QUICK.get(name, []) if args.quick else []
        if name in ("training", "startup"):
            arguments += [a for peer in args.peer for a in ("--peer", peer)]
        for device in devices if name in ON_GPU else devices[:1]:
            found, text = run(name, arguments + (["--device", device] if device != "cpu" else []))
            rows += [{**row, "device": device} for row in found]
            if text:
                texts[f"{name}, {device}"] = text
    if args.json:
        print(json.dumps({"rows": rows, "texts": texts}))
        return 0
    print("\nRatios, peer / symcere: median (spread). Above 1, symcere takes less.\n")
    for device in devices:
        print(f"{device}\n" + "\n".join(line(row) for row in rows if row.get("device", "cpu") == device) + "\n")
    for title, text in texts.items():
        print(f"---- {title}\n{text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
