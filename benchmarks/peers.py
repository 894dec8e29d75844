"""One implementation of LightGCN with BPR in a process of its own, which does steps when it is told to.

    python peers.py NAME CASE [FOLDER]     # started by training.py and startup.py, with the peer's own Python

CASE is an ``.npz`` with the training interactions (users, items), their numbers, dim, layers and batch. A line with
a number of steps on stdin is answered by one with the CPU seconds they took, on one thread. The first answer comes
when everything is built. Only numpy and torch are imported here; the rest is the peer's. Peers run their own model,
loss, negative sampling and optimiser; what had to be patched at run time, on no file of theirs, stands in the code.
"""

import itertools
import json
import os
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

REG = 1e-4
Step = Callable[[], object]


class Case:
    def __init__(self, path: str, folder: str = ""):
        found = np.load(path)
        self.users, self.items = found["users"], found["items"]
        self.num_users, self.num_items = int(found["num_users"]), int(found["num_items"])
        self.dim, self.layers, self.batch = int(found["dim"]), int(found["layers"]), int(found["batch"])
        self.folder = Path(folder) if folder else None

    def batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        rng = np.random.default_rng(0)
        while True:
            order = rng.permutation(len(self.users))
            for start in range(0, len(order), self.batch):
                chosen = order[start : start + self.batch]
                yield self.users[chosen], self.items[chosen]


# ---------------------------------------------------------------- ours


def symcere_run(
    case: Case, settings: dict[str, Any], method: str = "lightgcn", width: int = 0, device: str = "cpu"
) -> tuple[Any, Any]:
    import scipy.sparse as sp
    import torch

    from symcere.config.baselines import baseline
    from symcere.model.workers import Workers
    from symcere.training.fit import _Run

    shape = (case.num_users, case.num_items)
    train = sp.csr_array((np.ones(len(case.users), np.float32), (case.users, case.items)), shape=shape)
    train.sort_indices()
    corpus: Any = types.SimpleNamespace(name="case", fingerprint="", train=train)
    corpus.num_users, corpus.num_items = shape
    corpus.item_popularity = np.bincount(case.items, minlength=case.num_items)
    embeddings: Any = None
    if width:
        reviews = np.random.default_rng(0).normal(size=(train.nnz, width)).astype(np.float16)
        embeddings = types.SimpleNamespace(reviews=reviews, width=width, corpus_fingerprint="")
    shared = {"model.dim": case.dim, "train.batch_size": case.batch}
    experiment = baseline(method, {**shared, **settings})
    return _Run(corpus, embeddings, experiment, torch.device(device), Workers()), train


def symcere_steps(run: Any) -> Step:
    import torch

    from symcere.training.fit import generator

    def edges() -> Iterator[torch.Tensor]:
        for epoch in itertools.count(1):
            order = torch.randperm(len(run.users), generator=generator(run.device, 0, epoch), device=run.device)
            yield from order.split(run.experiment.train.batch_size)

    stream, number = edges(), itertools.count()
    return lambda: run._step(next(stream), generator(run.device, 0, 1, next(number)))


def symcere(case: Case) -> Step:
    return symcere_steps(symcere_run(case, {"model.layers": case.layers})[0])


def symcere_full(case: Case, method: str = "symcere", settings: dict[str, Any] | None = None) -> Step:
    """A method with text (640 random columns, as of MiniLM and LSA joined): the default, or another."""
    return symcere_steps(symcere_run(case, settings or {}, method, 640)[0])


def symcere_mf(case: Case) -> Step:
    """Matrix factorisation, an epoch at a call."""
    run, _ = symcere_run(case, {"model.layers": 0})
    number = itertools.count(1)
    return lambda: run.train_epoch(next(number))


# ---------------------------------------------------------------- PyG


def pyg(case: Case, csr: bool) -> Step:
    import torch
    from torch_geometric.nn.models import LightGCN

    N = case.num_users + case.num_items
    u, i = torch.from_numpy(case.users), torch.from_numpy(case.items) + case.num_users
    graph = torch.stack([torch.cat([u, i]), torch.cat([i, u])])
    model = LightGCN(N, case.dim, case.layers, **({"normalize": False} if csr else {}))
    if csr:
        scale = torch.bincount(graph[0], minlength=N).double().rsqrt()
        weights = (scale[graph[0]] * scale[graph[1]]).float()
        graph = torch.sparse_coo_tensor(graph, weights, (N, N)).coalesce().to_sparse_csr()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    stream = case.batches()

    def step() -> None:
        users, items = (torch.from_numpy(a) for a in next(stream))
        negatives = torch.randint(case.num_items, items.shape)
        nodes = torch.cat([users, items + case.num_users, negatives + case.num_users])
        pairs = torch.stack([users.repeat(2), nodes[len(users) :]])
        optimiser.zero_grad()
        positive, negative = model(graph, pairs).chunk(2)
        model.recommendation_loss(positive, negative, node_id=nodes.unique(), lambda_reg=REG).backward()
        optimiser.step()

    return step


