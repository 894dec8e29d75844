"""The table of commands. Each ``run`` calls one step; :mod:`symcere.steps` is imported only then."""

import argparse
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from symcere import console
from symcere.cli.frame import Command, argument
from symcere.cli.settings import NAME, from_file
from symcere.errors import UserError, nearest

DATASET = argument("dataset", metavar="DATASET", help="a card's name or path, or the name of a prepared corpus")
DATASET_OR_CONFIG = argument(
    "dataset", metavar="DATASET", nargs="?", help="a card's name or path, or a prepared corpus; else that of --config"
)
RUN = argument("run", metavar="RUN", help="a run's id, its unique name, or a checkpoint's path")
EVERY_PART = ("data", "text", "model", "objective", "train", "evaluate", "closed_form")


# ---------------------------------------------------------------- what arguments mean


def _settings(args: Namespace, *parts: str) -> dict[str, Any]:
    """The settings of some parts of the experiment: those of ``--config`` with the flags laid over them."""
    return {k: v for k, v in _config(args).items() if k.partition(".")[0] in parts and k != NAME} | args.settings


def _dataset(args: Namespace) -> str:
    """DATASET, or else the one that ``--config`` is about."""
    dataset = args.dataset or _config(args).get(NAME)
    if not dataset:
        raise UserError("Which data set? Give DATASET (`symcere datasets` lists some), or a --config that names it.")
    return str(dataset)


def _config(args: Namespace) -> dict[str, Any]:
    return from_file(args.config) if args.config else {}


def _pairs(words: list[str]) -> dict[str, str]:
    """``user=reviewer …`` as a mapping."""
    found = {}
    for word in words:
        role, equals, column = word.partition("=")
        if not (role and equals and column):
            raise UserError(f"--column takes ROLE=COLUMN (user=reviewer), not '{word}'.")
        found[role] = column
    return found


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(f"takes numbers with commas between them, not '{text}'") from None


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not '{text}'")
    return int(text)


def _ids(path: str | None) -> list[str] | None:
    """The ids in a file, one on each line."""
    if path is None:
        return None
    try:
        return [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}. It should hold one item id on each line.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text. It should hold one item id on each line.") from None


def _consent(given: bool) -> Any:
    """Shows terms, and asks for consent where there is somebody to ask."""

    def ask(terms: str) -> bool:
        print(terms, file=sys.stderr)
        if given or not (sys.stdin.isatty() and sys.stderr.isatty()):
            return given
        print("Fetch under these terms? [y/N] ", end="", file=sys.stderr, flush=True)
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    return ask


# ---------------------------------------------------------------- data


def datasets(args: Namespace) -> Any:
    from symcere import steps

    return steps.datasets()


def fetch(args: Namespace) -> Any:
    from symcere import steps

    with console.progress("fetch") as progress:
        return steps.fetch(args.dataset, args.folder, accept=_consent(args.accept), progress=progress)


def prepare(args: Namespace) -> Any:
    from symcere import steps

    dataset, settings = _dataset(args), _settings(args, "data")
    with console.progress("prepare") as progress:
        corpus = steps.prepare(
            dataset,
            args.source,
            format=args.format,
            columns=_pairs(args.column),
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
    }


def embed(args: Namespace) -> Any:
    from symcere import steps

    dataset, settings = _dataset(args), _settings(args, "text")
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


# ---------------------------------------------------------------- models


