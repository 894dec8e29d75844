"""A sweep: which data sets, which methods, what is tuned, how it is searched, how long, and on what.

    datasets: [amazon-2014-musical-instruments, tripadvisor-lara]
    methods: {symcere: {}, lightgcn: {}}              # named baselines, or any name with `baseline:`
    space: {train.lr: {loguniform: [1e-4, 1e-2]}}     # for every method; a method can add its own
    trials: 30                                        # of each method on each data set

Files lie in ``tune/`` beside their schema. Everything is checked before anything starts, and an error names the line.
"""

import contextlib
import difflib
import functools
import hashlib
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import yaml

from symcere.config.baselines import DEFAULT, baseline, baselines
from symcere.config.canonical import same_model
from symcere.config.experiment import SELECTED, Experiment, Text
from symcere.config.fields import build, json_schema, listed, read_yaml, setting
from symcere.config.space import (
    FIXED,
    KINDS,
    Misplaced,
    Parameter,
    Place,
    Space,
    at_random,
    check_when,
    read_space,
    settings_of,
)
from symcere.errors import UserError, nearest
from symcere.home import NAME, NAMED

FINITE = 2000
"""Spaces of at most so many points are enumerated when the sampler runs out of new ones."""
CHECKED = 1000
"""Combinations of a space that are tried before anything starts: the first ones in order, and as many at random."""


@dataclass(frozen=True)
class Sampler:
    kind: Literal["tpe", "random", "grid"] = setting(
        "tpe", "tpe: Optuna's, multivariate, over groups of parameters; grid: every combination"
    )
    seed: int = setting(0, "seed of what is tried", low=0)
    startup: int = setting(8, "trials at random before tpe models what is good", low=1)


@dataclass(frozen=True)
class Stopping:
    kind: Literal["asha", "median", "none"] = setting("asha", "which trials end early; compared within one study alone")
    grace: int = setting(10, "epochs that every trial gets, and between decisions of median", low=1)
    reduction: int = setting(3, "asha: one in so many goes on from each rung to the next, so many times as long", low=2)

    def milestones(self, epochs: int) -> list[int]:
        """Epochs after which a trial of ``epochs`` may be ended; not after its last."""
        if self.kind == "none":
            return []
        if self.kind == "median":
            return list(range(self.grace, epochs, self.grace))
        found = []
        at = self.grace
        while at < epochs:
            found.append(at)
            at *= self.reduction
        return found


@dataclass(frozen=True)
class Resources:
    cpu: float = setting(1.0, "CPU cores of a trial, and its threads", above=0)
    gpu: str = setting("auto", "share of a GPU (0.1), or auto: from the corpus' size, 0 where there is no GPU")
    workers: int = setting(1, "processes that train one trial together, of one core or GPU each", low=1)
    memory: str = setting("auto", "GB of memory reserved for a trial, or auto: from the corpus' size")

    def __post_init__(self):
        for name in ("gpu", "memory"):
            value = getattr(self, name)
            try:
                good = value == "auto" or 0 <= float(value) < float("inf")
            except ValueError:
                good = False
            if not good:
                raise ValueError(f"resources.{name} is 'auto' or a number of at least 0, not {value!r}.")
        if self.gpu != "auto" and float(self.gpu) > 1:
            raise ValueError("resources.gpu is at most 1: a trial on several GPUs has resources.workers, one for each.")


@dataclass(frozen=True)
class Method:
    baseline: str = setting("", "named method it starts from, by default the one of its own name, else symcere")
    settings: dict = setting(None, "settings laid over it")
    space: dict = setting(None, "what is tuned, beside the sweep's own space")
    points: tuple[dict, ...] = setting((), "points tried first, after the method's own settings")
    trials: int = setting(0, "trials on each data set; 0: the sweep's", low=0)


