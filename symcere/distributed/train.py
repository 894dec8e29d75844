"""Training on several workers through Ray Train, which restarts them after a failure.

Each worker calls :func:`symcere.training.fit` in a process group of its own. Checkpoints are the loop's own, written to
storage by the first worker; after the loss of a worker or a node all start again from the last one. What workers have
to say passes through one small actor beside the driver, the :class:`Desk`, so that the driver alone writes to MLflow
and to the terminal; a node without the corpus is given it from there, once, through the object store.
"""

import contextlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from symcere.config import Experiment
from symcere.data.corpus import Corpus
from symcere.distributed.pool import check, cores, pool, quiet
from symcere.errors import UserError
from symcere.model.workers import Parallel, Workers
from symcere.storage import exists, parent, remote, remove, within
from symcere.text import Embeddings
from symcere.training import Checkpoint, Epoch, Fitted, restore
from symcere.training import fit as fit_here
from symcere.training.fit import CHECKPOINT_EVERY

MAX_FAILURES = 20
"""Restarts after lost workers or nodes before giving up."""
POLL = 0.2
"""Seconds between looks at what the workers said."""


@dataclass(frozen=True)
class Job:
    """What a worker is told; small, since it is sent to each."""

    corpus: Path
    fingerprint: str
    embeddings: tuple[Path, list[tuple[str, int]], str] | None
    """Folder, blocks and own fingerprint."""
    experiment: Experiment
    parallel: Parallel
    path: str
    """Of the checkpoint, for all nodes the same."""
    checkpoint_every: float


class Desk:
    """Beside the driver: takes what the first worker says, and hands out files."""

    def __init__(self) -> None:
        self.epochs: list[Epoch] = []
        self.trouble = ""
        self.enough = False

    def tell(self, epoch: Epoch) -> bool:
        """Whether training should end here."""
        self.epochs.append(epoch)
        return self.enough

    def fail(self, trouble: str) -> None:
        """An error that a restart would meet again."""
        self.trouble = trouble

    def heard(self, epochs: bool = True) -> tuple[list[Epoch], str]:
        """Epochs since the last time, and the error, if any."""
        new = self.epochs if epochs else []
        if epochs:
            self.epochs = []
        return new, self.trouble

    def stop(self) -> None:
        self.enough = True

    def files(self, folder: Path) -> list[str]:
        return [str(p.relative_to(folder)) for p in sorted(folder.rglob("*")) if p.is_file()]

    def read(self, file: Path) -> np.ndarray:
        return np.fromfile(file, np.uint8)


def fit(
    corpus: Corpus,
    embeddings: Embeddings | None,
    experiment: Experiment,
    *,
    path: Path | str,
    workers: int,
    gpus_per_worker: int = 0,
    parallel: Parallel = "blocks",
    address: str = "",
    on_epoch: Callable[[Epoch], bool | None] | None = None,
    checkpoint_every: float = CHECKPOINT_EVERY,
    strategy: str = "PACK",
) -> Fitted:
    """:func:`symcere.training.fit` on several workers; it goes on from a checkpoint where there is one.

    Args:
        path: of the checkpoint: in a folder that all nodes see (NFS), or a URI.
        workers: processes that train together.
        gpus_per_worker: GPUs that each one holds; 0 trains on CPUs.
        parallel: see :mod:`symcere.model.workers`.
        address: of a running cluster; by default Ray is started on this machine for the time of the training.
        on_epoch: called here after every epoch; training ends after the next one where it returns True. An epoch that
            is done again after a failure is not told again.
        checkpoint_every: seconds between checkpoints.
        strategy: Ray's placement of workers: PACK, SPREAD, STRICT_SPREAD.

    Raises:
        UserError: what :func:`symcere.training.fit` raises, a cluster that does not answer, storage that not all
            nodes see, or more failures than :data:`MAX_FAILURES`.
    """
    if not remote(path):
        path = Path(path).absolute()  # workers are in folders of their own
        path.parent.mkdir(parents=True, exist_ok=True)
    told = None if embeddings is None else (embeddings.path, embeddings.blocks, embeddings.fingerprint)
    job = Job(corpus.path, corpus.fingerprint, told, experiment, parallel, str(path), checkpoint_every)
    if not gpus_per_worker:
        cores(workers, address)
    with _quiet_train(), pool(address, 0 if gpus_per_worker else max(workers, os.cpu_count() or 1)) as there:
        check(there, {"CPU": workers, "GPU": workers * gpus_per_worker}, address)
        _run(job, workers, gpus_per_worker, strategy, on_epoch)
    return restore(corpus, embeddings, Checkpoint.load(path))


