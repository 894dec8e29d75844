"""Every figure, from plain arrays, in one style. Matplotlib is imported when the first one is drawn."""

from symcere.plots.figures import (
    bars,
    critical_difference,
    norm_against_popularity,
    popularity_trade_off,
    temperature_curve,
    training_curve,
    word_weights,
)
from symcere.plots.style import png, save, svg

__all__ = [
    "bars",
    "critical_difference",
    "norm_against_popularity",
    "png",
    "popularity_trade_off",
    "save",
    "svg",
    "temperature_curve",
    "training_curve",
    "word_weights",
]
