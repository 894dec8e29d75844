"""Any ``symcere`` command as a Ray job: packs the working tree, submits, streams the log, returns the exit code.

    with reach("ray_cluster.yaml") as address:
        job = submit(["train", "hotels", "--workers", "2"], address)

Only code and declarations travel. Reviews, corpora and results stay where the cluster keeps them (``SYMCERE_HOME`` of
its nodes, ``--storage``), and so do secrets: Ray shows a job's command and environment to everybody who can see its
dashboard, so that credentials in either are refused.
"""

from __future__ import annotations

import asyncio
import fnmatch
import ipaddress
import logging
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import symcere
from symcere.errors import UserError
from symcere.storage import remote
from symcere.tracking import mask, tag

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

MOST_BYTES = 100_000_000
"""A package larger than this holds data: Ray keeps packages in the memory of the head."""

SKIPPED = ("__pycache__", "venv", "build", "dist", "mlruns", "node_modules", "*.egg-info")
"""Folders that are no source, where git does not say so."""

PRIVATE = (
    *(
        ".env",
        ".env.*",
        ".netrc",
        "*.pem",
        "*.key",
        "*.p12",
        "*.pfx",
        "id_rsa*",
        "id_ed25519*",
        "id_ecdsa*",
        "auth_token",
    ),
    *("credentials", "*credential*.json", "*service*account*.json", "client_secret*", "kubeconfig", "*.tfvars"),
)
"""Files that never travel."""

FORWARDED = ("MLFLOW_TRACKING_URI",)
"""Settings of this machine that the job needs as they are here."""

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")

_SECRET_NAME = re.compile(r"token(?!iz)|secret|passw|credential|api_?key|access_?key", re.IGNORECASE)
_SWITCH = re.compile(r"|\d|true|false|yes|no|on|off", re.IGNORECASE)


@dataclass(frozen=True)
class Job:
    """A submitted job.

    Attributes:
        status: Ray's word: ``PENDING`` or ``RUNNING`` (not waited for), ``SUCCEEDED``, ``FAILED``, ``STOPPED``.
        exit_code: that of the command; 0 where it was not waited for.
        commands: Ray's own command lines that follow the log, ask for the status and stop it.
        notes: what the user should know of the package.
    """

    id: str
    address: str
    status: str
    exit_code: int
    commands: dict[str, str]
    notes: tuple[str, ...] = ()

    def summary(self) -> dict[str, Any]:
        """What is printed: facts, and the commands where they are still of use."""
        told = {"job": self.id, "status": self.status.lower(), "exit_code": self.exit_code}
        return told if self.status in ENDED else {**told, **self.commands}


# ---------------------------------------------------------------- the package


def package(folder: Path, into: Path) -> list[Path]:
    """Copies the working tree ``folder`` to ``into``, without what git ignores, hidden untracked files and secrets.
    ``.gitignore`` itself stays behind.

    Where ``folder`` is not symcere's own checkout, the package ``symcere`` that runs here goes along, with its cards
    and sweeps: the cluster runs the very code of this machine.

    Returns:
        the files copied, relative to ``into``.

    Raises:
        UserError: it is larger than :data:`MOST_BYTES`; the largest files are named.
    """
    files = {path: folder / path for path in _working_tree(folder)}
    code = Path(symcere.__file__).parent
    if Path("symcere/__init__.py") not in files:
        for source in (code, code.parent / "datasets", code.parent / "tune"):
            own = source == code or (code.parent / "pyproject.toml").exists()  # else somebody else's `datasets`
            if own and source.is_dir():
                for path in _walk(source):
                    files.setdefault(Path(source.name) / path, source / path)
    sizes = {path: source.stat().st_size for path, source in files.items()}
    if sum(sizes.values()) > MOST_BYTES:
        largest = sorted(sizes, key=lambda path: -sizes[path])[:3]
        told = ", ".join(f"{path} ({sizes[path] / 1e6:.0f} MB)" for path in largest)
        raise UserError(
            f"The working tree {folder} holds {sum(sizes.values()) / 1e6:.0f} MB, too much to send to a cluster with "
            f"every job; the largest: {told}. Name data in .gitignore and keep it on storage that the cluster reads."
        )
    # Git has left out what it ignores; Ray would do it again, in symcere's own folders, too.
    files = {path: source for path, source in files.items() if path.name != ".gitignore"}
    for path, source in files.items():
        (into / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, into / path)
    return sorted(files)


