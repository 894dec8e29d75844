"""Runs are complete, end truthfully, and are found again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from symcere import tracking
from symcere.errors import UserError
from symcere.tracking import process
from symcere.tracking.runs import Terminated
from symcere.tracking.tag import ERROR, HOST, PROCESS


@pytest.fixture(scope="module")
def uri(tmp_path_factory) -> str:
    """One store for the module: making its tables costs a second."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYMCERE_HOME", str(home))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield tracking.tracking_uri()


def get(uri: str, tracker: tracking.Tracker) -> tracking.StoredRun:
    return tracking.find_run(tracker.run_id, uri)


def script(uri: str, body: str) -> subprocess.Popen:
    """A process of its own that runs ``body`` with tracking imported, its output in a pipe."""
    code = f"import os, sys, time, signal\nfrom symcere import tracking\nURI = {uri!r}\n{body}"
    environment = {**os.environ, "SYMCERE_HOME": str(Path(uri.removeprefix("sqlite:///")).parent)}
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


RUN_UNTIL_KILLED = """
with tracking.start_run("kills", "hotels-symcere", uri=URI) as run:
    print(run.run_id, flush=True)
    time.sleep(60)
"""


def test_a_run_holds_what_was_logged(uri):
    import matplotlib.figure

    params = {"train.lr": 1e-3, "long": "x" * 7000, "source": "https://ann:pw@host/a?token=abc&b=1"}
    with tracking.start_run("hotels", "hotels-symcere", params, {"corpus.fingerprint": "f00d"}, uri=uri) as run:
        for epoch in range(3):
            run.log_metrics({"loss": 1.0 / (epoch + 1), "val_ndcg_at_10": 0.1 * epoch}, step=epoch)
        run.log_metrics({"test_ndcg_at_10": 0.25})
        run.log_text("train: {lr: 0.001}\n", "experiment.yaml")
        run.log_table({"user": np.arange(3), "ndcg_at_10": np.array([0.0, 0.5, 1.0])}, "figures/per_user.parquet")
        figure = matplotlib.figure.Figure()
        figure.subplots().plot([1, 2])
        run.log_figure(figure, "figures/curve.png")
        assert get(uri, run).status == "RUNNING"

    stored = get(uri, run)
    assert stored.status == "FINISHED"
    assert stored.experiment == "hotels"
    assert stored.params["train.lr"] == "0.001"
    assert len(stored.params["long"]) == 6000
    assert stored.params["long"].endswith("x…")
    assert stored.params["source"] == "https://***@host/a?token=***&b=1"
    assert stored.metrics == {"loss": 1 / 3, "val_ndcg_at_10": 0.2, "test_ndcg_at_10": 0.25}
    history = tracking.client(uri).get_metric_history(run.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert stored.tags["corpus.fingerprint"] == "f00d"
    assert stored.tags["symcere.version"]
    assert ERROR not in stored.tags
    assert stored.artifact("experiment.yaml").read_text() == "train: {lr: 0.001}\n"
    assert pq.read_table(stored.artifact("figures/per_user.parquet")).to_pydict() == {
        "user": [0, 1, 2],
        "ndcg_at_10": [0.0, 0.5, 1.0],
    }
    assert stored.artifact("figures/curve.png").read_bytes()[:4] == b"\x89PNG"


def test_the_store_lies_in_the_home(uri, tmp_path):
    home = Path(uri.removeprefix("sqlite:///")).parent
    with tracking.start_run("place", "a", uri=uri) as run:
        run.log_text("x", "note.txt")
    assert (home / "mlflow.db").is_file()
    assert (home / "artifacts") in get(uri, run).artifact("note.txt").parents


def test_a_variable_names_another_store(home, monkeypatch):
    assert tracking.tracking_uri() == f"sqlite:///{home}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://10.0.0.1:5000")
    assert tracking.tracking_uri() == "http://10.0.0.1:5000"


def test_the_commit_of_the_checkout_is_a_tag(uri):
    root = Path(__file__).parents[2]
    head = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True)
    if head.returncode != 0:
        pytest.skip("not a git checkout")
    from symcere.tracking.runs import source

    source.cache_clear()  # another test may have asked before a commit was made
    with tracking.start_run("hotels", "a", uri=uri) as run:
        pass
    assert get(uri, run).tags["mlflow.source.git.commit"] == head.stdout.strip()


