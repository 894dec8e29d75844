"""Freed memory is kept: a large table that is made and freed again and again costs no page faults."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from symcere.memory import keep_freed_memory

if sys.argv[1] == "keep":
    print(keep_freed_memory())
else:
    print(False)
for _ in range(20):  # the heap finds its size
    torch.ones(10_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(10_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how):
    found = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
    kept, count = found.stdout.split()
    return kept == "True", int(count)


def test_a_table_that_is_made_again_costs_no_page_faults():
    kept, few = faults("keep")
    if not kept:
        pytest.skip("this C library has no mallopt")
    _, many = faults("leave")
    assert few < 20
    assert many > 50 * max(few, 1)


def test_without_the_c_librarys_mallopt_nothing_happens(monkeypatch):
    from symcere import memory

    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert memory.keep_freed_memory() is False
