"""Arguments that several commands share, and what their words mean."""

import argparse
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from symcere.cli.frame import argument
from symcere.cli.settings import NAME, from_file
from symcere.errors import UserError

DATASET = argument("dataset", metavar="DATASET", help="a card's name or path (`symcere datasets`)")

DATASET_OR_CONFIG = argument(
    "dataset", metavar="DATASET", nargs="?", help="a card's name or path, or a prepared corpus; else that of --config"
)

ADDRESS = argument(
    "--address", default="", metavar="ADDRESS", help="Ray cluster, `auto` on a head; else RAY_ADDRESS or this machine"
)

RUN = argument("run", metavar="RUN", help="a run's id, its unique name, or a checkpoint's path")

EVERY_PART = ("data", "text", "model", "objective", "train", "evaluate", "closed_form")


def settings_of(args: Namespace, *parts: str) -> dict[str, Any]:
    """The settings of some parts of the experiment: those of ``--config`` with the flags laid over them."""
    return {k: v for k, v in config_of(args).items() if k.partition(".")[0] in parts and k != NAME} | args.settings


def dataset_of(args: Namespace) -> str:
    """DATASET, or else the one that ``--config`` is about."""
    dataset = args.dataset or config_of(args).get(NAME)
    if not dataset:
        raise UserError("Which data set? Give DATASET (`symcere datasets` lists some), or a --config that names it.")
    return str(dataset)


def config_of(args: Namespace) -> dict[str, Any]:
    return from_file(args.config) if args.config else {}


def pairs(words: list[str]) -> dict[str, str]:
    """``user=reviewer …`` as a mapping; ``text=`` says that there is none."""
    found = {}
    for word in words:
        role, equals, column = word.partition("=")
        if not (role and equals):
            raise UserError(f"--column takes ROLE=COLUMN (user=reviewer), not '{word}'.")
        found[role] = column
    return found


def numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(f"takes numbers with commas between them, not '{text}'") from None


def words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def count(text: str, least: int = 1) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, not '{text}'")
    return int(text)


def seed(text: str) -> int:
    return count(text, least=0)


def ids(path: str | None) -> list[str] | None:
    """The ids in a file, one on each line."""
    if path is None:
        return None
    try:
        return [line.strip() for line in Path(path).read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}. It should hold one item id on each line.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text. It should hold one item id on each line.") from None


def consent(given: bool) -> Any:
    """Shows terms, and asks for consent where there is somebody to ask."""

    def ask(terms: str) -> bool:
        print(terms, file=sys.stderr)
        if given or not (sys.stdin.isatty() and sys.stderr.isatty()):
            return given
        print("Fetch under these terms? [y/N] ", end="", file=sys.stderr, flush=True)
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    return ask


def assigned(flag: str, word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not (name and equals):
        raise UserError(f"{flag} takes NAME=VALUE, not '{word}'.")
    return name, value
