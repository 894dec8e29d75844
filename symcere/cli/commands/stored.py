"""What the home holds."""

from argparse import Namespace
from typing import Any

from symcere import console
from symcere.cli.frame import Command, argument


def ls(args: Namespace) -> Any:
    from symcere import steps

    return steps.ls()


def _show_stored(stored: Any) -> None:
    found = console.plain(stored)
    if not found:
        print("Nothing is stored yet.")
    for record in found:
        record["size"] = console.human_bytes(record["size"])
        if len(record.get("used_by", ())) > 2:  # a line holds no more
            record["used_by"] = [*record["used_by"][:2], f"and {len(record['used_by']) - 2} more"]
    console.show(found)


def rm(args: Namespace) -> Any:
    from symcere import steps

    return steps.rm(args.names, force=args.force)


COMMANDS = (
    Command("ls", "list what is stored, how large, and what depends on it", ls, show=_show_stored),
    Command(
        "rm",
        "free what is stored",
        rm,
        (
            argument("names", nargs="+", metavar="NAME", help="as `symcere ls` names it"),
            argument("--force", action="store_true", help="also where something depends on it"),
        ),
    ),
)