def test_many_parameters_and_metrics_need_several_batches(uri):
    with tracking.start_run("many", "a", {f"p{n}": n for n in range(250)}, uri=uri) as run:
        run.log_metrics({f"m{n}": n for n in range(1500)})
    stored = get(uri, run)
    assert stored.params == {f"p{n}": str(n) for n in range(250)}
    assert stored.metrics == {f"m{n}": float(n) for n in range(1500)}


# ---------------------------------------------------------------- what waits


def epochs_of(uri, run_id):
    return [(m.step, m.value) for m in tracking.client(uri).get_metric_history(run_id, "loss")]


@pytest.fixture
def requests(uri, monkeypatch):
    """How many metrics each request to the store held."""
    store, sizes = tracking.client(uri), []
    log_batch = store.log_batch

    def counted(*args, metrics=(), **others):
        sizes.extend([len(metrics)] * bool(metrics))
        return log_batch(*args, metrics=metrics, **others)

    monkeypatch.setattr(store, "log_batch", counted)
    return sizes


def test_epochs_wait_for_each_other_and_the_end_stores_them(uri, requests):
    with tracking.start_run("waits", "a", uri=uri) as run:
        for epoch in range(50):
            run.log_epoch({"loss": epoch}, step=epoch)
        run.log_metrics({"test_ndcg_at_10": 0.5}, step=49)
        assert len(epochs_of(uri, run.run_id)) == 50  # what is logged at once comes after what waited
        run.log_epoch({"loss": 50}, step=50)
    assert epochs_of(uri, run.run_id) == [(n, float(n)) for n in range(51)]
    assert sum(requests) == 52
    assert len(requests) < 10


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_exception_loses_no_epoch(uri, error):
    def train(run):
        for epoch in range(3):
            run.log_epoch({"loss": epoch}, step=epoch)
        raise error

    with pytest.raises(error), tracking.start_run("waits", "a", uri=uri) as run:
        train(run)
    assert epochs_of(uri, run.run_id) == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert get(uri, run).status in ("FAILED", "KILLED")


def test_an_epoch_is_stored_though_no_other_follows(uri, monkeypatch):
    monkeypatch.setattr("symcere.tracking.runs.DELAY", 0.05)
    with tracking.start_run("waits", "a", uri=uri) as run:
        run.log_epoch({"loss": 1.0}, step=1)
        until = time.monotonic() + 20
        while not epochs_of(uri, run.run_id) and time.monotonic() < until:
            time.sleep(0.02)
        assert epochs_of(uri, run.run_id) == [(1, 1.0)]


def test_a_store_that_refuses_is_told_and_nothing_is_dropped(uri, monkeypatch):
    monkeypatch.setattr("symcere.tracking.runs.DELAY", 0.01)
    with tracking.start_run("waits", "a", uri=uri) as run:
        with monkeypatch.context() as away:
            away.setattr(run.store, "log_batch", lambda *_, **__: 1 / 0)
            run.log_epoch({"loss": 1.0}, step=1)
            until = time.monotonic() + 20
            while run._trouble is None and time.monotonic() < until:
                time.sleep(0.01)
            with pytest.raises(ZeroDivisionError):
                run.log_epoch({}, step=1)
        run.log_epoch({"loss": 2.0}, step=2)
    assert epochs_of(uri, run.run_id) == [(1, 1.0), (2, 2.0)]


# ---------------------------------------------------------------- ends


def test_an_exception_ends_the_run_as_failed(uri):
    with (
        pytest.raises(ZeroDivisionError),
        tracking.start_run("ends", "a", uri=uri) as run,
    ):
        _ = 1 / 0
    stored = get(uri, run)
    assert stored.status == "FAILED"
    assert stored.tags[ERROR] == "ZeroDivisionError: division by zero"
    assert "ZeroDivisionError" in stored.artifact("traceback.txt").read_text()


def test_the_error_text_is_cut_and_masked(uri):
    text = "cannot read s3://key:secret@bucket/x " + "y" * 9000
    with pytest.raises(UserError), tracking.start_run("ends", "a", uri=uri) as run:
        raise UserError(text)
    error = get(uri, run).tags[ERROR]
    assert error.startswith("UserError: cannot read s3://***@bucket/x yyy")
    assert len(error) == 5000


