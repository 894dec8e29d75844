"""A sweep from its beginning to its table."""

import contextlib
import json
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from symcere import tracking
from symcere.config.fields import listed
from symcere.config.sweep import Declared, check_seeds, load
from symcere.errors import UserError, nearest
from symcere.home import NAME, NAMED, home, writing
from symcere.steps.corpora import Progress
from symcere.steps.sweeps.finals import OnStanding, table_of, train_finals
from symcere.steps.sweeps.ground import Ready, check_home, open_all, room_for, studies_of, together
from symcere.steps.sweeps.lock import Lock
from symcere.steps.sweeps.record import Recorder, parent_of
from symcere.tracking import tag

if TYPE_CHECKING:
    from symcere.distributed.studies import Standing, Study


class Stopped(KeyboardInterrupt):
    """Ctrl-C in mid-sweep, after everything was put in order; says how to go on."""


def sweep(
    file: str | Path = "",
    *,
    resume: str = "",
    name: str = "",
    trials: int = 0,
    seeds: int | None = None,
    max_hours: float | None = None,
    datasets: Sequence[str] = (),
    methods: Sequence[str] = (),
    address: str = "",
    progress: Progress = None,
    on_standing: OnStanding | None = None,
) -> dict[str, Any]:
    """Runs a sweep, or goes on with one.

    Args:
        file: a sweep's path or name.
        resume: name of one that was begun; finished trials stay, unfinished ones go on from their checkpoints.
        name: store it under another name than the file's.
        trials, seeds, max_hours, datasets, methods: other than the file says. ``max_hours`` 0 is no limit.
        address: of a Ray cluster, by default ``RAY_ADDRESS``; without either this machine.
        on_standing: called with a record of each study when something has changed.

    Returns:
        validation and test figures of every method on every data set, and where everything is.

    Raises:
        UserError: what is wrong with the file, what is missing, a sweep of this name, one that is still running, too
            few resources, nodes that do not share the home, or not one trial that trained.
        Stopped: after Ctrl-C.
    """
    from symcere.distributed import sweep as distributed
    from symcere.distributed.pool import pool, ray_address

    address = ray_address(address)
    if max_hours is not None and not 0 <= max_hours < float("inf"):
        raise UserError(f"--max-hours is a number of hours, 0 for no limit, not {max_hours:g}.")
    declared, plan, name = _begin(file, resume, name, trials, seeds, datasets, methods)
    folder, seeds = home() / "sweeps" / name, plan["seeds"]
    if not resume:  # before anything is encoded, or nodes are waited for
        _check_unused(name)
    ready = open_all(declared, progress)
    _check_corpora(name, plan, ready)
    with Lock(folder), _resumable(folder), pool(address), ExitStack() as runs:
        resources = room_for(declared, address)
        check_home(address)
        for path, text in ((folder / "sweep.yaml", declared.text), (folder / "plan.json", json.dumps(plan))):
            with writing(path) as part:
                part.write_text(text, encoding="utf-8")
        studies, memory = studies_of(declared, ready, folder, resources)
        parents = {one.corpus.name: runs.enter_context(parent_of(name, declared, one)) for one in ready}
        with Recorder(name, declared, ready, parents, studies) as recorder:
            ended = distributed.search(
                studies,
                declared.sweep.stopping,
                cpu=declared.sweep.resources.cpu,
                memory=memory,
                at_once=together(declared, resources),
                grows=bool(address) and declared.sweep.resources.workers == 1,
                max_hours=declared.sweep.max_hours if max_hours is None else max_hours,
                on_end=recorder.put,
                on_change=_standing_of(on_standing, studies, resources, declared),
            )
        if ended == "stopped":
            raise Stopped(f"Stopped in order. `symcere sweep --resume {name}` goes on with it.")
        train_finals(name, declared, studies, parents, seeds, resources, max(memory.values()), on_standing)
        table = table_of(name, studies)
        for one in ready:
            best = {s.method: s.best() for s in studies if s.dataset == one.corpus.name}
            found = {f"best_{m}": b[1].value or 0.0 for m, b in best.items() if b}
            parents[one.corpus.name].log_metrics(found)
    notes = []
    if ended == "time":
        notes.append(f"The time was over before all trials were done: `symcere sweep --resume {name}` goes on.")
    trained = any(o.status != "failed" for study in studies for o in study.done.values())
    failed = {study.name: [o for o in study.done.values() if o.status == "failed"] for study in studies}
    for study, outcomes in failed.items():
        if outcomes:
            many = "1 trial" if len(outcomes) == 1 else f"{len(outcomes)} trials"
            notes.append(f"{many} of {study} failed; the last one: {outcomes[-1].reason}")
    if any(failed.values()) and not trained:
        raise UserError(f"No trial of the sweep '{name}' could be trained. {' '.join(notes)}")
    return {
        "sweep": name,
        "trials": sum(len(study.done) for study in studies),
        "table": table,
        "folder": str(folder),
        "store": tracking.tracking_uri(),
        "notes": notes,
        "next": [f"symcere report {name}"],
    }


