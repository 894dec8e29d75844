"""Times, as files tell them."""

import math
from datetime import UTC, datetime

import pytest

from symcere.data.dates import seconds


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Dec 23, 2008", "2008-12-23"),
        ("December 17, 2012", "2012-12-17"),
        ("23 December 2008", "2008-12-23"),
        ("02 28, 2014", "2014-02-28"),
        ("09 4, 2015", "2015-09-04"),
        ("2/28/2014", "2014-02-28"),
        ("2-28-2014", "2014-02-28"),
        ("28.2.2014", "2014-02-28"),
        ("28/2/2014", None),
        ("2014/02/28", "2014-02-28"),
        ("20140228", "2014-02-28"),
        ("2018-07-07 22:09:11", "2018-07-07 22:09:11"),
        ("2018-07-07T22:09:11.5Z", "2018-07-07 22:09:11"),
        ("2018-07-07T22:09:11+02:00", "2018-07-07 20:09:11"),
        (1531001351, "2018-07-07 22:09:11"),
        (1531001351999, "2018-07-07 22:09:11"),
        (1531001351999999, "2018-07-07 22:09:11"),
        (1531001351999999999, "2018-07-07 22:09:11"),
        ("1531001351", "2018-07-07 22:09:11"),
        ("1.531001351e9", "2018-07-07 22:09:11"),
        ("Feb 30, 2014", None),
        ("Xyz 3, 2014", None),
        ("yesterday", None),
        ("", None),
        (None, None),
        (math.nan, None),
        (True, None),
        ([1], None),
    ],
)
def test_seconds(value, expected):
    """Of one value alone; for a column see test_reviews."""
    known = None if expected is None else int(datetime.fromisoformat(expected).replace(tzinfo=UTC).timestamp())
    assert seconds(value) == known


@pytest.mark.parametrize("end", ["", " 10:30", " 7:05 UTC", ", 01:02:03 PM"])
def test_dates_with_a_time_of_day(end):
    known = {"": 0, " 10:30": 37800, " 7:05 UTC": 25500, ", 01:02:03 PM": 46923}[end]
    for day in ("1/2/2020", "2020-1-2", "2.1.2020", "Jan 2, 2020", "Thu, 02 Jan 2020", "01 02, 2020"):
        assert seconds(day + end) == 1577923200 + known
    assert seconds("2/1/2020" + end, day_first=True) == 1577923200 + known
    assert seconds("2/30/2020" + end) is None
