"""Checkpoints on an S3 server: what training writes and reads there, and what is said where it cannot."""

import http.server
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cases import assert_same

from symcere import storage
from symcere.config.baselines import baseline
from symcere.data.corpus import Corpus, Entries
from symcere.errors import UserError
from symcere.training import Checkpoint, fit

SMALL = {"model.dim": 5, "train.precision": "fp64", "train.batch_size": 64, "data.core": 1}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of an S3 server with one bucket, ``bucket``."""
    moto = pytest.importorskip("moto.server", reason="moto, the S3 server of the tests, is not installed")
    from pyarrow.fs import S3FileSystem

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    S3FileSystem(
        access_key="key", secret_key="secret", endpoint_override=f"http://{host}:{port}", allow_bucket_creation=True
    ).create_dir("bucket")
    yield f"{host}:{port}"
    running.stop()


@pytest.fixture
def anyone(monkeypatch) -> None:
    """Credentials that the server takes, and no others that this machine may have."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def bucket(server, anyone, tmp_path, monkeypatch) -> str:
    """A folder of its own in the bucket."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{server}")
    return f"s3://bucket/{tmp_path.name}"


def make(path: Path) -> Corpus:
    rng = np.random.default_rng(3)
    train, val, test = np.split(rng.permutation(50 * 30)[:600], [500, 550])

    def entries(pairs: np.ndarray) -> Entries:
        pairs = np.sort(pairs)
        return Entries(pairs // 30, pairs % 30, ["good"] * len(pairs))

    ids = {"user_ids": [f"u{n:04}" for n in range(50)], "item_ids": [f"i{n:04}" for n in range(30)]}
    return Corpus.write(path, name="tiny", **ids, train=entries(train), val=entries(val), test=entries(test))


def keys(folder: str) -> list[str]:
    """Names of the files under a folder."""
    from pyarrow.fs import FileSelector

    with storage.opened(folder) as (system, path):
        found = system.get_file_info(FileSelector(path, recursive=True, allow_not_found=True))
    return sorted(info.path.removeprefix(f"{path}/") for info in found if info.is_file)


# ---------------------------------------------------------------- files


def test_a_file_is_there_whole_or_not_at_all(bucket):
    file = storage.within(bucket, "run", "file")
    assert not storage.exists(file)
    for content in (b"one", os.urandom(11_000_000)):  # the second one goes up in parts
        storage.put(file, content)
        assert storage.exists(file)
        assert storage.get(file) == content
    assert keys(bucket) == ["run/file"]
    storage.check(bucket)
    assert keys(bucket) == ["run/file"]
    storage.remove(storage.within(bucket, "run"))
    storage.remove(storage.within(bucket, "run"))  # gone already
    assert keys(bucket) == []


def test_nodes_see_what_others_wrote(bucket):
    from symcere.distributed.nodes import write_to

    folder = storage.within(bucket, ".doctor")
    assert write_to(folder, "node-0") == ""
    assert write_to(folder, "node-1", ["node-0"]) == ""
    assert "not shared" in write_to(storage.within(bucket, "elsewhere"), "node-2", ["node-0"])
    storage.remove(folder)
    assert keys(bucket) == ["elsewhere/node-2"]


def test_an_endpoint_in_the_address_stays_behind_the_path(server, anyone, tmp_path):
    folder = f"s3://bucket/{tmp_path.name}/?endpoint_override={server}&scheme=http"
    file = storage.within(folder, "run", "file")
    assert file == f"s3://bucket/{tmp_path.name}/run/file?endpoint_override={server}&scheme=http"
    assert storage.parent(file) == f"s3://bucket/{tmp_path.name}/run?endpoint_override={server}&scheme=http"
    storage.put(file, b"one")
    assert storage.get(file) == b"one"
    assert keys(folder) == ["run/file"]


def test_an_interrupted_run_goes_on_from_s3(bucket, tmp_path):
    corpus = make(tmp_path / "corpus")
    experiment = baseline("lightgcn", {**SMALL, "train.epochs": 6})
    alone = fit(corpus, None, experiment, path=tmp_path / "alone.pt")
    path = storage.within(bucket, "run", "checkpoint.pt")

    def stop(epoch):
        if epoch.number == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(corpus, None, experiment, path=path, on_epoch=stop, checkpoint_every=0)
    assert Checkpoint.load(path).epoch == 3
    assert keys(bucket) == ["run/checkpoint.pt"]
    assert_same(alone.checkpoint, fit(corpus, None, experiment, path=path, resume=True).checkpoint)
    assert_same(alone.checkpoint, Checkpoint.load(path))


def test_what_is_no_checkpoint_is_refused(bucket):
    path = storage.within(bucket, "checkpoint.pt")
    with pytest.raises(UserError, match="no checkpoint at s3://bucket/"):
        Checkpoint.load(path)
    storage.put(path, b"half")
    with pytest.raises(UserError, match="damaged"):
        Checkpoint.load(path)


# ---------------------------------------------------------------- training together


@pytest.mark.slow
def test_a_killed_worker_is_replaced_from_s3(bucket, tmp_path):
    from symcere.distributed.train import fit as fit_together

    corpus = make(tmp_path / "corpus")
    experiment = baseline("lightgcn", {**SMALL, "train.epochs": 60, "train.patience": 1000})
    alone = fit(corpus, None, experiment, path=tmp_path / "alone.pt")
    path, killed = storage.within(bucket, "run", "checkpoint.pt"), []

    def kill_one(epoch):
        if epoch.number >= 10 and not killed and storage.exists(path):
            listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True).stdout
            found = [line.split(None, 2) for line in listed.splitlines()[1:]]
            above = {int(pid): int(parent) for pid, parent, _ in found}

            def ours(pid: int) -> bool:
                while pid in above and pid != os.getpid():
                    pid = above[pid]
                return pid == os.getpid()

            workers = [int(pid) for pid, _, name in found if name.startswith("ray::") and "Worker" in name]
            killed.append(next(pid for pid in workers if ours(pid)))
            os.kill(killed[0], signal.SIGKILL)

    fitted = fit_together(corpus, None, experiment, path=path, workers=2, on_epoch=kill_one, checkpoint_every=0)
    assert killed
    assert_same(alone.checkpoint, fitted.checkpoint)
    assert keys(bucket) == ["run/checkpoint.pt"], "nothing of Ray's stays"


@pytest.mark.slow
def test_a_killed_command_is_gone_on_with_from_s3(bucket, home, tmp_path):
    """By the commands a person would give, the second one by as many workers."""
    corpus = make(home / "corpora" / "tiny")
    settings = {**SMALL, "train.epochs": 1_000_000, "train.patience": 1_000_000}
    flags = [word for key, value in settings.items() if key != "data.core" for word in (f"--{key}", str(value))]
    command = [sys.executable, "-m", "symcere.cli", "train"]
    together = ["--workers", "2", "--storage", bucket]
    driver = subprocess.Popen([*command, "tiny", "--baseline", "lightgcn", *together, *flags])
    try:
        end = time.monotonic() + 300
        while not (found := [key for key in keys(bucket) if key.endswith("checkpoint.pt")]):
            assert driver.poll() is None
            assert time.monotonic() < end
            time.sleep(0.5)
    finally:
        driver.kill()
        driver.wait()
    name = found[0].partition("/")[0]
    left = Checkpoint.load(storage.within(bucket, found[0])).epoch
    more = subprocess.run(
        [*command, "--resume", name, *together, "--train.epochs", str(left + 5)], capture_output=True, text=True
    )
    assert more.returncode == 0, more.stderr
    whole = baseline("lightgcn", {**settings, "train.epochs": left + 5})
    (resumed,) = [key for key in keys(bucket) if key.endswith("checkpoint.pt") and not key.startswith(f"{name}/")]
    state = Checkpoint.load(storage.within(bucket, resumed))
    assert_same(fit(corpus, None, whole, path=home / "alone.pt").checkpoint, state)
    assert_same(state, Checkpoint.load(home / "runs" / resumed))


# ---------------------------------------------------------------- what is said where it cannot be used


class Refusing(http.server.BaseHTTPRequestHandler):
    """S3's answer to who may not."""

    def do_GET(self) -> None:
        self.send_response(403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_PUT = do_POST = do_GET  # noqa: N815

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def refusing() -> Iterator[str]:
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()


@pytest.fixture
def silent() -> Iterator[str]:
    """Takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_a_bucket_that_is_not_there(bucket):
    with pytest.raises(UserError, match=r"the storage s3://nowhere/x.*'nowhere' not found.*AWS_ENDPOINT_URL"):
        storage.check("s3://nowhere/x")


@pytest.mark.parametrize("credentials", ["wrong", "none"])
def test_who_may_not(refusing, anyone, monkeypatch, credentials):
    monkeypatch.setenv("AWS_ENDPOINT_URL", refusing)
    if credentials == "none":
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(UserError, match=r"ACCESS_DENIED.*may this machine write to it \(AWS_ACCESS_KEY_ID"):
        storage.check("s3://bucket/x")


@pytest.mark.parametrize("where", ["closed", pytest.param("silent", marks=pytest.mark.slow)])
def test_a_server_that_does_not_answer(silent, anyone, monkeypatch, home, where):
    """The command ends in its own time, before there is a run."""
    make(home / "corpora" / "tiny")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9" if where == "closed" else silent)
    began = time.monotonic()
    told = subprocess.run(
        [sys.executable, "-m", "symcere.cli", "train", "tiny", "--storage", "s3://bucket/x", "--workers", "2"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert told.returncode == 2, told.stderr
    assert "Cannot use the storage s3://bucket/x" in told.stderr
    assert "NETWORK_CONNECTION" in told.stderr
    assert time.monotonic() - began < 90
    assert not (home / "runs").exists()


@pytest.mark.parametrize("address", ["s3://key:hunter2@bucket/x", "s3://bucket/x?access_key=a&secret_key=hunter2"])
def test_a_credential_in_the_address_is_refused(home, address):
    from symcere import steps

    with pytest.raises(UserError, match=r"holds a credential.*AWS_SECRET_ACCESS_KEY") as caught:
        steps.train("tiny", storage=address)
    assert "hunter2" not in str(caught.value)


def test_a_strange_address_and_a_folder_that_cannot_be_written(home, tmp_path):
    from symcere import steps

    make(home / "corpora" / "tiny")
    for address in ("s4://bucket/x", "s3://", "/proc/nowhere"):
        with pytest.raises(UserError, match="Cannot use the storage"):
            steps.train("tiny", storage=address)
