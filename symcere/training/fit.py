"""The one training loop. A notebook, a test, a Tune trial and a Ray Train worker all call :func:`fit`."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from symcere.config import Experiment
from symcere.config.experiment import SELECTED
from symcere.data.corpus import Corpus
from symcere.errors import UserError
from symcere.evaluation import Evaluator
from symcere.memory import keep_freed_memory
from symcere.model.closed_form import closed_form, from_state
from symcere.model.own import OwnFree
from symcere.model.propagation import Graph
from symcere.model.recommender import Recommender, marked, text_input
from symcere.model.scorer import Scorer
from symcere.model.workers import Parallel, Workers
from symcere.objective.total import Batch, TotalLoss
from symcere.storage import exists
from symcere.text import Embeddings, profiles
from symcere.training.adam import Adam
from symcere.training.checkpoint import Checkpoint

CHECKPOINT_EVERY = 10.0
"""Seconds between checkpoints; what a kill can lose is done again, with the same numbers."""


@dataclass
class Epoch:
    """Figures of one epoch, for the callback.

    Attributes:
        losses: mean over the epoch's steps of the total and of every weighted term.
        metrics: validation metrics, empty in an epoch without evaluation.
        best: whether this is the best epoch so far.
    """

    number: int
    losses: dict[str, float]
    metrics: dict[str, float] = field(default_factory=dict)
    best: bool = False
    seconds: float = 0.0

    def flat(self) -> dict[str, float]:
        """``{"loss": …, "loss_ranking": …, "val_ndcg_at_10": …, "epoch_seconds": …}``."""
        losses = {("loss" if name == "total" else f"loss_{name}"): value for name, value in self.losses.items()}
        return losses | {f"val_{k}": v for k, v in self.metrics.items()} | {"epoch_seconds": self.seconds}


@dataclass
class Fitted:
    """What :func:`fit` returns: the best epoch's model and how it came about."""

    scorer: Scorer
    checkpoint: Checkpoint
    model: Recommender | None = None


def fit(
    corpus: Corpus,
    embeddings: Embeddings | None,
    experiment: Experiment,
    *,
    device: torch.device | str | None = None,
    on_epoch: Callable[[Epoch], bool | None] | None = None,
    path: Path | str | None = None,
    resume: bool = False,
    parallel: Parallel = "blocks",
    checkpoint_every: float = CHECKPOINT_EVERY,
) -> Fitted:
    """Train what ``experiment`` describes and return the epoch with the best validation NDCG@10.

    Test interactions are never read. On a CPU with a fixed number of threads the same arguments give the same bits;
    on CUDA with ``train.deterministic``. The process keeps freed memory from here on (:mod:`symcere.memory`).

    In a process group of :mod:`torch.distributed` every process calls this with the same arguments, and all return the
    same, that of a lone worker up to the order of summation. The first one alone calls back and writes.

    Args:
        embeddings: of the training reviews; may be None where ``experiment.needs_text`` is False.
        on_epoch: called after every epoch; training ends early where it returns True.
        path: where the checkpoint is kept while training, a file or a URI; None keeps it in memory.
        resume: go on from the checkpoint at ``path``, with the numbers of an uninterrupted run; all workers read it.
            Where it was finished and ``train.epochs`` has grown, the evaluation at its old end counts as well.
        parallel: how several workers divide the node table, see :mod:`symcere.model.workers`.
        checkpoint_every: seconds between checkpoints, rounded up to whole epochs.

    Raises:
        UserError: no embeddings though text takes part, a loss that is not finite (names step and term; the last
            good checkpoint stays), a checkpoint of another corpus or experiment.
    """
    where = {"name": corpus.name, "fingerprint": corpus.fingerprint}
    workers = Workers.here(parallel)
    first = workers.rank == 0
    if experiment.closed_form.kind != "none":
        scorer = closed_form(experiment.closed_form, corpus.train)
        state = Checkpoint(experiment, where, best=scorer.state(), finished=True)
        if path is not None and first:
            state.save(path)
        return Fitted(scorer, state)

    run = _Run(corpus, embeddings, experiment, torch.device(device or _default_device()), workers)
    if resume and path is not None:
        state = Checkpoint.load(path)
        state.check_corpus(corpus.name, corpus.fingerprint)
        state.check_experiment(experiment)
        state.finished &= state.experiment == experiment  # else for longer, perhaps
        state.experiment = experiment
        run.restore(state)
    else:
        state = Checkpoint(experiment, where)
    train, saved = experiment.train, time.monotonic()
    validate = Evaluator(corpus, "val", ks=(SELECTED,))
    state.metric = f"val_ndcg_at_{validate.ks[-1]}"
    bad_rounds = sum(e["epoch"] > state.best_epoch for e in state.history if state.metric in e)

    with _deterministic(train.deterministic):
        while state.epoch < train.epochs and bad_rounds < train.patience and not state.finished:
            number = state.epoch + 1
            start = time.perf_counter()
            epoch = Epoch(number, run.train_epoch(number))
            if number % train.eval_every == 0 or number == train.epochs:
                part = validate.part(run.model.scorer(), workers.rank, workers.size)
                epoch.metrics = validate.join(workers.collect(part)).metrics
                value = epoch.metrics[state.metric.removeprefix("val_")]
                epoch.best = value > state.best_value
                bad_rounds = 0 if epoch.best else bad_rounds + 1
            epoch.seconds = time.perf_counter() - start
            state.epoch = number
            state.history.append({"epoch": number, **epoch.flat()})
            if epoch.best:
                state.best_value, state.best_epoch, state.best = value, number, run.weights()
            stop = bool(on_epoch(epoch)) if on_epoch is not None and first else False
            due = time.monotonic() - saved >= checkpoint_every
            stop, due = workers.agree((stop, due))
            state.finished = stop or bad_rounds >= train.patience or number == train.epochs
            if path is not None and (state.finished or due):
                if not state.best_epoch:  # stopped, or killed, before the first evaluation: the model is what it is
                    state.best = run.weights()
                run.snapshot(state)
                if first:
                    state.save(path)
                saved = time.monotonic()
    if not state.best_epoch:  # epochs: 0, or the first evaluation never came
        state.best = run.weights()
    if path is not None and workers.agree(not exists(path)):
        run.snapshot(state)
        if first:
            state.save(path)
    state.best = workers.agree(state.best)
    run.model.hold_all(state.best)
    return Fitted(run.model.scorer(experiment.evaluate.popularity_weight), state, run.model)


