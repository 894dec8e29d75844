"""Speed and memory of preparing, beside a pandas version of the same steps, and beside RecBole's loader.

    python benchmarks/preparing.py                       # 2 million reviews, 1.2 GB of text; pandas needs 11 GB
    python benchmarks/preparing.py --reviews 400000      # two minutes, 2.3 GB

Ours and pandas' read the same gzipped JSON lines (fields and dirt as in Amazon's files), clean, filter, split and
store. RecBole's loader knows no texts and no JSON: it reads the users, items, ratings and times of the same reviews
from its own plain table (an atomic file, written before), drops repeated pairs, filters and splits, and stores nothing.
Beside it ours does the same from the same table, and does store. Each runs in a process of its own, whose peak resident
memory is the operating system's figure, round by round. The kept pairs must agree. Ratios are of CPU seconds of all
threads, which a busy machine stretches least; in seconds of the wall ours makes use of a second core.
"""

import argparse
import gzip
import html
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CORE = 5
ATOMIC = ("user_id:token", "item_id:token", "rating:float", "timestamp:float")
DIRT = ("  ", "  ", "  ", "  ", "\n", " &#34;", "&nbsp;", "<br />")
"""What stands between some words of every third text: shares as in Amazon's files."""


def generate(path: Path, reviews: int, seed: int = 0) -> int:
    """Writes the reviews, about 500 characters of text each, and returns the characters of text."""
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list("etaoinshrdlu"), size)) for size in rng.integers(2, 10, 5000)]
    weights = 1 / np.arange(1, len(words) + 1)
    draw = rng.choice(len(words), size=2_000_000, p=weights / weights.sum())
    users = (rng.random(reviews) ** 2 * (reviews // 8)).astype(int)  # activity and popularity are skewed
    items = (rng.random(reviews) ** 3 * (reviews // 30)).astype(int)
    lengths = rng.lognormal(4.2, 0.8, reviews).astype(int).clip(1, 1500)
    starts = rng.integers(0, len(draw) - 1500, reviews)
    gaps = random.Random(seed)
    characters = 0
    with gzip.open(path, "wt", compresslevel=1) as file:
        for n in range(reviews):
            chosen = draw[starts[n] : starts[n] + lengths[n]]
            text = " ".join([words[w] for w in chosen.tolist()])
            if gaps.random() < 0.35:
                text = text.replace(" ", gaps.choice(DIRT), 1 + n % 5)
            characters += len(text)
            line = json.dumps(
                {
                    "reviewerID": f"A{users[n]:013d}",
                    "asin": f"B{items[n]:09d}",
                    "helpful": [0, 0],
                    "reviewText": text,
                    "overall": float(1 + n % 5),
                    "summary": "fine",
                    "unixReviewTime": 1_300_000_000 + 86_400 * int(starts[n] % 1000),
                }
            )
            file.write(line + "\n" if n % 100 else f"{line}\n{line}\n")
    return characters


def table(source: Path, path: Path) -> None:
    """Writes the reviews of ``source``, without their texts, as RecBole's atomic file."""
    import orjson

    with gzip.open(source) as lines, path.open("w") as file:
        file.write("\t".join(ATOMIC) + "\n")
        for record in map(orjson.loads, lines):
            file.write("{reviewerID}\t{asin}\t{overall}\t{unixReviewTime}\n".format(**record))


def with_symcere(source: Path, out: Path) -> int:
    from symcere.config import Data
    from symcere.data.prepare import assemble
    from symcere.data.reviews import read

    roles = dict(zip(("user", "item", "rating", "time"), ATOMIC, strict=True)) | {"text": ""}
    columns = roles if source.suffix == ".inter" else {}
    corpus = assemble(read([source], "", columns), Data(core=CORE), out, name="benchmark")
    return corpus.train.nnz + corpus.val.nnz + corpus.test.nnz


def with_pandas(source: Path, out: Path, engine: str) -> int:
    """As one would write it: whole frames, vectorised string methods."""
    import pandas as pd

    ids = {"reviewerID": str, "asin": str} if engine == "ujson" else None
    frame = pd.read_json(source, lines=True, dtype=ids, engine=engine)
    frame = frame[["reviewerID", "asin", "overall", "unixReviewTime", "reviewText"]]
    frame = frame.rename(columns={"reviewerID": "user", "asin": "item", "unixReviewTime": "time", "reviewText": "text"})
    frame["text"] = frame["text"].fillna("")
    frame = frame.drop_duplicates()
    frame = frame[~frame["user"].isin(["A TripAdvisor Member", "lass=", "TripAdvisor1"])]
    frame = frame.sort_values("time", kind="stable").drop_duplicates(["user", "item"], keep="last")
    while True:
        by_user = frame.groupby("user")["item"].transform("size")
        by_item = frame.groupby("item")["user"].transform("size")
        stays = (by_user >= CORE) & (by_item >= CORE)
        if stays.all():
            break
        frame = frame[stays]
    text = frame["text"].map(html.unescape)
    text = text.str.replace(r"<[a-zA-Z/!][^<>]*>", " ", regex=True)
    text = text.str.replace(r"showReview\(\d+, '\w*'\);", " ", regex=True)
    frame["text"] = text.str.replace(r"\s+", " ", regex=True).str.strip()
    frame = frame.sort_values(["user", "item"])
    rng = np.random.default_rng(42)
    split = np.zeros(len(frame), np.int8)
    for rows in frame.groupby("user").indices.values():
        rows = rng.permutation(rows)
        tenth = max(1, round(len(rows) / 10))
        split[rows[:tenth]] = 2
        split[rows[tenth : 2 * tenth]] = 1
    frame["user_number"] = frame["user"].astype("category").cat.codes
    frame["item_number"] = frame["item"].astype("category").cat.codes
    out.mkdir()
    for number, name in enumerate(("train", "val", "test")):
        frame[split == number].to_parquet(out / f"{name}.parquet", compression=None)
    return len(frame)


def with_recbole(source: Path) -> int:
    """Its data set and split, as ``run_recbole`` makes them."""
    from peers import recbole_shims

    recbole_shims()
    from recbole.config import Config
    from recbole.data import create_dataset

    sys.argv = sys.argv[:1]
    settings = {
        "data_path": str(source.parents[1]), "use_gpu": False, "show_progress": False, "state": "ERROR",
        "USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id", "RATING_FIELD": "rating", "TIME_FIELD": "timestamp",
        "load_col": {"inter": ["user_id", "item_id", "rating", "timestamp"]}, "rm_dup_inter": "last",
        "user_inter_num_interval": f"[{CORE},inf)", "item_inter_num_interval": f"[{CORE},inf)",
        "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "group_by": "user", "order": "RO", "mode": "full"},
    }  # fmt: skip
    data = create_dataset(Config(model="LightGCN", dataset=source.stem, config_dict=settings))
    return sum(len(part) for part in data.build())


def measure(how: str, source: Path) -> dict:
    """One process: seconds, processor seconds of all threads, peak resident MiB, interactions kept."""
    from training import HERE, python_of

    command = [python_of(how), __file__, "--run", how, "--source", str(source)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, env={**os.environ, **HERE})
    return json.loads(done.stdout.splitlines()[-1])


def run(how: str, source: Path) -> dict:
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        start, busy = time.perf_counter(), time.process_time()
        out = Path(folder) / "corpus"
        if how == "recbole":
            os.chdir(folder)  # it writes a log folder
            kept = with_recbole(source)
        else:
            kept = with_symcere(source, out) if how == "symcere" else with_pandas(source, out, how[len("pandas-") :])
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": round(seconds, 2), "cpu_seconds": round(busy, 2), "peak_mib": round(peak), "kept": kept}


def compare(source: Path, ways: list[str], rounds: int, what: str) -> list[dict]:
    """A row for each way: ratios of its CPU seconds and peak memory to those of the first, or why there are none."""
    from training import NotRunError

    found: dict[str, list[dict]] = {way: [] for way in ways}
    rows = []
    for _ in range(rounds):
        for way in list(found):
            try:
                found[way].append(measure(way, source))
            except (NotRunError, subprocess.CalledProcessError) as why:
                del found[way]
                rows.append({"data": source.name, "what": what, "peer": way, "not_run": str(why)[:160]})
                continue
            print(f"{source.name} {way} {found[way][-1]}", file=sys.stderr)
    for way, theirs in found.items():
        row: dict = {"data": source.name, "what": what, "peer": way}
        if theirs[0]["kept"] != found[ways[0]][0]["kept"]:
            row["not_run"] = f"it keeps {theirs[0]['kept']} interactions, not {found[ways[0]][0]['kept']}"
        for key in ("cpu_seconds", "seconds", "peak_mib"):
            row[key] = statistics.median(one[key] for one in theirs)
            ratios = [one[key] / ours[key] for one, ours in zip(theirs, found[ways[0]], strict=True)]
            name = "ratio" if key == "cpu_seconds" else f"ratio_{key}"
            row |= {name: statistics.median(ratios)}
            row |= {"low": min(ratios), "high": max(ratios)} if name == "ratio" else {}
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reviews", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--engines", default="ujson,pyarrow", help="pandas' JSON engines to compare with")
    parser.add_argument("--folder", type=Path, help="where the file is made and kept; a temporary folder by default")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--source", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        print(json.dumps(run(given.run, given.source)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.folder or Path(temporary)).resolve()
        source = folder / f"reviews-{given.reviews}.json.gz"
        atomic = folder / "atomic" / "atomic.inter"
        atomic.parent.mkdir(parents=True, exist_ok=True)
        if not source.exists():
            characters = generate(source.with_suffix(".part"), given.reviews)
            os.replace(source.with_suffix(".part"), source)
            print(f"{given.reviews:,} reviews, {characters / 1e6:,.0f} MB of text", file=sys.stderr)
        table(source, atomic)
        engines = [f"pandas-{engine}" for engine in filter(None, given.engines.split(","))]
        rows = compare(source, ["symcere", *engines], given.rounds, "preparing")
        rows += compare(atomic, ["symcere", "recbole"], given.rounds, "preparing a table")
    if given.json:
        print(json.dumps({"rows": rows}))
        return
    print("CPU seconds, seconds, peak MiB; over those of symcere: CPU seconds (spread), seconds, memory\n")
    for row in rows:
        told = f"not run: {row['not_run']}" if "not_run" in row else (
            f"{row['cpu_seconds']:7.2f} {row['seconds']:7.2f} {row['peak_mib']:7.0f}   "
            f"{row['ratio']:5.2f} ({row['low']:.2f} to {row['high']:.2f})   "
            f"{row['ratio_seconds']:5.2f} {row['ratio_peak_mib']:5.2f}"
        )  # fmt: skip
        print(f"{row['data'][:24]:24}  {row['what']:18}  {row['peer']:16}  {told}")


if __name__ == "__main__":
    main()
