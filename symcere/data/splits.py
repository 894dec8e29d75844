"""Which interaction is trained on, which selects the model, which is the test.

Every function works on the n kept interactions, sorted by user and then item, and answers with int8 ``[n]`` of
:data:`TRAIN`, :data:`VAL`, :data:`TEST` or :data:`DROPPED`. Users and items keep their numbers whatever the split:
a user whose training is empty has an empty row, and an item without training interactions stays a candidate, as it
would in a shop.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from symcere.errors import UserError

TRAIN, VAL, TEST, DROPPED = range(4)


def random(users: np.ndarray, seed: int) -> np.ndarray:
    """A random tenth of each user's interactions, at least one, for test and the same for validation.

    As the peers' splits were made: ``numpy.random.default_rng(seed)``, users in id order, each user's items
    shuffled, ``max(1, round(n / 10))`` with Python's rounding. At least one interaction always stays in training,
    so a user of two gives to the test alone and a user of one gives nothing.
    """
    rng = np.random.default_rng(seed)
    part = np.zeros(len(users), np.int8)
    ends = np.flatnonzero(np.diff(users, append=-1)) + 1
    start = 0
    for end in ends.tolist():
        n = end - start
        order = np.arange(start, end)
        rng.shuffle(order)
        tenth = max(1, round(n / 10))
        test = min(tenth, n - 1)
        val = min(tenth, n - 1 - test)
        part[order[:test]] = TEST
        part[order[test : test + val]] = VAL
        start = end
    return part


def last(users: np.ndarray, times: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Leave-last-out: each user's latest interaction is the test, the one before it validation.

    Ties of time are broken by the row in the file; an interaction without a time comes before all others.
    A user of two gives to the test alone and a user of one gives nothing.
    """
    order = np.lexsort((rows, times, users))
    counts = np.bincount(users)
    from_end = np.empty(len(users), np.int64)
    from_end[order] = np.cumsum(counts)[users[order]] - 1 - np.arange(len(users))
    n = counts[users]
    part = np.zeros(len(users), np.int8)
    part[(from_end == 0) & (n >= 2)] = TEST
    part[(from_end == 1) & (n >= 3)] = VAL
    return part


def time(times: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Two global dates: the last tenth of all interactions is the test, the tenth before it validation.

    Interactions of one moment are never divided; one without a time is trained on.

    Args:
        missing: bool ``[n]``, where there is no time; not everywhere.
    """
    known = times[~missing]
    first, second = np.quantile(known, [0.8, 0.9], method="higher")
    part = np.where(times >= second, TEST, np.where(times >= first, VAL, TRAIN)).astype(np.int8)
    part[missing] = TRAIN
    return part


def drop_untrained(part: np.ndarray, users: np.ndarray) -> np.ndarray:
    """``part`` with the interactions of users who have none in training dropped."""
    trained = np.bincount(users, weights=part == TRAIN)[users] > 0
    return np.where(trained, part, DROPPED).astype(np.int8)


@dataclass(frozen=True)
class Files:
    """A split given as files: ``train.csv, val.csv, test.csv`` (columns ``user,item``, whole numbers) and
    ``users.json, items.json`` (position = number, value = raw id). The numbers become those of the corpus."""

    folder: Path
    users: pa.Array
    items: pa.Array
    pairs: tuple[np.ndarray, np.ndarray, np.ndarray]
    """``user * len(items) + item`` of training, validation and test, each sorted."""

    @classmethod
    def read(cls, folder: Path) -> "Files":
        """
        Raises:
            UserError: a file is missing or unreadable, a number points outside the lists, a pair stands twice.
        """
        users, items = (_ids(folder / f"{name}.json") for name in ("users", "items"))
        train, val, test = (_pairs(folder / f"{n}.csv", len(users), len(items)) for n in ("train", "val", "test"))
        every = np.sort(np.concatenate([train, val, test]))
        if (twice := every[1:][every[1:] == every[:-1]]).size:
            user, item = divmod(int(twice[0]), len(items))
            raise UserError(
                f"The split in {folder} names {len(twice)} pairs more than once, the first is user {user}, item {item} "
                f"({users[user]}, {items[item]}). A pair belongs to one of train.csv, val.csv and test.csv."
            )
        return cls(folder, users, items, (train, val, test))

    def divide(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """The part of each interaction, numbered as the files do (-1: an id that they do not list).

        Raises:
            UserError: a named pair is not among the interactions.
        """
        known = (users >= 0) & (items >= 0)
        pair = np.where(known, users.astype(np.int64) * len(self.items) + items, -1)
        part = np.full(len(pair), DROPPED, np.int8)
        for number, named in enumerate(self.pairs):
            present = np.isin(named, pair)
            if not present.all():
                user, item = divmod(int(named[~present][0]), len(self.items))
                raise UserError(
                    f"The split in {self.folder} names {len(named) - present.sum()} pairs of "
                    f"{('train', 'val', 'test')[number]}.csv that are not among the cleaned reviews, the first is "
                    f"({self.users[user]}, {self.items[item]}). Prepare the reviews that the split was made from, with "
                    "the same --data.core and filters (or --data.core 1)."
                )
            part[np.isin(pair, named)] = number
        return part


def _ids(path: Path) -> pa.Array:
    try:
        ids = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"Cannot read the split's {path}: {error}. A JSON list of ids is expected.") from None
    if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
        raise UserError(f"The split's {path} must be a JSON list of ids (texts), their positions being the numbers.")
    array = pa.array(ids, pa.string())
    if len(pc.unique(array)) < len(array):
        raise UserError(f"The split's {path} lists an id twice.")
    return array


def _pairs(path: Path, num_users: int, num_items: int) -> np.ndarray:
    types = {"user": pa.int64(), "item": pa.int64()}
    try:
        table = pyarrow.csv.read_csv(path, convert_options=pyarrow.csv.ConvertOptions(column_types=types))
        columns = [table[name].combine_chunks() for name in ("user", "item")]
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        raise UserError(f"Cannot read the split's {path}: {error}. The columns user,item are expected.") from None
    for column, most, name in zip(columns, (num_users, num_items), ("user", "item"), strict=True):
        bad = pc.fill_null(pc.or_(pc.less(column, 0), pc.greater_equal(column, most)), True).to_numpy(False)
        if bad.any():
            line = int(bad.argmax())
            raise UserError(
                f"{path}, line {line + 2}: {name} {column[line]} is no position in {name}s.json, which has {most} ids."
            )
    user, item = (column.to_numpy() for column in columns)
    return np.sort(user * num_items + item)