def _working_tree(folder: Path) -> list[Path]:
    """Files below ``folder``, relative to it: as git sees them, or all where it is no checkout."""
    try:
        command = ["git", "-C", str(folder), "ls-files", "-z", "--cached"]
        tracked = subprocess.run(command, capture_output=True, check=True).stdout
        command += ["--others", "--exclude-standard"]
        listed = subprocess.run(command, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return _walk(folder)
    kept = {Path(os.fsdecode(name)) for name in tracked.split(b"\0") if name}
    found = {Path(os.fsdecode(name)) for name in listed.split(b"\0") if name}
    found = {path for path in found if path in kept or not any(part.startswith(".") for part in path.parts)}
    return sorted(p for p in found if (folder / p).is_file() and not _private(p.name))


def _walk(folder: Path) -> list[Path]:
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [
            f for f in folders if not f.startswith(".") and not any(fnmatch.fnmatch(f, pattern) for pattern in SKIPPED)
        ]
        found += [(Path(place) / n).relative_to(folder) for n in names if not n.startswith(".") and not _private(n)]
    return sorted(path for path in found if (folder / path).is_file())


def _private(name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in PRIVATE)


OUTPUTS = ("--out", "--html", "--storage")
"""Options that name what a command writes."""


def _left_behind(words: Sequence[str], folder: Path, packed: Sequence[Path]) -> list[str]:
    """Words of the command that name something here which will not be there, or something there that will not stay."""
    there = {*packed, *(parent for path in packed for parent in path.parents)}
    notes = []
    for word, before in zip(words, ["", *words], strict=False):
        name = word.partition("=")[2] if word.startswith("--") else word
        option = word.partition("=")[0] if word.startswith("--") else before
        if option in OUTPUTS and word != option and not (remote(name) or Path(name).is_absolute()):
            notes.append(f"{name} would go to the job's own folder, which Ray removes: give {option} an absolute path.")
        if option == "--storage":  # shared by all: it is meant to be there
            continue
        path = folder / name
        if name and len(name) < 1000 and path.exists():
            here = path.relative_to(folder) if path.is_relative_to(folder) else path
            if here not in there:
                notes.append(f"{name} stays on this machine; the job needs one of the same path on the cluster.")
    return notes


# ---------------------------------------------------------------- submitting


def entrypoint(words: Sequence[str]) -> str:
    """The job's shell line. A node without a home of its own keeps what is made in ``~/.symcere``, not in the package,
    which Ray deletes."""
    return f'SYMCERE_HOME="${{SYMCERE_HOME:-$HOME/.symcere}}" exec python -m symcere.cli {shlex.join(words)}'


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """The job's environment: what is forwarded from here, and ``given`` over it.

    Raises:
        UserError: a value that is or holds a credential.
    """
    found = {name: os.environ[name] for name in FORWARDED if "://" in os.environ.get(name, "")}
    found = {k: v for k, v in found.items() if not v.startswith(("sqlite:", "file:")) and not _loopback(v)}
    found |= given
    for name, value in found.items():
        switch = "token" in name.lower() and _SWITCH.fullmatch(value)  # HF_HUB_DISABLE_IMPLICIT_TOKEN
        if (_SECRET_NAME.search(name) and not switch) or mask(value) != value:
            raise UserError(
                f"{name} holds a credential, and Ray shows a job's environment to everybody who sees its dashboard. "
                "Set it on the nodes instead (MLflow reads ~/.mlflow/credentials, Hugging Face ~/.cache/huggingface/"
                "token), and give an address without it here."
            )
    return {"PYTHONUNBUFFERED": "1", **found}


def _loopback(address: str) -> bool:
    """Whether an address is this machine's own (a tunnel, perhaps): on another one it means that one."""
    host = urlsplit(address).hostname or ""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _commit() -> dict[str, str]:
    """What the code is that travels, for the runs that it will make."""
    from symcere.tracking.runs import COMMIT, source

    found = source()
    if not found:
        return {}
    changed = "+changed" if found[tag.CHANGED] == "true" else ""
    return {COMMIT: found[tag.COMMIT] + changed}


def submit(
    words: Sequence[str],
    address: str,
    *,
    folder: Path | None = None,
    env: Mapping[str, str] | None = None,
    wait: bool = True,
    cpus: float = 0,
    gpus: float = 0,
    cluster: str = "",
    tell: Callable[[str], None] = lambda text: print(text, end="", flush=True),
) -> Job:
    """Runs ``symcere WORDS`` as a job of the Ray cluster whose dashboard is at ``address``.

    Args:
        folder: the working tree, by default the current directory.
        env: environment of the job, beside :data:`FORWARDED`.
        wait: stream the log until the job ends. Ctrl-C, or a laptop closed, leaves the job running.
        cpus: that the command itself holds. By default it runs on the head with none and its workers hold theirs.
        gpus: likewise; the command then runs on a node that has them.
        cluster: the cluster's file, if ``address`` is a tunnel to it: named in the commands to come back with.
        tell: shown each piece of the log.

    Raises:
        UserError: nobody answers, the token is refused, the package is too large, a credential would be seen.
    """
    for word in words:
        if mask(word) != word:
            raise UserError(
                f"'{mask(word)}' holds a credential, and Ray shows a job's command to everybody who sees its "
                "dashboard. Leave it out and set it on the nodes."
            )
    folder = (folder or Path.cwd()).absolute()
    environ = environment(env or {}) | _commit()
    client = _client(address)
    with tempfile.TemporaryDirectory(prefix="symcere-package-") as staging:
        packed = package(folder, Path(staging))
        job = _send(
            client,
            address,
            entrypoint=entrypoint(words),
            runtime_env={"working_dir": staging, "env_vars": environ},
            metadata={"command": shlex.join(["symcere", *words])},
            entrypoint_num_cpus=cpus or None,
            entrypoint_num_gpus=gpus or None,
        )
    notes = tuple(_left_behind(words, folder, packed))
    commands = _commands(job, address, cluster)
    for text in [f"job {job}", *(f"  {name:<9} {line}" for name, line in commands.items()), *notes]:
        print(text, file=sys.stderr, flush=True)
    if not wait:
        return Job(job, address, "PENDING", 0, commands, notes)
    try:
        _follow(client, job, tell)
    except KeyboardInterrupt:
        print(f"\nThe job goes on. Follow it with: {commands['follow']}", file=sys.stderr)
        raise
    except ConnectionError as error:
        raise UserError(
            f"Lost contact with {address} ({error}). The job goes on; come back with: {commands['follow']}"
        ) from error
    details = client.get_job_info(job)
    if details.status != "SUCCEEDED" and details.driver_exit_code is None and details.message:
        print(f"Ray says: {mask(details.message)}", file=sys.stderr)
    code = 0 if details.status == "SUCCEEDED" else (details.driver_exit_code or 1)
    # A process that a signal ended has a negative code; the shell's way to say so is 128 + signal.
    return Job(job, address, str(details.status.value), 128 - code if code < 0 else code, commands, notes)


def _send(client: JobSubmissionClient, address: str, seconds: float = 60, **job: Any) -> str:
    """The new job's id. A cluster that has just come up answers before it can take jobs, and is asked again."""
    end = time.monotonic() + seconds
    while True:
        try:
            return client.submit_job(**job)
        except Exception as error:
            if "No available agent" not in str(error) or time.monotonic() > end:
                raise _refused(address, error) from error
        time.sleep(1)


def _commands(job: str, address: str, cluster: str) -> dict[str, str]:
    """Ray's own commands, for another terminal or another day."""
    told = {}
    if cluster:  # the tunnel of this call ends with it
        told["tunnel"] = f"ray dashboard {shlex.quote(cluster)}"
        address = "http://127.0.0.1:8265"
    return told | {
        "follow": f"ray job logs --follow --address {address} {job}",
        "status": f"ray job status --address {address} {job}",
        "stop": f"ray job stop --address {address} {job}",
    }


def _client(address: str) -> JobSubmissionClient:
    from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
    from ray.job_submission import JobSubmissionClient

    for name in [name for name in logging.root.manager.loggerDict if name.partition(".")[0] == "ray"]:
        logging.getLogger(name).setLevel(logging.ERROR)  # how packages are made is no news
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)  # ~/.ray/auth_token, as Ray's own commands do
    try:
        client = JobSubmissionClient(address)
        client.get_version()
        client.list_jobs()  # unlike the version it is behind the token
    except Exception as error:
        raise _refused(address, error) from error
    return client


