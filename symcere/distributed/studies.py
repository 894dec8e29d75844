"""The studies of a sweep, one for each method on each data set: what to try next, and what came of it.

Optuna suggests; the trials' own files say what is done. Whatever process is killed, what a study needs to go on is on
the disk: :class:`Study` reads it when it is made. Nothing here knows Ray.
"""

import itertools
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from symcere.config import Experiment, Text
from symcere.config.canonical import same_model
from symcere.config.fields import build
from symcere.config.space import Parameter
from symcere.config.sweep import Sampler, Search
from symcere.distributed.trial import Outcome, Spec, read_outcome, read_spec, write
from symcere.errors import UserError

if TYPE_CHECKING:
    import optuna

ASKED_AGAIN = 20
"""Suggestions in a row that were tried before, after which a study has nothing new."""


@dataclass(frozen=True)
class Standing:
    """One line of a sweep's progress."""

    dataset: str
    method: str
    done: int
    running: int
    total: int
    failed: int
    best: float | None
    seconds: float
    """Mean of a trial's."""


class Study:
    """The trials of one method on one data set.

    Args:
        search: the method, its experiment's data part that of the corpus.
        embeddings: folders of the embeddings, by the encoders.
        folder: of all trials' files.
        optimiser: of Optuna, its storage already open.
        milestones: see :class:`Spec`.
        threads, gpu, workers: what a trial gets.
        fingerprint: of the corpus.
    """

    def __init__(
        self,
        dataset: str,
        corpus: Path,
        search: Search,
        embeddings: dict[Text, Path],
        folder: Path,
        optimiser: "optuna.Study",
        milestones: Callable[[int], Sequence[int]] = lambda epochs: (),
        threads: int = 1,
        gpu: float = 0.0,
        workers: int = 1,
        fingerprint: str = "",
    ):
        self.dataset, self.method = dataset, search.method
        self.corpus, self.search, self.embeddings, self.folder = corpus, search, embeddings, folder
        self.optimiser, self.milestones = optimiser, milestones
        self.threads, self.gpu, self.workers, self.fingerprint = threads, gpu, workers, fingerprint
        self.specs: dict[str, Spec] = {}
        self.done: dict[str, Outcome] = {}
        self.running: dict[str, int] = {}  # Optuna's number of the trial
        self.waiting: list[Spec] = []
        self.exhausted = False
        self._models: dict[str, str] = {}  # same_model -> id
        self._numbers = itertools.count(1 + max(map(int, self._folders()), default=-1))
        self._points = list(search.points)
        self._rng = random.Random(f"{dataset}/{search.method}")
        self._read()

    @property
    def name(self) -> str:
        return f"{self.dataset}/{self.method}"

    @property
    def limit(self) -> int:
        """Trials in all, of which a small space has fewer than were asked for."""
        if self.search.models is None:
            return self.search.trials
        impossible = sum(not spec.model for spec in self.specs.values())
        return min(self.search.trials, len(self.search.models) + impossible)

    @property
    def total(self) -> int:
        return len(self.specs) if self.exhausted else max(self.limit, len(self.specs))

    @property
    def finished(self) -> bool:
        """Nothing is left to start; what runs may still be running."""
        return not self.waiting and (self.exhausted or len(self.specs) >= self.limit)

    def standing(self) -> Standing:
        values = [o.value for o in self.done.values() if o.value is not None and o.status != "failed"]
        spent = [o.seconds for o in self.done.values() if o.status != "failed"]
        failed = sum(o.status == "failed" for o in self.done.values())
        mean = sum(spent) / len(spent) if spent else 0.0
        best = max(values, default=None)
        return Standing(self.dataset, self.method, len(self.done), len(self.running), self.total, failed, best, mean)

    def best(self) -> tuple[Spec, Outcome] | None:
        """The trial with the best validation NDCG@10, the earliest of equals; None if none has a value.

        One that failed after some epochs does not count: its setting would fail again.
        """
        found = [
            (o.value, -self.specs[i].number, i)
            for i, o in self.done.items()
            if o.value is not None and o.status != "failed"
        ]
        if not found:
            return None
        name = max(found)[2]
        return self.specs[name], self.done[name]

    # ------------------------------------------------------------ what is next

    def next(self) -> Spec | None:
        """The next trial, its files begun; None if there is none now (see :attr:`finished`)."""
        if self.waiting:
            spec = self.waiting.pop(0)
            self.running[spec.id] = self._ask(spec.values, spec.id)[0].number
            return spec
        if len(self.specs) >= self.limit:
            return None
        for attempt in range(ASKED_AGAIN):
            point = self._points.pop(0) if self._points else None
            if attempt >= ASKED_AGAIN // 4 and point is None:
                point = self._untried()
            trial, settings, values = self._ask(point, "")
            try:
                experiment = self.search.experiment(settings)
                model = same_model(experiment)
            except (UserError, ValueError) as error:
                self._impossible(trial, values, str(error))
                return self.next()
            known = self._models.get(model)
            if known is None:
                return self._begin(trial, values, model, experiment)
            trial.set_user_attr("same_model_as", known)
            value = self.done[known].value if known in self.done else None
            self._tell(trial.number, value)
        if not self.running:
            self.exhausted = True
        return None

    def _folders(self) -> list[str]:
        """Of trials, whatever is left in them: a number is given once."""
        return sorted(path.name for path in (self.folder / self.name).glob("[0-9]*"))

    def _begin(self, trial: Any, values: dict[str, Any], model: str, experiment: Any) -> Spec:
        number = next(self._numbers)
        name = f"{self.name}/{number:04d}"
        spec = Spec(
            id=name,
            dataset=self.dataset,
            method=self.method,
            number=number,
            corpus=str(self.corpus),
            embeddings=self._embeddings_of(experiment),
            experiment=experiment.to_dict(),
            values=values,
            milestones=list(self.milestones(experiment.train.epochs)),
            model=model,
            threads=self.threads,
            gpu=self.gpu,
            workers=self.workers,
            fingerprint=self.fingerprint,
        )
        write(self.folder / name / "spec.json", spec)
        trial.set_user_attr("id", name)
        self.specs[name], self._models[model] = spec, name
        self.running[name] = trial.number
        return spec

    def _impossible(self, trial: Any, values: dict[str, Any], reason: str) -> None:
        """A combination that no experiment can have counts as a failed trial."""
        number = next(self._numbers)
        name = f"{self.name}/{number:04d}"
        spec = Spec(name, self.dataset, self.method, number, str(self.corpus), "", {}, values, [])
        now = time.time()
        outcome = Outcome(status="failed", reason=reason, started=now, ended=now)
        write(self.folder / name / "spec.json", spec)
        write(self.folder / name / "outcome.json", outcome)
        self.specs[name], self.done[name] = spec, outcome
        trial.set_user_attr("id", name)
        self._tell(trial.number, None)

    def _ask(self, point: dict[str, Any] | None, name: str) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        if point is not None:
            self.optimiser.enqueue_trial(point)
        trial = self.optimiser.ask()
        if name:
            trial.set_user_attr("id", name)

        def choose(parameter: Parameter) -> Any:
            key = parameter.key
            if parameter.options:
                return trial.suggest_categorical(key, parameter.labels)
            if parameter.integer:
                return trial.suggest_int(key, int(parameter.low), int(parameter.high), log=parameter.log)
            return trial.suggest_float(key, parameter.low, parameter.high, log=parameter.log)

        settings, values = self.search.space.draw(self.search.flat, choose)
        return trial, settings, values

    def _untried(self) -> dict[str, Any] | None:
        """A point of a small space that was not tried, where the sampler finds none."""
        left = [values for model, values in (self.search.models or {}).items() if model not in self._models]
        return self._rng.choice(left) if left else None

    # ------------------------------------------------------------ what came of it

    def end(self, name: str, outcome: Outcome) -> None:
        """Takes the outcome of a trial that ran."""
        self.done[name] = outcome
        self._tell(self.running.pop(name), outcome.value if outcome.status != "failed" else None)

    def drop(self, name: str) -> None:
        """A trial that was ended before its end, to be continued another time."""
        self._tell(self.running.pop(name), None)
        self.waiting.append(self.specs[name])

    def _tell(self, number: int, value: float | None) -> None:
        from optuna.trial import TrialState

        if value is None:
            self.optimiser.tell(number, state=TrialState.FAIL)
        else:
            self.optimiser.tell(number, value)

    # ------------------------------------------------------------ what is there already

    def _read(self) -> None:
        """Finished trials are kept, the others wait to go on, and Optuna is told what it missed."""
        from optuna.trial import TrialState

        for folder in self._folders():
            spec = read_spec(self.folder / self.name / folder)
            if spec is None:  # killed before anything began
                continue
            self.specs[spec.id] = spec
            if spec.model:
                self._models[spec.model] = spec.id
            outcome = read_outcome(self.folder / spec.id)
            if outcome is not None and outcome.done:
                self.done[spec.id] = outcome
            else:
                self.specs[spec.id] = self._here(spec)
                self.waiting.append(self.specs[spec.id])
        told: set[str] = set()
        for trial in self.optimiser.get_trials(deepcopy=False):
            name = trial.user_attrs.get("id", "")
            if trial.state in (TrialState.RUNNING, TrialState.WAITING):
                ended = self.done.get(name) if trial.state == TrialState.RUNNING else None
                number = trial.number
                if trial.state == TrialState.WAITING:  # was to be asked for next when everything was killed
                    number = self.optimiser.ask().number
                self._tell(number, ended.value if ended is not None and ended.status != "failed" else None)
                trial = self.optimiser.get_trials(deepcopy=False)[number]
            if trial.state == TrialState.COMPLETE:
                told.add(name)
        for name, outcome in self.done.items():
            if name not in told and outcome.value is not None and outcome.status != "failed":
                self._add(self.specs[name], outcome.value)
        tried = [spec.values for spec in self.specs.values()]
        self._points = [p for p in self._points if not any(p.items() <= values.items() for values in tried)]

    def _here(self, spec: Spec) -> Spec:
        """An unfinished trial as it goes on here: a sweep may be resumed with other GPUs, or its home be elsewhere."""
        spec = replace(
            spec,
            corpus=str(self.corpus),
            embeddings=self._embeddings_of(build(Experiment, spec.experiment)),
            threads=self.threads,
            gpu=self.gpu,
            workers=self.workers,
        )
        write(self.folder / spec.id / "spec.json", spec)
        return spec

    def _embeddings_of(self, experiment: Experiment) -> str:
        return str(self.embeddings.get(experiment.text, "")) if experiment.needs_text else ""

    def _add(self, spec: Spec, value: float) -> None:
        """A result that Optuna's storage lost."""
        import optuna

        kinds: dict[str, Any] = {}

        def choose(parameter: Parameter) -> Any:
            if parameter.options:
                kinds[parameter.key] = optuna.distributions.CategoricalDistribution(parameter.labels)
            elif parameter.integer:
                kinds[parameter.key] = optuna.distributions.IntDistribution(
                    int(parameter.low), int(parameter.high), log=parameter.log
                )
            else:
                kinds[parameter.key] = optuna.distributions.FloatDistribution(
                    parameter.low, parameter.high, log=parameter.log
                )
            return spec.values[parameter.key]

        self.search.space.draw(self.search.flat, choose)
        self.optimiser.add_trial(
            optuna.trial.create_trial(params=spec.values, distributions=kinds, value=value, user_attrs={"id": spec.id})
        )


