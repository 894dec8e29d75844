"""Several processes train what one does: every weight, every figure, every way of dividing the work."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from symcere.config import Experiment
from symcere.config.baselines import baseline
from symcere.data.corpus import Corpus, Entries
from symcere.text import Embeddings
from symcere.training import Checkpoint, build, fit

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
    "sampled": (
        "symcere",
        {
            **BOTH,
            "objective.ranking.candidates": "sampled",
            "objective.ranking.negatives": 9,
            "objective.ranking.logq": True,
        },
    ),
    "alpharec": ("alpharec", {"objective.ranking.negatives": 11}),
    "mlp-all": ("alpharec", ALL),
    "abstract": ("symcere-abstract", {}),
    "abstract-all": ("symcere-abstract", ALL),
    "rlmrec-con": ("rlmrec-con", {}),
    "rlmrec-gen": ("rlmrec-gen", {}),
}


MAIN = ("lightgcn", "simgcl", "text", "concat", "abstract")
"""Fifty steps by two and by three workers; twenty by three for the others."""
GRAPH = (*MAIN, "sgl", "xsimgcl", "mlp-all", "rlmrec-gen")
"""By two workers too, and some by four, who divide the sides of the table."""
DDP = ("lightgcn", "text", "alpharec", "drop-own")


def experiment(case: str) -> Experiment:
    name, settings = CASES[case]
    return baseline(name, {**SMALL, "train.epochs": 5 if case in MAIN else 2, **settings})


def jobs(size: int) -> list[tuple[str, str]]:
    if size == 3:
        return [(case, "blocks") for case in CASES] + [(case, "ddp") for case in DDP]
    if size == 4:
        return [(case, "blocks") for case in ("lightgcn", "simgcl", "mlp-all")]
    return [(case, "blocks") for case in GRAPH] + [("lightgcn", "columns")]


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

    corpus = Corpus.write(
        folder / "corpus",
        name="tiny",
        user_ids=[f"u{n:04}" for n in range(USERS)],
        item_ids=[f"i{n:04}" for n in range(ITEMS)],
        train=entries(train),
        val=entries(val),
        test=entries(test),
    )
    reviews = rng.normal(size=(corpus.train.nnz, 6))
    reviews /= np.linalg.norm(reviews, axis=1, keepdims=True)
    reviews[[not text.as_py() for text in corpus.texts()]] = 0
    (folder / "embeddings").mkdir()
    np.save(folder / "embeddings" / "reviews.npy", reviews.astype(np.float16))
    return corpus, embeddings_of(folder, corpus)


def embeddings_of(folder: Path, corpus: Corpus) -> Embeddings:
    reviews = np.load(folder / "embeddings" / "reviews.npy", mmap_mode="r")
    return Embeddings(folder / "embeddings", reviews, [("test", 6)], corpus.fingerprint)


def worker(rank: int, size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/group{size}", rank=rank, world_size=size)
    corpus = Corpus.open(folder / "corpus")
    embeddings = embeddings_of(folder, corpus)
    for case, parallel in jobs(size):
        path = folder / f"{case}-{parallel}-{size}.pt"
        fitted = fit(corpus, embeddings, experiment(case), path=path, parallel=parallel)
        torch.save(fitted.scorer.scores(torch.arange(USERS)), folder / f"{case}-{parallel}-{size}.{rank}.scores")
        if case == "lightgcn" and size == 3:  # on from what one worker left, and from their own
            longer = experiment(case).replace({"train.epochs": 7})
            for origin in (1, 3):
                resumed = folder / f"resumed-{parallel}-{origin}.pt"
                if rank == 0:
                    name = f"{case}-1" if origin == 1 else f"{case}-{parallel}-3"
                    state = Checkpoint.load(folder / f"{name}.pt")
                    state.finished = False
                    state.save(resumed)
                dist.barrier()
                fit(corpus, embeddings, longer, path=resumed, resume=True, parallel=parallel)
    leave()


def leave() -> None:
    """Ends a worker. Threads of gloo may outlive the group, and Python's own end then aborts the process."""
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """All cases by one and by several workers: a folder with a checkpoint of each."""
    os.environ["OMP_NUM_THREADS"] = "1"
    folder = tmp_path_factory.mktemp("parallel")
    corpus, embeddings = make(folder)
    for case in CASES:
        alone = fit(corpus, embeddings, experiment(case), path=folder / f"{case}-1.pt")
        torch.save(alone.scorer.scores(torch.arange(USERS)), folder / f"{case}-1.scores")
    for size in (4, 3, 2):
        mp.spawn(worker, (size, folder), nprocs=size)
    return folder


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


@pytest.mark.parametrize(("case", "parallel", "size"), [(*job, size) for size in (2, 3, 4) for job in jobs(size)])
def test_equals_one_worker(runs, case, parallel, size):
    one, many = Checkpoint.load(runs / f"{case}-1.pt"), Checkpoint.load(runs / f"{case}-{parallel}-{size}.pt")
    assert many.epoch == (5 if case in MAIN else 2)
    assert_same(one, many)
    expected = torch.load(runs / f"{case}-1.scores")
    for rank in range(size):  # every worker returns the same model
        scores = torch.load(runs / f"{case}-{parallel}-{size}.{rank}.scores")
        torch.testing.assert_close(scores, expected, rtol=0, atol=1e-8)


def test_training_moves_the_weights(runs):
    """The comparison above is of something: the steps lead away from the start."""
    corpus = Corpus.open(runs / "corpus")
    for case in CASES:
        state = Checkpoint.load(runs / f"{case}-blocks-3.pt")
        start = build(corpus, embeddings_of(runs, corpus), experiment(case)).state_dict()
        moved = [float((state.last[name] - value).abs().max()) for name, value in start.items()]
        assert max(moved) > 0.1, case


@pytest.mark.parametrize("parallel", ["blocks", "ddp"])
def test_a_checkpoint_is_independent_of_the_number_of_workers(runs, parallel):
    """Three workers go on from one worker's checkpoint and from their own; one worker goes on from theirs."""
    corpus = Corpus.open(runs / "corpus")
    longer = experiment("lightgcn").replace({"train.epochs": 7})
    path = runs / f"whole-{parallel}.pt"
    fit(corpus, None, longer, path=path)
    whole = Checkpoint.load(path)
    for origin in (1, 3):
        resumed = Checkpoint.load(runs / f"resumed-{parallel}-{origin}.pt")
        assert resumed.epoch == 7
        assert_same(whole, resumed)
    theirs = Checkpoint.load(runs / f"lightgcn-{parallel}-3.pt")
    theirs.finished = False
    theirs.save(runs / f"back-{parallel}.pt")
    fit(corpus, None, longer, path=runs / f"back-{parallel}.pt", resume=True)
    assert_same(whole, Checkpoint.load(runs / f"back-{parallel}.pt"))