def restore(corpus: Corpus, embeddings: Embeddings | None, state: Checkpoint) -> Fitted:
    """The best model of a checkpoint, ready to score; see :func:`fit` for the arguments."""
    state.check_corpus(corpus.name, corpus.fingerprint)
    experiment = state.experiment
    if experiment.closed_form.kind != "none":
        return Fitted(from_state(state.best), state)
    model = build(corpus, embeddings, experiment)
    model.load_state_dict(state.best)
    return Fitted(model.scorer(experiment.evaluate.popularity_weight), state, model)


def build(
    corpus: Corpus, embeddings: Embeddings | None, experiment: Experiment, workers: Workers | None = None
) -> Recommender:
    """The untrained model, its initial weights decided by ``train.seed`` alone."""
    graph = Graph(corpus.train)
    text = has_text = own = None
    if experiment.needs_text:
        if embeddings is None:
            raise UserError(
                "This experiment uses review texts: run `symcere embed` first, or set model.features to id."
            )
        if embeddings.corpus_fingerprint != corpus.fingerprint:
            raise UserError(
                f"The embeddings were made from another corpus than '{corpus.name}' as it is now. "
                f"Run `symcere embed {corpus.name}` again."
            )
        settings = experiment.model
        found, has_text = profiles(corpus, embeddings, settings.user_profile)
        x = marked(found, has_text, corpus.num_users)
        if experiment.train.precision == "fp64":
            x = x.double()
        text = text_input(settings, graph, x)
        if settings.drop_own != "none":
            own = OwnFree(graph, corpus.train, x, embeddings.reviews, settings.text_layers, settings.drop_own)
    with _drawn_from(experiment.train.seed):
        model = Recommender(experiment.model, graph, corpus.item_popularity, text, has_text, own, workers)
    return model.double() if experiment.train.precision == "fp64" else model


