"""Reviews: what there is, getting it, corpus and embeddings."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from symcere import console
from symcere.cli.commands.arguments import (
    ADDRESS,
    DATASET,
    DATASET_OR_CONFIG,
    consent,
    count,
    dataset_of,
    pairs,
    settings_of,
)
from symcere.cli.frame import Command, argument


def datasets(args: Namespace) -> Any:
    from symcere import steps

    return steps.datasets()


def fetch(args: Namespace) -> Any:
    from symcere import steps

    with console.progress("fetch") as progress:
        return steps.fetch(args.dataset, args.folder, accept=consent(args.accept), progress=progress)


def prepare(args: Namespace) -> Any:
    from symcere import steps

    dataset, settings = dataset_of(args), settings_of(args, "data")
    with console.progress("prepare") as progress:
        corpus = steps.prepare(
            dataset,
            args.source,
            format=args.format,
            columns=pairs(args.column),
            settings={name.removeprefix("data."): value for name, value in settings.items()},
            name=args.name,
            progress=progress,
        )
    return {
        "corpus": corpus.name,
        "users": corpus.num_users,
        "items": corpus.num_items,
        "training": corpus.train.nnz,
        "validation": corpus.val.nnz,
        "test": corpus.test.nnz,
        "fingerprint": corpus.fingerprint,
        "path": corpus.path,
        "counts": [{"step": step, "reviews": count} for step, count in corpus.counts],
        "notes": corpus.notes,
        "next": [f"symcere train {corpus.name}"],
    }


def embed(args: Namespace) -> Any:
    from symcere import steps

    dataset, settings = dataset_of(args), settings_of(args, "text")
    with console.progress("embed") as progress:
        made = steps.embed(
            dataset,
            settings,
            progress=progress,
            workers=args.workers,
            gpus_per_worker=args.gpus_per_worker,
            address=args.address,
        )
    assert made is not None  # only an experiment without text has none, and settings of `text` cannot say so
    return {
        "reviews": made.reviews.shape[0],
        "width": made.reviews.shape[1],
        "encoders": dict(made.blocks),
        "fingerprint": made.fingerprint,
        "path": made.path,
    }


COMMANDS = (
    Command("datasets", "list the data sets: platform, size if prepared, licence, how to get them", datasets),
    Command(
        "fetch",
        "download a data set where its card has an open address; otherwise say how to get it",
        fetch,
        (
            DATASET,
            argument("--folder", type=Path, metavar="DIR", help="where to, instead of the card's own folder"),
            argument("--accept", action="store_true", help="accept the terms, which are shown first, without asking"),
        ),
        example="symcere fetch google-local-hawaii",
    ),
    Command(
        "prepare",
        "review files -> cleaned, filtered and split corpus",
        prepare,
        (
            argument(
                "dataset",
                metavar="DATASET",
                nargs="?",
                help="a card's name or path, or a new name given with --source; else that of --config",
            ),
            argument("--source", nargs="+", action="extend", default=[], metavar="FILE", help="review files, folders"),
            argument("--format", default="", help="format of the files; recognised by content if not given"),
            argument(
                "--column", nargs="+", action="extend", default=[], metavar="ROLE=NAME", help="columns: user=reviewer …"
            ),
            argument("--name", default="", help="store the corpus under another name"),
        ),
        parts=("data",),
        example="symcere prepare my-shop --source reviews.csv --column user=customer item=sku --data.core 3",
    ),
    Command(
        "embed",
        "review texts -> embeddings",
        embed,
        (
            DATASET_OR_CONFIG,
            argument("--workers", type=count, default=1, metavar="N", help="encode side by side (Ray)"),
            argument(
                "--gpus-per-worker",
                type=float,
                default=0,
                metavar="N",
                help="GPUs that each of them holds (default 0: CPUs)",
            ),
            ADDRESS,
        ),
        parts=("text",),
        example="symcere embed my-shop --text.encoders minilm,lsa",
    ),
)
