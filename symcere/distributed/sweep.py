"""Many studies, one pool of trials: Ray Tune runs what :mod:`symcere.distributed.studies` suggests.

Each study has its own sampler and its own early stopping; :class:`Searcher` and :class:`Scheduler` pass each trial on
to its own. Tune's actors are used again from trial to trial, and its experiment state is not relied on: what a restart
needs is in the trials' files.
"""

import contextlib
import os
import signal
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

from ray import tune
from ray.exceptions import OutOfMemoryError
from ray.tune import Stopper
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher as TuneSearcher

from symcere.config.sweep import Stopping
from symcere.distributed import trial as trials
from symcere.distributed.pool import ask_for, quiet
from symcere.distributed.studies import Standing, Study
from symcere.distributed.trial import Outcome, Spec, read_outcome, write
from symcere.errors import UserError
from symcere.home import CHECKPOINT

VALUE, EPOCH, TROUBLE = "value", "epoch", "trouble"
ENDLESS = 10**9
"""Epochs that no trial reaches."""
RESTARTS = 3
"""Times that a trial whose worker died goes on from its checkpoint, before it counts as failed."""
MOST = 500
"""Trials that an autoscaler is told of at most."""
DIED = f"its worker died {RESTARTS + 1} times, most likely killed for want of memory"

OnEnd = Callable[[Spec, Outcome], None]


class Searcher(TuneSearcher):
    """Asks the study that is least far; tells each what became of its trials.

    Args:
        studies: by name.
        decided: whether the scheduler, and nothing else, has ended a trial (by its id).
        on_end: called with every trial that ended.
        on_change: called when the standing of a study has changed.
        on_trouble: called with what would keep other trials from running, too.
    """

    def __init__(
        self,
        studies: Mapping[str, Study],
        decided: Callable[[str], bool] = lambda name: False,
        on_end: OnEnd = lambda spec, outcome: None,
        on_change: Callable[[], None] = lambda: None,
        on_trouble: Callable[[str], None] = lambda trouble: None,
    ):
        super().__init__(metric=VALUE, mode="max")
        self.studies, self.decided = studies, decided
        self.on_end, self.on_change, self.on_trouble = on_end, on_change, on_trouble
        self._specs: dict[str, Spec] = {}  # by Tune's id

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles it for a restore that we do not use

    def suggest(self, trial_id: str) -> Any:
        """The configuration of the next trial, ``{"spec": …, "folder": …}``; None to ask later."""
        left = [study for study in self.studies.values() if not study.finished]
        for study in sorted(left, key=lambda s: (len(s.done) + len(s.running)) / max(s.total, 1)):
            spec = study.next()
            if spec is not None:
                self._specs[trial_id] = spec
                self.on_change()
                return {"spec": asdict(spec), "folder": str(study.folder / spec.id)}
        if all(study.finished for study in self.studies.values()):
            return TuneSearcher.FINISHED
        return None

    def on_trial_result(self, trial_id: str, result: dict) -> None:
        self.on_change()

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        spec = self._specs.pop(trial_id, None)
        if spec is None:
            return
        study = self.studies[spec.study]
        folder = study.folder / spec.id
        if result and result.get(TROUBLE):
            self.on_trouble(result[TROUBLE])
        outcome = read_outcome(folder) or Outcome(started=time.time(), ended=time.time())
        if not outcome.done and error:
            outcome = died(folder, outcome)
        elif not outcome.done and self.decided(spec.id):
            outcome.status = "stopped"
            end(folder, outcome)
        if outcome.done:
            study.end(spec.id, outcome)
            self.on_end(spec, outcome)
        else:
            study.drop(spec.id)
        self.on_change()

    def save(self, checkpoint_path: str) -> None:
        """Nothing: see the module's text."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""


def died(folder: Path, outcome: Outcome | None) -> Outcome:
    """The outcome of a trial whose worker died too often, stored; with the figures it had."""
    outcome = outcome or Outcome(started=time.time(), ended=time.time())
    if not outcome.done:
        outcome.status, outcome.reason = "failed", DIED
        end(folder, outcome)
    return outcome


def end(folder: Path, outcome: Outcome) -> None:
    write(folder / "outcome.json", outcome)
    (folder / CHECKPOINT).unlink(missing_ok=True)


@dataclass(frozen=True)
class Seen:
    """A trial as the scheduler of one study sees it: the same before and after a restart."""

    trial_id: str


class _Alone:
    """What a scheduler may ask of Tune's controller; nobody waits, so that median stopping never pauses a trial."""

    @staticmethod
    def get_live_trials() -> list:
        return []


