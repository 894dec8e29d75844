"""What the trials of a search show, on validation: which settings varied, what each value reached, what mattered."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from symcere.reporting.collect import SweepRun

NOT_SEARCHED = ("data.", "evaluate.", "train.seed")
MOST_POINTS = 12
"""More distinct values of a number than these are drawn in bins."""
ENOUGH_TRIALS = 10
"""Fewer finished trials than these say nothing about importance."""


@dataclass(frozen=True)
class Reached:
    """What the trials with one value of a setting reached on validation, whatever their other settings."""

    best: float
    median: float
    trials: int


def useful(trials: Iterable[SweepRun]) -> list[SweepRun]:
    """Finished trials with a validation value; a stopped trial counts with the best it had reached."""
    return [t for t in trials if t.finished and not math.isnan(t.validation)]


def varied(trials: Sequence[SweepRun]) -> list[str]:
    """Settings with more than one value, in the experiment's order."""
    values: dict[str, set] = {}
    for trial in trials:
        for name, value in trial.params.items():
            if not name.startswith(NOT_SEARCHED):
                values.setdefault(name, set()).add(value)
    return [name for name, seen in values.items() if len(seen) > 1]


def is_number(trials: Iterable[SweepRun], name: str) -> bool:
    return all(isinstance(t.params.get(name), (int, float)) for t in trials)


def label(name: str) -> str:
    """A setting's name without the part of the experiment: ``ranking.temperature``."""
    return name.partition(".")[2] or name


def acts(trial: SweepRun, name: str) -> bool:
    """Whether a temperature has any effect in a trial: its term is on and has one."""
    if trial.params.get("closed_form.kind", "none") != "none":
        return False
    part, _, leaf = name.rpartition(".")
    if leaf != "temperature":
        return True
    if part == "objective.ranking":
        loss = trial.params.get(f"{part}.loss")
        # BPR divides the difference of *normalised* scores by tau; directau has none.
        return loss != "directau" and (loss != "bpr" or trial.params.get("model.normalise", "none") != "none")
    on = trial.params.get(f"{part}.loss", trial.params.get(f"{part}.kind", "none"))
    return on != "none" and trial.params.get(f"{part}.weight", 1) > 0


def by_value(trials: Iterable[SweepRun], name: str) -> dict[Any, Reached]:
    """For each value of a setting, what its trials reached, values in ascending order."""
    found: dict[Any, list[float]] = {}
    for trial in useful(trials):
        if name in trial.params and acts(trial, name):
            found.setdefault(trial.params[name], []).append(trial.validation)
    return {v: _reached(found[v]) for v in sorted(found, key=lambda v: (isinstance(v, str), v))}


def grid(trials: Iterable[SweepRun], name: str, lines: int = 1) -> np.ndarray | None:
    """Bounds [n + 1] of the ranges, of equal ratio, in which many values of a number are gathered; None for few.

    Args:
        lines: lines drawn over these ranges; each should have a few trials in every range.
    """
    values = sorted({t.params[name] for t in useful(trials) if name in t.params and acts(t, name)})
    if len(values) <= MOST_POINTS or values[0] <= 0:
        return None
    ranges = int(np.clip(len(values) // (4 * lines), 3, 8))
    return np.geomspace(values[0], values[-1], ranges + 1)


def curve(trials: Iterable[SweepRun], name: str, bounds: np.ndarray | None = None) -> dict[float, Reached]:
    """:func:`by_value` of a number; with ``bounds`` values count at the geometric middle of their range."""
    if bounds is None:
        return by_value(trials, name)
    found: dict[float, list[float]] = {}
    for trial in useful(trials):
        if name in trial.params and acts(trial, name):
            at = int(np.clip(np.searchsorted(bounds, trial.params[name], side="right") - 1, 0, len(bounds) - 2))
            middle = float(f"{math.sqrt(bounds[at] * bounds[at + 1]):.2g}")
            found.setdefault(middle, []).append(trial.validation)
    return {value: _reached(found[value]) for value in sorted(found)}


def _reached(values: Sequence[float]) -> Reached:
    return Reached(max(values), float(np.median(values)), len(values))


def importance(trials: Sequence[SweepRun]) -> Mapping[str, float] | str:
    """Share of the variance of validation NDCG@10 that each setting explains alone and in company: fANOVA
    (Hutter et al., ICML 2014), over a study rebuilt from the trials.

    Settings that always change together (one choice of a whole configuration) count as one, named ``a + b``.

    Returns:
        shares by :func:`label`, largest first; or the reason why there are none.
    """
    seen = useful(trials)
    if len(seen) < ENOUGH_TRIALS:
        return f"{len(seen)} finished trials are too few (at least {ENOUGH_TRIALS})"
    names = [n for n in varied(seen) if all(n in t.params for t in seen)]
    groups: dict[tuple, list[str]] = {}
    for name in names:
        values = [t.params[name] for t in seen]
        # Two numbers drawn afresh each time differ in every trial, and so "change together", by nature.
        alone = len(set(values)) > len(seen) / 3
        groups.setdefault((name,) if alone else _partition(values), []).append(name)
    if len(groups) < 2:
        return "fewer than two settings varied"
    if max(t.validation for t in seen) == min(t.validation for t in seen):
        return "all trials reached the same value"
    import optuna
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    chosen = {" + ".join(map(label, group)): group[0] for group in groups.values()}
    distributions = {shown: _distribution([t.params[name] for t in seen]) for shown, name in chosen.items()}
    study = optuna.create_study(direction="maximize")
    study.add_trials(
        [
            optuna.create_trial(
                params={
                    shown: float(trial.params[name])
                    if isinstance(distributions[shown], optuna.distributions.FloatDistribution)
                    else str(trial.params[name])
                    for shown, name in chosen.items()
                },
                distributions=distributions,
                value=trial.validation,
            )
            for trial in seen
        ]
    )
    return get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))


def _partition(values: Sequence[Any]) -> tuple[int, ...]:
    """Which trials share a value: equal for settings that change together."""
    first: dict[Any, int] = {}
    return tuple(first.setdefault(value, n) for n, value in enumerate(values))


def _distribution(values: Sequence[Any]) -> Any:
    """The space a setting was drawn from, as far as its values tell."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if any(not isinstance(v, (int, float)) for v in values):
        return CategoricalDistribution(sorted({str(v) for v in values}))
    low, high = float(min(values)), float(max(values))
    return FloatDistribution(low, high, log=low > 0 and high / low >= 20)
