"""``ray up`` for real: three hosts, the project's own on-premise file, a training that survives the loss of one."""

import json
import re
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest
import yaml

from symcere import tracking

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

TRAIN = (  # noqa: SIM905
    "train synthetic --baseline lightgcn --train.lr 0.005 --train.epochs 1500 --train.patience 1500"
    " --train.eval-every 50 --train.deterministic --seed 3"
).split()


def active(hosts) -> int:
    """Nodes that ``ray status`` calls active."""
    status = hosts.on("head", "ray status")
    section = re.search(r"Active:\n(.*?)\n(?:Idle|Pending)", status, re.DOTALL)
    return sum(map(int, re.findall(r"^ (\d+) ", section[1], re.MULTILINE))) if section else 0


def submitted(hosts, *words: str, timeout: float = 600) -> str:
    home = f"SYMCERE_HOME={hosts.shared}/home"  # a disk that all nodes see
    return hosts.run("symcere", "submit", "--cluster", str(hosts.file), "--env", home, *words, timeout=timeout)


def metrics(output: str) -> dict[str, float]:
    """The one JSON object that a job printed to its log."""
    line = next(line for line in reversed(output.splitlines()) if line.startswith("{") and '"metrics"' in line)
    return json.loads(line)["metrics"]


def workers_on(hosts, name: str) -> int:
    """Training processes on a host, seen from outside."""
    pids = subprocess.run(["ip", "netns", "pids", f"symcere-{name}"], capture_output=True, text=True).stdout.split()
    commands = [Path(f"/proc/{pid}/cmdline") for pid in pids]
    return sum(b"RayTrainWorker" in command.read_bytes() for command in commands if command.exists())


def test_three_hosts_from_up_to_down(hosts):
    cluster = yaml.safe_load(hosts.file.read_text())
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):  # one each: workers have to spread
        cluster[key] = [command.replace("ray start", "ray start --num-cpus=1") for command in cluster[key]]
    hosts.file.write_text(yaml.safe_dump(cluster))

    began = time.monotonic()
    hosts.run("ray", "up", "-y", "--no-config-cache", str(hosts.file), timeout=400)
    end = time.monotonic() + 300
    while (up := active(hosts)) < 3:
        assert time.monotonic() < end, f"{up} nodes of 3"
        time.sleep(3)
    print(f"three nodes after {time.monotonic() - began:.0f} s")

    # Nothing of Ray listens where it is not asked to, and nobody without the token is served.
    dashboard = hosts.on("head", "ss -ltnH sport = :8265")
    assert "127.0.0.1:8265" in dashboard
    assert "0.0.0.0" not in dashboard.split("127.0.0.1:8265")[0]
    ask = f"ray status --address {hosts.address['head']}:6379 2>&1 || true"
    assert "Active" in hosts.on("one", ask)
    assert "InvalidAuthToken" in hosts.on("one", f"RAY_AUTH_TOKEN=0000 {ask}")

    checked = submitted(hosts, "doctor", "synthetic", "--storage", f"{hosts.shared}/kept")
    for line in ("Ray: 3 nodes", "ok    clocks", "ok    versions on nodes", "ok    storage from nodes"):
        assert line in checked

    swept = submitted(hosts, "sweep", "quick", "--trials", "3", "--seeds", "1", "--methods", "lightgcn", "--", "--json")
    found = json.loads(next(line for line in swept.splitlines() if line.startswith("{")))
    assert found["trials"] == 3

    alone = metrics(submitted(hosts, *TRAIN, "--name", "alone", "--", "--json"))

    # Two workers on two hosts; one of the hosts is lost in mid-run, after a checkpoint.
    kept = hosts.shared / "kept"
    lost: list[str] = []

    def pull_a_plug() -> None:
        limit = time.monotonic() + 300
        while time.monotonic() < limit:
            busy = [name for name in ("one", "two") if workers_on(hosts, name)]
            if busy and any(kept.glob("together-*/checkpoint.pt")):
                time.sleep(2)
                hosts.kill(busy[0])
                lost.append(busy[0])
                return
            time.sleep(0.3)

    murderer = threading.Thread(target=pull_a_plug)
    murderer.start()
    output = submitted(
        hosts, *TRAIN, "--name", "together", "--workers", "2", "--storage", str(kept), "--", "--json", timeout=900
    )
    murderer.join()
    assert lost, "the training was over before a host could be lost"
    together = metrics(output)
    assert together.keys() == alone.keys()
    for name, value in alone.items():
        assert together[name] == pytest.approx(value, rel=0.02, abs=2e-3), name
    # The last epoch, long after the loss of the host, is that of an undisturbed training in one process.
    store = f"sqlite:///{hosts.shared}/home/mlflow.db"
    ends = {}
    for run in tracking.list_runs("synthetic", store):
        last = max(tracking.client(store).get_metric_history(run.id, "loss"), key=lambda told: told.step)
        ends[run.name.rpartition("-")[0]] = (last.step, last.value)
    assert ends["together"] == (1500, pytest.approx(ends["alone"][1], rel=1e-3))
    assert ends["alone"][0] == 1500
    assert active(hosts) == 2

    hosts.run("ray", "down", "-y", str(hosts.file), timeout=200)
    left = next(name for name in ("one", "two") if name not in lost)
    hosts.on(left, "ray stop")
    for name in ("head", left):
        assert "raylet" not in hosts.on(name, "ps -eo comm")

    hosts.stop()
    assert "symcere" not in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    assert "symcere0" not in subprocess.run(["ip", "link"], capture_output=True, text=True).stdout
    assert not Path("/run/symcere-hosts").exists()
    assert not [p for p in Path("/proc").glob("[0-9]*/cmdline") if b"symcere-hosts" in read(p)]
    shutil.rmtree(hosts.folder, ignore_errors=True)


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it ended meanwhile
        return b""
