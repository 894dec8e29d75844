"""Training through Ray: what one process gives, also after workers and nodes are lost."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import assert_same
from clusters import a_cluster

from symcere.config.baselines import baseline
from symcere.data.corpus import Corpus, Entries
from symcere.distributed.train import Desk, _near, fit
from symcere.errors import UserError
from symcere.text import Embeddings
from symcere.training import Checkpoint
from symcere.training import fit as fit_here

SMALL = {"model.dim": 5, "train.precision": "fp64", "train.batch_size": 64, "data.core": 1}


def make(folder: Path, name: str = "corpus") -> tuple[Corpus, Embeddings]:
    rng = np.random.default_rng(3)
    train, val, test = np.split(rng.permutation(50 * 30)[:600], [500, 550])

    def entries(pairs: np.ndarray) -> Entries:
        pairs = np.sort(pairs)
        return Entries(pairs // 30, pairs % 30, ["good"] * len(pairs))

    corpus = Corpus.write(
        folder / name,
        name="tiny",
        user_ids=[f"u{n:04}" for n in range(50)],
        item_ids=[f"i{n:04}" for n in range(30)],
        train=entries(train),
        val=entries(val),
        test=entries(test),
    )
    reviews = rng.normal(size=(corpus.train.nnz, 6)).astype(np.float16)
    (folder / "embeddings").mkdir()
    np.save(folder / "embeddings" / "reviews.npy", reviews)
    return corpus, Embeddings(folder / "embeddings", reviews, [("test", 6)], corpus.fingerprint, "0" * 16)


def workers_of(driver: int) -> list[int]:
    """Processes of the training workers among the descendants of a process."""
    parents, names = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                names[int(folder.name)] = (folder / "cmdline").read_bytes().decode(errors="replace")

    def descends(pid: int) -> bool:
        while pid in parents:
            pid = parents[pid]
            if pid == driver:
                return True
        return False

    return [pid for pid, name in names.items() if name.startswith("ray::") and "Worker" in name and descends(pid)]


def test_two_workers_train_what_one_does(tmp_path):
    corpus, embeddings = make(tmp_path)
    experiment = baseline("symcere", {**SMALL, "train.epochs": 4, "model.features": "both"})
    alone = fit_here(corpus, embeddings, experiment, path=tmp_path / "alone.pt")
    heard = []
    fitted = fit(
        corpus,
        embeddings,
        experiment,
        path=f"file://{tmp_path}/storage/run/checkpoint.pt",
        workers=2,
        on_epoch=lambda epoch: heard.append(epoch.number),
    )
    assert heard == [1, 2, 3, 4]
    assert_same(alone.checkpoint, fitted.checkpoint)
    assert_same(alone.checkpoint, Checkpoint.load(tmp_path / "storage" / "run" / "checkpoint.pt"))
    users = torch.arange(50)
    torch.testing.assert_close(fitted.scorer.scores(users), alone.scorer.scores(users), rtol=0, atol=1e-9)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_training_with_its_reason(tmp_path):
    corpus, _ = make(tmp_path)
    experiment = baseline("lightgcn", {**SMALL, "train.epochs": 4, "train.lr": 1e200})
    with pytest.raises(UserError, match=r"term 'ranking'.*epoch 1, step"):
        fit(corpus, None, experiment, path=tmp_path / "run" / "checkpoint.pt", workers=2)


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_the_result_is_the_same(tmp_path):
    corpus, _ = make(tmp_path)
    experiment = baseline("lightgcn", {**SMALL, "train.epochs": 60, "train.patience": 1000})
    alone = fit_here(corpus, None, experiment, path=tmp_path / "alone.pt")
    path, before, killed = tmp_path / "run" / "checkpoint.pt", {}, []

    def kill_one(epoch):
        if not killed:
            before[epoch.number] = epoch.seconds
        if epoch.number >= 10 and not killed and path.exists():
            killed.append(workers_of(os.getpid())[-1])
            os.kill(killed[0], signal.SIGKILL)

    fitted = fit(corpus, None, experiment, path=path, workers=2, on_epoch=kill_one, checkpoint_every=0)
    assert killed
    assert_same(alone.checkpoint, fitted.checkpoint)
    again = {e["epoch"]: e["epoch_seconds"] for e in fitted.checkpoint.history}
    assert all(again[n] == before[n] for n in range(1, 6)), "it went on from a checkpoint, not from the start"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_lost_node_is_survived(tmp_path):
    import ray

    corpus, _ = make(tmp_path)
    experiment = baseline("lightgcn", {**SMALL, "train.epochs": 60, "train.patience": 1000})
    alone = fit_here(corpus, None, experiment, path=tmp_path / "alone.pt")
    with a_cluster() as cluster:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(3)]
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, log_to_driver=False)
        lost = []

        def lose_one(epoch):
            if epoch.number >= 10 and not lost:
                # The node of one of the two workers: the one with no CPU left.
                for node in nodes:
                    left = ray._private.state.available_resources_per_node().get(node.node_id, {})
                    if left.get("CPU", 0) < 1:
                        lost.append(node)
                        break
                cluster.remove_node(lost[0], allow_graceful=False)

        path = tmp_path / "run" / "checkpoint.pt"
        fitted = fit(
            corpus,
            None,
            experiment,
            path=path,
            workers=2,
            address="auto",
            on_epoch=lose_one,
            checkpoint_every=0,
            strategy="SPREAD",
        )
        assert lost
        assert_same(alone.checkpoint, fitted.checkpoint)


@pytest.mark.slow
def test_what_a_killed_driver_left_is_gone_on_with(home):
    """One run, from the first worker, whatever happens to it; the resumed one is another, with the same numbers."""
    from symcere import steps, tracking

    corpus, _ = make(home / "corpora", "tiny")
    command = [sys.executable, "-m", "symcere.cli", "train", "tiny", "--baseline", "lightgcn", "--workers", "2"]
    settings = {**SMALL, "train.epochs": 1_000_000, "train.patience": 1_000_000}
    flags = [word for key, value in settings.items() if key != "data.core" for word in (f"--{key}", str(value))]
    driver = subprocess.Popen([*command, *flags, "--storage", str(home / "storage")], stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 400
        while not (found := list((home / "storage").glob("*/checkpoint.pt"))):
            assert driver.poll() is None
            assert time.monotonic() < end
            time.sleep(0.5)
    finally:
        driver.kill()
        driver.wait()
    name, left = found[0].parent.name, Checkpoint.load(found[0]).epoch
    run = steps.train(resume=name, settings={"train.epochs": left + 5})
    assert (run.dataset, run.method, run.epochs) == ("tiny", "lightgcn", left + 5)
    statuses = {r.name: r.status for r in tracking.list_runs("tiny")}
    assert statuses == {name: "FAILED", run.name: "FINISHED"}
    whole = baseline("lightgcn", {**settings, "train.epochs": left + 5})
    assert_same(fit_here(corpus, None, whole, path=home / "alone.pt").checkpoint, Checkpoint.load(run.path))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGINT, 130, "goes on with it.\n"), (signal.SIGTERM, 143, "")],
)
def test_a_signal_ends_all_of_it(home, number, code, said):
    """Ctrl-C as a terminal sends it, to the command and to whatever it started; SIGTERM as `ray job stop` does."""
    from symcere import tracking

    make(home / "corpora", "tiny")
    command = [sys.executable, "-m", "symcere.cli", "train", "tiny", "--baseline", "lightgcn", "--workers", "2"]
    settings = ["--train.epochs", "1000000", "--train.patience", "1000000", "--storage", str(home / "storage")]
    driver = subprocess.Popen([*command, *settings], stderr=subprocess.PIPE, text=True, start_new_session=True)
    end = time.monotonic() + 400
    while not (found := list((home / "storage").glob("*/checkpoint.pt"))):
        assert driver.poll() is None
        assert time.monotonic() < end
        time.sleep(0.5)
    workers = workers_of(driver.pid)
    os.killpg(driver.pid, number) if number == signal.SIGINT else driver.terminate()
    _, err = driver.communicate(timeout=60)
    assert driver.returncode == code
    assert err.endswith(said)
    assert "Traceback" not in err
    assert len(workers) == 2
    for pid in workers:
        while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
            assert time.monotonic() < end
            time.sleep(0.1)
    assert Checkpoint.load(found[0]).epoch > 0
    assert [run.status for run in tracking.list_runs("tiny")] == ["KILLED"]
    assert [p.name for p in found[0].parent.iterdir()] == ["checkpoint.pt"]


def test_a_node_without_the_corpus_fetches_it_from_the_desk(tmp_path, monkeypatch):
    """A folder that is not there is copied under a name that says what it holds; one that is there is used."""
    corpus, _ = make(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "node"))
    (tmp_path / "node").mkdir()

    class Remote:
        """The desk, called as an actor, on a machine where the folder is elsewhere."""

        def __getattr__(self, name):
            def moved(path):
                return getattr(Desk(), name)(tmp_path / "corpus" / path.relative_to("/nowhere/corpus"))

            return type("Method", (), {"remote": staticmethod(moved)})

    monkeypatch.setattr("ray.get", lambda value: value)
    assert _near(corpus.path, corpus.fingerprint, None, True) == corpus.path
    older = tmp_path / "older" / "corpus"
    shutil.copytree(corpus.path, older)
    manifest = json.loads((older / "manifest.json").read_text())
    (older / "manifest.json").write_text(json.dumps({**manifest, "fingerprint": "f" * 64}))
    assert _near(older, "f" * 64, None, True) == older
    with pytest.raises(AttributeError):  # another corpus is under this name: it asks the desk
        _near(older, corpus.fingerprint, None, True)
    copy = Corpus.open(_near(Path("/nowhere/corpus"), corpus.fingerprint, Remote(), True))
    assert copy.path.is_relative_to(tmp_path / "node")
    assert copy.fingerprint == corpus.fingerprint
    assert (copy.train != corpus.train).nnz == 0
    copy.verify()


@pytest.mark.slow
def test_a_driver_that_cannot_go_on_ends_its_workers(tmp_path):
    """A full disk, say, or MLflow gone for good: nobody would see the epochs that they went on with."""
    corpus, _ = make(tmp_path)
    experiment = baseline("lightgcn", {**SMALL, "train.epochs": 100_000, "train.patience": 100_000})

    def full(epoch):
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        fit(corpus, None, experiment, path=tmp_path / "run" / "checkpoint.pt", workers=2, on_epoch=full)
    assert 0 < Checkpoint.load(tmp_path / "run" / "checkpoint.pt").epoch < 50_000
