"""Freed memory is kept while training, and returned after it."""

import subprocess
import sys

import pytest

PROBE = """
import resource
import torch
from symcere.memory import keep_freed_memory, return_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def tables(number):
    before = faults()
    for _ in range(number):
        torch.ones(10_000_000)
    return faults() - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

left = tables(10)
taken = keep_freed_memory()
tables(20)  # the heap finds its size
kept = tables(10)
before = resident()
given = return_freed_memory()
print(taken, left, kept, given, before - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the memory of a process")
def test_a_table_that_is_made_again_costs_no_page_faults():
    found = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    taken, left, kept, given, returned = found.stdout.split()
    if taken != "True":
        pytest.skip("this C library has no mallopt")
    assert int(kept) < 20
    assert int(left) > 50 * max(int(kept), 1)
    assert given == "True"
    assert int(returned) >= 40_000_000  # one table at least


def test_without_such_a_c_library_nothing_happens(monkeypatch):
    from symcere import memory

    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert memory.keep_freed_memory() is False
    assert memory.return_freed_memory() is False
