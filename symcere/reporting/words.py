"""How figures are written, and what stands where there is none."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from symcere.reporting.collect import SweepRun

DASH = "–"
STARS = "* p < .05, ** p < .01, *** p < .001, two-sided, Holm-corrected"


def lasted(run: SweepRun) -> float:
    """Seconds of a run: from start to end, else those of its epochs so far."""
    return value_or(run.wall, value_or(run.seconds, 0.0))


def value_or(value: float, other: float) -> float:
    return other if math.isnan(value) else value


def reason(run: SweepRun) -> str:
    text = " ".join(run.error.split()) or "no reason was stored"
    return text if len(text) <= 160 else text[:159] + "…"


def digits(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.1f}"


def percent(value: float) -> str:
    return DASH if math.isnan(value) else f"{100 * value:+.1f}\u00a0%".replace("-", "−")


def signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−")


def mean_of(values: Iterable[float]) -> float:
    """NaN of nothing."""
    values = list(values)
    return sum(values) / len(values) if values else math.nan


def short(value: object) -> str:
    """A setting's value in a table; of encoders their names."""
    text = setting(value)
    names = re.findall(r"'name': '([^']*)'", text)
    return " + ".join(names) if names else text


def p_value(value: float) -> str:
    return (
        DASH if math.isnan(value) else "< .001" if value < 0.001 else f"{value:.3f}".lstrip("0") if value < 1 else "1"
    )


def p_is(value: float) -> str:
    return f"p\u00a0{'' if value < 0.001 else '= '}{p_value(value)}".replace("< ", "<\u00a0").replace("= ", "=\u00a0")


def hours_text(hours: float) -> str:
    if 0 < hours < 0.005:
        return "< 0.01"
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.1f}" if hours >= 10 else f"{hours:.2f}"


def seconds_text(seconds: float) -> str:
    return f"{seconds:,.0f}" if seconds >= 10 else f"{seconds:.1f}"


def setting(value: object) -> str:
    return DASH if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(names: Sequence[str], most: int = 8) -> str:
    names = list(names)
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def file_name(name: str) -> str:
    """A name as part of a file's name."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)
