"""Speed and memory of preparing, beside a pandas version of the same steps.

    python benchmarks/preparing.py                       # 2 million reviews, 1.2 GB of text; pandas needs 11 GB
    python benchmarks/preparing.py --reviews 400000      # two minutes, 2.3 GB

Both read the same gzipped JSON lines (fields and dirt as in Amazon's files), clean, filter, split and store; each in a
process of its own, whose peak resident memory is the operating system's figure. Their kept pairs must agree. Printed
as one JSON object: ratios matter, times depend on the machine.
"""

import argparse
import gzip
import html
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CORE = 5
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


def with_symcere(source: Path, out: Path) -> int:
    from symcere.config import Data
    from symcere.data.prepare import assemble
    from symcere.data.reviews import read

    corpus = assemble(read([source]), Data(core=CORE), out, name="benchmark")
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


def measure(how: str, source: Path) -> dict:
    """One process: seconds, processor seconds of all threads, peak resident MiB, interactions kept."""
    command = [sys.executable, __file__, "--run", how, "--source", str(source)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def run(how: str, source: Path) -> dict:
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        start, busy = time.perf_counter(), time.process_time()
        out = Path(folder) / "corpus"
        kept = with_symcere(source, out) if how == "symcere" else with_pandas(source, out, how.removeprefix("pandas-"))
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": round(seconds, 2), "cpu_seconds": round(busy, 2), "peak_mib": round(peak), "kept": kept}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reviews", type=int, default=2_000_000)
    parser.add_argument("--engines", default="ujson,pyarrow", help="pandas' JSON engines to compare with")
    parser.add_argument("--folder", type=Path, help="where the file is made and kept; a temporary folder by default")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--source", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        print(json.dumps(run(given.run, given.source)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        source = folder / f"reviews-{given.reviews}.json.gz"
        if not source.exists():
            characters = generate(source.with_suffix(".part"), given.reviews)
            os.replace(source.with_suffix(".part"), source)
            print(f"{given.reviews:,} reviews, {characters / 1e6:,.0f} MB of text", file=sys.stderr)
        ours = measure("symcere", source)
        print(f"symcere {ours}", file=sys.stderr)
        report = {"reviews": given.reviews, "symcere": ours}
        for engine in given.engines.split(","):
            theirs = measure(f"pandas-{engine}", source)
            print(f"pandas-{engine} {theirs}", file=sys.stderr)
            if theirs["kept"] != ours["kept"]:
                sys.exit(f"The two do not keep the same: {theirs['kept']} and {ours['kept']} interactions.")
            report[f"pandas-{engine}"] = theirs
            report[f"times_faster_than_{engine}"] = round(theirs["seconds"] / ours["seconds"], 2)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