# ---------------------------------------------------------------- RecBole


def recbole_shims() -> None:
    """RecBole 1.2.1 was written for numpy 1, an old SciPy and Ray; TensorBoard is for its logs alone."""
    old: dict[str, Any] = {
        "bool": bool,
        "int": int,
        "float": float,
        "object": object,
        "str": str,
        "long": int,
        "unicode": str,
    }
    old |= {"bool_": np.bool_, "float_": np.float64, "complex_": np.complex128, "unicode_": np.str_, "Inf": np.inf}
    for name, value in old.items():
        if name not in np.__dict__:
            setattr(np, name, value)
    import scipy.sparse as sp

    def update(matrix: Any, entries: dict[tuple[int, int], float]) -> None:
        matrix._dict.update(entries)

    sp.dok_matrix._update = update
    board = types.ModuleType("torch.utils.tensorboard")
    board.SummaryWriter = lambda *_, **__: types.SimpleNamespace(  # type: ignore[attr-defined]
        add_scalar=lambda *_, **__: None, add_hparams=lambda *_, **__: None, close=lambda: None
    )
    sys.modules["torch.utils.tensorboard"] = board
    ray = types.ModuleType("ray")
    ray.tune = types.ModuleType("ray.tune")  # type: ignore[attr-defined]
    sys.modules |= {"ray": ray, "ray.tune": ray.tune}


def recbole_settings(case: Case, where: Path) -> dict[str, Any]:
    """Writes RecBole's atomic files. All interactions train; validation and test are the first hundred again."""
    folder = where / "case"
    folder.mkdir()
    for part, size in {"train": None, "valid": 100, "test": 100}.items():
        pairs = zip(case.users[:size].tolist(), case.items[:size].tolist(), strict=True)
        lines = [f"u{u}\ti{i}\n" for u, i in pairs]
        (folder / f"case.{part}.inter").write_text("user_id:token\titem_id:token\n" + "".join(lines))
    return {
        "data_path": str(where), "benchmark_filename": ["train", "valid", "test"], "checkpoint_dir": str(where),
        "USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id", "load_col": {"inter": ["user_id", "item_id"]},
        "embedding_size": case.dim, "n_layers": case.layers, "reg_weight": REG, "train_batch_size": case.batch,
        "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1, "dynamic": False, "candidate_num": 0},
        "use_gpu": False, "show_progress": False, "state": "ERROR", "log_wandb": False, "learning_rate": 1e-3,
    }  # fmt: skip


def recbole(case: Case) -> Step:
    recbole_shims()
    import torch
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.model.general_recommender import LightGCN

    where = Path(tempfile.mkdtemp())
    os.chdir(where)
    sys.argv = sys.argv[:1]
    config = Config(model="LightGCN", dataset="case", config_dict=recbole_settings(case, where))
    loader = data_preparation(config, create_dataset(config))[0]
    model = LightGCN(config, loader._dataset)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    stream = itertools.chain.from_iterable(itertools.repeat(loader))

    def step() -> None:
        optimiser.zero_grad()
        model.calculate_loss(next(stream)).backward()
        optimiser.step()

    return step


def recbole_first_step(case: Case) -> Step:
    """RecBole's own ``run_recbole``, which ends the process where it would begin its second step."""
    recbole_shims()
    from recbole.model.general_recommender.lightgcn import LightGCN
    from recbole.quick_start import run_recbole

    where = Path(tempfile.mkdtemp())
    os.chdir(where)
    sys.argv = sys.argv[:1]
    calls, loss = itertools.count(), LightGCN.calculate_loss

    def until_the_second(*args: Any) -> Any:
        if next(calls):
            os._exit(0)
        return loss(*args)

    LightGCN.calculate_loss = until_the_second
    run_recbole(model="LightGCN", dataset="case", config_dict=recbole_settings(case, where))
    raise RuntimeError("there was no second step")


# ---------------------------------------------------------------- Cornac


def cornac(case: Case) -> Step:
    """BPR by compiled stochastic descent on matrix factors; an epoch is a hundredth of a call that does 100."""
    import cornac
    from cornac.data import Dataset

    pairs = zip(case.users.tolist(), case.items.tolist(), itertools.repeat(1.0))
    data = Dataset.from_uir(list(pairs), seed=0)
    model = cornac.models.BPR(k=case.dim, max_iter=100, learning_rate=0.01, lambda_reg=0.01, verbose=False, seed=0)
    return lambda: model.fit(data)


# ---------------------------------------------------------------- LightGCN-PyTorch, from a folder