class Scheduler(FIFOScheduler):
    """A stopping rule of Ray Tune for each study.

    Args:
        studies: those whose trials it will see; finished ones are told to their rule at once.
    """

    def __init__(self, studies: Iterable[Study], stopping: Stopping):
        super().__init__()
        self.stopped: set[str] = set()
        self._epoch: dict[str, int] = {}
        self._rules = {study.name: rule(stopping) for study in studies}
        for study in studies:
            for name, outcome in sorted(study.done.items()):
                self._replay(study.specs[name], outcome)

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def decided(self, name: str) -> bool:
        """Whether the trial of this id was ended by its study's rule."""
        return name in self.stopped

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict) -> str:
        spec = trial.config["spec"]
        if result.get("done") or EPOCH not in result:
            return TrialScheduler.CONTINUE
        name, epoch = spec["id"], result[EPOCH]
        if epoch <= self._epoch.get(name, 0):  # told again after a restart
            return TrialScheduler.CONTINUE
        action = self._decide(f"{spec['dataset']}/{spec['method']}", name, epoch, result[VALUE])
        if action == TrialScheduler.STOP:
            self.stopped.add(name)
        return action

    def _decide(self, study: str, name: str, epoch: int, value: float) -> str:
        inner: Any = self._rules[study]
        if inner is None:
            return TrialScheduler.CONTINUE
        seen = Seen(name)
        if name not in self._epoch:
            inner.on_trial_add(_Alone, seen)
        self._epoch[name] = epoch
        return inner.on_trial_result(_Alone, seen, {EPOCH: epoch, VALUE: value})

    def _replay(self, spec: Spec, outcome: Outcome) -> None:
        for epoch in spec.milestones:
            value = outcome.best_at(epoch)
            if epoch <= outcome.epoch and value is not None:
                self._decide(spec.study, spec.id, epoch, value)


def rule(stopping: Stopping) -> TrialScheduler | None:
    """Ray Tune's stopping rule for the trials of one study; None where all run to their end."""
    if stopping.kind == "asha":
        return AsyncHyperBandScheduler(
            time_attr=EPOCH,
            metric=VALUE,
            mode="max",
            max_t=ENDLESS,  # a trial ends by itself, after the epochs that its own setting has
            grace_period=stopping.grace,
            reduction_factor=stopping.reduction,
        )
    if stopping.kind == "median":
        return MedianStoppingRule(
            time_attr=EPOCH, metric=VALUE, mode="max", grace_period=stopping.grace, min_samples_required=3
        )
    return None


class Ending(Stopper):
    """When Tune is to end before all is done: on a signal, on a trouble, or when the time is over."""

    def __init__(self, max_hours: float):
        self.asked = False
        self.trouble = ""
        self.deadline = time.monotonic() + max_hours * 3600 if max_hours else float("inf")

    def __deepcopy__(self, memo: Any) -> "Ending":
        return self  # whatever Tune copies, this is the one that a signal reaches

    def __call__(self, trial_id: str, result: dict) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.asked or bool(self.trouble) or time.monotonic() >= self.deadline

    def meet(self, trouble: str) -> None:
        """Ends it: other trials would meet the same."""
        self.trouble = trouble

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end the search in order; a second one ends it at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        def ask(number: int, frame: Any) -> None:
            self.asked = True
            restore()

        for number in before:
            signal.signal(number, ask)
        try:
            yield
        finally:
            restore()