def _refused(address: str, error: Exception) -> UserError:
    reason = mask(" ".join(str(error).split()))[:300]
    if any(word in reason.lower() for word in ("401", "403", "unauthenticated", "token", "unauthorized")):
        return UserError(
            f"The Ray cluster at {mask(address)} refuses this machine's token: copy the cluster's ~/.ray/auth_token "
            f"here, or set RAY_AUTH_TOKEN ({reason})"
        )
    return UserError(
        f"No Ray cluster takes jobs at {mask(address)} ({reason}). Is it up (`ray up`), and is this the address of its "
        "dashboard (http://HEAD:8265)? `--cluster ray_cluster.yaml` reaches it through SSH."
    )


def _follow(client: JobSubmissionClient, job: str, tell: Callable[[str], None], patience: float = 120) -> None:
    """Shows the log until the job ends; takes up again where a connection broke.

    Raises:
        ConnectionError: nobody answered for ``patience`` seconds.
    """
    shown = 0
    silent_since = 0.0

    async def tail() -> None:
        nonlocal shown, silent_since
        skip = shown  # a new connection tells the log from its beginning
        async for text in client.tail_job_logs(job):
            silent_since = 0.0
            fresh, skip = text[skip:], max(0, skip - len(text))
            if fresh:
                shown += len(fresh)
                tell(fresh)

    while True:
        try:
            asyncio.run(tail())
            if client.get_job_info(job).status.is_terminal():
                rest = client.get_job_logs(job)[shown:]  # what came between the last piece and the end
                if rest:
                    tell(rest)
                return
        except Exception as error:
            silent_since = silent_since or time.monotonic()
            if time.monotonic() - silent_since > patience:
                raise ConnectionError(" ".join(str(error).split())[:200] or type(error).__name__) from error
        time.sleep(1)