class _Run:
    """Everything that changes during a run, on the device."""

    def __init__(
        self,
        corpus: Corpus,
        embeddings: Embeddings | None,
        experiment: Experiment,
        device: torch.device,
        workers: Workers,
    ):
        keep_freed_memory()
        self.experiment, self.device, self.workers = experiment, device, workers
        self.model = build(corpus, embeddings, experiment, workers).to(device)
        with _drawn_from(experiment.train.seed + 1):
            loss = TotalLoss(experiment, self.model, corpus.train, device)
        self.loss = (loss.double() if experiment.train.precision == "fp64" else loss).to(device)
        parameters = [p for m in (self.model, self.loss) for p in m.parameters()]
        self.optimiser = Adam(parameters, experiment.train.lr)
        self.loss.tell_temperature(self.model)
        names = [name for name, _ in self.model.named_parameters()]
        self.divided = {names.index("embedding")} if self.model.table.divided and "embedding" in names else set()
        self.common = [p for n, p in enumerate(parameters) if n not in self.divided]
        users = np.repeat(np.arange(corpus.num_users), np.diff(corpus.train.indptr))
        self.users = torch.from_numpy(users).to(device)
        self.items = torch.from_numpy(np.array(corpus.train.indices, dtype=np.int64)).to(device)
        if experiment.train.compile:  # the views; the losses bring their own kernels
            self.model.compile(dynamic=True)

    def train_epoch(self, number: int) -> dict[str, float]:
        """One pass over the training interactions; the mean of every term over its steps."""
        train = self.experiment.train
        order = torch.randperm(
            len(self.users), generator=generator(self.device, train.seed, number), device=self.device
        )
        self.loss.begin_epoch(self.model, generator(self.device, train.seed, number, 0))
        sums: dict[str, Tensor] = {}
        first_bad: dict[str, Tensor] = {}
        steps = 0
        for steps, edges in enumerate(order.split(train.batch_size), start=1):
            terms = self._step(edges, generator(self.device, train.seed, number, steps))
            for name, value in terms.items():
                # Whether a term is finite is kept on the device: asking at every step would wait for the GPU.
                bad = torch.where(value.isfinite(), torch.inf, float(steps))
                sums[name] = sums[name] + value if name in sums else value
                first_bad[name] = torch.minimum(first_bad[name], bad) if name in first_bad else bad
        names = list(sums)
        found = self.workers.least(torch.stack([first_bad[name] for name in names])).tolist()
        # The first step counts: after it every term is lost. There the sum of all is to blame only if no term is.
        bad, _, name = min((step, name == "total", name) for step, name in zip(found, names, strict=True))
        if bad < torch.inf:
            raise UserError(
                f"The loss is not finite: term '{name}', epoch {number}, step {int(bad)}. Lower train.lr "
                f"({train.lr}) or raise the term's temperature; the last good checkpoint is kept."
            )
        totals = self.workers.sum(torch.stack([sums[name] for name in names])).tolist()
        self.loss.tell_temperature(self.model)
        return {name: value / steps for name, value in zip(names, totals, strict=True)}

    def _step(self, edges: Tensor, random: torch.Generator) -> dict[str, Tensor]:
        batch = Batch(self.users.index_select(0, edges), self.items.index_select(0, edges), edges)
        self.optimiser.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.experiment.train.precision == "bf16"):
            terms = self.loss(self.model, batch, random)
        total = torch.stack(list(terms.values())).sum()
        total.backward()
        self.workers.sum_gradients(self.common)
        self.optimiser.step()
        return {"total": total.detach()} | {name: value.detach() for name, value in terms.items()}

    # ------------------------------------------------------------ state

    # Whole tables are gathered on the first worker; what others return stands for nothing.

    def weights(self) -> dict[str, Tensor]:
        weights = dict(self.model.state_dict())
        if "embedding" in weights:
            weights["embedding"] = self.model.table.whole(weights["embedding"])
        return {k: v.detach().cpu().clone() for k, v in weights.items()} if self.workers.rank == 0 else {}

    def snapshot(self, state: Checkpoint) -> None:
        state.last = self.weights() | {f"loss.{k}": v.cpu().clone() for k, v in self.loss.state_dict().items()}
        state.optimiser = self._tables(self.optimiser.state_dict(), self.model.table.whole)

    def restore(self, state: Checkpoint) -> None:
        if state.epoch == 0:
            return
        inside = {k: v for k, v in state.last.items() if not k.startswith("loss.")}
        if "embedding" in inside:
            inside["embedding"] = self.model.table.own(inside["embedding"])
        self.model.load_state_dict(inside)
        self.loss.load_state_dict({k[5:]: v for k, v in state.last.items() if k.startswith("loss.")})
        self.optimiser.load_state_dict(self._tables(state.optimiser, self.model.table.own))

    def _tables(self, optimiser: dict[str, Any], change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """An optimiser's state, with ``change`` applied to what it keeps of a divided table."""
        kept = {
            n: {k: (change(v) if n in self.divided and v.dim() == 2 else v).cpu() for k, v in of.items()}
            for n, of in optimiser["state"].items()
        }
        return {**optimiser, "state": kept}


def generator(device: torch.device, *key: int) -> torch.Generator:
    """Random numbers decided by ``key`` alone: (seed, epoch) or (seed, epoch, step)."""
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator(device).manual_seed(seed)


@contextmanager
def _drawn_from(seed: int) -> Iterator[None]:
    """Initial weights by a seed alone and in single precision, whatever the process has set for others."""
    before = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


def _default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def _deterministic(on: bool) -> Iterator[None]:
    """Algorithms that repeat to the bit, where asked for and not so yet. Asking PyTorch takes seconds, whatever for."""
    change = on and not torch.are_deterministic_algorithms_enabled()
    if change:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else PyTorch refuses every product on CUDA
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        if change:
            torch.use_deterministic_algorithms(False)


__all__ = ["Epoch", "Fitted", "build", "fit", "generator", "restore"]