@dataclass(frozen=True)
class Sweep:
    datasets: tuple[str, ...] = setting((), "prepared data sets, or cards (`symcere datasets`)")
    name: str = setting("", "what it is stored and tracked under; by default the file's name")
    about: str = setting("", "what question it answers, and what it costs")
    methods: dict = setting(None, "what is compared, by name; by default symcere alone")
    settings: dict = setting(None, "settings of every method: {train.epochs: 200}")
    space: dict = setting(None, "what is tuned in every method")
    points: tuple[dict, ...] = setting((), "points tried first in every method, after its own settings")
    trials: int = setting(20, "trials of each method on each data set, at most", low=1)
    max_hours: float = setting(0.0, "ends the search in order after so many hours; 0: never", low=0)
    seeds: int = setting(5, "seeds with which each best setting is trained again and tested", low=0)
    sampler: Sampler = setting(Sampler, "how points are chosen")
    stopping: Stopping = setting(Stopping, "which trials end early")
    resources: Resources = setting(Resources, "what one trial gets")
    storage: str = setting("", "Optuna's storage, an RDB URL; by default a journal beside the results")

    def __post_init__(self):
        if not self.datasets:
            raise ValueError("datasets names no data set.")
        if len(set(self.datasets)) != len(self.datasets):
            raise ValueError("datasets names one data set twice.")
        if self.resources.workers > 1 and self.stopping.kind != "none":
            raise ValueError(
                "resources.workers: trials of several workers run to their end; set stopping.kind to none."
            )
        if self.name and not re.fullmatch(NAME, self.name):
            raise ValueError(f"name: '{self.name}': {NAMED}")


@dataclass(frozen=True)
class Search:
    """One method as it is searched: the same on each data set.

    Attributes:
        baseline: the named method that it starts from.
        base: the method's own settings, where the search starts.
        points: what is tried first, by parameter's key; the sampler completes a point that leaves something open.
    """

    method: str
    baseline: str
    base: Experiment
    space: Space
    points: list[dict[str, Any]]
    trials: int

    @functools.cached_property
    def flat(self) -> dict[str, Any]:
        return self.base.flat()

    def experiment(self, settings: Mapping[str, Any]) -> Experiment:
        """The experiment at one point of the space."""
        return self.base.replace(settings)

    def grid(self) -> list[dict[str, Any]]:
        """Every combination, by parameters' keys, without those that are the same model as another or impossible."""
        found: dict[str, dict[str, Any]] = {}
        for settings, values in self.space.points(self.flat, Parameter.grid):
            try:
                found.setdefault(same_model(self.experiment(settings)), values)
            except UserError:
                continue
        return list(found.values())

    @functools.cached_property
    def experiments(self) -> list[Experiment]:
        """Its base, and combinations of the choices with the ends of every range; seconds, in a wide space."""
        found = [self.base]
        for settings, _ in self._sample():
            with contextlib.suppress(UserError):
                found.append(self.experiment(settings))
        return found

    @functools.cached_property
    def _points(self) -> list[tuple[dict[str, Any], dict[str, Any]]] | None:
        """Every point of a small discrete space; None for other spaces."""
        if any(not p.options and not p.integer for p in self.space.everything()):
            return None

        def values_of(parameter: Parameter) -> Sequence[Any]:
            return parameter.labels or range(int(parameter.low), int(parameter.high) + 1)

        points = list(islice(self.space.points(self.flat, values_of), FINITE + 1))
        return points if len(points) <= FINITE else None

    def _first_models(self, count: int) -> dict[str, dict[str, Any]] | None:
        """So many models of a small discrete space, each with a point that makes it; None for other spaces."""
        if self._points is None:
            return None
        found: dict[str, dict[str, Any]] = {}
        for settings, values in self._points:
            with contextlib.suppress(UserError, ValueError):
                found.setdefault(same_model(self.experiment(settings)), values)
            if len(found) == count:
                break
        return found

    @functools.cached_property
    def models(self) -> dict[str, dict[str, Any]] | None:
        """Each model of a small discrete space with a point that makes it; None for other spaces."""
        return self._first_models(FINITE)

    @functools.cached_property
    def most(self) -> int:
        """Trials at most: a small space has fewer models than were asked for."""
        found = self._first_models(self.trials)
        return self.trials if found is None else len(found)

    @functools.cached_property
    def texts(self) -> list[Text]:
        """The encoders that any of its experiments needs, each combination once."""
        return list(dict.fromkeys(experiment.text for experiment in self.experiments if experiment.needs_text))

    def check(self) -> None:
        """Tries combinations of the choices, with the ends of every range.

        Raises:
            Misplaced: one that no experiment can have, with the parameter that asks for it.
        """
        for settings, values in self._sample():
            try:
                self.experiment(settings)
            except UserError as error:
                raise self._blame(settings, values, str(error)) from None

    def _sample(self) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        def ends(parameter: Parameter) -> Sequence[Any]:
            return parameter.labels if parameter.options else [parameter.low, parameter.high]

        exhausted = 0
        for point in islice(self.space.points(self.flat, ends), CHECKED):
            exhausted += 1
            yield point
        if exhausted == CHECKED:
            choose = at_random(random.Random(0))
            for _ in range(CHECKED):
                yield self.space.draw(self.flat, choose)

    def _blame(self, settings: Mapping[str, Any], values: Mapping[str, Any], message: str) -> Misplaced:
        """The error with the last chosen parameter without whose choice the combination would do."""
        parameters = {p.key: p for p in self.space.everything() if p.key in values}
        for parameter in reversed(parameters.values()):
            for other in parameter.labels or [parameter.low, parameter.high]:
                if other == values[parameter.key]:
                    continue
                forced = {**values, parameter.key: other}
                changed, _ = self.space.draw(self.flat, functools.partial(_prefer, forced))
                with contextlib.suppress(UserError):
                    self.experiment(changed)
                    told = ", ".join(f"{k} {v}" for k, v in settings.items())
                    message = f"An impossible combination in method '{self.method}' ({told}): {message}"
                    return Misplaced(message, parameter.place)
        return Misplaced(f"No combination of method '{self.method}' is possible: {message}", ("methods", self.method))


