from pathlib import Path

import pytest

from symcere.processor import made_by_amd


@pytest.fixture(autouse=True)
def asked_anew():
    made_by_amd.cache_clear()
    yield
    made_by_amd.cache_clear()


@pytest.mark.parametrize(("maker", "expected"), [("AuthenticAMD", True), ("GenuineIntel", False)])
def test_the_maker_is_read_off_the_system(monkeypatch, maker, expected):
    told = f"processor\t: 0\nvendor_id\t: {maker}\ncpu family\t: 26\n"
    monkeypatch.setattr(Path, "read_text", lambda self: told)
    assert made_by_amd() == expected


def test_where_nobody_says_it_is_not_amd(monkeypatch):
    def missing(self):
        raise FileNotFoundError(self)

    monkeypatch.setattr(Path, "read_text", missing)
    assert not made_by_amd()