def train(args: Namespace) -> Any:
    from symcere import steps
    from symcere.config import Experiment

    settings = _settings(args, "data")
    dataset = (args.dataset or "") if args.resume and not args.config else _dataset(args)
    if args.config and args.baseline:
        raise UserError("--config and --baseline each give a whole experiment: name one of them.")
    with console.progress("train") as progress:
        return steps.train(
            dataset,
            experiment=Experiment.load(args.config) if args.config else None,
            settings=settings,
            method=args.baseline,
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

    settings = _settings(args, "evaluate")
    return steps.evaluate(
        args.run,
        split=args.split,
        popularity_weights=args.popularity_weights,
        settings=settings,
        out=args.out,
        cold=args.cold,
    )


def recommend(args: Namespace) -> Any:
    from symcere import steps

    return steps.recommend(
        args.run,
        args.user,
        args.k,
        candidates=_ids(args.candidates),
        exclude=_ids(args.exclude),
        popularity_weight=args.popularity_weight,
        why=args.why,
    )


def export(args: Namespace) -> Any:
    from symcere import steps

    return steps.export(args.run, args.out, args.k)


def report(args: Namespace) -> Any:
    from symcere import steps

    with console.progress("report") as progress:
        return steps.report(args.sweep, args.out, args.method, progress=progress)


def register(args: Namespace) -> Any:
    from symcere import steps

    return steps.register(args.run, args.name, best_of=args.best_of, dataset=args.dataset)


def promote(args: Namespace) -> Any:
    from symcere import steps

    return steps.promote(args.name, metric=args.metric, force=args.force)


def score(args: Namespace) -> Any:
    from symcere import steps

    return steps.score(
        args.model,
        args.input,
        args.out,
        args.k,
        candidates=_ids(args.candidates),
        exclude=_ids(args.exclude),
        popularity_weight=args.popularity_weight,
        exclude_seen=args.exclude_seen,
        why=args.why,
        workers=args.workers,
        batch_size=args.batch_size,
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


# ---------------------------------------------------------------- searching


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


# ---------------------------------------------------------------- what is stored


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


# ---------------------------------------------------------------- clusters


def submit(args: Namespace) -> Any:
    from symcere import steps
    from symcere.cli.frame import parse

    known = {command.name: command for command in COMMANDS}
    name, *words = args.words or [""]
    if name not in known or name == "submit":
        raise UserError(
            f"Submit which command? '{name}' is none of `symcere`. {nearest(name, known)} "
            "`symcere submit train hotels --workers 2 --cluster ray_cluster.yaml` shows the form."
        )
    parse(known[name], words)  # a slip is better found here than on a machine that is paid for
    env = dict(_assigned("--env", word) for word in args.env)
    options = {"cpus": args.entrypoint_cpus, "gpus": args.entrypoint_gpus}
    return steps.submit(args.words, cluster=args.cluster, address=args.address, wait=args.wait, env=env, **options)


def _assigned(flag: str, word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not (name and equals):
        raise UserError(f"{flag} takes NAME=VALUE, not '{word}'.")
    return name, value


def doctor(args: Namespace) -> Any:
    from symcere import steps
    from symcere.config import Experiment

    experiment = Experiment.load(args.config) if args.config else Experiment()
    return steps.doctor(
        args.datasets,
        storage=args.storage,
        address=args.address,
        experiment=experiment.replace(args.settings),
    )


def _show_checks(report: Any) -> None:
    marks = {"ok": "ok", "warn": "warn", "fail": "FAIL", "skip": "–"}
    for check in report.checks:
        print(f"{marks[check.result]:<5} {check.check}: {check.found}")
        if check.advice:
            print(console.paragraph(f"      → {check.advice}", sys.stdout))
    failed = sum(check.result == "fail" for check in report.checks)
    print(f"\n{failed} failed." if failed else "\nNothing failed.")


COMMANDS = (
    Command("demo", "run the whole job on synthetic reviews with planted truth", demo),
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
            DATASET_OR_CONFIG,
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
            argument("--workers", type=_count, default=1, metavar="N", help="encode side by side (Ray)"),
            argument("--gpus-per-worker", type=float, default=0, metavar="N", help="GPUs that each of them holds"),
            argument("--address", default="", metavar="ADDRESS", help="a running Ray cluster (auto)"),
        ),
        parts=("text",),
        example="symcere embed my-shop --text.encoders minilm,lsa",
    ),
    Command(
        "train",
        "corpus -> trained, evaluated, tracked model",
        train,
        (
            DATASET_OR_CONFIG,
            argument("--baseline", default="", metavar="NAME", help="start from this method (`symcere baselines`)"),
            argument("--name", default="", help="stem of the run's name, by default DATASET-METHOD"),
            argument("--resume", default="", metavar="RUN", help="go on with an interrupted run"),
            argument("--workers", type=_count, default=1, metavar="N", help="processes that train together (Ray)"),
            argument("--gpus-per-worker", type=int, default=0, metavar="N", help="GPUs that each of them holds"),
            argument(
                "--parallel",
                choices=("columns", "ddp"),
                default="columns",
                help="each worker holds some columns of the embeddings, or all of them (plain data parallelism)",
            ),
            argument("--address", default="", metavar="ADDRESS", help="a running Ray cluster (auto)"),
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
                type=_numbers,
                default=(),
                metavar="W,W,…",
                help="measure each weight of the popularity term in scoring, and plot the trade-off",
            ),
            argument("--out", type=Path, metavar="DIR", help="folder for the plot, by default the run's own"),
            argument(
                "--cold",
                action="store_true",
                help="train anew without a tenth of users and items, and rank those from their texts alone",
            ),
        ),
        parts=("evaluate",),
    ),
    Command(
        "recommend",
        "items for a user, with the phrases of reviews that say why",
        recommend,
        (
            RUN,
            argument("--user", nargs="+", action="extend", required=True, metavar="ID", help="for whom"),
            argument("-k", type=_count, default=10, help="how many items (default 10)"),
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
            argument("-k", type=_count, default=50, help="length of the lists (default 50)"),
        ),
    ),
    Command(
        "explain",
        "the words of reviews that align a user with an item, or a model's pairs as a whole",
        explain,
        (
            RUN,
            argument("--user", default="", metavar="ID", help="with --item: explain this pair"),
            argument("--item", default="", metavar="ID", help="with --user: explain this pair"),
            argument("--side", choices=("item", "user"), default="item", help="whose reviews are perturbed"),
            argument("--pairs", type=_count, default=200, help="pairs sampled for the whole (default 200)"),
            argument("--split", choices=("val", "test", "train"), default="val", help="where they are sampled"),
            argument("--samples", type=_count, default=0, help="variants of each review (300 for a pair, else 100)"),
            argument("--reviews", type=_count, default=0, help="reviews perturbed of each item (8 for a pair, else 4)"),
            argument("--seed", type=int, default=0, help="of pairs, reviews and variants"),
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
            argument("--out", type=Path, required=True, metavar="FILE.html", help="the page"),
            argument("--users", type=_count, default=2000, help="users with recommendations on it (default 2000)"),
        ),
        example="symcere explore my-shop-symcere-3f2a --out my-shop.html",
    ),
    Command(
        "report",
        "what a sweep found: tables, significance, figures, as a page, Markdown, LaTeX, PNG and PDF",
        report,
        (
            argument("sweep", metavar="SWEEP", help="the sweep's name"),
            argument(
                "--out", type=Path, metavar="DIR", help="folder to write to, by default reports/SWEEP of the home"
            ),
            argument("--method", default="", metavar="NAME", help="whose gain is reported (default symcere)"),
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
            argument("--dry-run", action="store_true", help="say what it would cost and what is missing; run nothing"),
            argument("--name", default="", help="store and track it under another name than the file's"),
            argument("--trials", type=_count, default=0, metavar="N", help="trials of each method on each data set"),
            argument("--seeds", type=int, default=None, metavar="N", help="seeds of the final models"),
            argument("--max-hours", type=float, default=0.0, metavar="H", help="end the search in order after so long"),
            argument("--datasets", type=_words, default=(), metavar="A,B,…", help="other data sets than the file's"),
            argument("--methods", type=_words, default=(), metavar="A,B,…", help="only these of its methods"),
            argument(
                "--address", default="", metavar="ADDRESS", help="Ray cluster, `auto` on a head; else this machine"
            ),
        ),
        example="symcere sweep tune/losses.yaml --datasets my-shop --trials 30",
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
            argument("-k", type=_count, default=10, help="how many items (default 10)"),
            argument("--candidates", metavar="FILE", help="only these items: one id on each line"),
            argument("--exclude", metavar="FILE", help="never these items: one id on each line"),
            argument("--popularity-weight", type=float, metavar="W", help="weight of the popularity term"),
            argument("--seen", dest="exclude_seen", action="store_false", help="also what a user has reviewed"),
            argument("--why", action="store_true", help="with the phrases of reviews that say why"),
            argument("--workers", type=int, default=0, metavar="N", help="processes; 0: one for each two CPUs"),
            argument("--batch-size", type=_count, default=4096, metavar="N", help="rows at a time (default 4096)"),
        ),
        example="symcere score my-shop@champion --input users.parquet --out scored",
    ),
    Command("baselines", "list the named methods for `train --baseline`", baselines),
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
    Command(
        "submit",
        "run a command as a job of a Ray cluster, with the code of this folder",
        submit,
        (
            argument("--cluster", default="", metavar="FILE", help="the file `ray up` was given; reached through SSH"),
            argument("--address", default="", metavar="URL", help="or the dashboard's address, http://HEAD:8265"),
            argument("--no-wait", dest="wait", action="store_false", help="do not follow the log"),
            argument("--env", action="append", default=[], metavar="NAME=VALUE", help="environment of the job"),
            argument(
                "--entrypoint-cpus",
                type=float,
                default=0,
                metavar="N",
                help="CPUs that the command holds itself; with none it runs on the head, and its workers hold theirs",
            ),
            argument(
                "--entrypoint-gpus",
                type=float,
                default=0,
                metavar="N",
                help="likewise GPUs: a train without --workers",
            ),
        ),
        example="symcere submit sweep tune/paper.yaml --cluster ray_cluster.yaml",
        passes_on=True,
    ),
    Command(
        "doctor",
        "check what a long job needs, and say what to do where something is missing",
        doctor,
        (
            argument("datasets", nargs="*", metavar="DATASET", help="data sets that should be prepared"),
            argument("--storage", default="", metavar="URI", help="folder, s3://… or gs://… that should be writable"),
            argument("--address", default="", metavar="ADDRESS", help="Ray cluster, all nodes of which are asked"),
        ),
        parts=("text",),
        show=_show_checks,
        example="symcere doctor hotels --storage s3://bucket/symcere",
    ),
)
