"""Trainings that tell apart what differs between workers and devices, on a corpus with every trouble."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from symcere.config import Experiment
from symcere.config.baselines import baseline
from symcere.data.corpus import Corpus, Entries
from symcere.text import Embeddings
from symcere.training import Checkpoint

USERS, ITEMS, EDGES = 37, 23, 190
SMALL = {
    "model.dim": 7,  # divides by no number of workers, as the batch
    "model.layers": 2,
    "model.hidden": 5,
    "train.precision": "fp64",
    "train.batch_size": 21,  # ten steps an epoch, the last one of a single pair
    "train.lr": 0.01,
    "data.core": 1,
}
ALL = {"objective.ranking.candidates": "all"}
SOME = {"objective.ranking.sample": 9}
"""Else a batch is compared with all items."""
BOTH = {"model.features": "both"}
CASES = {
    "lightgcn": ("lightgcn", {}),
    "lightgcn-negatives": ("lightgcn", {"objective.ranking.negatives": 3}),
    "mf-bpr": ("mf-bpr", {}),
    "sgl": ("sgl", {}),
    "simgcl": ("simgcl", {}),
    "xsimgcl": ("xsimgcl", {}),
    "directau": ("directau", {}),
    "text": ("symcere", {}),
    "text-learned": ("symcere", {"objective.ranking.loss": "symcere", "objective.ranking.learn_temperature": True}),
    "text-softmax": ("symcere", {"objective.ranking.loss": "softmax", "objective.ranking.reduction": "anchor"}),
    "text-supcon": ("symcere", {"objective.ranking.loss": "supcon"}),
    "text-history": ("symcere", {"objective.ranking.reduction": "history"}),
    "ids-all": ("symcere", {"model.features": "id", "model.popularity": "log-count"}),
    "concat": ("symcere", {**BOTH, "model.fusion": "concat"}),
    "gate": ("symcere", {**BOTH, "model.fusion": "gate", "objective.ranking.loss": "symcere"}),
    "drop-own": ("symcere", {**BOTH, "model.drop_own": "both", "objective.ranking.loss": "symcere"}),
    "drop-own-softmax": ("symcere", {**BOTH, "model.drop_own": "both", "objective.ranking.loss": "softmax"}),
    "sampled": ("symcere", {**BOTH, **SOME}),
    "sampled-symcere": ("symcere", {**SOME, "objective.ranking.loss": "symcere"}),
    "sampled-own": ("symcere", {**SOME, "model.drop_own": "both", "objective.ranking.loss": "softmax"}),
    "sampled-plain": ("symcere", {**SOME, "objective.ranking.logq": False}),
    "sampled-softmax": ("symcere", {**SOME, "objective.ranking": {"loss": "softmax", "sampling": "popularity"}}),
    "sampled-supcon": ("symcere", {**SOME, "objective.ranking.loss": "supcon"}),
    "sampled-history": ("symcere", {**SOME, "objective.ranking": {"loss": "softmax", "reduction": "history"}}),
    "alpharec": ("alpharec", {"objective.ranking.sample": 11}),
    "mlp-all": ("alpharec", ALL),
    "abstract": ("symcere-abstract", {}),
    "abstract-all": ("symcere-abstract", ALL),
    "rlmrec-con": ("rlmrec-con", {}),
    "rlmrec-gen": ("rlmrec-gen", {}),
}


MAIN = ("lightgcn", "simgcl", "text", "concat", "abstract")
"""Of these fifty steps, of the others twenty."""


def experiment(case: str) -> Experiment:
    name, settings = CASES[case]
    return baseline(name, {**SMALL, "train.epochs": 5 if case in MAIN else 2, **settings})


def store(folder: Path, **splits: Entries) -> Corpus:
    """A corpus of :data:`USERS` and :data:`ITEMS`."""
    return Corpus.write(
        folder / "corpus",
        name="tiny",
        user_ids=[f"u{n:04}" for n in range(USERS)],
        item_ids=[f"i{n:04}" for n in range(ITEMS)],
        **splits,
    )


def make(folder: Path) -> tuple[Corpus, Embeddings]:
    """A corpus with every trouble: nodes without text, an isolated item, users with one interaction."""
    rng = np.random.default_rng(5)
    every = rng.permutation(USERS * (ITEMS - 1))
    train, val, test = np.split(every[: EDGES + 80], [EDGES, EDGES + 40])

    def entries(pairs: np.ndarray) -> Entries:
        pairs = np.sort(pairs)
        users, items = pairs // (ITEMS - 1), pairs % (ITEMS - 1)
        return Entries(
            users, items, ["" if i % 7 == 0 or u % 9 == 0 else "good" for u, i in zip(users, items, strict=True)]
        )

    corpus = store(folder, train=entries(train), val=entries(val), test=entries(test))
    reviews = rng.normal(size=(corpus.train.nnz, 6))
    reviews /= np.linalg.norm(reviews, axis=1, keepdims=True)
    reviews[[not text.as_py() for text in corpus.texts()]] = 0
    (folder / "embeddings").mkdir()
    np.save(folder / "embeddings" / "reviews.npy", reviews.astype(np.float16))
    return corpus, embeddings_of(folder, corpus)


def embeddings_of(folder: Path, corpus: Corpus) -> Embeddings:
    reviews = np.load(folder / "embeddings" / "reviews.npy", mmap_mode="r")
    return Embeddings(folder / "embeddings", reviews, [("test", 6)], corpus.fingerprint)


def leave() -> None:
    """Ends a worker. Threads of gloo may outlive the group, and Python's own end then aborts the process."""
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)


def assert_same(one: Checkpoint, many: Checkpoint, tolerance: float = 1e-9) -> None:
    assert one.last.keys() == many.last.keys()
    for name, value in one.last.items():
        torch.testing.assert_close(many.last[name], value, rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")
    assert one.best_epoch == many.best_epoch
    assert one.best.keys() == many.best.keys()
    for ours, theirs in zip(one.history, many.history, strict=True):
        assert ours.keys() == theirs.keys()
        for key in ours.keys() - {"epoch_seconds"}:
            assert theirs[key] == pytest.approx(ours[key], rel=1e-9, abs=1e-12), key
    for n, kept in one.optimiser["state"].items():
        for key, value in kept.items():
            torch.testing.assert_close(many.optimiser["state"][n][key], value, rtol=0, atol=tolerance)
