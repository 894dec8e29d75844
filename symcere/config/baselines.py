"""Named methods: each a few settings laid over the default experiment."""

import copy
import functools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from symcere.config.canonical import canonical
from symcere.config.experiment import Data, Evaluate, Experiment
from symcere.config.fields import build, merge, read_yaml
from symcere.errors import UserError, nearest

DEFAULT = "symcere"


@functools.cache
def _read() -> dict[str, dict[str, Any]]:
    return read_yaml(Path(__file__).with_name("baselines.yaml"))


def baselines() -> dict[str, dict[str, Any]]:
    """Settings of every method by name, the caller's own; ``about`` is one line on it."""
    return copy.deepcopy(_read())


def baseline(name: str, *layers: Mapping[str, Any]) -> Experiment:
    """The experiment of a named method, with ``layers`` of (dotted) settings laid over it.

    Raises:
        UserError: unknown name, or settings that do not fit.
    """
    known = _read()
    if name not in known:
        raise UserError(f"Unknown baseline '{name}'. {nearest(name, known)} `symcere baselines` lists them.")
    settings = {k: v for k, v in known[name].items() if k != "about"}
    return build(Experiment, merge(settings, *layers))


def named(experiment: Experiment) -> str:
    """The method that trains the same model, whatever the data, the seed and what is evaluated; "" if there is none."""

    def model(e: Experiment) -> Experiment:
        return replace(canonical(e.replace({"train.seed": 0})), data=Data(), evaluate=Evaluate())

    wanted = model(experiment)
    return next((name for name in _read() if model(baseline(name)) == wanted), "")