def lightgcn_pytorch(case: Case) -> Step:
    """The authors' code, in a copy; TensorBoard left out, and its data class given our file."""
    import shutil

    where = Path(tempfile.mkdtemp())
    assert case.folder is not None
    shutil.copytree(case.folder / "code", where / "code")
    data = where / "data" / "case"
    data.mkdir(parents=True)
    order = np.argsort(case.users, kind="stable")
    ends = np.cumsum(np.bincount(case.users, minlength=case.num_users))[:-1]
    rows = [[str(u), *map(str, items)] for u, items in enumerate(np.split(case.items[order], ends)) if len(items)]
    (data / "train.txt").write_text("\n".join(" ".join(row) for row in rows) + "\n")
    (data / "test.txt").write_text("\n".join(" ".join(row[:2]) for row in rows) + "\n")
    sys.argv = ["main.py", "--bpr_batch", str(case.batch), "--recdim", str(case.dim), "--layer", str(case.layers)]
    sys.argv += ["--tensorboard", "0"]
    sys.path.insert(0, str(where / "code"))
    os.chdir(where / "code")
    sys.modules["tensorboardX"] = types.ModuleType("tensorboardX")
    sys.modules["tensorboardX"].SummaryWriter = object  # type: ignore[attr-defined]
    import dataloader
    import model
    import torch
    import utils
    import world

    torch.set_num_threads(1)
    network = model.LightGCN(world.config, dataloader.Loader(path=str(data)))
    network.train()
    loss, stream = utils.BPRLoss(network, world.config), case.batches()

    def step() -> None:
        users, items = (torch.from_numpy(a) for a in next(stream))
        loss.stageOne(users, items, torch.randint(case.num_items, items.shape))

    return step


# ---------------------------------------------------------------- SELFRec, from a folder


def selfrec(case: Case) -> Step:
    """The training loop of its LightGCN as it is: each of our steps is one turn of its loop, in a thread.

    Every model asks for CUDA: ``cuda()`` gives back what it is called on. Its batches never end here, which spares it
    the evaluation after an epoch; numba, which compiles that evaluation, is replaced by an empty module.
    """
    import importlib
    import threading

    import torch

    assert case.folder is not None
    sys.path.insert(0, str(case.folder.resolve()))
    os.chdir(tempfile.mkdtemp())  # it writes a log folder
    for kind in (torch.Tensor, torch.nn.Module):
        kind.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
    sys.modules["numba"] = types.ModuleType("numba")
    sys.modules["numba"].jit = lambda *_, **__: lambda function: function  # type: ignore[attr-defined]
    module: Any = importlib.import_module("model.graph.LightGCN")
    settings = {
        "model": {"name": "LightGCN", "type": "graph"}, "LightGCN": {"n_layer": case.layers}, "output": "./results/",
        "item.ranking.topN": [20], "embedding.size": case.dim, "batch.size": case.batch, "max.epoch": 1,
        "learning.rate": 1e-3, "reg.lambda": REG,
    }  # fmt: skip
    rows = [[f"u{u}", f"i{i}", 1.0] for u, i in zip(case.users.tolist(), case.items.tolist(), strict=True)]
    model = module.LightGCN(settings, rows, rows[:100])
    begin, done = threading.Semaphore(0), threading.Semaphore(0)
    batches = module.next_batch_pairwise

    def one_by_one(*args: Any) -> Iterator[Any]:
        begin.acquire()
        for batch in itertools.chain.from_iterable(batches(*args) for _ in itertools.count()):
            yield batch
            done.release()
            begin.acquire()

    module.next_batch_pairwise = one_by_one
    failed: list[Exception] = []

    def train() -> None:
        try:
            torch.set_num_threads(1)
            model.train()
        except Exception as error:
            failed.append(error)
            done.release()

    threading.Thread(target=train, daemon=True).start()

    def step() -> None:
        begin.release()
        done.acquire()
        if failed:
            raise failed[0]

    return step


PEERS: dict[str, Callable[[Case], Step]] = {
    "symcere": symcere,
    "symcere-full": symcere_full,
    "symcere-all": lambda case: symcere_full(case, settings={"objective.ranking.candidates": "all"}),
    "symcere-batch": lambda case: symcere_full(case, settings={"objective.ranking.candidates": "batch"}),
    "symcere-abstract": lambda case: symcere_full(case, "symcere-abstract"),
    "symcere-mf": symcere_mf,
    "pyg-csr": lambda case: pyg(case, True),
    "pyg-edge-index": lambda case: pyg(case, False),
    "recbole": recbole,
    "recbole-first-step": recbole_first_step,
    "cornac": cornac,
    "lightgcn-pytorch": lightgcn_pytorch,
    "selfrec": selfrec,
}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a peer prints is no answer
    name, *rest = sys.argv[1:]
    import torch

    torch.set_num_threads(1)
    try:
        step = PEERS[name](Case(*rest))
        step()
        print(json.dumps({"ready": True}), file=answers, flush=True)
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=answers, flush=True)
        raise
    for line in sys.stdin:
        begin = time.process_time()
        for _ in range(int(line)):
            step()
        print(json.dumps({"seconds": time.process_time() - begin}), file=answers, flush=True)


if __name__ == "__main__":
    main()
