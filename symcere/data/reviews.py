"""Reviews as a stream of record batches, whatever they come in.

    reviews = read([Path("reviews.json.gz")])
    for batch in reviews: ...
    reviews.counts, reviews.notes        # what was seen and what was lost

What a file holds is recognised in the file; a format that was stated only settles what the file leaves open.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from symcere.config.fields import listed
from symcere.data import opening
from symcere.data.dates import LATEST, MILLISECONDS, ambiguous, day_first, never, seconds
from symcere.data.readers import CARRIERS, FORMATS, LAYOUTS, ROLES, Layout, generic
from symcere.data.readers.carrier import carrier, foreign, looked_ahead
from symcere.data.readers.table import uneven
from symcere.data.schema import SCHEMA, as_text
from symcere.errors import UserError, nearest

ROWS = 1 << 16
"""Rows of a batch, about."""
CHARACTERS = 4 << 20
"""A batch with more text than this has fewer rows. Buffers of this size are used again; larger ones are taken from the
system anew each time, page by page."""

LOSSES = {
    "bad_json": "{n} lines that are no JSON object were dropped",
    "bad_row": "{n} rows with too many or too few fields were dropped",
    "truncated": "{n} last reviews that end in the middle were dropped",
    "no_user": "{n} reviews without a user were dropped",
    "no_item": "{n} reviews without an item were dropped",
    "bad_rating": "{n} ratings are no number and count as absent",
    "bad_time": "{n} dates could not be read, or stand for never as the year 9999 does, and count as absent",
    "encoding": "{n} lines are not UTF-8 and were read as Windows-1252",
}
"""What each loss in :attr:`Reviews.counts` means. ``rows`` = ``kept`` + the first five."""

NULLS = ("", r"\N")
"""Texts that say nothing; the second is how MySQL and Hive export it."""

DROPPED = ("bad_json", "bad_row", "truncated", "no_user", "no_item")


def read(sources: Path | Sequence[Path], format: str = "", columns: Mapping[str, str] | None = None) -> "Reviews":
    """The reviews in files, folders or archives.

    Args:
        format: one of :data:`symcere.data.readers.FORMATS`; '' by content. A source recognised in the file wins.
            ``synthetic`` reads no file: ``columns`` then holds the fields of :class:`symcere.data.synthetic.Synthetic`.
        columns: names of columns by role (user, item, rating, time, text), over what would be found; '' for a role
            that the data do not have. A dotted name reaches into a nested record.

    Raises:
        UserError: an unknown format or role, no source; while iterating, everything that is wrong with the files.
    """
    columns, sources = dict(columns or {}), listed(sources)
    if format and format not in FORMATS:
        raise UserError(f"Unknown format '{format}'. {nearest(format, FORMATS)}")
    if format != "synthetic":
        for role in columns:
            if role not in ROLES:
                raise UserError(f"Unknown column '{role}' to name. {nearest(role, ROLES)}")
        if not sources:
            raise UserError("No file of reviews was given. Name it with --source FILE, or fetch the data set first.")
    for source in map(Path, sources):
        if source.exists() and not (source.is_file() or source.is_dir()):
            raise UserError(f"{source} is a pipe or a device, which cannot be read twice: write it to a file first.")
    return Reviews([Path(source) for source in sources], format, columns)


class Reviews:
    """An iterable of :class:`pyarrow.RecordBatch` of :data:`SCHEMA`, in bounded memory; each pass reads anew.

    Attributes:
        counts: of the last pass: ``rows`` seen, ``kept``, and each of :data:`LOSSES`.
        notes: sentences on what was lost or odd, complete after the pass.
        bytes_total, bytes_read: as stored on disk, for progress; 0 total where unknown.
        format: what was recognised, complete after the first batch.
    """

    def __init__(self, sources: Sequence[Path], format: str, columns: Mapping[str, str]):
        self.sources = list(sources)
        self.format = format
        self.columns = columns
        self._stated = format
        self.bytes_total = 0
        if format != "synthetic":
            self.bytes_total = sum(file.stat().st_size for s in self.sources for file in opening.files(s))
        self._reset()

    def _reset(self) -> None:
        self.counts: Counter[str] = Counter()
        self.notes: list[str] = []
        self.bytes_read = 0
        self._first: dict[str, str] = {}
        self._foreign = ""
        self._day_first: bool | None = None

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        self._reset()
        if self._stated == "synthetic":
            yield from self._synthetic()
            return
        pending: list[list[Any]] = [[] for _ in ROLES]
        characters = 0
        for columns in self._columns():
            for kept, new in zip(pending, columns, strict=True):
                kept += new
            characters += _length(columns[-1])
            if len(pending[0]) >= ROWS or characters >= CHARACTERS:
                yield self._batch(pending)
                pending, characters = [[] for _ in ROLES], 0
        if pending[0]:
            yield self._batch(pending)
        self._finish()

    # ------------------------------------------------------------ files

    def _columns(self) -> Iterator[list[list[Any]]]:
        """Raw values by role, a block at a time."""
        for source in self.sources:
            begun = self.bytes_read
            # Beside the reviews an archive holds other tables, some of which look much like reviews (Yelp's tips).
            # Ratings tell them apart; where no table has any, one without is taken, and its further parts.
            for must in (("user", "item", "rating", "text"), ("user", "item", "text")):
                self.bytes_read = begun
                found, skipped, faults = yield from self._of_source(source, must)
                if found:
                    break
            else:
                raise self._unknown(source, skipped, faults)

    def _of_source(
        self, source: Path, must: tuple[str, ...]
    ) -> Generator[list[list[Any]], None, tuple[bool, list[str], list[str]]]:
        """Raw values of one source; returns whether there were reviews, what was left out, and faults.

        Args:
            must: the roles that a table among several has to have.
        """
        skipped: dict[str, list[str]] = {}
        table: _Table | None = None
        several = source.is_dir()
        faults: list[str] = []

        def members() -> Iterator[opening.Member]:
            yield from opening.members(source, self._progress)
            # Whether a file before the first whole one is a part of the same table can be told only now.
            early = {name for name, keys in skipped.items() if table and table.has_part(name, keys)}
            if early:
                yield from (member for member in opening.members(source) if member.name in early)

        for member in members():
            several = several or "/" in member.name
            faults = member.stream.faults
            counts, first = self.counts.copy(), dict(self._first)
            layout, blocks, keys = self._recognise(member, must if several else (), table)
            if layout is None:
                self.counts, self._first = counts, first  # what is no review is no lost one
                skipped[member.name] = keys
                if not keys and (said := foreign(member.stream.peek(16), member.name)):
                    self._foreign = said
                continue
            skipped.pop(member.name, None)
            if table is None:
                table = _Table(member.name, layout, frozenset(keys))
                self._say_format(member.name, layout)
            for block in blocks:
                yield layout.pick(block)
            self._say_faults(faults)
        if table is None:
            shown = [name + (f" (columns: {_listed(keys)})" if keys else "") for name, keys in skipped.items()]
            return False, shown, faults
        self._say_faults(faults)
        if skipped:
            self.counts["files_skipped"] += len(skipped)
            reasons = [name + table.unlike(keys) for name, keys in skipped.items()]
            self.notes.append(f"{source.name}: left out as no part of the reviews: {_listed(reasons, 5)}.")
        return True, [], faults

    def _progress(self, size: int) -> None:
        self.bytes_read += size

    def _recognise(
        self, member: opening.Member, must: tuple[str, ...], table: "_Table | None"
    ) -> tuple[Layout | None, Iterator[list[dict[str, Any]]], list[str]]:
        """The layout of a member (None: no reviews), all its blocks of records, and its keys.

        Args:
            must: the roles that it has to have if no source is recognised in it; () where there is no other member.
            table: what the members before are parts of.
        """
        head = member.stream.peek(1 << 16)
        carried = carrier(member, self._lost(member.name))
        if carried is None:
            return None, iter(()), []
        blocks, sample = looked_ahead(carried)
        keys = list(dict.fromkeys(key for record in sample for key in record))
        if not keys:
            if must:
                return None, iter(()), []
            if member.stream.faults:
                raise UserError(f"{member.stream.faults[0]}, and no complete review stands before. Fetch it again.")
            if found := uneven(head):
                raise UserError(
                    f"{member.name} holds no reviews: {found}. Name every column in the header; row numbers without a "
                    "name (R: `row.names = FALSE`) and a comma at the end of each row make one too many."
                )
            raise UserError(f"{member.name} holds no reviews: nothing in it could be read as a record.")
        known = next((layout for layout in LAYOUTS if layout.recognises(keys)), None)
        stated = next((layout for layout in LAYOUTS if layout.name == self._stated), None)
        if known:
            layout = known
        elif stated and stated.complete(keys, ("user", "item")):
            layout = stated
        else:
            layout = generic.layout(keys)
        layout = layout.completed(keys, generic.layout(keys)).named(self.columns)
        whole = table if must and table and table.has_part(member.name, keys) else None
        if whole:
            layout = whole.layout.completed(keys, layout)
        elif must:
            complete = known or layout.complete(keys, [role for role in must if self.columns.get(role) != ""])
            other = table and (layout.name != table.layout.name or "rating" not in must)
            if not complete or other or (stated and layout.name == "generic"):
                return None, iter(()), keys
        self._check(member.name, layout, keys, known is not None, part=whole is not None)
        return layout.seen(sample), blocks, keys

    def _check(self, name: str, layout: Layout, keys: list[str], known: bool, part: bool) -> None:
        for role, column in self.columns.items():
            if not part and column and column not in keys and column.partition(".")[0] not in keys:
                raise UserError(
                    f"{name} has no column '{column}' (named for the {role}). {nearest(column, keys)} "
                    f"Found: {_listed(keys)}."
                )
        for role, must in (("user", True), ("item", True), ("text", "text" not in self.columns and not known)):
            if must and not getattr(layout, role):
                without = f", or `--column {role}=` if there is none" if role == "text" else ""
                raise UserError(
                    f"{name} has no column that is known to hold the {role}. Found: {_listed(keys)}. Name it with "
                    f"`--column {role}=NAME` (in a card: `columns: {{{role}: NAME}}`){without}."
                )
        for role in ("rating", "time", "text"):
            if (role not in self.columns or (part and self.columns[role])) and not layout.complete(keys, (role,)):
                self.notes.append(
                    f"{name} has no column for the {role}; name it with `--column {role}=NAME` if it has one."
                )

    def _unknown(self, source: Path, skipped: list[str], faults: list[str]) -> UserError:
        if faults:
            return UserError(f"{faults[0]}, and no complete review stands before. Fetch it again.")
        if self._foreign:
            return UserError(f"{self._foreign}, and give the file that it makes.")
        if any("xl/workbook" in name for name in skipped):
            return UserError(f"{source} is a spreadsheet. Save it as CSV (UTF-8), and give that file.")
        return UserError(
            f"No reviews were recognised in {source} ({_listed(skipped, 3) or 'no file in it'}). It must hold "
            "JSON lines, a table with a header line (CSV, TSV), Parquet or LARA's text form, plain, compressed or "
            f"archived. Known formats: {', '.join(FORMATS)}."
        )

    # ------------------------------------------------------------ what is said

    def _lost(self, name: str) -> Callable[[str, int], None]:
        def lost(kind: str, where: int) -> None:
            self.counts[kind] += 1
            if kind in DROPPED:
                self.counts["rows"] += 1
            self._first.setdefault(kind, f"{name}, line {where}")

        return lost

    def _say_format(self, name: str, layout: Layout) -> None:
        self.format = layout.name
        if layout.name == "generic" and "text" not in self.columns and generic.plain(layout.text) in generic.VAGUE:
            self.notes.append(f"{name}: '{layout.text}' is taken for the text; if it is not, `--column text=NAME`.")
        if layout.name != "generic" and self._stated not in ("", layout.name, *CARRIERS):
            self.notes.append(f"{name} holds {layout.name} reviews, not {self._stated}; it was read as what it is.")

    def _say_faults(self, faults: list[str]) -> None:
        for fault in faults:
            note = f"{fault}: the complete reviews before that were kept, what followed is lost."
            if note not in self.notes:
                self.counts["cut_files"] += 1
                self.notes.append(note)

    def _finish(self) -> None:
        for kind, sentence in LOSSES.items():
            if n := self.counts[kind]:
                where = f" (first: {self._first[kind]})" if kind in self._first else ""
                self.notes.append(sentence.format(n=f"{n:,}") + where + ".")
        if not self.counts["kept"]:
            raise UserError(
                f"No usable review in {', '.join(map(str, self.sources))}: "
                + (" ".join(self.notes) or "no rows at all.")
            )

    # ------------------------------------------------------------ values

    def _batch(self, columns: list[list[Any]]) -> pa.RecordBatch:
        users, items, ratings, times, texts = columns
        start = self.counts["rows"]
        user, item = (pc.utf8_trim_whitespace(_strings(ids)) for ids in (users, items))
        no_user, no_item = _blank(user), _blank(item)
        rating, bad_ratings = _ratings(ratings)
        time, bad_times = self._times(times)
        row = pa.array(np.arange(start, start + len(users)))
        self.counts.update(
            rows=len(users),
            no_user=int(no_user.sum()),
            no_item=int((no_item & ~no_user).sum()),
            bad_rating=bad_ratings,
            bad_time=bad_times,
        )
        text = _strings(texts).fill_null("")
        text = pc.if_else(pc.equal(text, NULLS[1]), "", text)
        batch = pa.RecordBatch.from_arrays(
            [user.fill_null(""), item.fill_null(""), rating, time, text, row], schema=SCHEMA
        )
        gone = no_user | no_item
        if gone.any():
            batch = batch.filter(pa.array(~gone))
        self.counts["kept"] += len(batch)
        return batch

    def _times(self, values: list[Any]) -> tuple[pa.Array, int]:
        """Times as unix seconds, null where there is none, and how many were there but could not be read.

        Whether 3/4/2020 is in March or April, the first block of rows whose dates tell it tells for all.
        """
        bad = 0
        try:
            times = pa.array(values, pa.int64())
            numbers = times.fill_null(0).to_numpy()
            numbers = np.where(never(numbers), LATEST, numbers)
            for _ in range(3):
                numbers = np.where(np.abs(numbers) >= MILLISECONDS, numbers // 1000, numbers)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            if self._day_first is None and ambiguous(values):
                self._day_first = self._find_day_first()
            found = [seconds(value, bool(self._day_first)) for value in values]
            bad = sum(one is None and not _absent(v) for one, v in zip(found, values, strict=True))
            times = pa.array(found, pa.int64())
            numbers = times.fill_null(0).to_numpy()
        late = np.abs(numbers) >= LATEST
        absent = times.is_null().to_numpy(zero_copy_only=False) | late
        return pa.array(numbers, mask=absent), bad + int(late.sum())

    def _find_day_first(self) -> bool:
        """Looks at the dates from the start, as far as the first that tell the order of day and month."""
        ahead = Reviews(self.sources, self._stated, self.columns)
        for columns in ahead._columns():
            if (told := day_first(columns[ROLES.index("time")])) is not None:
                return told
        self.notes.append(
            "Dates like 3/4/2020 were read as month/day/year: they do not tell, or not all alike, which stands first."
        )
        return False

    def _synthetic(self) -> Iterator[pa.RecordBatch]:
        from symcere.data.synthetic import Synthetic

        for batch in Synthetic.from_options(self.columns).batches():
            self.counts.update(rows=len(batch), kept=len(batch))
            yield batch


@dataclass(frozen=True)
class _Table:
    """The first file of the reviews in a source of several."""

    name: str
    layout: Layout
    keys: frozenset[str]

    def has_part(self, name: str, keys: Sequence[str]) -> bool:
        """Whether another file is a part of the same table. Where its name differs in numbers alone, it has the columns
        of user, item and text, since writers of parts leave out a column that is empty in one; else no other columns
        than the first, and its rating, too: without one it may hold tips or answers."""
        numbered = _NUMBER.sub("", name) == _NUMBER.sub("", self.name)
        roles = ("user", "item", "text", *([] if numbered else ["rating"]))
        must = [role for role in roles if self.layout.complete(self.keys, (role,))]
        return (numbered or self.keys.issuperset(keys)) and self.layout.complete(keys, must)

    def unlike(self, keys: Sequence[str]) -> str:
        """Why a file with these columns is none."""
        roles = [role for role in ("user", "item", "rating", "text") if getattr(self.layout, role)]
        missing = [role for role in roles if not self.layout.complete(keys, (role,))]
        if not keys:
            return ""
        if missing:
            return f" (no column for the {' and the '.join(missing)})"
        return f" (other columns: {_listed([key for key in keys if key not in self.keys])})"


_NUMBER = re.compile(r"(?<![\da-z])[\da-f]{4,}(?![\da-z])|\d+")
"""Numbers and the codes that Spark puts into the names of parts."""


def _listed(names: Sequence[str], most: int = 30) -> str:
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _length(texts: list[Any]) -> int:
    try:
        return sum(map(len, texts))
    except TypeError:
        return sum(len(text) for text in texts if isinstance(text, str))


def _strings(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values, pa.string())
    except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError):
        return pa.array([as_text(value) for value in values], pa.string())


def _blank(ids: pa.Array) -> np.ndarray:
    nobody = pc.is_in(ids, pa.array(NULLS))
    return pc.fill_null(pc.or_(nobody, pc.is_null(ids)), True).to_numpy(zero_copy_only=False)


def _ratings(values: list[Any]) -> tuple[pa.Array, int]:
    """Ratings as float32, NaN where there is none, and how many were there but no number."""
    try:
        if bool in set(map(type, values)):  # Arrow takes yes for 1 where a batch holds nothing else
            raise pa.ArrowTypeError
        ratings = pa.array(values, pa.float64()).to_numpy(zero_copy_only=False)
        bad = int(np.isinf(ratings).sum())
        ratings = np.where(np.isinf(ratings), np.nan, ratings)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        ratings = np.array([number(value) for value in values])
        bad = sum(bool(np.isnan(r)) and not _absent(v) for r, v in zip(ratings, values, strict=True))
    return pa.array(ratings.astype(np.float32)), bad


def _absent(value: Any) -> bool:
    return value is None or value != value or (isinstance(value, str) and value.strip() in NULLS)


_STARS = re.compile(
    r"(★+)☆*|(\d+(?:\.\d+|,\d\d?)?)(?:\s*(?:/|out of)\s*(5|10|100)(?:[.,]0)?)?(?:\s*stars?)?", re.IGNORECASE
)
"""Not 1,234, which is a thousand, nor 10/12, which is a date."""


def number(value: Any) -> float:
    """A rating's number, NaN where there is none.

    >>> number("4.5"), number("4,5"), number("4.0 out of 5 stars"), number("4/5"), number("★★★☆☆"), number("Like")
    (4.5, 4.5, 4.0, 4.0, 3.0, nan)
    """
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        told = _STARS.fullmatch(value.strip()) if isinstance(value, str) else None
        if not told:
            return math.nan
        found = float(len(told[1]) if told[1] else told[2].replace(",", "."))
        if told[3] and found > float(told[3]):
            return math.nan
    return found if math.isfinite(found) else math.nan
