"""Searching: every method on every data set, on validation alone; then the best settings, trained again and tested.

home/sweeps/NAME/
  sweep.yaml, plan.json       the sweep as it was started
  optuna.journal              the studies, `optuna-dashboard` opens it
  trials/HOTELS/SYMCERE/0007  see symcere.distributed.trial
"""

import contextlib
import json
import os
import queue
import re
import secrets
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from symcere.config import Experiment, Text
from symcere.config.fields import build
from symcere.config.sweep import Declared, Search, load
from symcere.data.corpus import Corpus
from symcere.errors import UserError, nearest
from symcere.home import NAME, NAMED, checkpoint_of, home, writing
from symcere.steps.corpora import Progress, embeddings_of, open_corpus
from symcere.steps.runs import experiment_hash, train

if TYPE_CHECKING:
    from symcere.distributed.studies import Standing, Study
    from symcere.distributed.trial import Outcome, Spec
    from symcere.tracking import Tracker

SWEEP, ROLE, TRIAL = "symcere.sweep", "symcere.role", "symcere.trial"
RECORDED = "run"
"""Beside a trial's outcome: the id of its MLflow run."""

TOUCH = 20.0
"""Seconds between signs of life in a sweep's lock."""
PATIENCE = 240.0
"""Seconds that the start of a final model waits for a lost MLflow server: as long as MLflow's client does later."""

OnStanding = Callable[[list[dict[str, Any]]], None]


class Stopped(KeyboardInterrupt):
    """Ctrl-C in mid-sweep, after everything was put in order; says how to go on."""


@dataclass(frozen=True)
class Ready:
    """A data set of a sweep, with all that its trials read."""

    corpus: Corpus
    embeddings: dict[Text, Path]
    searches: list[Search]
    """Their experiments' data part is that of the corpus."""


# ---------------------------------------------------------------- the command


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
    from symcere import tracking
    from symcere.distributed import sweep as distributed
    from symcere.distributed.pool import pool, ray_address

    address = ray_address(address)
    if max_hours is not None and not 0 <= max_hours < float("inf"):
        raise UserError(f"--max-hours is a number of hours, 0 for no limit, not {max_hours:g}.")
    declared, plan, name = _begin(file, resume, name, trials, seeds, datasets, methods)
    folder, seeds = home() / "sweeps" / name, plan["seeds"]
    if not resume:  # before anything is encoded, or nodes are waited for
        _check_unused(name)
    ready = _ready(declared, progress)
    _check_corpora(name, plan, ready)
    with _Lock(folder), _resumable(folder), pool(address), ExitStack() as runs:
        resources = _room(declared, address)
        check_home(address)
        for path, text in ((folder / "sweep.yaml", declared.text), (folder / "plan.json", json.dumps(plan))):
            with writing(path) as part:
                part.write_text(text, encoding="utf-8")
        studies, memory = _studies(declared, ready, folder, resources)
        parents = {one.corpus.name: runs.enter_context(_parent(name, declared, one)) for one in ready}
        with _Recorder(name, declared, ready, parents, studies) as recorder:
            ended = distributed.search(
                studies,
                declared.sweep.stopping,
                cpu=declared.sweep.resources.cpu,
                memory=memory,
                at_once=_together(declared, resources),
                grows=bool(address) and declared.sweep.resources.workers == 1,
                max_hours=declared.sweep.max_hours if max_hours is None else max_hours,
                on_end=recorder.put,
                on_change=_standing_of(on_standing, studies, resources, declared),
            )
        if ended == "stopped":
            raise Stopped(f"Stopped in order. `symcere sweep --resume {name}` goes on with it.")
        _finals(name, declared, studies, parents, seeds, resources, max(memory.values()), on_standing)
        table = _table(name, studies)
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
    if seeds is not None and seeds < 0:
        raise UserError(f"--seeds is how many models are tested of each best setting, 0 for none, not {seeds}.")
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
    if trials:
        plan["trials"] = trials
    if not resume:
        plan |= {"datasets": list(datasets), "methods": list(methods)}
    if seeds is not None or plan["seeds"] is None:
        plan["seeds"] = declared.sweep.seeds if seeds is None else seeds
    # Going on with some of it does not make the sweep smaller for the next time.
    return declared.only(methods or plan["methods"], datasets or plan["datasets"], plan["trials"]), plan, name


