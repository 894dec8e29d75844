"""What a person sees: tables, facts, notes and progress in the terminal. rich is imported only to draw."""

from __future__ import annotations

import dataclasses
import math
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.table import Table

# ---------------------------------------------------------------- plain values


def plain(value: Any) -> Any:
    """``value`` as JSON can hold it: dataclasses and mappings become dicts, arrays lists, a NaN null.

    An object that has ``summary()`` is shown by what that returns.
    """
    if hasattr(value, "summary") and not isinstance(value, type):
        return plain(value.summary())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    for convert in ("to_pylist", "tolist"):  # arrow, numpy and torch
        if hasattr(value, convert):
            return plain(getattr(value, convert)())
    return str(value)


# ---------------------------------------------------------------- tables and facts


def show(value: Any) -> None:
    """Prints any :func:`plain` value for a person: facts by name, tables for lists of records, then notes, and the
    commands that come ``next``, each on a line that can be copied."""
    value = plain(value)
    if isinstance(value, Mapping):
        _show_mapping(value)
    elif _is_table(value):
        table(value)
    elif isinstance(value, list):
        print("\n".join(map(cell, value)))
    elif value is not None:
        print(cell(value))


def _show_mapping(value: Mapping[str, Any]) -> None:
    notes, after = value.get("notes") or [], value.get("next") or []
    value = {k: v for k, v in value.items() if k not in ("notes", "next")}
    nested = {k: v for k, v in value.items() if _is_nested(v)}
    facts({k: v for k, v in value.items() if k not in nested and v not in (None, "", [], {})})
    for name, below in nested.items():
        print(f"\n{_words(name)}")
        if _is_table(below):
            table(below)
        elif name == "metrics":
            metrics(below)
        else:
            facts(below, indent=2)
    for note in notes:
        print(paragraph(f"note: {note}", sys.stdout))
    if after:
        print()
    for command in after:
        print(f"next: {_as_found(command)}")


def _as_found(command: str) -> str:
    """A command of ours as this shell can run it: by the path it was started with, where PATH does not lead to it."""
    program, rest = command.split(" ", 1)
    if Path(sys.argv[0]).name == program and shutil.which(program) is None:
        program = sys.argv[0]
    return f"{program} {rest}"


def _is_nested(value: Any) -> bool:
    return (isinstance(value, Mapping) and bool(value)) or _is_table(value)


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, Mapping) for v in value)


def _words(name: str) -> str:
    return name.replace("_", " ")


def facts(values: Mapping[str, Any], indent: int = 0) -> None:
    """One ``name  value`` line each, aligned."""
    width = max((len(str(k)) for k in values), default=0)
    for name, value in values.items():
        print(f"{'':{indent}}{_words(name):<{width}}  {cell(value)}")


_AT = re.compile(r"(?P<metric>.+)_at_(?P<k>\d+)(?P<group>_\w+)?")


def metrics(values: Mapping[str, float]) -> None:
    """Metrics by their names (``test_ndcg_at_10``): a line for each, a column for each cut-off; others as facts."""
    rows: dict[str, dict[str, Any]] = {}
    other = {}
    for name, value in values.items():
        found = _AT.fullmatch(name)
        if found is None:
            other[name] = value
            continue
        row = found["metric"] + (found["group"] or "")
        rows.setdefault(row, {"metric": _words(row)})[f"@{found['k']}"] = value
    if rows:
        cuts = sorted({c for r in rows.values() for c in r if c != "metric"}, key=lambda c: int(c[1:]))
        table(list(rows.values()), ["metric", *cuts])
    facts(other, indent=2)