@pytest.mark.parametrize(
    ("error", "reason"),
    [(KeyboardInterrupt(), "stopped by Ctrl-C"), (Terminated(128 + signal.SIGTERM), "stopped by signal 15")],
)
def test_an_interruption_ends_the_run_as_killed(uri, error, reason):
    with pytest.raises(type(error)), tracking.start_run("ends", "a", uri=uri) as run:
        raise error
    stored = get(uri, run)
    assert (stored.status, stored.tags[ERROR]) == ("KILLED", reason)


def test_a_store_that_fails_does_not_hide_the_first_error(uri, monkeypatch, capsys):
    def refuse(*_):
        raise OSError("disk full")

    monkeypatch.setattr(tracking.Tracker, "end", refuse)
    with pytest.raises(ZeroDivisionError), tracking.start_run("ends", "a", uri=uri) as run:
        _ = 1 / 0
    monkeypatch.undo()
    tracking.attach(run.run_id, uri).end("FAILED")
    assert f"{run.name} could not be marked as ended: disk full" in capsys.readouterr().err


def test_signals_keep_the_handlers_of_others(uri):
    mine = lambda *_: None  # noqa: E731
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a Ray of this process may have left its own
    try:
        with tracking.start_run("ends", "a", uri=uri):
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        signal.signal(signal.SIGTERM, mine)
        with tracking.start_run("ends", "a", uri=uri):
            assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


def test_real_signals_end_a_run(uri):
    """SIGTERM ends it at once; after SIGKILL the next start finds it and says that its process died."""
    terminated, killed = script(uri, RUN_UNTIL_KILLED), script(uri, RUN_UNTIL_KILLED)
    ids = [child.stdout.readline().strip() for child in (terminated, killed)]
    assert [tracking.find_run(i, uri).status for i in ids] == ["RUNNING", "RUNNING"]
    terminated.send_signal(signal.SIGTERM)
    killed.kill()
    assert terminated.wait(timeout=30) == 128 + signal.SIGTERM
    killed.wait(timeout=30)

    first = tracking.find_run(ids[0], uri)
    assert (first.status, first.tags[ERROR]) == ("KILLED", "stopped by signal 15")
    assert tracking.find_run(ids[1], uri).status == "RUNNING"
    with tracking.start_run("kills", "another", uri=uri) as run:
        assert get(uri, run).status == "RUNNING"  # itself is alive
        second = tracking.find_run(ids[1], uri)
        assert (second.status, second.tags[ERROR]) == ("FAILED", "its process died")


def test_reap_leaves_other_hosts_alone(uri):
    store = tracking.client(uri)
    number = store.create_experiment("elsewhere", artifact_location="file:///tmp")
    tags = {HOST: "another-machine", PROCESS: "1@never"}
    there = store.create_run(number, tags=tags).info.run_id
    here = store.create_run(number, tags={**tags, HOST: process.host()}).info.run_id
    assert here in tracking.reap(uri)
    assert tracking.find_run(there, uri).status == "RUNNING"
    assert tracking.find_run(here, uri).status == "FAILED"
    store.set_terminated(there)


def test_process_identity():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    known = process.identity(child.pid)
    assert known.startswith(f"{child.pid}@")
    assert process.alive(known)
    assert not process.alive(known + "1")  # the same id, started at another time
    child.kill()
    deadline = time.time() + 10
    while process.alive(known) and time.time() < deadline:  # not waited for: a zombie counts as dead
        time.sleep(0.01)
    assert not process.alive(known)
    child.communicate()
    assert not process.alive(known)
    assert not process.alive("")
    assert not process.alive("nonsense@x")


# ---------------------------------------------------------------- several processes


