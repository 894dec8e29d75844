"""What the home holds, how large it is, what depends on it, and freeing it."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from symcere.config.fields import listed
from symcere.errors import UserError, nearest
from symcere.home import home
from symcere.steps.runs import NOTE

KINDS = ("corpora", "embeddings", "runs", "sweeps", "reports", "raw")
"""Folders of the home whose entries are listed; the name of an entry is ``kind/NAME``."""


@dataclass(frozen=True)
class Stored:
    """One thing under the home.

    Attributes:
        size: bytes on disk.
        used_by: names of what would have to be made again, or could not be used, without it.
    """

    name: str
    size: int
    used_by: list[str]
    path: Path


def ls() -> list[Stored]:
    """Everything stored, by kind, with its size and what depends on it."""
    found = [
        (kind, path)
        for kind in KINDS
        for path in sorted((home() / kind).glob("*"))
        if path.is_dir() and not path.name.startswith(".") and path.name != "shards"
    ]
    if (home() / "embeddings" / "shards").is_dir():
        found.append(("embeddings", home() / "embeddings" / "shards"))
    trained = {path.name: _note(path / NOTE) for kind, path in found if kind == "runs"}
    searched = {path.name: _note(path / "plan.json").get("corpora", {}) for kind, path in found if kind == "sweeps"}
    stored = []
    for kind, path in found:
        used_by: list[str] = []
        if kind == "corpora":
            used_by = [f"embeddings/{p.name}" for k, p in found if k == "embeddings" and p.name == path.name]
            used_by += [f"sweeps/{sweep}" for sweep, corpora in searched.items() if path.name in corpora]
        if kind in ("corpora", "embeddings"):
            used_by += [
                f"runs/{run}"
                for run, note in trained.items()
                if note.get("corpus") == path.name and (kind == "corpora" or note.get("reads_text", True))
            ]
        stored.append(Stored(f"{kind}/{path.name}", _size(path), used_by, path))
    return stored


def rm(names: str | Sequence[str], force: bool = False) -> dict[str, Any]:
    """Free stored things, by the names that :func:`ls` gives (``runs/…``; the kind may be left out where it is clear).

    Raises:
        UserError: unknown name, or something depends on it and ``force`` is not given; nothing is removed then.
    """
    stored = {s.name: s for s in ls()}
    chosen: dict[str, Stored] = {}
    for name in listed(names):
        matches = [s for s in stored.values() if name in (s.name, s.name.partition("/")[2])]
        if not matches:
            raise UserError(f"Nothing stored is called '{name}'. {nearest(name, stored)} `symcere ls` lists all.")
        if len(matches) > 1:
            raise UserError(f"'{name}' is several things: {', '.join(s.name for s in matches)}. Give the whole name.")
        chosen[matches[0].name] = matches[0]
    for one in chosen.values():
        left = [user for user in one.used_by if user not in chosen]
        if left and not force:
            raise UserError(f"{one.name} is used by {', '.join(left)}. Remove those too, or use --force.")
    for one in chosen.values():
        if one.path.is_symlink():  # to another disk; what lies there is not ours to remove
            one.path.unlink()
        else:
            shutil.rmtree(one.path)
    return {"removed": list(chosen), "bytes": sum(one.size for one in chosen.values())}


def _size(folder: Path) -> int:
    if folder.is_symlink():  # what lies elsewhere takes no space here
        return 0
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def _note(path: Path) -> dict[str, Any]:
    """What a small file beside a run or a sweep says of it; empty where there is none."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