def _trial(config: dict[str, Any]) -> None:
    """What Tune runs in its actors."""
    # So long Tune waits, before it uses an actor again, for the last trial to be gone; its 2 s are few when busy.
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = "120"

    def report(epoch: int, value: float) -> None:
        tune.report({EPOCH: epoch, VALUE: value})

    spec, folder = Spec(**config["spec"]), Path(config["folder"])
    trouble = ""
    try:
        if trials.visible(spec, folder):
            outcome = trials.run(spec, folder, report)
        else:
            trouble = (
                f"The node {socket.gethostname()} does not see {folder}, where the trial keeps its files: it came "
                "without the disk that the others share. Mount it there, or remove the node"
            )
    except Exception as error:
        if not trials.of_the_disk(error):
            raise
        trouble = (
            f"A trial on the node {socket.gethostname()} cannot write {folder}: {error}. Make room or mend the disk"
        )
    if trouble:
        tune.report({EPOCH: 0, VALUE: -1.0, TROUBLE: trouble, "done": True})
    else:
        tune.report({EPOCH: outcome.epoch, VALUE: -1.0 if outcome.value is None else outcome.value, "done": True})


def search(
    studies: Sequence[Study],
    stopping: Stopping,
    *,
    cpu: float = 1.0,
    memory: Mapping[str, float] | None = None,
    max_hours: float = 0.0,
    at_once: int = 0,
    grows: bool = False,
    on_end: OnEnd = lambda spec, outcome: None,
    on_change: Callable[[list[Standing]], None] = lambda standings: None,
) -> Literal["finished", "time", "stopped"]:
    """Runs the trials that are left, over all studies, in the Ray that is running.

    Args:
        cpu: cores of a trial.
        memory: bytes that a trial of each data set reserves; none by default.
        max_hours: ends it in order after so long.
        at_once: trials at the same time at most; 0: what fits.
        grows: whether an autoscaler may bring nodes. Tune asks it for the room of one trial at a time: here it is told
            of all that are left.
        on_end: called with every trial that has ended.
        on_change: called with the standing of every study.

    Returns:
        ``finished`` if no trial is left, ``time`` when that was over before, ``stopped`` after Ctrl-C.

    Raises:
        UserError: a node that does not see the trials' files, or none that runs them.
    """

    told = 0

    def changed() -> None:
        nonlocal told
        on_change([study.standing() for study in studies])
        left = min(MOST, sum(study.total - len(study.done) for study in studies))
        if grows and left != told:
            ask_for([{"CPU": cpu, "GPU": max(study.gpu for study in studies)}] * left)
            told = left

    def resources(config: dict[str, Any]) -> tune.PlacementGroupFactory:
        spec = config["spec"]
        bundle = {"CPU": cpu, "GPU": spec["gpu"], "memory": (memory or {}).get(spec["dataset"], 0.0)}
        if spec["workers"] > 1:
            # Its workers ask for theirs when it runs, and `at_once` sees to it that there is enough for all of them: a
            # trial that held any itself could leave too little, and all would wait for ever.
            bundle = {"memory": max(bundle["memory"], 1e6)}
        return tune.PlacementGroupFactory([{k: v for k, v in bundle.items() if v}])

    ending, killed = Ending(max_hours), Counter[tuple[str, int]]()
    changed()
    with ending.listening(), contextlib.ExitStack() as after:
        if grows:
            after.callback(ask_for, [])
        while any(not study.finished for study in studies):
            before = sum(len(study.done) for study in studies)
            short = _tune(studies, stopping, resources, ending, at_once, on_end, changed)
            for study in studies:
                for name in list(study.running):  # Tune says nothing of a trial that it ends itself, or loses
                    outcome = read_outcome(study.folder / name)
                    # By epoch: who gets further between one killing and the next was only near who is too large.
                    here = name, outcome.epoch if outcome else 0
                    killed[here] += short
                    if killed[here] > RESTARTS:
                        outcome = died(study.folder / name, outcome)
                    if outcome is not None and outcome.done:
                        study.end(name, outcome)
                        on_end(study.specs[name], outcome)
                    else:
                        study.drop(name)
            changed()
            if ending.trouble:
                raise UserError(f"{ending.trouble}, and go on with `symcere sweep --resume NAME`. Nothing is lost.")
            if ending.stop_all():
                return "stopped" if ending.asked else "time"
            if not short and sum(len(study.done) for study in studies) == before:
                raise UserError("No trial can be started or ended: Ray has lost its workers. Look at `ray status`.")
    return "finished"


