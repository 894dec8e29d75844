"""Three hosts on one machine: each has its own network, processes, /tmp, /dev/shm, home and sshd."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
BASE = Path("/run/symcere-hosts")
BRIDGE, NETWORK = "symcere0", "10.77.83"
NAMES = ("head", "one", "two")
TOOLS = ("ip", "unshare", "sshd", "ssh", "rsync", "mount")

# What a host does first, in new mount, pid, uts and ipc namespaces. Its home is this machine's under a private layer:
# Python may be installed there.
INIT = r"""
set -e
home=~root
mount --make-rprivate /
mount -t proc proc /proc
hostname {name}
mount -t tmpfs layer {base}/{name}/layer
mkdir {base}/{name}/layer/up {base}/{name}/layer/work
mount -t overlay layer -o lowerdir=$home,upperdir={base}/{name}/layer/up,workdir={base}/{name}/layer/work $home
mount -t tmpfs tmp /tmp && chmod 1777 /tmp
mount -t tmpfs shm /dev/shm
rm -rf $home/.ray $home/.mlflow $home/.symcere $home/.ssh
mkdir -p $home/symcere/.venv /run/sshd
mount --bind {venv} $home/symcere/.venv
/usr/sbin/sshd -e -h {base}/host_key -o ListenAddress={address} -o PidFile=none -o UsePAM=no -o StrictModes=no \
    -o AuthorizedKeysFile={base}/authorized_keys -o PermitRootLogin=yes -o PasswordAuthentication=no -o MaxStartups=100
echo up > {base}/{name}/up
while :; do sleep 1000 & wait; done
"""


class Hosts:
    """A head and two workers at addresses of :data:`NETWORK`, and a shared folder that all of them see.

    Attributes:
        file: the project's ``cluster/onprem.yaml`` with these hosts' addresses.
        environment: of the user's machine, which has a home of its own.
    """

    def __init__(self, folder: Path):
        self.folder, self.home, self.shared = folder, folder / "home", BASE / "shared"
        self.address = {name: f"{NETWORK}.{11 + number}" for number, name in enumerate(NAMES)}
        self.running: dict[str, subprocess.Popen] = {}
        self.others = set(Path("/tmp").glob("ray_ssh_*"))  # where Ray keeps the sockets of its SSH connections
        self.file = folder / "onprem.yaml"
        self.environment = {
            k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "SYMCERE_", "PYTEST"))
        } | {
            "HOME": str(self.home),
            "TMPDIR": str(folder / "tmp"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
        }

    def start(self) -> None:
        for path in (self.home, self.folder / "tmp", self.shared):
            path.mkdir(parents=True)
        for key in (BASE / "host_key", self.home / "key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        shutil.copy(self.home / "key.pub", BASE / "authorized_keys")
        ip(f"link add {BRIDGE} type bridge")
        ip(f"addr add {NETWORK}.1/24 dev {BRIDGE}")
        ip(f"link set {BRIDGE} up")
        for number, name in enumerate(NAMES):
            space, there = f"symcere-{name}", f"{BRIDGE}-{number}"
            ip(f"netns add {space}")
            ip(f"link add {there} type veth peer name eth0 netns {space}")
            ip(f"link set {there} master {BRIDGE} up")
            ip(f"-n {space} addr add {self.address[name]}/24 dev eth0")
            ip(f"-n {space} link set lo up")
            ip(f"-n {space} link set eth0 up")
            ip(f"-n {space} route add default via {NETWORK}.1")
            (BASE / name / "layer").mkdir(parents=True)
            script = INIT.format(name=name, base=BASE, address=self.address[name], venv=Path(sys.prefix))
            inside = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--uts", "--ipc", "bash", "-c", script]
            with (self.folder / f"{name}.log").open("w") as log:
                self.running[name] = subprocess.Popen(
                    ["ip", "netns", "exec", space, *inside], stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
        for name in NAMES:
            wait_for(lambda name=name: (BASE / name / "up").exists(), 30, f"host {name}")
        subprocess.run(["sh", str(ROOT / "cluster/secrets.sh")], env=self.environment, check=True, capture_output=True)
        cluster = yaml.safe_load((ROOT / "cluster/onprem.yaml").read_text())
        cluster["provider"] |= {
            "head_ip": self.address["head"],
            "worker_ips": [self.address["one"], self.address["two"]],
        }
        cluster["auth"] = {"ssh_user": "root", "ssh_private_key": str(self.home / "key")}
        # Everything is installed here already, and there is no network to install it from.
        cluster["setup_commands"] = [c for c in cluster["setup_commands"] if not c.startswith("make ")]
        assert len(cluster["setup_commands"]) == 1
        self.file.write_text(yaml.safe_dump(cluster))

    def run(self, *command: str, timeout: float = 300, check: bool = True) -> str:
        """A command on the user's machine, in the checkout; what it printed."""
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-6000:]}")
        return done.stdout

    def on(self, name: str, line: str, timeout: float = 120) -> str:
        """A shell line on a host, as a person who logs in would type it."""
        options = ["-i", str(self.home / "key"), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
        login = ["bash", "--login", "-c", "-i", f"'{line}'"]
        return self.run("ssh", "-q", *options, f"root@{self.address[name]}", *login, timeout=timeout)

    def kill(self, name: str) -> None:
        """The plug is pulled: every process of the host ends at once, and its cable with it."""
        process = self.running.pop(name, None)
        if process is not None:
            process.send_signal(signal.SIGKILL)  # unshare dies, and the kernel ends its pid namespace
            process.wait()
        subprocess.run(["ip", "link", "del", f"{BRIDGE}-{NAMES.index(name)}"], capture_output=True)

    def stop(self) -> None:
        for name in NAMES:
            self.kill(name)
            subprocess.run(["ip", "netns", "del", f"symcere-{name}"], capture_output=True)
        subprocess.run(["ip", "link", "del", BRIDGE], capture_output=True)
        for path in [BASE, *(set(Path("/tmp").glob("ray_ssh_*")) - self.others)]:
            shutil.rmtree(path, ignore_errors=True)


def ip(line: str) -> None:
    subprocess.run(["ip", *line.split()], check=True, capture_output=True)


def wait_for(condition, seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not come within {seconds:.0f} s")
        time.sleep(0.2)


@pytest.fixture
def hosts(tmp_path) -> Iterator[Hosts]:
    missing = [tool for tool in TOOLS if not shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")]
    reason = ""
    if sys.platform != "linux" or os.geteuid() != 0:
        reason = "needs root on Linux (network namespaces)"
    elif missing:
        reason = f"needs {', '.join(missing)} (Debian's openssh-server, rsync, iproute2, util-linux)"
    elif Path(sys.prefix).is_relative_to("/tmp"):
        reason = "the environment is under /tmp, which each host has for itself"
    elif subprocess.run(["ip", "link", "show", BRIDGE], capture_output=True).returncode == 0:
        reason = f"the network {BRIDGE} is there already: another run, or the rest of one"
    if reason:
        if os.environ.get("REQUIRE") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    made = Hosts(tmp_path)
    try:
        made.start()
        yield made
    finally:
        made.stop()
