"""Commands as jobs: what is packed, what never travels, how the log is followed, and a real Ray that runs them."""

import asyncio
import contextlib
import itertools
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from symcere.cli import main
from symcere.cli.commands import COMMANDS
from symcere.cli.frame import parse
from symcere.distributed import submit as module
from symcere.distributed.submit import Job, entrypoint, environment, package, submit
from symcere.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SUBMIT = next(command for command in COMMANDS if command.name == "submit")


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True)


@pytest.fixture
def tree(tmp_path) -> Path:
    """A checkout of somebody's own, with data, secrets and leftovers in it."""
    folder = tmp_path / "work"
    for name, text in {
        ".gitignore": "reviews/\n.symcere/\n",
        "cards/shop.yaml": "title: Shop\n",
        "symcere-runs.py": "",
        ".settings": "tracked, hidden",
        "new.yaml": "untracked",
        ".notes": "untracked, hidden",
        ".env": "TOKEN=1",
        "login.pem": "-----",
        "gcp-service-account.json": "{}",
        "client_secret.json": "{}",
        "reviews/big.json": "x" * 1000,
        ".symcere/mlflow.db": "x",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    git(folder, "init", "-q")
    git(folder, "add", "cards", ".settings", ".gitignore", "symcere-runs.py")
    return folder


# ---------------------------------------------------------------- the package


def test_the_package_is_the_working_tree_without_data_and_secrets(tree, tmp_path):
    packed = {str(path) for path in package(tree, tmp_path / "staged")}
    own = {p for p in packed if not p.startswith(("symcere/", "datasets/", "tune/"))}
    assert own == {".settings", "cards/shop.yaml", "new.yaml", "symcere-runs.py"}
    # The code that runs here, and the cards it knows, go along.
    assert {"symcere/cli/__main__.py", "symcere/config/baselines.yaml", "datasets/hotelrec.yaml"} <= packed
    assert not any("__pycache__" in path for path in packed)
    for path in packed:
        assert (tmp_path / "staged" / path).is_file()


def test_what_git_ignores_here_may_be_a_name_of_the_code(tree, tmp_path):
    """Ray would read the file again, and leave symcere's own folders of these names out."""
    (tree / ".gitignore").write_text("data/\ndatasets/\nreviews/\n")
    packed = {str(path) for path in package(tree, tmp_path / "staged")}
    assert {"symcere/data/corpus.py", "datasets/hotelrec.yaml"} <= packed
    assert "reviews/big.json" not in packed
    assert list((tmp_path / "staged").rglob(".gitignore")) == []


def test_a_folder_that_is_no_checkout_is_packed_too(tree, tmp_path):
    subprocess.run(["rm", "-rf", str(tree / ".git")], check=True)
    packed = {str(path) for path in package(tree, tmp_path / "staged")}
    own = {p for p in packed if not p.startswith(("symcere/", "datasets/", "tune/"))}
    assert own == {"cards/shop.yaml", "new.yaml", "symcere-runs.py", "reviews/big.json"}


def test_the_project_itself_is_packed_once(tmp_path):
    packed = package(ROOT, tmp_path / "staged")
    assert Path("symcere/distributed/submit.py") in packed
    assert Path("pyproject.toml") in packed
    assert not any(path.parts[0] in (".venv", ".git", ".symcere") for path in packed)
    done = subprocess.run(
        [sys.executable, "-m", "symcere.cli", "datasets", "--json"],
        cwd=tmp_path / "staged",
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"]},
    )
    assert done.returncode == 0, done.stderr
    assert "hotelrec" in done.stdout


def test_data_in_the_tree_is_named_instead_of_sent(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_BYTES", 2_000_000)
    (tree / "reviews.json").write_bytes(b"x" * 5_000_000)
    with pytest.raises(UserError, match=r"too much .* the largest: reviews\.json \(5 MB\).*\.gitignore"):
        package(tree, tmp_path / "staged")
    assert not (tmp_path / "staged").exists()


def test_files_left_behind_are_said(tree):
    packed = [Path("cards/shop.yaml")]
    words = ["prepare", "cards/shop.yaml", "--source", "reviews/big.json", "--storage", str(tree), "--config=new.yaml"]
    notes = module._left_behind(words, tree, packed)
    assert [note.split(" stays")[0] for note in notes] == ["reviews/big.json", "new.yaml"]


def test_what_would_be_written_to_the_jobs_own_folder_is_said(tree):
    words = [
        "export",
        "run",
        "--out",
        "vectors",
        "--html=page.html",
        "--storage",
        "s3://bucket/x",
        "--out",
        "/shared/v",
    ]
    notes = module._left_behind(words, tree, [])
    assert [note.split(" would")[0] for note in notes] == ["vectors", "page.html"]
    assert notes[0].endswith("give --out an absolute path.")


# ---------------------------------------------------------------- what never travels


def test_credentials_do_not_travel(monkeypatch, tree):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ann:hunter2@mlflow.example")
    with pytest.raises(UserError, match=r"MLFLOW_TRACKING_URI holds a credential.*credentials") as caught:
        environment({})
    assert "hunter2" not in str(caught.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example:5000")
    assert environment({"A": "1"}) == {
        "PYTHONUNBUFFERED": "1",
        "MLFLOW_TRACKING_URI": "http://mlflow.example:5000",
        "A": "1",
    }
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "OPENAI_API_KEY", "GITHUB_TOKENS"):
        with pytest.raises(UserError, match=f"{name} holds a credential"):
            environment({name: "x"})
    with pytest.raises(UserError, match="DB_PASSWORD holds a credential"):
        environment({"DB_PASSWORD": "7"})
    with pytest.raises(UserError, match=r"'s3://\*\*\*@bucket' holds a credential") as caught:
        submit(["train", "x", "--storage", "s3://key:hunter2@bucket"], "http://127.0.0.1:1", folder=tree)
    assert "hunter2" not in str(caught.value)


def test_a_switch_is_no_credential():
    switches = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}
    assert environment(switches) == {"PYTHONUNBUFFERED": "1", **switches}


@pytest.mark.parametrize(
    "uri",
    [
        *("sqlite:////home/ann/mlflow.db", "file:///home/ann", "mlruns", ""),
        *("http://127.0.0.1:5000", "http://localhost:5000/x", "https://[::1]:5000"),
    ],
)
def test_a_store_of_this_machine_is_not_forwarded(monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert environment({}) == {"PYTHONUNBUFFERED": "1"}


def test_the_command_is_quoted_and_has_a_home(tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$SYMCERE_HOME"\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    words = ["train", "it's $HOME; echo x", "--name", "a b"]
    env = {"HOME": "/h", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for there, expected in (({}, "/h/.symcere"), ({"SYMCERE_HOME": "/data"}, "/data")):
        told = subprocess.run(["sh", "-c", entrypoint(words)], env=env | there, capture_output=True, text=True)
        assert told.stdout.splitlines() == [expected, "-m", "symcere.cli", *words]


def test_runs_of_a_job_know_the_commit(monkeypatch):
    from symcere.tracking.runs import source

    source.cache_clear()
    here = source()
    told = module._commit()
    source.cache_clear()
    monkeypatch.setenv("SYMCERE_COMMIT", told.get("SYMCERE_COMMIT", "f00d+changed"))
    there = source()
    source.cache_clear()
    assert there == (here or {"mlflow.source.git.commit": "f00d", "symcere.git_changed": "true"})


# ---------------------------------------------------------------- command line


def test_words_of_the_other_command_pass_untouched():
    line = "sweep tune/paper.yaml --address http://h:8265 --storage s3://b/x --trials 3 --no-wait --env A=1 -k 5"
    args = parse(SUBMIT, shlex.split(line))
    assert args.words == ["sweep", "tune/paper.yaml", "--storage", "s3://b/x", "--trials", "3", "-k", "5"]
    assert (args.address, args.wait, args.env) == ("http://h:8265", False, ["A=1"])
    args = parse(SUBMIT, shlex.split("--cluster c.yaml -- doctor --address auto --json"))
    assert (args.words, args.cluster, args.address) == (["doctor", "--address", "auto", "--json"], "c.yaml", "")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("submit --address http://h:1", "Submit which command?"),
        ("submit tarin shop --address http://h:1", "'tarin' is none of `symcere`. Did you mean train"),
        ("submit submit train --address http://h:1", "Submit which command?"),
        ("submit train shop --objective.rankin.loss bpr --address http://h:1", "Unknown option '--objective.rankin"),
        ("submit ls", "Which cluster?"),
        ("submit ls --address http://h:1 --cluster x.yaml", "Which cluster?"),
        ("submit ls --cluster nowhere.yaml", "There is no cluster file nowhere.yaml"),
        ("submit ls --address http://127.0.0.1:1", "No Ray cluster takes jobs at http://127.0.0.1:1"),
        ("submit ls --address http://h:1 --env A", "--env takes NAME=VALUE, not 'A'"),
        ("submit ls --address http://h:1 --env HF_TOKEN=a", "HF_TOKEN holds a credential"),
    ],
)
def test_slips_are_found_before_anything_is_sent(line, message, capsys, monkeypatch, home):
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    assert main(shlex.split(line)) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_the_exit_code_is_the_command_s(monkeypatch, capsys):
    from symcere import steps

    ended = Job("raysubmit_1", "http://h:1", "FAILED", 7, {"follow": "ray job logs --follow"})
    monkeypatch.setattr(steps, "submit", lambda *_, **__: ended)
    assert main(["submit", "ls", "--address", "http://h:1"]) == 7
    out = capsys.readouterr().out
    assert "failed" in out
    assert "ray job logs" not in out  # of no use any more
    started = Job("raysubmit_1", "http://h:1", "PENDING", 0, {"follow": "ray job logs --follow"})
    monkeypatch.setattr(steps, "submit", lambda *_, **__: started)
    assert main(["submit", "ls", "--address", "http://h:1", "--no-wait"]) == 0
    assert "ray job logs --follow" in capsys.readouterr().out


# ---------------------------------------------------------------- following


class Flaky:
    """A job server whose connection breaks after every few characters of the log."""

    def __init__(self, log: str, cuts: list[int], rest: str = ""):
        self.log, self.cuts, self.rest = log, iter(cuts), rest

    async def tail_job_logs(self, job: str):
        end = next(self.cuts, len(self.log))
        for start in range(0, end, 3):
            yield self.log[start : min(start + 3, end)]
            await asyncio.sleep(0)
        if end < len(self.log):
            raise RuntimeError("WebSocket connection closed unexpectedly")

    def get_job_info(self, job: str):
        return SimpleNamespace(status=SimpleNamespace(is_terminal=lambda: True))

    def get_job_logs(self, job: str) -> str:
        return self.log + self.rest


def test_a_young_cluster_is_asked_again(monkeypatch):
    monkeypatch.setattr(module.time, "sleep", lambda _: None)
    answers = ["No available agent to submit job, please try again later.", "No available agent", "raysubmit_1"]

    class Young:
        def submit_job(self, **job) -> str:
            answer = answers.pop(0)
            if answer.startswith("No"):
                raise RuntimeError(f"Request failed with status code 500: {answer}")
            return answer

    assert module._send(Young(), "http://h:1", entrypoint="x") == "raysubmit_1"
    answers[:] = ["Not today"]
    with pytest.raises(UserError, match="Not today"):
        module._send(Young(), "http://h:1", entrypoint="x")
    assert answers == []


@pytest.mark.parametrize("cuts", [[], [5], [5, 5, 9], [0, 1, 2, 3]])
def test_a_broken_connection_repeats_and_loses_nothing(monkeypatch, cuts):
    monkeypatch.setattr(module.time, "sleep", lambda _: None)
    seen: list[str] = []
    module._follow(Flaky("epoch 1\nepoch 2\nepoch 3\n", cuts, rest="done\n"), "j", seen.append)
    assert "".join(seen) == "epoch 1\nepoch 2\nepoch 3\ndone\n"


def test_a_server_that_is_gone_is_given_up(monkeypatch):
    monkeypatch.setattr(module.time, "sleep", lambda _: None)
    clock = itertools.count(0, 50)
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with pytest.raises(ConnectionError, match="closed unexpectedly"):
        module._follow(Flaky("log", [0] * 99), "j", lambda _: None, patience=120)


# ---------------------------------------------------------------- a real Ray


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@pytest.fixture(scope="module")
def ray_head() -> Iterator[tuple[str, dict[str, str]]]:
    """A Ray of this machine with its job server, which asks for a token; ``(address, environment)`` of its user.

    All its ports and files are its own: another Ray may run beside it.
    """
    folder = Path(tempfile.mkdtemp(prefix="sr-", dir="/tmp"))  # short: it holds sockets
    env = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "SYMCERE_", "MLFLOW_"))} | {
        "HOME": str(folder),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "HF_HUB_OFFLINE": "1",
    }
    subprocess.run(["sh", str(ROOT / "cluster/secrets.sh")], env=env, check=True, capture_output=True)
    gcs, dashboard, agent, clients = free_ports(4)
    options = f"--head --block --num-cpus=2 --port={gcs} --dashboard-port={dashboard} --temp-dir={folder}/t"
    options += f" --dashboard-agent-listen-port={agent} --ray-client-server-port={clients}"
    options += " --min-worker-port=0 --max-worker-port=0 --object-store-memory=100000000"
    log = folder / "log"
    with log.open("w") as out:
        head = subprocess.Popen(
            ["ray", "start", *options.split()],
            env=env,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + 120
        while "Ray runtime started" not in log.read_text():
            assert head.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{dashboard}", env
    finally:
        head.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            head.wait(timeout=30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(head.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def symcere(ray_head, line: str, timeout: float = 240, **env: str) -> subprocess.CompletedProcess:
    address, environ = ray_head
    words = [*shlex.split(line), "--address", address]
    return subprocess.run(
        [sys.executable, "-m", "symcere.cli", *words],
        cwd=ROOT,
        env=environ | env,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def test_a_job_on_a_real_ray(ray_head):
    failed = symcere(ray_head, "submit evaluate nothing-1234")
    assert failed.returncode == 2, failed.stderr  # the command's own
    assert "There is no run 'nothing-1234'" in failed.stdout  # in the home of the job, which is not this one
    assert "ray job logs --follow --address http://127.0.0.1" in failed.stderr
    assert "INFO" not in failed.stderr  # Ray's own chatter


@pytest.mark.slow
def test_doctor_and_training_as_jobs(ray_head, tmp_path):
    trained = symcere(ray_head, "submit train synthetic --baseline lightgcn --train.epochs 2 --name tiny")
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert "test ndcg" in trained.stdout
    asked = symcere(ray_head, f"submit doctor synthetic --storage {tmp_path}/store")
    assert asked.returncode == 0, asked.stdout + asked.stderr
    assert "ok    Ray: 1 node" in asked.stdout
    assert "each node writes" in asked.stdout
    assert list((tmp_path / "store").iterdir()) == []
    unwritable = symcere(ray_head, "submit doctor --storage /proc/nowhere")
    assert unwritable.returncode == 1
    assert "FAIL  storage from nodes" in unwritable.stdout


@pytest.mark.slow
def test_a_wrong_token_is_refused_in_words(ray_head, tmp_path):
    for home in ("none", "wrong"):
        (tmp_path / home / ".ray").mkdir(parents=True)
    (tmp_path / "wrong/.ray/auth_token").write_text("0" * 64)
    for home in ("none", "wrong"):
        done = symcere(ray_head, "submit ls", HOME=str(tmp_path / home), RAY_AUTH_MODE="")
        assert done.returncode == 2
        assert "refuses this machine's token" in " ".join(done.stderr.split())


@pytest.mark.slow
def test_ctrl_c_leaves_the_job_running(ray_head):
    address, env = ray_head
    words = ["submit", "train", "synthetic", "--baseline", "lightgcn", "--train.epochs", "100000", "--address", address]
    words += ["--train.patience", "100000"]
    following = subprocess.Popen(
        [sys.executable, "-m", "symcere.cli", *words],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert following.stderr is not None
    told: list[str] = []
    reading = threading.Thread(target=lambda: told.extend(following.stderr))
    reading.start()
    end = time.monotonic() + 60
    while not any("stop" in line for line in told) and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(3)
    following.send_signal(signal.SIGINT)
    assert following.wait(timeout=60) == 130
    reading.join()
    text = "".join(told)
    assert "The job goes on." in text
    line = {part.split()[0]: part.split(None, 1)[1] for part in text.splitlines() if part.startswith("  ")}
    for name, expected in (("status", ("RUNNING", "PENDING")), ("stop", ("stopped", "STOPPED"))):
        done = subprocess.run(shlex.split(line[name]), env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert any(word in done.stdout + done.stderr for word in expected)
