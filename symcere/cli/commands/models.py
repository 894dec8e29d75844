"""Training and judging models."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from symcere import console
from symcere.cli.commands.arguments import (
    ADDRESS,
    DATASET_OR_CONFIG,
    EVERY_PART,
    RUN,
    count,
    dataset_of,
    numbers,
    settings_of,
)
from symcere.cli.frame import Command, argument
from symcere.errors import UserError


def train(args: Namespace) -> Any:
    from symcere import steps
    from symcere.config import Experiment
    from symcere.steps.runs import method_of

    settings = settings_of(args, "data")
    dataset = (args.dataset or "") if args.resume and not args.config else dataset_of(args)
    if args.config and args.baseline:
        raise UserError("--config and --baseline each give a whole experiment: name one of them.")
    experiment = Experiment.load(args.config) if args.config else None
    method = args.baseline
    if experiment is not None:
        method = method_of(Path(args.config), experiment)
    with console.progress("train") as progress:
        return steps.train(
            dataset,
            experiment=experiment,
            settings=settings,
            method=method,
            name=args.name,
            resume=args.resume,
            workers=args.workers,
            gpus_per_worker=args.gpus_per_worker,
            parallel=args.parallel,
            address=args.address,
            storage=args.storage,
            progress=progress,
            on_epoch=lambda epoch: _tell_epoch(progress, epoch),
        )


def _tell_epoch(progress: console.Progress, epoch: Any) -> None:
    figures = {k: v for k, v in epoch.flat().items() if k in ("loss", "val_ndcg_at_10")}
    progress("epochs", epoch.number, 0, ", ".join(f"{k} {console.cell(v)}" for k, v in figures.items()))


def evaluate(args: Namespace) -> Any:
    from symcere import steps

    settings = settings_of(args, "evaluate")
    return steps.evaluate(
        args.run,
        split=args.split,
        popularity_weights=args.popularity_weights,
        settings=settings,
        out=args.out,
        cold=args.cold,
    )


def baselines(args: Namespace) -> Any:
    from symcere import steps

    found = steps.baselines()
    if isinstance(found, dict):  # settings by name; their `about` is what a list shows
        return [{"baseline": name, "about": settings.get("about", "")} for name, settings in found.items()]
    return found


def demo(args: Namespace) -> Any:
    from symcere import steps

    with console.progress("demo") as progress:
        return steps.demo(progress=progress)


COMMANDS = (
    Command("demo", "run the whole job on synthetic reviews with planted truth", demo),
    Command(
        "train",
        "corpus -> trained, evaluated, tracked model",
        train,
        (
            DATASET_OR_CONFIG,
            argument("--baseline", default="", metavar="NAME", help="start from this method (`symcere baselines`)"),
            argument("--name", default="", help="stem of the run's name, by default DATASET-METHOD"),
            argument("--resume", default="", metavar="RUN", help="go on with an interrupted run"),
            argument("--workers", type=count, default=1, metavar="N", help="processes that train together (Ray)"),
            argument(
                "--gpus-per-worker",
                type=int,
                default=0,
                metavar="N",
                help="GPUs that each of them holds (default 0: CPUs)",
            ),
            argument(
                "--parallel",
                choices=("blocks", "columns", "ddp"),
                default="blocks",
                help="what each worker holds of the embeddings: some columns of one side, of both, or all (plain "
                "data parallelism)",
            ),
            ADDRESS,
            argument("--storage", default="", metavar="URI", help="where all nodes see checkpoints: folder, s3://…"),
        ),
        parts=EVERY_PART,
        example="symcere train my-shop --objective.ranking.temperature 0.2 --seed 1",
    ),
    Command(
        "evaluate",
        "rank all items with a trained model and measure it",
        evaluate,
        (
            RUN,
            argument("--split", choices=("test", "val"), default="test", help="which interactions are to be found"),
            argument(
                "--popularity-weights",
                type=numbers,
                default=(),
                metavar="W,W,…",
                help="measure each weight of the popularity term in scoring, and plot the trade-off",
            ),
            argument("--out", type=Path, metavar="DIR", help="folder for the plot, by default the run's own"),
            argument(
                "--cold",
                action="store_true",
                help="train anew without a tenth of users and items, and rank those from texts and liked items",
            ),
        ),
        parts=("evaluate",),
    ),
    Command("baselines", "list the named methods for `train --baseline`", baselines),
)