# ---------------------------------------------------------------- Optuna


def open_storage(url: str, folder: Path) -> Any:
    """Optuna's storage: an RDB by its URL, else a journal in ``folder``, which `optuna-dashboard` can open.

    Only the process that holds the sweep may call this: it mends what a killed one left behind.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if url:
        try:
            return optuna.storages.RDBStorage(url)
        except Exception as error:
            from symcere.tracking import mask

            reason = " ".join(str(error).split())[:300]
            raise UserError(f"Cannot use Optuna's storage {mask(url)}: {mask(reason)}") from error
    path = folder / "optuna.journal"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "optuna.journal.lock").unlink(missing_ok=True)
    if path.exists():  # a line that was being written when the power failed would make all later ones unreadable
        with path.open("rb+") as file:
            content = file.read()
            if content and not content.endswith(b"\n"):
                file.truncate(content.rfind(b"\n") + 1)
                os.fsync(file.fileno())
    return optuna.storages.JournalStorage(JournalFileBackend(str(path)))


def open_study(storage: Any, name: str, sampler: Sampler, seed: int = 0) -> "optuna.Study":
    """The study ``name``, found or made.

    Args:
        seed: what sets the studies of a sweep apart.
    """
    import warnings

    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
        # Another seed after a restart, or the first random points would come again.
        seed = sampler.seed + 7919 * seed + len(study.get_trials(deepcopy=False))
        if sampler.kind == "tpe":
            study.sampler = optuna.samplers.TPESampler(
                seed=seed,
                n_startup_trials=sampler.startup,
                multivariate=True,
                group=True,
                constant_liar=True,
            )
        else:
            study.sampler = optuna.samplers.RandomSampler(seed=seed)
    return study
