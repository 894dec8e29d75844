"""Using models: lists, vectors, the registry, batch scoring."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from symcere import console
from symcere.cli.commands.arguments import ADDRESS, RUN, count, ids
from symcere.cli.frame import Command, argument


def recommend(args: Namespace) -> Any:
    from symcere import steps

    return steps.recommend(
        args.run,
        args.user,
        args.k,
        candidates=ids(args.candidates),
        exclude=ids(args.exclude),
        popularity_weight=args.popularity_weight,
        why=args.why,
    )


def export(args: Namespace) -> Any:
    from symcere import steps

    return steps.export(args.run, args.out, args.k)


def register(args: Namespace) -> Any:
    from symcere import steps

    return steps.register(args.run, args.name, best_of=args.best_of, dataset=args.dataset)


def promote(args: Namespace) -> Any:
    from symcere import steps

    return steps.promote(args.name, metric=args.metric, force=args.force)


def score(args: Namespace) -> Any:
    from symcere import steps

    with console.progress("score") as progress:
        return steps.score(
            args.model,
            args.input,
            args.out,
            args.k,
            candidates=ids(args.candidates),
            exclude=ids(args.exclude),
            popularity_weight=args.popularity_weight,
            exclude_seen=args.exclude_seen,
            why=args.why,
            workers=args.workers,
            batch_size=args.batch_size,
            address=args.address,
            progress=progress,
        )


COMMANDS = (
    Command(
        "recommend",
        "items for a user, with the phrases of reviews that say why",
        recommend,
        (
            RUN,
            argument("--user", nargs="+", action="extend", required=True, metavar="ID", help="for whom"),
            argument("-k", type=count, default=10, help="how many items (default 10)"),
            argument("--candidates", metavar="FILE", help="only these items: one id on each line"),
            argument("--exclude", metavar="FILE", help="never these items: one id on each line"),
            argument("--popularity-weight", type=float, metavar="W", help="weight of the popularity term"),
            argument("--no-why", dest="why", action="store_false", help="without the phrases"),
        ),
        example="symcere recommend my-shop-symcere-3f2a --user 17 -k 10",
    ),
    Command(
        "export",
        "user and item vectors and top-k lists as Parquet",
        export,
        (
            RUN,
            argument("--out", type=Path, required=True, metavar="DIR", help="folder to write to"),
            argument("-k", type=count, help="length of the lists (default 50, or all items)"),
        ),
    ),
    Command(
        "register",
        "put a run's model into the registry, as a new version and the challenger",
        register,
        (
            argument("run", metavar="RUN", nargs="?", default="", help="a run's id or its unique name"),
            argument("--best-of", default="", metavar="SWEEP", help="instead of RUN: the sweep's best on validation"),
            argument("--dataset", default="", metavar="NAME", help="with --best-of: which, where it had several"),
            argument("--name", default="", help="of the registered model, by default the data set's"),
        ),
        example="symcere register my-shop-symcere-3f2a --name my-shop",
    ),
    Command(
        "promote",
        "make the challenger champion, if the paired test over users says that it is better",
        promote,
        (
            argument("name", metavar="NAME", help="of the registered model"),
            argument("--metric", default="ndcg_at_10", help="what is compared (default ndcg_at_10)"),
            argument("--force", action="store_true", help="promote whatever the test says; the tag says so"),
        ),
    ),
    Command(
        "score",
        "recommendations for every row of Parquet files, over Ray Data",
        score,
        (
            argument("model", metavar="MODEL", help="a registered model (NAME, NAME@alias, NAME/3) or a run"),
            argument(
                "--input", type=Path, required=True, metavar="FILE", help="Parquet: user_id, review_text, liked_items"
            ),
            argument("--out", type=Path, required=True, metavar="DIR", help="new folder for the answers, as Parquet"),
            argument("-k", type=count, default=10, help="how many items (default 10)"),
            argument("--candidates", metavar="FILE", help="only these items: one id on each line"),
            argument("--exclude", metavar="FILE", help="never these items: one id on each line"),
            argument("--popularity-weight", type=float, metavar="W", help="weight of the popularity term"),
            argument("--seen", dest="exclude_seen", action="store_false", help="also what a user has reviewed"),
            argument("--why", action="store_true", help="with the phrases of reviews that say why"),
            argument("--workers", type=count, default=0, metavar="N", help="processes (default: one for each CPU)"),
            argument("--batch-size", type=count, default=4096, metavar="N", help="rows at a time (default 4096)"),
            ADDRESS,
        ),
        example="symcere score my-shop@champion --input users.parquet --out scored",
    ),
)
