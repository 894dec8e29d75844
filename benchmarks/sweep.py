"""What a sweep costs beyond its training: 50 trials in one pool against the summed time of their `fit` calls.

    python benchmarks/sweep.py                                  # synthetic reviews
    python benchmarks/sweep.py --corpus instruments --trials 50 # a prepared corpus

``ratio`` is the time from the first trial's start to the last one's end, over the summed time in ``fit`` (measured
inside the trials) divided by the number of workers; the start of Ray and of its workers is told apart. ``extra`` is
what a trial costs beyond its training. The target on an idle machine: a ratio of at most 1.25, an extra of at most
0.3 s. MLflow is written by a thread beside the search, as in a sweep.

Seen on two idle cores (Musical_Instruments, 50 trials of LightGCN, at most 60 epochs): ratio 1.16, extra 0.09 s;
Ray started in 2.5 s, the first trial 1.6 s later.
"""

import argparse
import json
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from symcere import steps
from symcere.config.sweep import load
from symcere.distributed.pool import pool
from symcere.distributed.studies import Study, open_storage, open_study
from symcere.distributed.sweep import search
from symcere.home import home

SWEEP = """
datasets: [here]
methods:
  lightgcn:
    space:
      objective.reg: {{loguniform: [1e-5, 0.5]}}
      model.layers: {{int: [1, 4]}}
space:
  train.lr: {{loguniform: [1e-3, 2e-2]}}
settings: {{train.epochs: {epochs}, train.patience: 10}}
trials: {trials}
stopping: {{grace: 10, reduction: 3}}
"""


def measure(dataset: str, trials: int, epochs: int, workers: int, tracked: bool) -> dict[str, float]:
    from symcere import tracking

    corpus = steps.open_corpus(dataset)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        if tracked:
            os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{place / 'mlflow.db'}"
            tracking.client()
        (place / "bench.yaml").write_text(SWEEP.format(epochs=epochs, trials=trials))
        declared = load(place / "bench.yaml")
        (searched,) = declared.searches
        searched = replace(searched, base=searched.base.replace({"data": corpus.settings}))
        optimiser = open_study(open_storage("", place), "bench", declared.sweep.sampler)
        study = Study(
            corpus.name, corpus.path, searched, {}, place / "trials", optimiser, declared.sweep.stopping.milestones
        )

        def record(spec, outcome):
            times = {"started": outcome.started, "ended": outcome.ended}
            if tracked:
                writer.submit(tracking.record_run, "bench", spec.id, searched.flat, {}, outcome.history, **times)

        begun = time.time()
        with pool(cpus=workers), ThreadPoolExecutor(1) as writer:
            ready = time.time()
            search([study], declared.sweep.stopping, on_end=record)
    outcomes = list(study.done.values())
    first, last = min(o.started for o in outcomes), max(o.ended for o in outcomes)
    fitted = sum(o.seconds for o in outcomes)
    return {
        "trials": len(outcomes),
        "start of ray": ready - begun,
        "start of the first trial": first - ready,
        "search": last - first,
        "summed fit": fitted,
        "ratio": (last - first) / (fitted / workers),
        "extra seconds a trial": ((last - first) * workers - fitted) / len(outcomes),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", default="synthetic", help="a prepared corpus of the home, or a card")
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--untracked", action="store_true", help="without MLflow")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.corpus == "synthetic":
            os.environ["SYMCERE_HOME"] = folder  # it would stay in the home otherwise
        found = measure(args.corpus, args.trials, args.epochs, args.workers, not args.untracked)
        told = {"corpus": args.corpus, "home": str(home()), **{k: round(v, 3) for k, v in found.items()}}
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