def _prefer(values: Mapping[str, Any], parameter: Parameter) -> Any:
    return values.get(parameter.key, parameter.labels[0] if parameter.options else parameter.low)


@dataclass(frozen=True)
class Declared:
    """A sweep's file, read and checked."""

    sweep: Sweep
    searches: tuple[Search, ...]
    text: str = field(repr=False)
    """The file as it stands."""
    path: Path

    @property
    def name(self) -> str:
        return self.sweep.name or self.path.stem

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    def only(self, methods: Sequence[str] = (), datasets: Sequence[str] = (), trials: int = 0) -> "Declared":
        """Some of its methods, other data sets, or another number of trials.

        Raises:
            UserError: a method that the sweep does not have.
        """
        known = [s.method for s in self.searches]
        methods, datasets = listed(methods), listed(datasets)
        if trials < 0:
            raise UserError(f"--trials is {trials}, but must be a whole number of at least 1.")
        for method in methods:
            if method not in known:
                raise UserError(f"{self.path} has no method '{method}'. {nearest(method, known)}")
        chosen = tuple(
            replace(s, trials=trials or s.trials) for s in self.searches if not methods or s.method in methods
        )
        try:
            sweep = replace(self.sweep, datasets=tuple(datasets) or self.sweep.datasets)
        except ValueError as error:
            raise UserError(str(error)) from None
        return replace(self, sweep=sweep, searches=chosen)


def check_seeds(seeds: int | None) -> None:
    """
    Raises:
        UserError: it is no number of final models.
    """
    if seeds is not None and (seeds < 0 or seeds != int(seeds)):
        raise UserError(f"--seeds is how many models are tested of each best setting, 0 for none, not {seeds}.")