def _check_corpora(name: str, plan: dict[str, Any], ready: Sequence["Ready"]) -> None:
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
    from symcere import tracking

    if any(run.tags.get(SWEEP) == name and run.tags.get(ROLE) != "dataset" for run in tracking.list_runs(name)):
        raise UserError(
            f"MLflow holds trials of an earlier sweep '{name}', whose folder is gone: a report would mix them with the "
            "new ones. --name starts this one under another name."
        )


def _ready(declared: Declared, progress: Progress) -> list[Ready]:
    """Opens every data set and makes the embeddings that are not there yet.

    Raises:
        UserError: what is missing, all of it.
    """
    found: list[Corpus] = []
    missing: list[str] = []
    for dataset in declared.sweep.datasets:
        try:
            found.append(open_corpus(dataset))
        except UserError as error:
            missing.append(str(error))
    if missing:
        raise UserError(" ".join(missing))
    if len({corpus.name for corpus in found}) < len(found):
        raise UserError("Two names among `datasets` are one and the same data set.")
    ready = []
    texts = dict.fromkeys(text for search in declared.searches for text in search.texts)
    for corpus in found:
        embeddings = {}
        for text in texts:
            made = embeddings_of(corpus, replace(Experiment(), text=text), progress)
            assert made is not None
            embeddings[text] = made.path
        ready.append(Ready(corpus, embeddings, _on(corpus, declared.searches)))
    return ready


def _on(corpus: Corpus, searches: Sequence[Search]) -> list[Search]:
    return [replace(s, base=s.base.replace({"data": corpus.settings})) for s in searches]


def _studies(
    declared: Declared, ready: Sequence[Ready], folder: Path, resources: Mapping[str, float]
) -> tuple[list["Study"], dict[str, float]]:
    """The studies, and the memory that a trial on each data set reserves."""
    from symcere.distributed.pool import most
    from symcere.distributed.studies import Study, open_storage, open_study
    from symcere.steps.cost import gpu_share, memory_of

    sweep = declared.sweep
    storage = open_storage(sweep.storage, folder)
    prefix = f"{folder.name}-{_token(folder)}/" if sweep.storage else ""  # others may keep their studies there, too
    studies: list[Study] = []
    memory: dict[str, float] = {}
    for one in ready:
        # By the searches as declared, whose experiments are known by now; the data's own part changes nothing here.
        needed = max(
            memory_of(one.corpus, experiment, width)
            for search in declared.searches
            for width in [_width(one, search)]
            for experiment in search.experiments
        )
        gpu = gpu_share(sweep.resources.gpu, needed, resources)
        wanted = needed if sweep.resources.memory == "auto" else float(sweep.resources.memory) * 1e9
        # More than a node has would wait for ever; the estimate is no reason not to try.
        memory[one.corpus.name] = float(
            int(min(wanted, 0.8 * most("memory", {"CPU": sweep.resources.cpu, "GPU": gpu})))
        )
        for search in one.searches:
            number = len(studies)
            optimiser = open_study(storage, f"{prefix}{one.corpus.name}/{search.method}", sweep.sampler, number)
            studies.append(
                Study(
                    one.corpus.name,
                    one.corpus.path,
                    search,
                    one.embeddings,
                    folder / "trials",
                    optimiser,
                    sweep.stopping.milestones,
                    max(1, int(sweep.resources.cpu)),
                    gpu,
                    sweep.resources.workers,
                )
            )
    return studies, one_size(memory, resources, sweep.resources.cpu)


