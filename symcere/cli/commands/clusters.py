"""Running elsewhere."""

import sys
from argparse import Namespace
from typing import Any

from symcere import console
from symcere.cli.commands.arguments import assigned
from symcere.cli.frame import Command, argument
from symcere.errors import UserError, nearest


def submit(args: Namespace) -> Any:
    from symcere import steps
    from symcere.cli.commands import COMMANDS as EVERY
    from symcere.cli.frame import parse

    known = {command.name: command for command in EVERY}
    name, *words = args.words or [""]
    if name not in known or name == "submit":
        raise UserError(
            f"Submit which command? '{name}' is none of `symcere`. {nearest(name, known)} "
            "`symcere submit train hotels --workers 2 --cluster ray_cluster.yaml` shows the form."
        )
    parse(known[name], words)  # a slip is better found here than on a machine that is paid for
    env = dict(assigned("--env", word) for word in args.env)
    options = {"cpus": args.entrypoint_cpus, "gpus": args.entrypoint_gpus}
    return steps.submit(args.words, cluster=args.cluster, address=args.address, wait=args.wait, env=env, **options)


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
    Command(
        "submit",
        "run a command as a job of a Ray cluster, with the code of this folder",
        submit,
        (
            argument("--cluster", default="", metavar="FILE", help="the file `ray up` was given; reached through SSH"),
            argument(
                "--address",
                default="",
                metavar="URL",
                help="or the dashboard's, http://HEAD:8265 (default RAY_API_SERVER_ADDRESS)",
            ),
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