# ---------------------------------------------------------------- the way to a cluster


@contextmanager
def reach(cluster: str | Path, seconds: float = 90) -> Iterator[str]:
    """The address of the dashboard of the cluster that ``ray up CLUSTER`` started, through an SSH tunnel.

    The dashboard itself listens on the head's loopback only.

    Raises:
        UserError: no such file, or the cluster is not reached within ``seconds``.
    """
    if not Path(cluster).is_file():
        raise UserError(f"There is no cluster file {cluster}. It is the one that `ray up` was given.")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "from ray.scripts.scripts import main; main()"]
    with tempfile.TemporaryFile() as log:
        tunnel = subprocess.Popen(
            [*command, "dashboard", str(cluster), "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            end = time.monotonic() + seconds
            while not _listens(port):
                if tunnel.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    told = " ".join(log.read().decode(errors="replace").split())[-300:]
                    raise UserError(
                        f"The head of {cluster} is not reached through SSH. Is it up (`ray up {cluster}`), and "
                        f"may this machine log in (`ray attach {cluster}`)? Ray says: …{mask(told)}"
                    )
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(tunnel.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                tunnel.wait(timeout=10)
            with suppress(ProcessLookupError):
                os.killpg(tunnel.pid, signal.SIGKILL)
            tunnel.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
