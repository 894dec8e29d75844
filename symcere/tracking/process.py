"""Which process writes a run, and whether it still lives."""

import functools
import os
import socket
import subprocess
from pathlib import Path


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


@functools.cache
def host() -> str:
    """This machine, or this container of it: where a process id means one process."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return "/".join(filter(None, [socket.gethostname(), _read("/etc/machine-id")[:12], namespace]))


def identity(pid: int | None = None) -> str:
    """``PID@start`` of a live process of this host, by default this one; ``""`` if there is none.

    The start (boot and clock tick, or the time that ``ps`` tells) sets it apart from a later process of the same id.
    """
    pid = pid or os.getpid()
    stat = _read(f"/proc/{pid}/stat")
    if stat:
        # The name, in brackets, may hold anything; the third field after it is the state, the 22nd overall the start.
        state, *fields = stat.rpartition(")")[2].split()
        return "" if state in "ZX" else f"{pid}@{_read('/proc/sys/kernel/random/boot_id')[:8]}.{fields[18]}"
    if Path("/proc/self/stat").exists():
        return ""
    told = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True).stdout
    return f"{pid}@{told.strip().replace(' ', '_')}" if told.strip() else ""


def alive(known: str) -> bool:
    """Whether the process that :func:`identity` once named, on this host, still runs."""
    pid, _, start = known.partition("@")
    return pid.isdigit() and bool(start) and identity(int(pid)) == known
