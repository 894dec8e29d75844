"""Several processes train what one does: every weight, every figure, every way of dividing the work."""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from cases import CASES, MAIN, USERS, assert_same, embeddings_of, experiment, leave, make

from symcere.data.corpus import Corpus
from symcere.training import Checkpoint, build, fit

GRAPH = (*MAIN, "sgl", "xsimgcl", "mlp-all", "rlmrec-gen")
"""By two workers too, and some by four, who divide the sides of the table."""
DDP = ("lightgcn", "text", "alpharec", "drop-own")


def jobs(size: int) -> list[tuple[str, str]]:
    if size == 3:
        return [(case, "blocks") for case in CASES] + [(case, "ddp") for case in DDP]
    if size == 4:
        return [(case, "blocks") for case in ("lightgcn", "simgcl", "mlp-all")]
    return [(case, "blocks") for case in GRAPH] + [("lightgcn", "columns")]


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
