"""The experiment as typed, validated dataclasses, and the machinery that reads them."""

from symcere.config.experiment import (
    Alignment,
    Augment,
    ClosedForm,
    Data,
    Encoder,
    Evaluate,
    Experiment,
    Model,
    Objective,
    Ranking,
    SameNode,
    Split,
    Text,
    Train,
)

__all__ = [
    "Alignment",
    "Augment",
    "ClosedForm",
    "Data",
    "Encoder",
    "Evaluate",
    "Experiment",
    "Model",
    "Objective",
    "Ranking",
    "SameNode",
    "Split",
    "Text",
    "Train",
]
