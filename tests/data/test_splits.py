"""Splits against the rules written out as slow loops, and against hand-made cases."""

import json
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symcere.data import splits
from symcere.data.corpus import NO_TIME
from symcere.data.splits import DROPPED, TEST, TRAIN, VAL
from symcere.errors import UserError

activities = st.lists(st.integers(1, 40), min_size=1, max_size=30)


def entries(activity):
    return np.repeat(np.arange(len(activity)), activity)


def by_user(users, part):
    found = defaultdict(lambda: ([], [], [], []))
    for position, (user, where) in enumerate(zip(users.tolist(), part.tolist(), strict=True)):
        found[user][where].append(position)
    return found


@settings(max_examples=40)
@given(activities, st.integers(0, 5))
def test_random_follows_the_published_rule(activity, seed):
    users = entries(activity)
    part = splits.random(users, seed)
    rng, start = np.random.default_rng(seed), 0
    for user, n in enumerate(activity):
        mine = list(range(start, start + n))
        rng.shuffle(mine)  # a list: another path through NumPy, the same stream
        tenth = max(1, round(n / 10))
        train, val, test, _ = by_user(users, part)[user]
        if n >= 3:
            assert sorted(mine[:tenth]) == test
            assert sorted(mine[tenth : 2 * tenth]) == val
        assert len(train) >= 1
        assert (len(test), len(val)) == {1: (0, 0), 2: (1, 0)}.get(n, (tenth, tenth))
        start += n


def test_random_rounds_as_python_does():
    part = splits.random(entries([15, 25, 35]), 0)
    assert [int((part[entries([15, 25, 35]) == user] == TEST).sum()) for user in range(3)] == [2, 2, 4]


@settings(max_examples=40)
@given(activities, st.randoms(use_true_random=False))
def test_last_takes_each_users_latest(activity, random):
    users = entries(activity)
    times = np.array([random.choice([NO_TIME, 3, 5, 8]) for _ in users])
    rows = np.array(random.sample(range(1000, 1000 + 2 * len(users)), len(users)))
    part = splits.last(users, times, rows)
    for user, n in enumerate(activity):
        mine = sorted(np.flatnonzero(users == user).tolist(), key=lambda k: (times[k], rows[k]))
        train, val, test, dropped = by_user(users, part)[user]
        assert test == mine[-1:] * (n >= 2)
        assert val == mine[-2:-1] * (n >= 3)
        assert len(train) == n - len(test) - len(val)
        assert not dropped


def test_time_cuts_at_two_global_dates_and_never_within_a_moment():
    times = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    part = splits.time(times, np.zeros(10, bool))
    assert part.tolist() == [TRAIN] * 8 + [VAL, TEST]
    times = np.array([0, 1, 2, 3, 4, 5, 6, 8, 8, 9])
    part = splits.time(times, np.zeros(10, bool))
    assert part.tolist() == [TRAIN] * 7 + [VAL, VAL, TEST]


def test_time_trains_on_what_has_no_time():
    times = np.array([NO_TIME, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100])
    assert splits.time(times, times == NO_TIME).tolist() == [TRAIN] * 9 + [VAL, TEST]


def test_nobody_is_evaluated_without_training():
    users = np.array([0, 0, 1, 1, 2])
    part = np.array([TRAIN, TEST, VAL, TEST, TEST])
    assert splits.drop_untrained(part, users).tolist() == [TRAIN, TEST, DROPPED, DROPPED, DROPPED]


# ---------------------------------------------------------------- given files


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "users.json").write_text(json.dumps(["zoe", "adam"]))
    (tmp_path / "items.json").write_text(json.dumps(["pan", "cup", "lid"]))
    (tmp_path / "train.csv").write_text("user,item\n0,0\n1,2\n")
    (tmp_path / "val.csv").write_text("user,item\n1,1\n")
    (tmp_path / "test.csv").write_text("user,item\n0,2\n")
    return tmp_path


def test_files_divide_by_pairs_and_drop_the_others(folder):
    given = splits.Files.read(folder)
    assert given.users.equals(pa.array(["zoe", "adam"]))
    users, items = np.array([0, 0, 0, 1, 1, -1, 0]), np.array([0, 1, 2, 1, 2, 0, -1])
    assert given.divide(users, items).tolist() == [TRAIN, DROPPED, TEST, VAL, TRAIN, DROPPED, DROPPED]


def test_files_that_name_a_pair_without_review(folder):
    with pytest.raises(UserError, match=r"names 1 pairs of val\.csv.*\(adam, cup\).*--data\.core"):
        splits.Files.read(folder).divide(np.array([0, 0, 1]), np.array([0, 2, 2]))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("test.csv", None, r"test\.csv"),
        ("test.csv", "user;item\n0;2\n", r"columns user,item"),
        ("test.csv", "user,item\n0,two\n", r"test\.csv.*two"),
        ("test.csv", "user,item\n0,2\n0,3\n", r"test\.csv, line 3: item 3 is no position in items\.json, which has 3"),
        ("test.csv", "user,item\n,2\n", r"line 2: user None"),
        ("test.csv", "user,item\n0,2\n1,1\n", r"names 1 pairs more than once.*adam, cup"),
        ("users.json", None, r"users\.json"),
        ("users.json", '{"zoe": 0}', r"must be a JSON list"),
        ("users.json", '["zoe", "zoe"]', r"an id twice"),
        ("users.json", '["zoe", "adam"', r"Cannot read.*users\.json"),
    ],
)
def test_unusable_files_are_named(folder, name, content, message):
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(UserError, match=message):
        splits.Files.read(folder)