def _run(job: Job, workers: int, gpus: int, strategy: str, on_epoch: Callable[[Epoch], bool | None] | None) -> None:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    desk: Any = ray.remote(Desk).options(num_cpus=0, scheduling_strategy=here).remote()
    folder = parent(job.path)

    class Trainer(TorchTrainer):
        def _register_sigint_handler(self, controller: Any) -> None:
            """Ray's own would end the process with exit code 0; here Ctrl-C is what it is elsewhere."""

    trainer = Trainer(
        _work,
        train_loop_config={"job": job, "desk": desk},
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": 1, **({"GPU": gpus} if gpus else {})},
            placement_strategy=strategy,
        ),
        run_config=RunConfig(name="ray", storage_path=folder, failure_config=FailureConfig(max_failures=MAX_FAILURES)),
    )
    listener = _Listener(desk, on_epoch)
    listener.start()
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise UserError(f"Training failed {MAX_FAILURES} times; the last time: {_reason(error)}") from error
    finally:
        listener.end()
        remove(within(folder, "ray"))
        ray.kill(desk)
    if listener.trouble:
        raise UserError(listener.trouble)


class _Listener(threading.Thread):
    """Calls back in the driver for what workers tell the desk."""

    def __init__(self, desk: Any, on_epoch: Callable[[Epoch], bool | None] | None):
        super().__init__(daemon=True)
        self.desk, self.on_epoch = desk, on_epoch
        self.over = threading.Event()
        self.last, self.trouble = 0, ""
        self.error: BaseException | None = None

    def run(self) -> None:
        while not self.over.wait(POLL):
            self.listen()

    def listen(self) -> None:
        import ray

        try:
            epochs, self.trouble = ray.get(self.desk.heard.remote())
            for epoch in epochs:
                if epoch.number <= self.last:  # done again after a failure
                    continue
                self.last = epoch.number
                if self.on_epoch is not None and self.on_epoch(epoch):
                    self.desk.stop.remote()
        except BaseException as error:  # raised where the driver waits, once the workers have ended their epoch
            self.error = self.error or error
            self.over.set()
            with contextlib.suppress(Exception):
                self.desk.stop.remote()

    def end(self) -> None:
        self.over.set()
        self.join()
        if self.error is None:
            self.listen()
        if self.error is not None:
            raise self.error


def _reason(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip()[:500] if lines else type(error).__name__


def _quiet_train() -> contextlib.AbstractContextManager[None]:
    """Ray Train looks at its workers ten times a second, and keeps to itself what it sees."""
    return quiet("ray.train", {"RAY_TRAIN_V2_ENABLED": "1", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1"})


# ---------------------------------------------------------------- on a worker


def _work(config: dict[str, Any]) -> None:
    import ray
    import ray.train
    import torch
    from ray.train.torch import get_device

    job, desk = config["job"], config["desk"]
    if ray.get(desk.heard.remote(False))[1]:  # started again after an error that it would meet again
        return
    device = get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)  # where NCCL sends objects from
    workers, local = Workers.here(), ray.train.get_context().get_local_rank()
    try:
        sees = remote(job.path) or Path(job.path).parent.is_dir()
        if not all(workers.collect(sees)):
            raise UserError(
                f"Not every node sees {Path(job.path).parent}, where checkpoints are kept: give --storage a folder "
                "that all share, or s3://… or gs://…"
            )
        corpus = Corpus.open(_near(job.corpus, job.fingerprint, desk, local == 0))
        embeddings = None
        if job.embeddings is not None:
            path, blocks, fingerprint = job.embeddings
            path = _near(path, fingerprint, desk, local == 0)
            reviews = np.load(path / "reviews.npy", mmap_mode="r")
            embeddings = Embeddings(path, reviews, blocks, job.fingerprint, fingerprint)
        fit_here(
            corpus,
            embeddings,
            job.experiment,
            device=device,
            on_epoch=lambda epoch: ray.get(desk.tell.remote(epoch)),
            path=job.path,
            resume=workers.agree(exists(job.path)),
            parallel=job.parallel,
            checkpoint_every=job.checkpoint_every,
        )
    except UserError as error:
        ray.get(desk.fail.remote(str(error)))
        raise  # ends the others, who may be waiting for this one


def _near(folder: Path, key: str, desk: Any, first: bool) -> Path:
    """The folder, or this node's copy of it, which its first worker fetches.

    Args:
        key: its fingerprint. Where nodes have homes of their own, another may be under the same name.
    """
    import ray

    with contextlib.suppress(OSError, ValueError):
        if json.loads((folder / "manifest.json").read_text())["fingerprint"] == key:
            return folder
    copy = Path(tempfile.gettempdir()) / f"symcere-{os.getuid()}" / f"{folder.name}-{key[:16]}"
    if first and not copy.is_dir():
        part = copy.with_name(f".{copy.name}.{os.getpid()}.part")
        for name in ray.get(desk.files.remote(folder)):
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            ray.get(desk.read.remote(folder / name)).tofile(part / name)
        try:
            part.rename(copy)
        except OSError:
            if not copy.is_dir():
                raise
            shutil.rmtree(part, ignore_errors=True)  # another job's worker on this node was faster
    while not copy.is_dir():
        time.sleep(0.1)
    return copy