def _tune(
    studies: Sequence[Study],
    stopping: Stopping,
    resources: Callable[[dict[str, Any]], tune.PlacementGroupFactory],
    ending: Ending,
    at_once: int,
    on_end: OnEnd,
    changed: Callable[[], None],
) -> bool:
    """One run of Tune over all that is left.

    Returns:
        whether Ray ended it by killing workers, for want of memory on their node. Tune, which takes up again what a
        dead worker leaves, takes this for an error of its own.
    """
    scheduler = Scheduler(studies, stopping)
    searcher = Searcher({study.name: study for study in studies}, scheduler.decided, on_end, changed, ending.meet)
    with tempfile.TemporaryDirectory(prefix="symcere-tune-") as scratch, _quiet_tune():
        tuner = tune.Tuner(
            tune.with_resources(_trial, resources),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=scheduler,
                num_samples=-1,
                reuse_actors=True,
                max_concurrent_trials=at_once or None,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=scratch,
                stop=ending,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=RESTARTS),
            ),
        )
        try:
            tuner.fit()
        except RuntimeError as error:
            if not isinstance(error.__cause__, OutOfMemoryError):
                raise
            return True
        return False


def each(
    function: Callable[[Any], Any],
    arguments: Sequence[Any],
    *,
    cpu: float = 1.0,
    gpu: float = 0.0,
    memory: float = 0.0,
    at_once: int = 0,
    on_result: Callable[[Any, Any, str], None],
) -> None:
    """``function`` of every argument, each in a worker of the pool; a worker that dies is replaced.

    Args:
        function: can be imported by its name.
        cpu, gpu, memory: of each, memory in bytes; nothing where it asks for workers of its own.
        at_once: how many at the same time at most; 0: what fits.
        on_result: called with an argument, the result, and why there is none (then the result is None).
    """
    import ray

    task = ray.remote(num_cpus=cpu, num_gpus=gpu, memory=memory, max_retries=RESTARTS)(function)
    waiting = list(arguments)
    left: dict[Any, Any] = {}
    try:
        while waiting or left:
            while waiting and (not at_once or len(left) < at_once):
                argument = waiting.pop(0)
                left[task.remote(argument)] = argument
            (reference,), _ = ray.wait(list(left), num_returns=1)
            argument = left.pop(reference)
            try:
                on_result(argument, ray.get(reference), "")
            except ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None) or error
                on_result(argument, None, (str(cause).strip() or type(cause).__name__).splitlines()[-1])
    finally:
        for reference in left:
            ray.cancel(reference, force=True)


def _quiet_tune() -> contextlib.AbstractContextManager[None]:
    """No logs, tables and snapshots of Tune's own; they cost more than a small trial."""
    settings = {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",  # see Ending; Tune's own is never taken away again
        "TUNE_WARN_THRESHOLD_S": "60",
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
        "TUNE_WARN_SLOW_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "1000000",
        "RAY_AIR_NEW_OUTPUT": "0",
    }
    return quiet("ray.tune", settings)