def test_four_processes_log_to_one_new_store(uri, tmp_path):
    """Nobody loses a race for the tables, the experiment or the file's lock; children carry their parent."""
    fresh = f"sqlite:///{tmp_path}/home/mlflow.db"
    body = """
with tracking.start_run("shared", f"trial{sys.argv[0]}", parent="0" * 32, uri=URI) as run:
    for epoch in range(40):
        run.log_metrics({"loss": epoch, "val_ndcg_at_10": epoch / 40}, step=epoch)
"""
    children = [script(fresh, body) for _ in range(4)]
    for child in children:
        assert child.communicate(timeout=120) == ("", "")  # MLflow's links and notes on migrations are silenced
        assert child.returncode == 0
    runs = tracking.list_runs("shared", fresh)
    assert [r.status for r in runs] == ["FINISHED"] * 4
    assert len({r.name for r in runs}) == 4
    for run in runs:
        history = tracking.client(fresh).get_metric_history(run.id, "loss")
        assert [m.step for m in history] == list(range(40))
        assert run.tags["mlflow.parentRunId"] == "0" * 32


def test_another_tracker_attaches_to_a_run(uri):
    with tracking.start_run("shared", "a", uri=uri) as run:
        other = tracking.attach(run.run_id, uri)
        assert other.name == run.name
        other.log_metrics({"m": 2.0}, step=7)
        assert get(uri, run).status == "RUNNING"
    assert get(uri, run).metrics == {"m": 2.0}


# ---------------------------------------------------------------- finding


def test_a_run_is_found_by_id_and_by_name(uri):
    with tracking.start_run("hotels", "hotels-bpr", uri=uri) as run:
        pass
    assert run.name.startswith("hotels-bpr-")
    assert len(run.name) == len("hotels-bpr-3f2a")
    assert tracking.find_run(run.run_id, uri) == tracking.find_run(run.name, uri)
    assert tracking.find_run(run.name, uri).id == run.run_id


def test_a_checkpoint_is_found_by_path(tmp_path):
    file = tmp_path / "best.pt"
    file.touch()
    found = tracking.find_run(str(file))
    assert (found.id, found.name, found.path) == ("", "best", file)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.pt").touch()
    assert tracking.find_run(tmp_path / "run").path == tmp_path / "run"


def test_a_folder_called_like_a_run_is_no_run(uri, tmp_path, monkeypatch):
    """As that of its export."""
    with tracking.start_run("hotels", "hotels", uri=uri) as run:
        pass
    monkeypatch.chdir(tmp_path)
    (tmp_path / run.name).mkdir()
    assert tracking.find_run(run.name, uri).id == run.run_id
    with pytest.raises(UserError, match="There is no run '\\.'"):
        tracking.find_run(".", uri)


def test_an_unknown_run_names_the_nearest(uri):
    with tracking.start_run("hotels", "hotels-sgl", uri=uri) as run:
        pass
    with pytest.raises(UserError, match=f"no run 'hotels-sgl-'.* Did you mean .*{run.name}"):
        tracking.find_run("hotels-sgl-", uri)
    for odd in ("f" * 32, 'a"b', "x" * 5000):
        with pytest.raises(UserError, match="There is no run"):
            tracking.find_run(odd, uri)


def test_an_ambiguous_name_lists_the_ids(uri):
    store = tracking.client(uri)
    number = store.create_experiment("twins", artifact_location="file:///tmp")
    ids = [store.create_run(number, run_name="twin").info.run_id for _ in range(2)]
    for i in ids:
        store.set_terminated(i)
    with pytest.raises(UserError, match="2 runs are named 'twin'") as caught:
        tracking.find_run("twin", uri)
    assert all(i in str(caught.value) for i in ids)


def test_a_missing_file_of_a_run_is_named(uri):
    with tracking.start_run("hotels", "a", uri=uri) as run:
        pass
    with pytest.raises(UserError, match=r"has no file 'experiment\.yaml'"):
        get(uri, run).artifact("experiment.yaml")


def test_names_do_not_repeat(uri, monkeypatch):
    with tracking.start_run("hotels", "same", uri=uri) as run:
        pass
    digits = iter([run.name[-4:], "beef"])
    monkeypatch.setattr("symcere.tracking.runs.secrets.token_hex", lambda _: next(digits))
    assert tracking.unique_name("same", uri) == "same-beef"


def test_a_deleted_experiment_is_taken_up_again(uri):
    with tracking.start_run("phoenix", "a", uri=uri):
        pass
    store = tracking.client(uri)
    store.delete_experiment(store.get_experiment_by_name("phoenix").experiment_id)
    with tracking.start_run("phoenix", "a", uri=uri) as run:
        pass
    assert get(uri, run).experiment == "phoenix"
