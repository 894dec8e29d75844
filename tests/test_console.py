"""What a person and a program see."""

import io
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from symcere import console


@dataclass
class Result:
    path: Path
    score: float
    ids: tuple


class Summed:
    def summary(self):
        return {"total": np.int64(3)}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Result(Path("a/b"), float("nan"), (1, "x")), {"path": "a/b", "score": None, "ids": [1, "x"]}),
        ({1: np.float32(0.5), "n": np.int64(7), "b": np.bool_(True)}, {"1": 0.5, "n": 7, "b": True}),
        (np.array([[1.0, np.inf]]), [[1.0, None]]),
        (pa.array(["a", None]), ["a", None]),
        (Summed(), {"total": 3}),
        ([True, None, 2.5, "x"], [True, None, 2.5, "x"]),
    ],
)
def test_plain(value, expected):
    assert console.plain(value) == expected


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.04262, "0.0426"),
        (0.0, "0.0000"),
        (1234567, "1,234,567"),
        (123.456, "123.5"),
        (1e-5, "1e-05"),
        (True, "yes"),
        (None, "–"),
        (["a", 1], "a, 1"),
        ({"a": 0.5}, "a 0.5000"),
    ],
)
def test_cell(value, shown):
    assert console.cell(value) == shown


def test_show(capsys):
    console.show(
        {
            "name": "shop",
            "users": 1234,
            "empty": None,
            "figures": {"mean_activity": 0.25},
            "counts": [{"step": "raw", "reviews": 10_000}, {"step": "[kept]", "reviews": 9}],
            "notes": ["mind the gap"],
            "next": ["symcere train shop", "symcere ls"],
        }
    )
    assert capsys.readouterr().out.splitlines() == [
        "name   shop",
        "users  1,234",
        "",
        "figures",
        "  mean activity  0.2500",
        "",
        "counts",
        "step     reviews",
        "────────────────",
        "raw       10,000",
        "[kept]         9",
        "note: mind the gap",
        "",
        "next: symcere train shop",
        "next: symcere ls",
    ]


@pytest.mark.parametrize(
    ("started", "path", "told"),
    [
        (".venv/bin/symcere", "", ".venv/bin/symcere ls"),
        (".venv/bin/symcere", "bin", "symcere ls"),
        ("symcere/__main__.py", "", "symcere ls"),
    ],
)
def test_next_commands_run_where_the_environment_is_not_activated(capsys, monkeypatch, tmp_path, started, path, told):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "symcere").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path / path) if path else "")
    monkeypatch.setattr("sys.argv", [started])
    console.show({"next": ["symcere ls"]})
    assert capsys.readouterr().out.splitlines()[-1] == f"next: {told}"


def test_metrics_are_a_table_over_their_cut_offs(capsys):
    console.metrics(
        {"test_ndcg_at_10": 0.5, "test_ndcg_at_5": 0.25, "test_ndcg_at_5_head": 0.125, "best_epoch": 7, "x_at_y": 1.0}
    )
    assert [line.split() for line in capsys.readouterr().out.splitlines() if "─" not in line] == [
        ["metric", "@5", "@10"],
        ["test", "ndcg", "0.2500", "0.5000"],
        ["test", "ndcg", "head", "0.1250"],
        ["best", "epoch", "7"],
        ["x", "at", "y", "1.0000"],
    ]


@pytest.mark.parametrize(("value", "shown"), [("word", "word\n"), (["a", "b"], "a\nb\n"), (None, ""), ([], "\n")])
def test_show_of_simple_values(capsys, value, shown):
    console.show(value)
    assert capsys.readouterr().out == shown


def test_a_table_of_uneven_records(capsys):
    console.table([{"a": "x"}, {"a": "y", "b_c": 1}], title="T")
    assert capsys.readouterr().out.splitlines() == ["T", "a   b c", "───────", "x", "y     1"]


def test_long_cells_are_not_cut_without_a_terminal(capsys):
    console.table([{"a": "x" * 500}])
    assert "x" * 500 in capsys.readouterr().out


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 B"), (999, "999 B"), (1_300_000_000, "1.3 GB"), (2_000, "2.0 kB"), (9e15, "9000.0 TB")]
)
def test_human_bytes(count, shown):
    assert console.human_bytes(count) == shown


def test_size(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"123")
    (tmp_path / "c").write_bytes(b"12")
    assert console.size(tmp_path) == 5
    assert console.size(tmp_path / "c") == 2


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_shows_rate_and_remaining_time(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setenv("TERM", "xterm")
    with console.progress("embed") as progress:
        for done in (0, 500, 1500):
            progress(done, 2000)
            time.sleep(0.02)
        progress("reading", 3, 0, "note [x]")
    shown = sys.stderr.getvalue()
    for part in ("embed", "1.5k/2.0k", "/s", "left", "reading", "note [x]"):
        assert part in shown


def test_progress_is_silent_without_a_terminal(capsys):
    with console.progress("embed") as progress:
        progress(1, 2)
        progress("reading", 1, 2)
    assert capsys.readouterr() == ("", "")


def test_progress_ends_after_an_error(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")

    def interrupted() -> None:
        with console.progress("embed") as progress:
            progress(1, 2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert sys.stderr.getvalue().endswith(("\x1b[?25h", "\x1b[2K"))  # the cursor is back, the bar gone
