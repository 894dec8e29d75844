"""Training and evaluation keep everything on the GPU: on one that is made out (:mod:`gpu`) they do what a CPU does.

What it cannot show is what kernels of CUDA compute, how fast, and NCCL itself.
"""

import json
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from cases import CASES, USERS, assert_same, embeddings_of, leave, make
from cases import experiment as long

from symcere.config import Experiment
from symcere.data.corpus import Corpus
from symcere.evaluation import Evaluator
from symcere.training import Checkpoint, fit

TOGETHER = [(case, "blocks") for case in ("lightgcn", "simgcl", "text", "abstract", "mlp-all")] + [("drop-own", "ddp")]
"""By two workers, whose messages are then of the GPU alone."""


def experiment(case: str) -> Experiment:
    """One epoch of ten steps."""
    return long(case).replace({"train.epochs": 1})


def alone(rank: int, folder: Path) -> None:
    from gpu import gpu, waits

    torch.set_num_threads(1)
    corpus = Corpus.open(folder / "corpus")
    embeddings = embeddings_of(folder, corpus)
    told: dict[str, dict] = {}
    for case in CASES:
        waits.clear()
        with gpu() as device:
            fitted = fit(corpus, embeddings, experiment(case), path=folder / f"{case}-gpu.pt", device=device)
            told[case] = {"waits": dict(waits), "metrics": Evaluator(corpus, "test", ks=(5, 10))(fitted.scorer).metrics}
            torch.save(fitted.scorer.scores(torch.arange(USERS)).cpu(), folder / f"{case}-gpu.scores")
    with gpu() as device:
        longer = experiment("concat").replace({"train.epochs": 3})
        begun = Checkpoint.load(folder / "concat-cpu.pt")
        begun.finished = False
        begun.save(folder / "resumed.pt")
        fit(corpus, embeddings, longer, path=folder / "resumed.pt", resume=True, device=device)
        half = experiment("mlp-all").replace({"train.precision": "bf16", "train.deterministic": True})
        fit(corpus, embeddings, half, path=folder / "bf16.pt", device=device)
        told["cublas"] = os.environ["CUBLAS_WORKSPACE_CONFIG"]  # type: ignore[assignment]
    (folder / "told.json").write_text(json.dumps(told))
    os._exit(0)


def together(rank: int, folder: Path) -> None:
    from gpu import gpu

    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/group", rank=rank, world_size=2)
    corpus = Corpus.open(folder / "corpus")
    embeddings = embeddings_of(folder, corpus)
    for case, parallel in TOGETHER:
        with gpu() as device:
            path = folder / f"{case}-gpus.pt"
            fit(corpus, embeddings, experiment(case), path=path, parallel=parallel, device=device)
    leave()


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """All cases on the CPU and on the GPU: a folder with a checkpoint of each."""
    os.environ["OMP_NUM_THREADS"] = "1"
    folder = tmp_path_factory.mktemp("gpu")
    corpus, embeddings = make(folder)
    for case in CASES:
        fitted = fit(corpus, embeddings, experiment(case), path=folder / f"{case}-cpu.pt", device="cpu")
        torch.save(fitted.scorer.scores(torch.arange(USERS)), folder / f"{case}-cpu.scores")
        (folder / f"{case}.json").write_text(json.dumps(Evaluator(corpus, "test", ks=(5, 10))(fitted.scorer).metrics))
    mp.spawn(alone, (folder,), nprocs=1)
    mp.spawn(together, (folder,), nprocs=2)
    return folder


@pytest.fixture(scope="module")
def told(runs) -> dict:
    return json.loads((runs / "told.json").read_text())


@pytest.mark.parametrize("case", CASES)
def test_it_trains_and_evaluates_as_a_cpu_does(runs, told, case):
    assert_same(Checkpoint.load(runs / f"{case}-cpu.pt"), Checkpoint.load(runs / f"{case}-gpu.pt"))
    here, there = (torch.load(runs / f"{case}-{device}.scores") for device in ("cpu", "gpu"))
    torch.testing.assert_close(there, here, rtol=0, atol=1e-8)
    assert told[case]["metrics"] == pytest.approx(json.loads((runs / f"{case}.json").read_text()), nan_ok=True)


@pytest.mark.parametrize("case", [case for case, _ in TOGETHER])
def test_workers_send_what_is_on_their_gpus(runs, case):
    assert_same(Checkpoint.load(runs / f"{case}-cpu.pt"), Checkpoint.load(runs / f"{case}-gpus.pt"))


def test_it_goes_on_from_what_a_cpu_left(runs):
    corpus = Corpus.open(runs / "corpus")
    longer = experiment("concat").replace({"train.epochs": 3})
    fit(corpus, embeddings_of(runs, corpus), longer, path=runs / "whole.pt", device="cpu")
    assert_same(Checkpoint.load(runs / "whole.pt"), Checkpoint.load(runs / "resumed.pt"))


def test_half_precision_and_what_repeats_to_the_bit(runs, told):
    state = Checkpoint.load(runs / "bf16.pt")
    assert state.epoch == 1
    assert all(value.dtype == torch.float32 for value in state.last.values() if value.is_floating_point())
    assert told["cublas"] == ":4096:8"  # PyTorch refuses deterministic products on CUDA without


@pytest.mark.parametrize(("case", "most"), [("text", 3), ("lightgcn", 4), ("sampled", 5)])
def test_a_step_hardly_waits_for_the_gpu(told, case, most):
    """For the numbers of its distinct nodes, and of their known pairs; never for a loss."""
    steps = 10
    often = {place: n for place, n in told[case]["waits"].items() if n >= steps}
    assert sum(often.values()) <= most * steps, often
    assert not any(place.startswith("training/") for place in often), often