def load(path: Path | str) -> Declared:
    """The sweep of a file, checked as far as it can be without data.

    Args:
        path: a path, or the name of a sweep that comes with symcere (``quick``).

    Raises:
        UserError: no such file, or what is wrong in it, with the line.
    """
    path = find(path)
    tree = read_yaml(path)
    text = path.read_text(encoding="utf-8")
    try:
        sweep = build(Sweep, tree)
        searches = tuple(_searches(sweep))
    except Misplaced as error:
        raise UserError(f"{path}, line {_line(text, error.place)}: {error}") from None
    except UserError as error:
        raise UserError(f"{path}, line {_line(text, _place_in(str(error)))}: {error}") from None
    return Declared(sweep, searches, text, path)


def find(name_or_path: Path | str) -> Path:
    """The file of a sweep: the path as given, or a name among those in :func:`folder`.

    Raises:
        UserError: no such file, with the nearest names.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    known = {p.stem: p for p in sorted(folder().glob("*.yaml"))}
    if path.parent.name in ("", "tune") and path.stem in known and path.suffix in ("", ".yaml"):
        return known[path.stem]
    raise UserError(f"There is no sweep {path}. {nearest(path.stem, known)} Give a name, or the path of a YAML file.")


def folder() -> Path:
    """Where the sweeps are: the checkout's ``tune``, or else the packaged copy."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent / "tune"
    return checkout if (checkout / "schema.json").is_file() else package / "_tune"


def _start(name: str, place: Place) -> str:
    """The named method that one starts from which does not say it."""
    if name in baselines():
        return name
    alike = difflib.get_close_matches(name.lower(), baselines(), 1, 0.8)
    if alike and not name.startswith(DEFAULT):
        raise Misplaced(
            f"Method '{name}' is no named one, and so would start from {DEFAULT}. Did you mean {alike[0]}? Else say "
            f"what it starts from: `baseline: {DEFAULT}`.",
            place,
        )
    return DEFAULT


def _searches(sweep: Sweep) -> Iterator[Search]:
    shared = read_space(sweep.space, ("space",))
    common = settings_of(sweep.settings, ("settings",))
    for name, tree in (sweep.methods or {"symcere": {}}).items():
        place: Place = ("methods", str(name))
        if not re.fullmatch(NAME, str(name)):
            raise Misplaced(f"Method '{name}': {NAMED}", place)
        method = build(Method, tree, f"methods.{name}")
        if method.baseline and method.baseline not in baselines():
            known = nearest(method.baseline, baselines())
            raise Misplaced(f"Unknown baseline '{method.baseline}'. {known}", (*place, "baseline"))
        start = method.baseline or _start(str(name), place)
        own = settings_of(method.settings, (*place, "settings"))
        try:
            base = baseline(start, common, own)
        except UserError as error:
            raise Misplaced(f"Method '{name}': {error}", (*place, "settings")) from None
        if SELECTED not in base.evaluate.ks:
            there = (*place, "settings") if "evaluate.ks" in own else ("settings",)
            raise Misplaced(f"evaluate.ks holds {SELECTED} in a sweep: its reports compare by NDCG@{SELECTED}.", there)
        special = read_space(method.space, (*place, "space"))
        named = {p.name for p in special.parameters}  # a method's own parameter stands in place of the sweep's
        space = Space((*(p for p in shared.parameters if p.name not in named), *special.parameters))
        check_when(space)
        points = [space.nearest_point(base.flat())]
        for number, point in enumerate(sweep.points):
            points.append(_point(space, base, point, ("points", str(number))))
        for number, point in enumerate(method.points):
            points.append(_point(space, base, point, (*place, "points", str(number))))
        search = Search(str(name), start, base, space, _distinct(points), method.trials or sweep.trials)
        search.check()
        if sweep.sampler.kind == "grid":
            grid = search.grid()
            search = replace(search, points=grid, trials=len(grid))
        yield search