def _token(folder: Path) -> str:
    """What tells a sweep from those of the same name elsewhere; made once."""
    path = folder / "token"
    if not path.exists():
        with writing(path) as part:
            part.write_text(secrets.token_hex(4))
    return path.read_text()


def one_size(memory: Mapping[str, float], resources: Mapping[str, float], cpu: float) -> dict[str, float]:
    """What trials reserve: what the largest of them needs, where as many as there are cores for can have that.

    A trial goes on in the process of the last one only if it reserves the same; a new process loads torch again.

    Args:
        memory: bytes that a trial of each data set needs.
    """
    largest = max(memory.values(), default=0.0)
    fits = largest * (resources.get("CPU", 0) // cpu) <= 0.8 * resources.get("memory", float("inf"))
    return dict.fromkeys(memory, largest) if fits else dict(memory)


def _room(declared: Declared, address: str) -> dict[str, float]:
    """The resources of Ray, once they hold a trial. A cluster may have to grow for it, this machine cannot.

    Raises:
        UserError: no trial would fit.
    """
    from symcere.distributed.pool import GROWTH, room

    asked = declared.sweep.resources
    seconds = GROWTH if address else 0.0
    gpu = 0.0 if asked.gpu == "auto" else float(asked.gpu)
    if asked.workers == 1:
        return room([{"CPU": asked.cpu, "GPU": gpu}], seconds)
    found = room([{"CPU": 1, "GPU": float(gpu > 0)}] * asked.workers, seconds)
    # Whether there are GPUs shows only where there are nodes at all.
    return room([{"CPU": 1, "GPU": 1}] * asked.workers, seconds) if asked.gpu == "auto" and found.get("GPU") else found


def _together(declared: Declared, resources: Mapping[str, float]) -> int:
    """Trials of several workers at the same time at most; 0, of one worker: Ray counts."""
    asked = declared.sweep.resources
    if asked.workers == 1:
        return 0
    on_gpus = resources.get("GPU") and (asked.gpu == "auto" or float(asked.gpu) > 0)
    return max(1, int(min(resources[kind] // asked.workers for kind in ("CPU", *(["GPU"] if on_gpus else [])))))


def check_home(address: str = "") -> None:
    """Asks the nodes of the Ray that is running, if there is more than this machine, whether they share the home.

    Args:
        address: of a cluster, which may have no node but others; "" for a Ray of this machine.

    Raises:
        UserError: those that do not.
    """
    import ray

    from symcere.distributed.nodes import blind

    if sum(node["Alive"] for node in ray.nodes()) == 1 and not address:
        return
    home().mkdir(parents=True, exist_ok=True)
    found = blind(home())
    if found:
        raise UserError(
            f"The home {home()} has to be on a disk that all nodes share, since trials read and write it: "
            f"{'; '.join(found)}. Set SYMCERE_HOME to a folder that every node mounts (`symcere submit` passes it on "
            "with --env SYMCERE_HOME=/shared/symcere), and prepare the data sets there."
        )


def _width(one: Ready, search: Search) -> int:
    """Columns of the widest embeddings that a method's trials read."""
    from symcere.text import Embeddings

    return max((Embeddings.open(one.embeddings[t], one.corpus).width for t in search.texts), default=0)


class _Lock:
    """One process at a time runs a sweep; a dead one's lock counts for nothing.

    Whether a process of another machine lives shows in the lock's age: its holder touches it all the time.
    """

    def __init__(self, folder: Path):
        self.path = folder / "running.json"
        self.over = threading.Event()

    def __enter__(self) -> None:
        from symcere.tracking import process

        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            while True:
                try:
                    with self.path.open("x") as file:
                        json.dump({"host": process.host(), "process": process.identity()}, file)
                    break
                except FileExistsError:
                    self._refuse()
                    self.path.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(
                f"Cannot write {self.path.parent}: {error.strerror}. SYMCERE_HOME may name a folder on another disk."
            ) from error
        threading.Thread(target=self._touch, daemon=True).start()

    def _refuse(self) -> None:
        """Raises a UserError if the lock's holder may live."""
        from symcere.tracking import process

        with contextlib.suppress(FileNotFoundError):
            young = time.time() - self.path.stat().st_mtime < 3 * TOUCH
            try:
                held = json.loads(self.path.read_text())
                (host, _, _), (number, _, _) = held["host"].partition("/"), held["process"].partition("@")
                here = held["host"] == process.host()
                lives, where = process.alive(held["process"]) if here else young, f", in process {number}"
            except (ValueError, KeyError, TypeError, AttributeError):  # being written, or never to its end
                here, lives, host, where = True, young, "", ""
            if lives:
                raise UserError(
                    f"The sweep '{self.path.parent.name}' is running{where}{'' if here else f' of {host}'}."
                )

    def _touch(self) -> None:
        while not self.over.wait(TOUCH):
            with contextlib.suppress(OSError):
                os.utime(self.path)

    def __exit__(self, *_: Any) -> None:
        self.over.set()
        self.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.parent.rmdir()  # empty: it never began


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


# ---------------------------------------------------------------- MLflow


def _parent(name: str, declared: Declared, one: Ready) -> Any:
    """The run of a data set, to which those of its trials and final models belong."""
    from symcere import tracking

    corpus = one.corpus
    tags = {
        SWEEP: name,
        ROLE: "dataset",
        "symcere.dataset": corpus.name,
        "symcere.corpus": corpus.fingerprint,
        "symcere.sweep_file": declared.sha256,
    }
    params = {
        "methods": ", ".join(s.method for s in declared.searches),
        "trials": declared.sweep.trials,
        "sampler": declared.sweep.sampler.kind,
        "stopping": declared.sweep.stopping.kind,
    }
    for run in tracking.list_runs(name):
        if run.tags.get(ROLE) == "dataset" and all(run.tags.get(k) == tags[k] for k in (SWEEP, "symcere.corpus")):
            return tracking.start_run(name, run.name, {}, tags, again=run.id)
    return tracking.start_run(name, f"{name}-{corpus.name}", params, tags)


class _Recorder:
    """Writes every trial that has ended into MLflow, beside the search and from the trial's own file.

    So a trial costs the search no time, no run is ever left RUNNING, and what a kill or a lost server prevented is
    written by the next start.
    """

    def __init__(
        self,
        name: str,
        declared: Declared,
        ready: Sequence[Ready],
        parents: Mapping[str, "Tracker"],
        studies: Sequence["Study"],
    ):
        self.name, self.declared, self.parents = name, declared, parents
        self.folder = studies[0].folder
        self.fingerprints = {one.corpus.name: one.corpus.fingerprint for one in ready}
        self.queue: queue.Queue[tuple[Spec, Outcome] | None] = queue.Queue()
        self.trouble: Exception | None = None
        self._half_written(studies)

    def _half_written(self, studies: Sequence["Study"]) -> None:
        """Queues what this store does not have from an earlier process, and removes what that left half-written."""
        from symcere import tracking

        done = [(study.specs[name], outcome) for study in studies for name, outcome in study.done.items()]
        there = {run.id: run for run in tracking.list_runs(self.name)} if done else {}
        left = [(spec, outcome) for spec, outcome in done if self._recorded(spec.id) not in there]
        names = {spec.id for spec, _ in left}
        for run in there.values():
            if run.tags.get(ROLE) == "trial" and run.tags.get(TRIAL) in names:
                tracking.client().delete_run(run.id)
        for one in left:
            self.queue.put(one)

    def _recorded(self, trial: str) -> str:
        """The id of its MLflow run, in this store or in the one that the sweep had before; "" if it has none."""
        path = self.folder / trial / RECORDED
        return path.read_text() if path.exists() else ""

    def put(self, spec: "Spec", outcome: "Outcome") -> None:
        self.queue.put((spec, outcome))

    def __enter__(self) -> "_Recorder":
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        self.queue.put(None)
        self.thread.join()
        if self.trouble is not None and kind is None:
            raise UserError(
                f"Some trials could not be written to MLflow ({self.trouble}). Nothing is lost: "
                f"`symcere sweep --resume {self.name}` writes them when the store answers again."
            ) from self.trouble

    def _work(self) -> None:
        while (one := self.queue.get()) is not None:
            if self.trouble is not None:  # each would wait for the store as long again
                continue
            try:
                self._record(*one)
            except Exception as error:  # the search goes on; the next start writes it
                self.trouble = error

    def _record(self, spec: "Spec", outcome: "Outcome") -> None:
        from symcere import tracking

        experiment = build(Experiment, spec.experiment) if spec.experiment else None
        tags = {
            SWEEP: self.name,
            ROLE: "trial",
            TRIAL: spec.id,
            "symcere.dataset": spec.dataset,
            "symcere.method": spec.method,
            "symcere.corpus": self.fingerprints[spec.dataset],
            "symcere.sweep_file": self.declared.sha256,
            "symcere.ended": outcome.status,
        }
        if experiment is not None:
            tags |= {"symcere.experiment": experiment_hash(experiment), "symcere.model": spec.model}
        last = {"epoch": outcome.epoch, "best_epoch": outcome.best_epoch, "trial_seconds": outcome.seconds}
        if outcome.value is not None:
            last[f"best_{outcome.metric}"] = outcome.value
        run = tracking.record_run(
            self.name,
            f"{self.name}-{spec.id.replace('/', '-')}",
            experiment.flat() if experiment is not None else {},
            tags,
            [*outcome.history, last],
            started=outcome.started,
            ended=outcome.ended,
            parent=self.parents[spec.dataset].run_id,
            error=(outcome.reason or "failed") if outcome.status == "failed" else "",
        )
        (self.folder / spec.id / RECORDED).write_text(run)


# ---------------------------------------------------------------- after the search


def _finals(
    name: str,
    declared: Declared,
    studies: Sequence["Study"],
    parents: Mapping[str, "Tracker"],
    seeds: int,
    resources: Mapping[str, float],
    memory: float,
    on_standing: OnStanding | None,
) -> None:
    """Trains the best setting of each study with several seeds, and tests these models alone, once."""
    from symcere.distributed import sweep as distributed

    wanted = []
    for study in studies:
        best = study.best()
        if best is None:
            continue
        spec = best[0]
        # Other seeds than the search's own: that one helped to choose. A closed form has no use for any.
        count = min(seeds, 1) if spec.experiment["closed_form"]["kind"] != "none" else seeds
        for seed in range(1, count + 1):
            wanted.append(
                {
                    "sweep": name,
                    "dataset": spec.dataset,
                    "method": spec.method,
                    "experiment": spec.experiment,
                    "seed": seed,
                    "workers": study.workers,
                    "gpus": int(study.gpu > 0),
                    "parent": parents[spec.dataset].run_id,
                    "tags": {TRIAL: spec.id, "symcere.sweep_file": declared.sha256},
                    "environment": _environment(),
                }
            )
    done = {study.name: [0, 0] for study in studies}
    for one in wanted:
        done[f"{one['dataset']}/{one['method']}"][1] += 1
    errors: list[str] = []

    def tell() -> None:
        if on_standing is not None:
            on_standing(
                [
                    {"data set": s.dataset, "method": s.method, "final models": f"{at}/{of}"}
                    for s in studies
                    for at, of in [done[s.name]]
                ]
            )

    def ended(argument: dict[str, Any], result: Any, error: str) -> None:
        if error:
            errors.append(f"{argument['dataset']}/{argument['method']}, seed {argument['seed']}: {error}")
        done[f"{argument['dataset']}/{argument['method']}"][0] += 1
        tell()

    tell()
    asked = declared.sweep.resources
    alone = asked.workers == 1
    distributed.each(
        final,
        wanted,
        cpu=asked.cpu if alone else 0,
        gpu=max((s.gpu for s in studies), default=0) if alone else 0,
        memory=memory if alone else 0,
        at_once=_together(declared, resources),
        on_result=ended,
    )
    if errors:
        raise UserError(
            f"{len(errors)} final models failed, {errors[-1]} `symcere sweep --resume {name}` tries them again."
        )


def _environment() -> dict[str, str]:
    """What a worker has to share with this process."""
    from symcere.tracking import tracking_uri

    return {"SYMCERE_HOME": str(home()), "MLFLOW_TRACKING_URI": tracking_uri()}


def final(one: Mapping[str, Any]) -> dict[str, float]:
    """Trains and tests one final model, in a worker: one that is finished is found again, one that was cut off goes on.

    Returns:
        its metrics.
    """
    os.environ.update(one["environment"])
    if not one["gpus"]:  # as its trials; Ray shows a task that asks for none all there are
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    from symcere import tracking

    if not (home() / "sweeps" / one["sweep"] / "plan.json").exists():
        raise UserError(f"The node {socket.gethostname()} does not see {home()}, which all nodes have to share.")

    tracking.client(patience=PATIENCE)
    experiment = build(Experiment, one["experiment"]).replace({"train.seed": one["seed"]})
    # Two methods may have come to one setting: each has its own models.
    own = {"symcere.dataset": one["dataset"], "symcere.method": one["method"], ROLE: "final"}
    identity = {"symcere.experiment": experiment_hash(experiment), **own}
    begun = ""
    for run in tracking.list_runs(one["sweep"]):
        same = all(run.tags.get(k) == v for k, v in identity.items())
        if not same or run.status == "FINISHED":
            continue
        if run.status == "RUNNING":  # on a node that is gone: this sweep's lock, and Ray, let nobody else train it
            tracking.attach(run.id).end("FAILED", "its process died")
        if not begun and checkpoint_of(run.name).exists():
            begun = run.name
    return train(
        one["dataset"],
        experiment=experiment,
        method=one["method"],
        name=f"{one['sweep']}-{one['dataset']}-{one['method']}-s{one['seed']}",
        group=one["sweep"],
        tags={SWEEP: one["sweep"], ROLE: "final", **one["tags"]},
        parent=one["parent"],
        reuse=True,
        resume=begun,
        workers=one["workers"],
        gpus_per_worker=one["gpus"] if one["workers"] > 1 else 0,
    ).metrics


def _table(name: str, studies: Sequence["Study"]) -> list[dict[str, Any]]:
    """What the final models show, beside what chose them."""
    from symcere import tracking

    finals: dict[str, dict[str, Any]] = {}  # of each trial, whose setting they have
    for run in reversed(tracking.list_runs(name)):  # the latest of a seed counts
        if run.tags.get(ROLE) == "final" and run.status == "FINISHED":
            finals.setdefault(run.tags.get(TRIAL, ""), {})[run.params.get("train.seed", "")] = run.metrics
    table = []
    for study in studies:
        standing, best = study.standing(), study.best()
        row: dict[str, Any] = {
            "data set": study.dataset,
            "method": study.method,
            "trials": standing.done,
            "best validation NDCG@10": standing.best,
        }
        models = list(finals.get(best[0].id, {}).values()) if best else []
        for metric, label in (("test_ndcg_at_10", "test NDCG@10"), ("test_recall_at_10", "test Recall@10")):
            values = [m[metric] for m in models if metric in m]
            row[label] = statistics.mean(values) if values else None
            row[f"± {label}"] = statistics.stdev(values) if len(values) > 1 else None
        row["chosen"] = ", ".join(
            f"{key.rpartition('/')[2].rpartition('.')[2]} {f'{value:.4g}' if isinstance(value, float) else value}"
            for key, value in (best[0].values if best else {}).items()
        )
        table.append(row)
    return table
