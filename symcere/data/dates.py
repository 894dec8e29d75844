"""Times as reviews tell them."""

import math
import re
from collections.abc import Sequence
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Any

MILLISECONDS = 100_000_000_000
"""A time from here on counts milliseconds or less: in seconds it would be the year 5138, in milliseconds it is 1973."""
LATEST = 7_258_118_400
"""A date in seconds from here on, the year 2200, or as far before 1970, stands for "never" or "unknown"."""
_MONTHS = {"jan": 1, "feb": 2, "mar": 3, "apr": 4, "may": 5, "jun": 6, "jul": 7, "aug": 8, "sep": 9, "oct": 10, "nov": 11, "dec": 12}  # fmt: skip  # noqa: E501
_TIME_OF_DAY = r"(?:[T, ]+(\d{1,2}):(\d{2})(?::(\d{2})(?:\.\d*)?)?(?: ?([AaPp])\.?[Mm]\.?)?(?: ?(?:Z|UTC|GMT))?)?"
_EITHER = re.compile(r"(\d{1,2})[/-](\d{1,2})[/-](\d{4})" + _TIME_OF_DAY)
"""2/28/2014 in America, 28/2/2014 elsewhere."""
_DATES = (
    *(
        (re.compile(date + _TIME_OF_DAY), order)
        for date, order in (
            (r"([A-Za-z]{3})[a-z]*\.? (\d{1,2})(?:st|nd|rd|th)?,? (\d{4})", "mdy"),  # Dec 23, 2008
            (r"(?:[A-Z][a-z]+, )?(\d{1,2}) ([A-Za-z]{3})[a-z]*\.?,? (\d{4})", "dmy"),  # Tue, 23 December 2008
            (r"(\d{1,2}) (\d{1,2}), (\d{4})", "mdy"),  # 02 28, 2014 (Amazon)
            (r"(\d{1,2})\.(\d{1,2})\.(\d{4})", "dmy"),  # 28.2.2014
            (r"(\d{4})[/-](\d{1,2})[/-](\d{1,2})", "ymd"),
        )
    ),
    (_EITHER, "either"),
)


def never(times: Any) -> Any:
    """Whether a whole number, or each of an array, is a time on the last day of the year 9999, in seconds, milli- or
    microseconds; else it would be taken for one of January 1978 in a smaller unit.

    >>> bool(never(253_402_300_799_000)), bool(never(1_229_990_400))
    (True, False)
    """
    return sum((times >= 253_402_214_400 * unit) & (times < 253_402_300_800 * unit) for unit in (1, 10**3, 10**6))


def ambiguous(values: Sequence[Any]) -> list[tuple[int, int]]:
    """The first two numbers of each date like 3/4/2020."""
    texts = (value.strip() for value in values if isinstance(value, str))
    return [(int(match[1]), int(match[2])) for text in texts if (match := _EITHER.fullmatch(text))]


def day_first(values: Sequence[Any]) -> bool | None:
    """Whether dates like 3/4/2020 among values name the day first; None where there are none or it cannot be told.

    >>> day_first(["3/4/2020", "23/4/2020"]), day_first(["3/4/2020", "4/23/2020"]), day_first(["3/4/2020"])
    (True, False, None)
    """
    found = ambiguous(values)
    days, months = (any(numbers[place] > 12 for numbers in found) for place in (0, 1))
    return days if days != months else None


def seconds(value: Any, day_first: bool = False) -> int | None:
    """Unix seconds of a number (seconds, or milli-, micro-, nanoseconds by its size), a date or a date's text; a
    time without a zone is taken as UTC. None where there is none.

    Args:
        day_first: 3/4/2020 is in April.

    >>> seconds("Dec 23, 2008"), seconds("2008-12-23T00:00:00"), seconds(1229990400000)
    (1229990400, 1229990400, 1229990400)
    """
    if isinstance(value, str):
        return _text_seconds(value.strip(), day_first)
    if isinstance(value, datetime):
        return int((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp())
    if isinstance(value, date):
        return int(datetime(value.year, value.month, value.day, tzinfo=UTC).timestamp())
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    whole = int(value)
    if never(whole):
        return LATEST
    for _ in range(3):
        if abs(whole) >= MILLISECONDS:
            whole //= 1000
    return whole if abs(whole) < MILLISECONDS else None


@lru_cache(maxsize=1 << 16)
def _text_seconds(text: str, day_first: bool) -> int | None:
    try:
        return seconds(float(text)) if not re.fullmatch(r"\d{8}", text) else seconds(datetime.fromisoformat(text))
    except ValueError:
        pass
    try:
        return seconds(datetime.fromisoformat(text))
    except ValueError:
        pass
    for pattern, order in _DATES:
        if match := pattern.fullmatch(text):
            order = ("dmy" if day_first else "mdy") if order == "either" else order
            *when, hour, minute, second, half = match.groups()
            part = dict(zip(order, when, strict=True))
            month = int(part["m"]) if part["m"].isdigit() else _MONTHS.get(part["m"].lower(), 0)
            hours = int(hour or 0) % 12 + 12 * (half in "Pp") if half else int(hour or 0)
            try:
                day = datetime(int(part["y"]), month, int(part["d"]), hours, int(minute or 0), int(second or 0))
            except ValueError:
                return None
            return seconds(day)
    return None
