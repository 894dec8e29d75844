"""What a search may choose: parameters of an experiment, some of which exist only beside certain others.

In a sweep file a parameter stands under the name of the setting it sets:

    train.lr: {loguniform: [1e-4, 1e-2]}                    # also uniform; `steps: 5` says how a grid divides it
    model.layers: {int: [0, 4]}
    model.normalise: [none, l2, layer]                      # a list is short for {choice: […]}
    objective.ranking.logq: {choice: [true, false], when: {objective.ranking.candidates: [batch, sampled]}}

Under any other name stands a choice between whole sub-configurations, whose values are settings or parameters again:

    ranking:
      choice:
        bpr: {objective.ranking.loss: bpr, objective.reg: {loguniform: [1e-5, 0.5]}}
        sincere: {objective.ranking.loss: sincere, objective.ranking.temperature: {loguniform: [0.05, 1]}}
"""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from symcere.config.experiment import Experiment
from symcere.config.fields import convert, leaves, merge
from symcere.errors import UserError, nearest

KINDS = ("choice", "uniform", "loguniform", "int")
FIXED = {
    "data": "a data set is prepared before: `symcere prepare`",
    "evaluate": "validation is always by NDCG@10",
    "train.seed": "the best setting is trained again with several seeds: `seeds`",
}
"""Parts that no search may choose, and why."""
SETTINGS = {leaf.name: leaf for leaf in leaves(Experiment)}

Place = tuple[str, ...]
"""Keys that lead to a value in the sweep's file."""


class Misplaced(UserError):  # noqa: N818  said of a value
    """What is wrong, and where in the file."""

    def __init__(self, message: str, place: Place):
        super().__init__(message)
        self.place = place


@dataclass(frozen=True)
class Option:
    """One of a parameter's choices.

    Attributes:
        label: what the search and the report call it: the value itself, where it is a plain one.
        settings: what it sets, by dotted name.
        below: parameters that exist only with this choice.
    """

    label: Any
    settings: dict[str, Any]
    below: "Space"


