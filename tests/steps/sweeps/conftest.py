"""Two small data sets, and a Ray for all sweeps of a file."""

from pathlib import Path

import pytest
from sweeping import make_corpus


@pytest.fixture
def corpora(home) -> Path:
    for number, name in enumerate(("one", "two")):
        make_corpus(home / "corpora" / name, name, number)
    return home


@pytest.fixture(scope="module")
def ray_here():
    """One Ray for several sweeps: a start costs seconds."""
    from symcere.distributed.pool import pool

    with pool(cpus=2) as resources:
        yield resources