def cell(value: Any) -> str:
    """A value in a table: four digits of a fraction, thousands apart, lists joined."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4f}" if 1e-3 <= abs(value) < 100 or value == 0 else f"{value:,.4g}"
    if isinstance(value, list):
        return ", ".join(map(cell, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {cell(v)}" for k, v in value.items())
    return str(value)


def table(records: Sequence[Mapping[str, Any]], columns: Sequence[str] = (), title: str = "") -> None:
    """A table, one line a record; columns are those of the records, in order of first appearance.

    It takes the terminal's width, and any width where there is no terminal.
    """
    if title:
        print(title)
    drawn = _drawn(records, list(columns) or list(dict.fromkeys(k for r in records for k in r)))
    console = _console(sys.stdout)
    with console.capture() as captured:
        console.print(drawn)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _drawn(records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in names:
        given = [r[name] for r in records if r.get(name) is not None]
        number = bool(given) and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in given)
        drawn.add_column(Text(_words(name)), justify="right" if number else "left", overflow="fold")
    for record in records:
        drawn.add_row(*(Text(cell(record[n]) if n in record else "") for n in names))
    return drawn


def _console(file: Any) -> Console:
    from rich.console import Console

    return Console(file=file, highlight=False, markup=False, emoji=False, width=None if file.isatty() else 10_000)


def paragraph(text: str, file: Any) -> str:
    """``text`` wrapped to the terminal's width; as it is where there is no terminal."""
    return textwrap.fill(text, shutil.get_terminal_size().columns - 1) if file.isatty() else text


def warn(text: str) -> None:
    """A line on stderr."""
    print(paragraph(text, sys.stderr), file=sys.stderr)


def size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    return sum(f.lstat().st_size for f in path.rglob("*") if f.is_file()) if path.is_dir() else path.lstat().st_size


def human_bytes(count: float) -> str:
    """``1.3 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


# ---------------------------------------------------------------- progress


class Progress:
    """Told how far a step is, as ``progress(done, total)`` or ``progress("reading", done, total, "a note")``.

    A total of 0 is unknown. Each new label is a new bar. Without a terminal nothing happens.
    """

    def __init__(self, label: str = "", bars: Bars | None = None):
        self._label, self._bars, self._tasks = label, bars, {}  # type: ignore[var-annotated]

    def __call__(self, *told: Any) -> None:
        if self._bars is None:
            return
        label, done, total, *notes = told if isinstance(told[0], str) else (self._label, *told)
        if label not in self._tasks:
            self._tasks[label] = self._bars.add_task(label, total=total or None, note="")
        self._bars.update(self._tasks[label], completed=done, total=total or None, note=" ".join(map(str, notes)))


@contextmanager
def progress(label: str) -> Iterator[Progress]:
    """Bars with rate and remaining time on stderr, gone when the block ends; silent where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield Progress()
        return
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    def columns() -> Iterator[Any]:
        yield TextColumn("{task.description}", markup=False)
        yield BarColumn(bar_width=30)
        yield _Counts()
        yield TimeElapsedColumn()
        yield TextColumn("left")
        yield TimeRemainingColumn()
        yield TextColumn("{task.fields[note]}", markup=False)

    class _Counts(TextColumn):
        def __init__(self) -> None:
            super().__init__("")

        def render(self, task: Any) -> Any:
            from rich.text import Text

            of = f"/{_short(task.total)}" if task.total else ""
            rate = task.finished_speed or task.speed
            return Text(f"{_short(task.completed)}{of}" + (f"  {_short(rate)}/s" if rate else ""))

    with Bars(*columns(), console=_console(sys.stderr), transient=True) as bars:
        yield Progress(label, bars)


def _short(count: float) -> str:
    """``12.3M``; bytes and reviews alike."""
    for unit in ("", "k", "M", "G"):
        if count < 1000:
            return f"{count:.0f}" if unit == "" and (count >= 10 or count == int(count)) else f"{count:.1f}{unit}"
        count /= 1000
    return f"{count:.1f}T"


@contextmanager
def live() -> Iterator[Callable[[Sequence[Mapping[str, Any]]], None] | None]:
    """A table on stderr that is drawn anew with each list of records it is given, gone when the block ends.

    None where stderr is no terminal.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.live import Live

    with Live(console=_console(sys.stderr), refresh_per_second=2, transient=True) as shown:
        yield lambda records: shown.update(_drawn(records, [k for r in records[:1] for k in r]))
