"""In single precision several workers differ from one by the order of summation, and by no more.

Adam turns the sign of a rounding error into a whole step where a gradient is next to nothing, so single elements may
part; losses and the norms of whole tensors do not.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from cases import EDGES, ITEMS, USERS, store

from symcere.config import Experiment
from symcere.config.baselines import baseline
from symcere.data.corpus import Corpus, Entries
from symcere.text import Embeddings
from symcere.training import Checkpoint, fit

STEPS = 50
SMALL = {
    "model.dim": 7,
    "model.layers": 2,
    "model.hidden": 5,
    "train.precision": "fp32",
    "train.batch_size": EDGES,  # an epoch is one step, so that the history holds the loss of each
    "train.epochs": STEPS,
    "train.eval_every": STEPS,
    "train.lr": 0.01,
    "data.core": 1,
}
CASES = {
    "lightgcn": ("lightgcn", {}),
    "directau": ("directau", {}),
    "simgcl": ("simgcl", {}),
    "symcere": ("symcere", {}),
    "both": ("symcere", {"model.features": "both", "model.fusion": "concat"}),
    "alpharec": ("alpharec", {"objective.ranking.sample": 11}),
    "abstract": ("symcere-abstract", {}),
}


def experiment(case: str) -> Experiment:
    name, settings = CASES[case]
    return baseline(name, {**SMALL, **settings})


def make(folder: Path) -> None:
    rng = np.random.default_rng(8)
    train, val, test = np.split(rng.permutation(USERS * ITEMS)[: EDGES + 80], [EDGES, EDGES + 40])

    def entries(pairs: np.ndarray) -> Entries:
        pairs = np.sort(pairs)
        return Entries(pairs // ITEMS, pairs % ITEMS, ["good"] * len(pairs))

    corpus = store(folder, train=entries(train), val=entries(val), test=entries(test))
    reviews = rng.normal(size=(corpus.train.nnz, 6))
    np.save(folder / "reviews.npy", (reviews / np.linalg.norm(reviews, axis=1, keepdims=True)).astype(np.float16))


def worker(rank: int, folder: Path) -> None:
    """Trains among three, then among two, then alone."""
    torch.set_num_threads(1)
    corpus = Corpus.open(folder / "corpus")
    reviews = Embeddings(folder, np.load(folder / "reviews.npy"), [("test", 6)], corpus.fingerprint)
    for size in (3, 2, 1):
        if rank >= size:
            os._exit(0)  # not by Python's own end: threads of gloo may outlive the group, and it aborts the process
        if size > 1:
            dist.init_process_group("gloo", f"file://{folder}/group{size}", rank=rank, world_size=size)
        for case in CASES:
            fit(corpus, reviews, experiment(case), path=folder / f"{case}-{size}.pt")
        if size > 1:
            dist.destroy_process_group()
    os._exit(0)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("float32")
    make(folder)
    mp.spawn(worker, (folder,), nprocs=3)
    return folder


def curve(state: Checkpoint) -> np.ndarray:
    return np.array([epoch["loss"] for epoch in state.history])


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("case", CASES)
def test_the_loss_curve_is_that_of_one_worker(runs, case, size):
    one, many = Checkpoint.load(runs / f"{case}-1.pt"), Checkpoint.load(runs / f"{case}-{size}.pt")
    assert len(curve(one)) == STEPS
    assert curve(one)[-1] != pytest.approx(curve(one)[0], rel=0.01), "there is something to compare"
    np.testing.assert_allclose(curve(many), curve(one), rtol=1e-5)
    for name, value in one.last.items():
        assert value.dtype == torch.float32
        assert float((many.last[name] - value).norm() / value.norm()) < 1e-4, name


def compiled(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/compiled", rank=rank, world_size=2)
    corpus = Corpus.open(folder / "corpus")
    reviews = Embeddings(folder, np.load(folder / "reviews.npy"), [("test", 6)], corpus.fingerprint)
    for case in ("lightgcn", "both"):
        fit(corpus, reviews, experiment(case).replace({"train.compile": True}), path=folder / f"{case}-compiled.pt")
    dist.destroy_process_group()
    os._exit(0)


@pytest.mark.slow
def test_compiled_views_give_the_same_curve(runs):
    mp.spawn(compiled, (runs,), nprocs=2)
    for case in ("lightgcn", "both"):
        eager, fast = Checkpoint.load(runs / f"{case}-2.pt"), Checkpoint.load(runs / f"{case}-compiled.pt")
        np.testing.assert_allclose(curve(fast), curve(eager), rtol=1e-5)
