"""The server of ``cluster/mlflow/server.sh`` on a real PostgreSQL: closed, quiet about its secrets, and missed by none.

Needs Debian's or Ubuntu's postgresql, and the dependency group ``cluster``.
"""

import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from symcere import tracking

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "cluster/mlflow/server.sh"
PASSWORD = "db-pa55word"

pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """The URI of a database ``mlflow`` in a PostgreSQL of its own."""
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    missing = [m for m in ("psycopg", "flask_wtf") if importlib.util.find_spec(m) is None]
    reason = "" if binaries else "needs PostgreSQL (Debian's postgresql)"
    reason = reason or (f"needs {', '.join(missing)} (the dependency group cluster)" if missing else "")
    if reason:
        if os.environ.get("REQUIRE") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="symcere-postgres-", dir="/tmp"))
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []  # PostgreSQL refuses root
    if as_user:
        shutil.chown(folder, "postgres")

    def run(tool: str, *words: str, **options) -> None:
        subprocess.run(
            [*as_user, str(binaries[-1].parent / tool), *words], check=True, cwd=folder, capture_output=True, **options
        )

    port = free_port()
    secret = folder / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0o644)
    run("initdb", "-D", str(folder / "data"), "-U", "mlflow", "--auth=scram-sha-256", f"--pwfile={secret}", "-N")
    options = f"-c listen_addresses=127.0.0.1 -p {port} -k {folder} -c fsync=off"
    run("pg_ctl", "-D", str(folder / "data"), "-w", "-l", str(folder / "log"), "-o", options, "start")
    try:
        uri = f"postgresql://mlflow:{PASSWORD}@127.0.0.1:{port}"
        run(
            "createdb",
            "-h",
            str(folder),
            "-p",
            str(port),
            "-U",
            "mlflow",
            "mlflow",
            env=os.environ | {"PGPASSWORD": PASSWORD},
        )
        yield f"{uri}/mlflow"
    finally:
        run("pg_ctl", "-D", str(folder / "data"), "-m", "immediate", "stop")
        shutil.rmtree(folder)