@dataclass(frozen=True)
class Parameter:
    """One dimension of a space, discrete (``options``) or a range of numbers (``low``, ``high``, both inclusive).

    Attributes:
        name: the setting, or the label of a choice between sub-configurations.
        key: unique in the space: ``ranking=bpr/objective.reg`` where it exists only with a choice.
        steps: values of a grid; 0: none given.
        when: values of settings, or labels of choices, beside which it exists.
    """

    name: str
    key: str
    options: tuple[Option, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    integer: bool = False
    steps: int = 0
    when: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    place: Place = ()

    @property
    def labels(self) -> list[Any]:
        return [option.label for option in self.options]

    def contains(self, value: Any) -> bool:
        if self.options:
            return value in self.labels
        return isinstance(value, (int, float)) and not isinstance(value, bool) and self.low <= value <= self.high

    def grid(self) -> list[Any]:
        """Its values on a grid.

        Raises:
            Misplaced: a range of numbers whose ``steps`` are not given.
        """
        if self.options:
            return self.labels
        if self.integer and not self.steps:
            return list(range(int(self.low), int(self.high) + 1))
        if not self.steps:
            raise Misplaced(
                f"A grid needs to know how many values of '{self.name}' to try: add `steps: 5`.", self.place
            )
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        parts = [low + (high - low) * k / max(self.steps - 1, 1) for k in range(self.steps)]
        values = [min(max(math.exp(p) if self.log else p, self.low), self.high) for p in parts]
        return list(dict.fromkeys(round(v) for v in values)) if self.integer else values

    def value(self, chosen: Any) -> Any:
        """What a number is as a setting."""
        return int(chosen) if self.integer else float(chosen)

    def option(self, label: Any) -> Option:
        return next(o for o in self.options if o.label == label)


Choose = Callable[[Parameter], Any]
"""Gives the value, or the label, of a parameter that exists beside what was chosen so far."""


@dataclass(frozen=True)
class Space:
    """Parameters in the order in which they are chosen: those first on which the conditions of others are, else as they
    are given.

    Raises:
        Misplaced: some that wait for each other.
    """

    parameters: tuple[Parameter, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "parameters", tuple(_in_order(self.parameters)))

    def draw(self, base: Mapping[str, Any], choose: Choose) -> tuple[dict[str, Any], dict[str, Any]]:
        """One point of the space.

        Args:
            base: the experiment around it, flat.

        Returns:
            settings by dotted name, and what was chosen by parameter's key.
        """
        settings: dict[str, Any] = {}
        values: dict[str, Any] = {}
        labels: dict[str, Any] = {}

        def walk(space: Space) -> None:
            for parameter in space.parameters:
                now = {**base, **settings, **labels}
                if any(now.get(name) not in allowed for name, allowed in parameter.when.items()):
                    continue
                chosen = values[parameter.key] = choose(parameter)
                if not parameter.options:
                    settings[parameter.name] = parameter.value(chosen)
                    continue
                option = parameter.option(chosen)
                labels[parameter.name] = chosen
                settings.update(option.settings)
                walk(option.below)

        walk(self)
        return settings, values

    def points(
        self, base: Mapping[str, Any], values: Callable[[Parameter], Sequence[Any]]
    ) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Every point that some values of each parameter make, the last parameters changing fastest."""
        digits: list[int] = []
        while True:
            sizes: list[int] = []

            def choose(parameter: Parameter, sizes: list[int] = sizes) -> Any:
                at = len(sizes)
                found = values(parameter)
                sizes.append(len(found))
                if at == len(digits):
                    digits.append(0)
                return found[digits[at]]

            yield self.draw(base, choose)
            del digits[len(sizes) :]
            while digits and digits[-1] + 1 >= sizes[len(digits) - 1]:
                digits.pop()
            if not digits:
                return
            digits[-1] += 1

    def nearest_point(self, base: Mapping[str, Any]) -> dict[str, Any]:
        """What was chosen if the experiment itself is a point; without the parameters that do not contain its value."""
        found: dict[str, Any] = {}

        def choose(parameter: Parameter) -> Any:
            if parameter.options:
                same = [o for o in parameter.options if all(base.get(k) == v for k, v in o.settings.items())]
                if same:  # the most particular one
                    found[parameter.key] = max(same, key=lambda o: len(o.settings)).label
                    return found[parameter.key]
                return parameter.options[0].label
            if parameter.contains(base.get(parameter.name)):
                found[parameter.key] = base[parameter.name]
                return base[parameter.name]
            return parameter.low

        self.draw(base, choose)
        return found

    def decides(self) -> frozenset[str]:
        """Names of choices and settings that depend on what is chosen."""
        return frozenset().union(*map(_decided, self.parameters))

    def possible(self, base: Mapping[str, Any]) -> set[str]:
        """Names of the parameters at every depth that exist beside some choice, around an experiment, flat."""
        found: set[str] = set()
        decided: set[str] = set()
        for parameter in self.parameters:
            if all(name in decided or base.get(name) in allowed for name, allowed in parameter.when.items()):
                decided |= _decided(parameter)
                found |= {parameter.name, *(p.name for option in parameter.options for p in option.below.everything())}
        return found

    def everything(self) -> Iterator[Parameter]:
        """Parameters at every depth."""
        for parameter in self.parameters:
            yield parameter
            for option in parameter.options:
                yield from option.below.everything()


def _in_order(parameters: Sequence[Parameter]) -> Iterator[Parameter]:
    left = list(parameters)
    while left:
        ready = next((p for p in left if not any(_asked(p) & _decided(q) for q in left if q is not p)), None)
        if ready is None:
            told = ", ".join(f"'{p.name}'" for p in left)
            raise Misplaced(f"Conditions wait for each other in a circle, among {told}.", (*left[0].place, "when"))
        yield ready
        left.remove(ready)


def _decided(parameter: Parameter) -> frozenset[str]:
    below = [name for option in parameter.options for name in (*option.settings, *option.below.decides())]
    return frozenset({parameter.name, *below})


def _asked(parameter: Parameter) -> frozenset[str]:
    """Names on which its existence depends, or that of what is below it."""
    below = [name for option in parameter.options for p in option.below.parameters for name in _asked(p)]
    return frozenset({*parameter.when, *below}) - _decided(parameter)


def at_random(rng: random.Random) -> Choose:
    """Chooses evenly, numbers by their own scale."""

    def choose(parameter: Parameter) -> Any:
        if parameter.options:
            return rng.choice(parameter.labels)
        if parameter.integer:
            return rng.randint(int(parameter.low), int(parameter.high))
        if parameter.log:
            return math.exp(rng.uniform(math.log(parameter.low), math.log(parameter.high)))
        return rng.uniform(parameter.low, parameter.high)

    return choose


# ---------------------------------------------------------------- reading


def read_space(tree: Any, place: Place, prefix: str = "") -> Space:
    """The space that a mapping in a sweep's file declares.

    Raises:
        Misplaced: an unknown setting, a value that it cannot have, a range upside down, with the place in the file.
    """
    if tree is None:
        return Space()
    if not isinstance(tree, Mapping):
        raise Misplaced(f"A space is a mapping of parameters, not {tree!r}.", place)
    settings, parameters = _entries(tree, place, prefix)
    if settings:
        name = next(iter(settings))
        raise Misplaced(
            f"'{name}' has one value only, so there is nothing to choose: write a list or a range, or put it under "
            "`settings`.",
            (*place, name),
        )
    return Space(tuple(parameters))


def _entries(tree: Mapping[str, Any], place: Place, prefix: str) -> tuple[dict[str, Any], list[Parameter]]:
    """Fixed settings and parameters of a mapping, nested or dotted."""
    settings: dict[str, Any] = {}
    parameters: list[Parameter] = []

    def walk(node: Mapping[str, Any], above: str, place: Place) -> None:
        for key, value in node.items():
            name, here = f"{above}{key}", (*place, str(key))
            if isinstance(value, Mapping) and not set(KINDS) & set(value):
                if name not in SETTINGS and not any(known.startswith(f"{name}.") for known in SETTINGS):
                    raise Misplaced(_unknown(name) + f" A parameter has one of {', '.join(KINDS)}.", here)
                walk(value, f"{name}.", here)
            elif isinstance(value, (Mapping, list)):
                parameters.append(_parameter(name, value, here, prefix))
            else:
                settings[name] = _convert(name, value, here)

    walk(tree, "", place)
    return settings, parameters


def _parameter(name: str, tree: Mapping[str, Any] | list, place: Place, prefix: str) -> Parameter:
    given = {"choice": tree} if isinstance(tree, list) else dict(tree)
    unknown = [k for k in given if k not in (*KINDS, "when", "steps")]
    if unknown:
        raise Misplaced(
            f"A parameter has no '{unknown[0]}'. {nearest(unknown[0], (*KINDS, 'when', 'steps'))}", (*place, unknown[0])
        )
    kinds = [k for k in KINDS if k in given]
    if len(kinds) > 1:
        raise Misplaced(f"'{name}' is both {kinds[0]} and {kinds[1]}: one of them.", place)
    kind, key = kinds[0], f"{prefix}{name}"
    when = _when(given.get("when"), (*place, "when"))
    if kind == "choice":
        options = tuple(_options(name, key, given[kind], place if isinstance(tree, list) else (*place, kind)))
        return Parameter(name, key, options, when=when, place=place)
    if name not in SETTINGS:
        raise Misplaced(_unknown(name), place)
    bounds = given[kind]
    if not isinstance(bounds, list) or len(bounds) != 2:
        raise Misplaced(f"'{name}': {kind} takes two numbers, [lowest, highest], not {bounds!r}.", (*place, kind))
    low, high = (_convert(name, bound, (*place, kind)) for bound in bounds)
    if any(isinstance(bound, bool) or not isinstance(bound, (int, float)) for bound in (low, high)):
        raise Misplaced(f"'{name}' is no number: give its values as a list.", place)
    if kind == "int" and not isinstance(low, int):
        raise Misplaced(f"'{name}' is no whole number: use uniform or loguniform.", (*place, kind))
    if low >= high:
        raise Misplaced(f"'{name}': the lowest value ({low}) is not below the highest ({high}).", (*place, kind))
    if kind == "loguniform" and low <= 0:
        raise Misplaced(f"'{name}': a logarithmic scale has no {low}; start above 0.", (*place, kind))
    steps = given.get("steps", 0)
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 0:
        raise Misplaced(f"'{name}': steps is a whole number, not {steps!r}.", (*place, "steps"))
    whole = isinstance(low, int)
    return Parameter(name, key, (), low, high, kind == "loguniform", whole, steps, when, place)


def _options(name: str, key: str, choice: Any, place: Place) -> Iterator[Option]:
    if isinstance(choice, Mapping):
        for label, tree in choice.items():
            here = (*place, str(label))
            if not isinstance(tree, Mapping):
                raise Misplaced(f"'{name}': {label} must be a mapping of settings, not {tree!r}.", here)
            settings, parameters = _entries(tree, here, f"{key}={label}/")
            yield Option(str(label), settings, Space(tuple(parameters)))
        if not choice:
            raise Misplaced(f"'{name}' has nothing to choose from.", place)
        return
    if not isinstance(choice, list) or not choice:
        raise Misplaced(f"'{name}': a choice is a list of values that is not empty, not {choice!r}.", place)
    seen = []
    for number, value in enumerate(choice):
        converted = _convert(name, value, (*place, str(number)))
        if converted in seen:
            raise Misplaced(f"'{name}' has the value {value!r} twice.", (*place, str(number)))
        seen.append(converted)
        label = converted if isinstance(converted, (str, int, float, bool)) else _joined(converted)
        yield Option(label, {name: converted}, Space())


def _joined(values: Sequence[Any]) -> str:
    """``minilm+lsa`` of a list of encoders."""
    return "+".join(str(v.get("name", v)) if isinstance(v, Mapping) else str(v) for v in values)


def _when(tree: Any, place: Place) -> dict[str, tuple[Any, ...]]:
    if tree is None:
        return {}
    if not isinstance(tree, Mapping):
        raise Misplaced(f"`when` is a mapping of settings to values, not {tree!r}.", place)
    found = {}
    for name, values in tree.items():
        values = values if isinstance(values, list) else [values]
        if name in SETTINGS:
            values = [_convert(name, v, (*place, str(name))) for v in values]
        found[str(name)] = tuple(values)
    return found


def check_when(space: Space, known: frozenset[str] = frozenset()) -> None:
    """Every condition is about a setting, or about a choice that is made before.

    Raises:
        Misplaced: one that could never hold because nothing has this name.
    """
    for parameter in space.parameters:
        for name, values in parameter.when.items():
            if name not in SETTINGS and name not in known:
                raise Misplaced(
                    f"Nothing that is chosen before '{parameter.name}' is called '{name}'. "
                    f"{nearest(name, {*SETTINGS, *known})}",
                    (*parameter.place, "when", name),
                )
            before = next((p for p in space.parameters if p.name == name), None)
            if before is not None and before.options:
                lost = [v for v in values if v not in before.labels]
                if lost:
                    raise Misplaced(
                        f"'{name}' is never {lost[0]!r} here; its choices are {', '.join(map(str, before.labels))}.",
                        (*parameter.place, "when", name),
                    )
        for option in parameter.options:
            check_when(option.below, known | {parameter.name})
        known |= {parameter.name}


def settings_of(tree: Any, place: Place) -> dict[str, Any]:
    """Fixed settings by dotted name, each checked.

    Raises:
        Misplaced: an unknown setting, or a value that it cannot have.
    """
    found = {}
    for name, value in _flat(tree or {}, place):
        found[name] = _convert(name, value, (*place, *_keys(tree, name)), ("data", "train.seed"))
    return found


def _flat(tree: Any, place: Place, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(tree, Mapping):
        raise Misplaced(f"Settings are a mapping, not {tree!r}.", place)
    for key, value in merge(tree).items():
        if isinstance(value, Mapping):
            yield from _flat(value, place, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _keys(tree: Any, name: str) -> Place:
    """The keys, as they are written, that lead to a dotted name."""
    rest, keys = name, []
    while isinstance(tree, Mapping) and rest:
        key = next((k for k in tree if rest == k or rest.startswith(f"{k}.")), None)
        if key is None:
            break
        keys.append(str(key))
        rest, tree = rest[len(key) + 1 :], tree[key]
    return tuple(keys)


def _convert(name: str, value: Any, place: Place, fixed: Sequence[str] = tuple(FIXED)) -> Any:
    for part in fixed:
        if name == part or name.startswith(f"{part}."):
            raise Misplaced(f"'{name}' is not for a sweep to set: {FIXED[part]}.", place)
    if name not in SETTINGS:
        raise Misplaced(_unknown(name), place)
    try:
        return convert(Experiment, name, value)
    except UserError as error:
        raise Misplaced(str(error), place) from None


def _unknown(name: str) -> str:
    tail = [known for known in SETTINGS if known.rpartition(".")[2] == name.rpartition(".")[2]]
    help = f"Did you mean {' or '.join(tail[:4])}?" if tail else nearest(name, SETTINGS)
    if not help.startswith("Did"):
        help = "`symcere train --help` lists the settings."
    return f"Unknown setting '{name}'. {help}"