def _begin(
    file: str | Path,
    resume: str,
    name: str,
    trials: int,
    seeds: int | None,
    datasets: Sequence[str],
    methods: Sequence[str],
) -> tuple[Declared, dict[str, Any], str]:
    """The sweep as it is to run, what was asked for beside its file, and its name."""
    if bool(file) == bool(resume):
        raise UserError("Give the file of a sweep, or --resume NAME to go on with one.")
    datasets, methods = listed(datasets), listed(methods)
    check_seeds(seeds)
    known = sorted(p.parent.name for p in (home() / "sweeps").glob("*/plan.json"))
    plan: dict[str, Any] = {"trials": 0, "datasets": [], "methods": [], "seeds": None}
    if resume:
        if resume not in known:
            raise UserError(f"There is no sweep '{resume}' in {home() / 'sweeps'}. {nearest(resume, known)}")
        if name:
            raise UserError(f"--resume goes on with '{resume}' under its own name: leave --name out.")
        try:
            plan |= json.loads((home() / "sweeps" / resume / "plan.json").read_text())
        except (OSError, ValueError, TypeError) as error:
            raise UserError(
                f"The plan of the sweep '{resume}' cannot be read ({error}). Start it under another name (--name) "
                f"from {home() / 'sweeps' / resume / 'sweep.yaml'}."
            ) from None
        declared, name = load(home() / "sweeps" / resume / "sweep.yaml"), resume
        if plan.get("sha256", declared.sha256) != declared.sha256:
            raise UserError(
                f"{home() / 'sweeps' / resume / 'sweep.yaml'} was changed since the sweep began, whose trials are of "
                "the former one. Put it back, or start it as another sweep: `symcere sweep FILE --name NAME`."
            )
    else:
        declared = load(file)
        name = name or declared.name
        if not re.fullmatch(NAME, name):
            raise UserError(f"A sweep cannot be called '{name}': {NAMED} Give it one with --name.")
        if name in known:
            raise UserError(
                f"There is a sweep '{name}' already. `symcere sweep --resume {name}` goes on with it, --name starts "
                "another one."
            )
        plan |= {"datasets": datasets, "methods": methods}
    if trials:
        plan["trials"] = trials
    plan.setdefault("sha256", declared.sha256)
    if seeds is not None or plan["seeds"] is None:
        plan["seeds"] = declared.sweep.seeds if seeds is None else seeds
    # Going on with some of it does not make the sweep smaller for the next time.
    return declared.only(methods or plan["methods"], datasets or plan["datasets"], plan["trials"]), plan, name


def _check_corpora(name: str, plan: dict[str, Any], ready: Sequence[Ready]) -> None:
    """Notes in the plan which corpora the sweep is on.

    Raises:
        UserError: one was prepared anew since: its trials would choose for another corpus.
    """
    known = plan.setdefault("corpora", {})
    for one in ready:
        if known.setdefault(one.corpus.name, one.corpus.fingerprint) != one.corpus.fingerprint:
            raise UserError(
                f"'{one.corpus.name}' was prepared anew since the sweep '{name}' began on it, and its trials tell "
                "nothing of the new corpus. Start another sweep (--name), or prepare the data as they were."
            )


def _check_unused(name: str) -> None:
    """A sweep whose folder was removed may still stand in MLflow, and a report would count its trials, too."""
    if any(run.tags.get(tag.SWEEP) == name and run.tags.get(tag.ROLE) != "dataset" for run in tracking.list_runs(name)):
        raise UserError(
            f"MLflow holds trials of an earlier sweep '{name}', which is not in this home: a report would mix them "
            "with the new ones. --name starts this one under another name."
        )


@contextlib.contextmanager
def _resumable(folder: Path) -> Iterator[None]:
    """Ctrl-C that ends a sweep at once says how to go on, too."""
    try:
        yield
    except KeyboardInterrupt as stop:
        if str(stop) or not (folder / "plan.json").exists():
            raise
        raise Stopped(f"Stopped at once. `symcere sweep --resume {folder.name}` goes on with it.") from None


def _standing_of(
    on_standing: OnStanding | None, studies: Sequence["Study"], resources: Mapping[str, float], declared: Declared
) -> Callable[[list["Standing"]], None]:
    """Turns the standing of studies into records for a table."""

    def tell(standings: list["Standing"]) -> None:
        if on_standing is None:
            return
        at_once = max(1.0, resources.get("CPU", 1.0) / declared.sweep.resources.cpu)
        known = [s.seconds for s in standings if s.seconds]
        usual = statistics.mean(known) if known else 0.0
        records = []
        for s in standings:
            left = (s.total - s.done) * (s.seconds or usual) / at_once
            records.append(
                {
                    "data set": s.dataset,
                    "method": s.method,
                    "trials": f"{s.done}/{s.total}",
                    "running": s.running,
                    "failed": s.failed,
                    "best NDCG@10": s.best,
                    "minutes left": None if s.done < s.total and not usual else round(left / 60, 1),
                }
            )
        on_standing(records)

    return tell
