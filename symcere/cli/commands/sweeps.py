"""Searching, and telling what was found."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from symcere import console
from symcere.cli.commands.arguments import ADDRESS, count, words
from symcere.cli.frame import Command, argument
from symcere.errors import UserError


def report(args: Namespace) -> Any:
    from symcere import steps

    with console.progress("report") as progress:
        return steps.report(args.sweep, args.out, args.method, progress=progress)


def sweep(args: Namespace) -> Any:
    from symcere import steps

    other = {"trials": args.trials, "seeds": args.seeds, "datasets": args.datasets, "methods": args.methods}
    if args.dry_run:
        if args.resume:
            raise UserError("--dry-run is about a sweep that has not begun: give its file.")
        with console.progress("calibrate") as progress:
            return steps.plan(args.file, address=args.address, progress=progress, **other)
    with console.live() as show:
        return steps.sweep(
            args.file,
            resume=args.resume,
            name=args.name,
            max_hours=args.max_hours,
            address=args.address,
            on_standing=show,
            **other,
        )


COMMANDS = (
    Command(
        "report",
        "what a sweep found: tables, significance, figures, as a page, Markdown, LaTeX, PNG and PDF",
        report,
        (
            argument("sweep", metavar="SWEEP", help="the sweep's name"),
            argument(
                "--out", type=Path, metavar="DIR", help="folder to write to, by default reports/SWEEP of the home"
            ),
            argument(
                "--method",
                default="",
                metavar="NAME",
                help="whose gain is reported (default symcere if it took part, else the best)",
            ),
        ),
        example="symcere report paper --out paper/results",
    ),
    Command(
        "sweep",
        "search settings of methods on data sets; train the best ones again and test them",
        sweep,
        (
            argument(
                "file", metavar="SWEEP", nargs="?", default="", help="a sweep's file (tune/quick.yaml), or its name"
            ),
            argument("--resume", default="", metavar="NAME", help="go on with a sweep that was stopped or killed"),
            argument(
                "--dry-run",
                action="store_true",
                help="say what it would cost, from seconds of training, and what is missing",
            ),
            argument("--name", default="", help="store and track it under another name than the file's"),
            argument("--trials", type=count, default=0, metavar="N", help="trials of each method on each data set"),
            argument("--seeds", type=int, default=None, metavar="N", help="seeds of the final models"),
            argument(
                "--max-hours", type=float, metavar="H", help="end the search in order after so long; 0 for no limit"
            ),
            argument("--datasets", type=words, default=(), metavar="A,B,…", help="other data sets than the file's"),
            argument("--methods", type=words, default=(), metavar="A,B,…", help="only these of its methods"),
            ADDRESS,
        ),
        example="symcere sweep tune/losses.yaml --datasets my-shop --trials 30",
    ),
)
