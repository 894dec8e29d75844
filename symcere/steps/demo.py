"""The main job on the embedded default: synthetic reviews with planted truth, three methods, a few seeds."""

import shlex
import statistics
from typing import Any

from symcere.steps.corpora import Progress, open_corpus
from symcere.steps.runs import somebody, train
from symcere.tracking import tracking_uri

SEEDS = (1, 2, 3)
METHODS: dict[str, dict[str, Any]] = {
    "popularity": {},
    "lightgcn": {"objective.reg": 0.01, "train.lr": 0.005},
    "symcere": {},
}


def demo(progress: Progress = None) -> dict[str, Any]:
    """Prepare, embed, train and evaluate; a repeated call reuses what is there.

    Returns:
        what was done, the table of NDCG@10 and Recall@10 on the test split (mean and standard deviation over seeds),
        and where it can be looked at.
    """
    corpus = open_corpus("synthetic")
    table, reused = [], 0
    for number, (method, settings) in enumerate(METHODS.items()):
        runs = []
        for seed in SEEDS if method != "popularity" else SEEDS[:1]:
            if progress:
                progress(f"{method}, seed {seed}", number, len(METHODS))
            runs.append(
                train(
                    "synthetic", method=method, settings={**settings, "train.seed": seed}, reuse=True, progress=progress
                )
            )
        reused += sum(run.reused for run in runs)
        row: dict[str, Any] = {"method": method, "seeds": len(runs)}
        for metric, label in (("test_ndcg_at_10", "NDCG@10"), ("test_recall_at_10", "Recall@10")):
            values = [run.metrics[metric] for run in runs]
            row[label] = statistics.mean(values)
            row[f"± {label}"] = statistics.stdev(values) if len(values) > 1 else None
        row["best run"] = max(runs, key=lambda run: run.metrics["val_ndcg_at_10"] if len(runs) > 1 else 0).name
        table.append(row)
    best = table[-1]["best run"]
    return {
        "corpus": f"{corpus.num_users:,} users, {corpus.num_items:,} items, {corpus.train.nnz:,} training reviews",
        "reused": f"{reused} runs were there already" if reused else "nothing: everything was made now",
        "table": table,
        "store": tracking_uri(),
        "look": f"mlflow ui --backend-store-uri {shlex.quote(tracking_uri())}",
        "next": [
            f"symcere recommend {best} --user={somebody(corpus)}",
            f"symcere evaluate {best} --split val --popularity-weights 0,0.5,1",
        ],
    }