def _point(space: Space, base: Experiment, point: Mapping[str, Any], place: Place) -> dict[str, Any]:
    """A point as a file gives it, by names, as the search takes it, by keys."""
    used: set[str] = set()
    found: dict[str, Any] = {}

    def choose(parameter: Parameter) -> Any:
        if parameter.name not in point:
            return parameter.labels[0] if parameter.options else parameter.low
        value = point[parameter.name]
        if not parameter.options and isinstance(value, str):  # YAML 1.1 reads 1e-3 as text
            with contextlib.suppress(ValueError):
                value = float(value)
        if not parameter.contains(value):
            known = ", ".join(map(str, parameter.labels)) or f"{parameter.low} to {parameter.high}"
            raise Misplaced(f"{value!r} is not in the space of '{parameter.name}' ({known}).", (*place, parameter.name))
        used.add(parameter.name)
        found[parameter.key] = value
        return value

    space.draw(base.flat(), choose)
    names = {p.name for p in space.everything()}
    for name in point:
        if name not in names and name not in used:
            raise Misplaced(f"The space has no parameter '{name}'. {nearest(name, names)}", (*place, name))
        # A method whose own settings leave a shared parameter out for good has the rest of a shared point.
        if name not in used and name in space.possible(base.flat()):
            raise Misplaced(
                f"'{name}' does not exist beside the other values of this point: it lacks those that '{name}' needs.",
                (*place, name),
            )
    return found


def _distinct(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [p for n, p in enumerate(points) if p not in points[:n]]


# ---------------------------------------------------------------- lines


def _line(text: str, place: Place) -> int:
    """The line of a value, or of the innermost key on the way to it that the file has."""
    node = yaml.compose(text, yaml.SafeLoader)
    line = 1
    for part in place:
        below = None
        if isinstance(node, yaml.MappingNode):
            below = next(((k, v) for k, v in node.value if k.value == part), None)
        elif isinstance(node, yaml.SequenceNode) and part.isdigit() and int(part) < len(node.value):
            below = (node.value[int(part)],) * 2
        if below is None:
            break
        line, node = below[0].start_mark.line + 1, below[1]
    return line


def _place_in(message: str) -> Place:
    """The dotted place that an error of :func:`build` names."""
    begins = re.match(r"(?:\w+: )?([\w.]+)[: ]", message)
    known = begins is not None and begins[1].partition(".")[0] in {f.name for f in fields(Sweep)}
    found = begins if known else re.search(r"'([\w.\[\]-]+)'", message)
    return tuple(re.split(r"[.\[\]]+", found[1].rstrip("]"))) if found else ()


# ---------------------------------------------------------------- schema


def schema() -> dict[str, Any]:
    """The JSON schema of a sweep's file."""
    range_of = {"type": "array", "minItems": 2, "maxItems": 2, "items": {"type": ["number", "string"]}}
    parameter = {
        "anyOf": [
            {"type": "array", "minItems": 1},
            {
                "type": "object",
                "properties": {
                    "choice": {
                        "description": "values, or sub-configurations by name",
                        "anyOf": [{"type": "array", "minItems": 1}, {"type": "object", "minProperties": 1}],
                    },
                    **{kind: range_of for kind in KINDS if kind != "choice"},
                    "steps": {"type": "integer", "minimum": 0, "description": "values on a grid"},
                    "when": {"type": "object", "description": "values of other settings beside which it exists"},
                },
            },
        ]
    }
    found = json_schema(Sweep)
    method = json_schema(Method)
    method.pop("$schema")
    for tree in (found, method):
        tree["properties"]["space"] |= {"additionalProperties": parameter}
        tree["properties"]["settings"] |= {"not": {"anyOf": [{"required": [k]} for k in FIXED if k != "evaluate"]}}
    found["properties"]["methods"] |= {"additionalProperties": {"anyOf": [method, {"type": "null"}]}}
    found["properties"]["resources"]["properties"]["gpu"]["type"] = ["string", "number"]
    found["properties"]["resources"]["properties"]["memory"]["type"] = ["string", "number"]
    return found | {"required": ["datasets"]}