class Server:
    """The server, as a user runs it by the script."""

    def __init__(self, folder: Path, database: str):
        self.uri = f"http://127.0.0.1:{(port := free_port())}"
        self.home = folder
        self.environment = {
            k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "SYMCERE_", "PYTEST"))
        } | {
            "HOME": str(folder),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "MLFLOW_DATABASE": database,
            "MLFLOW_ARTIFACTS": str(folder / "artifacts"),
            "MLFLOW_PORT": str(port),
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        self.client = {k: v for k, v in self.environment.items() if not k.startswith("MLFLOW_")} | {
            "MLFLOW_TRACKING_URI": self.uri,
            "SYMCERE_HOME": str(folder / "client"),
        }

    def script(self, word: str) -> str:
        done = subprocess.run(
            ["sh", str(SCRIPT), word],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=150,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.uri}/health", timeout=2).close()
        except OSError:
            return False
        return True

    @contextlib.contextmanager
    def away(self, seconds: float = 30) -> Iterator[None]:
        """The server ends, and comes back after so long; the block begins when nobody answers any more."""
        self.script("stop")
        end = time.monotonic() + 20
        while self.answers():
            assert time.monotonic() < end
            time.sleep(0.2)
        end = time.monotonic() + seconds
        yield
        time.sleep(max(0, end - time.monotonic()))
        assert not self.answers()
        self.script("start")


@pytest.fixture(scope="module")
def server(database, tmp_path_factory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("server"), database)
    subprocess.run(["sh", str(ROOT / "cluster/secrets.sh")], env=made.environment, check=True, capture_output=True)
    made.script("start")
    yield made
    made.script("stop")


def password_of(server: Server) -> str:
    text = (server.home / ".mlflow/credentials").read_text()
    return re.search(r"password = (\w+)", text)[1]


@pytest.fixture
def signed_in(server, monkeypatch) -> None:
    """This process is a client of the server."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "symcere")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password_of(server))


def test_nothing_answers_without_the_password(server):
    request = urllib.request.Request(
        f"{server.uri}/api/2.0/mlflow/experiments/search?max_results=1", headers={"Host": "127.0.0.1"}
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)
    assert refused.value.code == 401


def test_it_listens_on_loopback_alone(server):
    port = int(server.uri.rpartition(":")[2])
    listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if " 0A " in line]
    assert [at for at in listening if int(at.partition(":")[2], 16) == port] == [f"0100007F:{port:04X}"]


def test_secrets_show_neither_in_processes_nor_in_logs(server):
    shown = "\n".join(
        file.read_text(errors="replace").replace("\0", " ")
        for file in Path("/proc").glob("[0-9]*/cmdline")
        if file.exists()
    )
    shown += (server.home / ".mlflow/server/server.log").read_text(errors="replace")
    assert "mlflow" in shown
    assert PASSWORD not in shown
    assert password_of(server) not in shown
    for file in (server.home / ".mlflow/server").iterdir():
        assert file.stat().st_mode & 0o077 == 0, file


WRITER = """
import sys, time
import numpy as np
from symcere import tracking
number = int(sys.argv[1])
with tracking.start_run("sweep", f"trial{number}", {"lr": number}) as run:
    for epoch in range(40):
        run.log_metrics({"loss": 1 / (1 + epoch), "val_ndcg_at_10": number + epoch / 100}, step=epoch)
        time.sleep(0.5)
    run.log_table({"user": [1, 2], "ndcg": np.array([0.5, 0.25])}, "per_user.parquet")
    print(run.name)
"""


def test_a_server_away_for_30_seconds_costs_no_figure_of_a_training(server, signed_in):
    """Four runs are written epoch by epoch; in the middle the server ends, and comes back 30 s later."""
    trials = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(number)],
            env=server.client,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]

    def epochs() -> list[int]:
        runs = tracking.list_runs("sweep", server.uri)
        return [round(run.metrics.get("val_ndcg_at_10", 0) * 100) % 100 for run in runs]

    end = time.monotonic() + 120
    while len(seen := epochs()) < 4 or min(seen) < 5:
        assert time.monotonic() < end, f"trials did not get going: {seen}"
        time.sleep(1)
    with server.away():
        assert all(trial.poll() is None for trial in trials)  # all are in mid-run
    names = []
    for trial in trials:
        out, err = trial.communicate(timeout=300)
        assert trial.returncode == 0, err
        assert password_of(server) not in out + err
        names.append(out.strip())
    runs = {run.name: run for run in tracking.list_runs("sweep", server.uri)}
    assert set(runs) == set(names)
    for name in names:
        run = runs[name]
        assert run.status == "FINISHED"
        number = int(run.params["lr"])
        history = tracking.client(server.uri).get_metric_history(run.id, "val_ndcg_at_10")
        told = sorted((metric.step, round(metric.value, 6)) for metric in history)
        assert told == [(epoch, round(number + epoch / 100, 6)) for epoch in range(40)]
        assert run.artifact("per_user.parquet").stat().st_size > 0


CARD = """\
title: A few synthetic reviews
platform: synthetic
format: synthetic
licence: free
columns: {users: 600, items: 200}
data: {core: 3}
"""

SWEEP = """\
datasets: [few]
methods: {mf-bpr: {}, lightgcn: {}}
settings: {train.epochs: 300, train.patience: 100000}
space: {train.lr: {loguniform: [1.0e-3, 1.0e-1]}}
trials: 6
seeds: 1
sampler: {kind: random}
stopping: {kind: none}
resources: {cpu: 0.5}
"""


def test_a_server_away_for_30_seconds_costs_no_trial_of_a_sweep(server, signed_in, tmp_path):
    """`symcere sweep`, four trials at once on two cores; the server is away while some of them end."""
    (tmp_path / "few.yaml").write_text(CARD)
    (tmp_path / "four.yaml").write_text(SWEEP)
    command = [sys.executable, "-m", "symcere.cli"]
    quick = {"env": server.client | {"OMP_NUM_THREADS": "1"}, "cwd": ROOT}
    subprocess.run([*command, "prepare", str(tmp_path / "few.yaml")], check=True, capture_output=True, **quick)
    folder = Path(server.client["SYMCERE_HOME"]) / "sweeps/four/trials"

    def recorded() -> set[Path]:
        return set(folder.rglob("run"))

    with (tmp_path / "log").open("w+") as log:
        sweep = subprocess.Popen(
            [*command, "sweep", str(tmp_path / "four.yaml")], stdout=log, stderr=log, start_new_session=True, **quick
        )
        try:
            end = time.monotonic() + 180
            while len(recorded()) < 2:
                assert sweep.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < end, "no trial ended"
                time.sleep(0.2)
            with server.away():
                left, before = time.time(), recorded()
                assert len(before) < 12
                time.sleep(29)
                back = time.time()
                assert recorded() == before
            assert sweep.wait(300) == 0, (tmp_path / "log").read_text()
        finally:
            with contextlib.suppress(ProcessLookupError):  # with the Ray that it started
                os.killpg(sweep.pid, signal.SIGKILL)
            sweep.wait()
        assert password_of(server) not in (tmp_path / "log").read_text()

    outcomes = {str(p.parent.relative_to(folder)): json.loads(p.read_text()) for p in folder.rglob("outcome.json")}
    assert len(outcomes) == 12
    assert any(left < one["ended"] < back for one in outcomes.values())  # the search went on
    every = outcomes.values()
    at_once = [sum(one["started"] <= begun["started"] < one["ended"] for one in every) for begun in every]
    assert max(at_once) >= 4
    runs = tracking.list_runs("four", server.uri)
    assert {run.status for run in runs} == {"FINISHED"}
    assert sorted(run.tags["symcere.role"] for run in runs) == ["dataset", "final", "final", *["trial"] * 12]
    assert {run.tags["symcere.trial"] for run in runs if run.tags["symcere.role"] == "trial"} == set(outcomes)
    store = tracking.client(server.uri)
    for run in runs:
        if run.tags["symcere.role"] == "final":
            assert "test_ndcg_at_10" in run.metrics
        if run.tags["symcere.role"] != "trial":
            continue
        history = outcomes[run.tags["symcere.trial"]]["history"]
        assert [figures["epoch"] for figures in history] == list(range(1, 301))
        assert {"loss", "val_ndcg_at_10"} <= history[-1].keys()
        for name in history[-1].keys() - {"epoch"}:
            told = sorted((metric.step, metric.value) for metric in store.get_metric_history(run.id, name))
            assert told == [(figures["epoch"], figures[name]) for figures in history], (run.name, name)


def test_doctor_finds_the_server_in_order(server):
    words = [sys.executable, "-m", "symcere.cli", "doctor", "--text.encoders", "lsa"]
    done = subprocess.run(words, env=server.client, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"ok    MLflow: {server.uri} takes runs and files" in done.stdout
    wrong = server.client | {"MLFLOW_TRACKING_USERNAME": "symcere", "MLFLOW_TRACKING_PASSWORD": "wrong"}
    done = subprocess.run(words, env=wrong, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "FAIL  MLflow" in done.stdout
