"""Looking into models: words, maps, neighbours."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from symcere import console
from symcere.cli.commands.arguments import RUN, count, seed
from symcere.cli.frame import Command, argument


def explain(args: Namespace) -> Any:
    from symcere import steps

    with console.progress("explain") as progress:
        return steps.explain(
            args.run,
            args.user,
            args.item,
            side=args.side,
            pairs=args.pairs,
            split=args.split,
            samples=args.samples,
            reviews=args.reviews,
            seed=args.seed,
            html=args.html,
            out=args.out,
            progress=progress,
        )


def _show_explanation(report: Any) -> None:
    if hasattr(report, "show"):
        report.show()
    else:
        console.show(report)


def explore(args: Namespace) -> Any:
    from symcere import steps

    with console.progress("explore") as progress:
        return steps.explore(args.run, args.out, users=args.users, progress=progress)


COMMANDS = (
    Command(
        "explain",
        "the words of reviews that align a user with an item, or a model's pairs as a whole",
        explain,
        (
            RUN,
            argument("--user", default="", metavar="ID", help="with --item: explain this pair"),
            argument("--item", default="", metavar="ID", help="with --user: explain this pair"),
            argument("--side", choices=("item", "user"), default="item", help="whose reviews are perturbed"),
            argument("--pairs", type=count, default=0, help="pairs sampled for the whole (default 200)"),
            argument("--split", choices=("val", "test", "train"), help="where they are sampled (default val)"),
            argument("--samples", type=count, default=0, help="variants of each review (300 for a pair, else 100)"),
            argument("--reviews", type=count, default=0, help="reviews perturbed of each item (8 for a pair, else 4)"),
            argument("--seed", type=seed, default=0, help="of pairs, reviews and variants"),
            argument("--html", type=Path, metavar="FILE", help="also write the pair as a page"),
            argument("--out", type=Path, metavar="DIR", help="folder of the whole's files, by default the run's own"),
        ),
        show=_show_explanation,
        example="symcere explain my-shop-symcere-3f2a --user 17 --item B003 --html why.html",
    ),
    Command(
        "explore",
        "one page to look around in: maps, neighbours, popularity, words, recommendations; works offline",
        explore,
        (
            RUN,
            argument("--out", type=Path, metavar="FILE.html", help="the page, instead of one beside the checkpoint"),
            argument("--users", type=count, default=2000, help="users with recommendations on it (default 2000)"),
        ),
        example="symcere explore my-shop-symcere-3f2a --out my-shop.html",
    ),
)
