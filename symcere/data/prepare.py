"""From a stream of reviews to a corpus, in bounded memory.

Three passes. The first takes the stream in: texts go to a scratch file, the rest of a review (a few numbers and the
two ids) stays in memory, about 50 bytes each. The second decides on these numbers alone what is kept, in which split
and at which place. The third sends the kept texts to their places: first into buckets of neighbouring places, then,
one bucket at a time, sorted and cleaned into the corpus. Only kept texts are ever cleaned, and no text is held longer
than its batch or bucket.

The order of the cleaning is fixed (it decides the result): exact duplicates, placeholder users, short reviews, all but
the latest review of a (user, item) pair, low ratings, k-core. The rating is judged after the repeated pairs, since the
latest review says what its author thinks now; the length before them, since a later "Edit: still good" should not
take the review with it.
"""

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from symcere import config
from symcere.config.fields import to_dict
from symcere.data import kcore, splits
from symcere.data.ahead import ahead
from symcere.data.cleaning import MISSING, PLACEHOLDERS, clean, count_words
from symcere.data.corpus import NO_TIME, SPLITS, Corpus, Entries
from symcere.errors import UserError

if TYPE_CHECKING:
    from symcere.data.cards import Card

BUCKET_BYTES = 32 << 20
"""Raw text in one bucket of the last pass, and so its memory up to a small factor."""
SCRAP = 64
"""Bytes: a longer text is taken for one without a look at it."""
ROWS_OF_A_CHUNK = 1 << 13
"""Texts in one record batch of the corpus, at most."""
SUSPICIOUS = 0.01
"""Share of the reviews from which an id that looks like a missing one is told of."""
MOST_BUCKETS = 500
"""Open files at once; a corpus too large for it has larger buckets."""


class Progress(Protocol):
    """Told how far a step is: ``total`` is 0 while unknown; ``reading`` counts bytes of the sources when they are
    known and reviews otherwise, ``sorting`` and ``writing`` count reviews."""

    def __call__(self, step: str, done: int, total: int) -> None: ...


def prepare(
    card: "Card", data: config.Data, sources: Sequence[Path], out: Path, progress: Progress | None = None
) -> Corpus:
    """Reads the reviews of ``sources`` as the card says, cleans and splits them, and stores the corpus at ``out``.

    Raises:
        UserError: an unusable source, or filters that leave nothing; an older corpus at ``out`` is then untouched.
    """
    from symcere.data.reviews import read
    from symcere.data.titles import titles

    def known(items: Collection[str]) -> Mapping[str, str]:
        if card.format != "synthetic":
            found = titles(sources, items, card.items, card.columns.get("item", ""))
            if card.items and not found:
                reviews.notes.append(f"{card.items} tells no title: it is not there, or has none of these items.")
            return found
        from symcere.data.synthetic import Synthetic

        made = Synthetic.from_options(card.columns)
        return dict(zip(made.item_ids.to_pylist(), made.item_titles.to_pylist(), strict=True))

    reviews = read(sources, card.format, card.columns)
    return assemble(reviews, data, out, name=data.dataset, titles=known, progress=progress)


def assemble(
    batches: Iterable[pa.RecordBatch],
    data: config.Data,
    out: Path,
    *,
    name: str,
    titles: Callable[[Collection[str]], Mapping[str, str]] | None = None,
    progress: Progress | None = None,
) -> Corpus:
    """The same from any stream of record batches of :data:`symcere.data.schema.SCHEMA`.

    Args:
        batches: read once. Attributes that :class:`symcere.data.reviews.Reviews` has (``counts``, ``notes``,
            ``bytes_read``, ``bytes_total``) are used where present.
        titles: asked once for the items that are left, answers item id → title for those it knows.

    Raises:
        UserError: no review at all; a filter, the k-core or the split leaves nothing; the disk is full.
    """
    tell = progress or (lambda step, done, total: None)
    given = splits.Files.read(Path(data.split.files)) if data.split.kind == "files" else None
    with _scratch(out) as folder, ExitStack() as stack:
        reviews = _Intake(folder, bool(data.min_words)).take(batches, tell)
        counts = [*_reader_counts(batches, len(reviews.user))]
        if not len(reviews.user):
            raise UserError(f"{name}: the source holds no usable review. {_sentence(counts)}".strip())
        try:
            kept = _filter(reviews, data, counts, name)
            kept, user_ids, users, item_ids, items = _number(reviews, kept, given)
            part = _split(data.split, given, reviews, kept, users, items, counts, name)
        except UserError as error:  # what the reader noticed may be why
            raise UserError(" ".join([str(error), *getattr(batches, "notes", ())])) from None
        item_titles = _titles(item_ids, titles)
        notes = [*getattr(batches, "notes", ()), *_notes(reviews, kept, part, users)]
        order = np.argsort(part, kind="stable")[: np.count_nonzero(part != splits.DROPPED)]
        kept, part, users, items = kept[order], part[order], users[order], items[order]
        texts = _Texts(folder, reviews, kept, part, tell)
        entries = {
            split: Entries(
                users[part == number],
                items[part == number],
                stack.enter_context(closing(texts.of(number))),
                reviews.rating[kept[part == number]],
                reviews.time[kept[part == number]],
            )
            for number, split in enumerate(SPLITS)
        }
        return Corpus.write(
            out,
            name=name,
            user_ids=user_ids,
            item_ids=item_ids,
            item_titles=item_titles,
            settings=to_dict(data),
            counts=counts,
            notes=notes,
            **entries,
        )


def _titles(
    item_ids: pa.StringArray, titles: Callable[[Collection[str]], Mapping[str, str]] | None
) -> pa.StringArray | None:
    ids = item_ids.to_pylist()
    known = titles(set(ids)) if titles else {}
    return pa.array([known.get(item) for item in ids], pa.string()) if known else None


# ---------------------------------------------------------------- first pass: taking in


class _Intake:
    """Everything about the n parsed reviews except their texts, in the order of the stream."""

    user: np.ndarray
    """int32 ``[n]``, position in ``user_ids``."""
    item: np.ndarray
    rating: np.ndarray
    """float32 ``[n]``, NaN where there is none."""
    time: np.ndarray
    """int64 ``[n]`` seconds, :data:`NO_TIME` where there is none."""
    text_hash: np.ndarray
    """int64 ``[n]`` of the raw text: equal texts have equal hashes, others (almost surely) do not."""
    text_bytes: np.ndarray
    words: np.ndarray | None
    """int32 ``[n]`` of the cleaned text, where a filter asks for it."""
    user_ids: pa.StringArray
    """Distinct, sorted."""
    item_ids: pa.StringArray

    def __init__(self, folder: Path, cleaned: bool):
        self.spill = folder / "texts.arrow"
        self.cleaned = cleaned
        """The scratch file holds cleaned texts, since their words had to be counted."""

    def take(self, batches: Iterable[pa.RecordBatch], tell: Progress) -> "_Intake":
        ids: dict[str, list[pa.Array]] = {"user": [], "item": []}
        columns: dict[str, list[np.ndarray]] = {c: [] for c in ("rating", "time", "text_hash", "text_bytes", "words")}
        schema = pa.schema({"text": pa.string()})
        total = int(getattr(batches, "bytes_total", 0) or 0)
        rows = 0
        with ExitStack() as stack:
            sink = stack.enter_context(pa.OSFile(str(self.spill), "wb"))
            file = stack.enter_context(pa.ipc.new_stream(sink, schema))
            for batch in stack.enter_context(closing(ahead(batches))):
                for column in ids:
                    ids[column].append(batch[column].dictionary_encode())  # lets go of the batch's own memory
                text = batch["text"]
                columns["text_hash"].append(_hashes(text))
                columns["text_bytes"].append(_sizes(text))
                columns["rating"].append(np.array(batch["rating"].to_numpy(zero_copy_only=False), np.float32))
                columns["time"].append(np.array(pc.fill_null(batch["time"], NO_TIME)))
                if self.cleaned:
                    text = clean(text)
                    columns["words"].append(count_words(text).to_numpy(zero_copy_only=False))
                file.write_batch(pa.record_batch([text], schema))
                rows += len(text)
                tell("reading", int(getattr(batches, "bytes_read", 0)) if total else rows, total)
        if rows:
            self.user, self.user_ids = _codes(ids["user"])
            self.item, self.item_ids = _codes(ids["item"])
            for column, parts in columns.items():
                setattr(self, column, np.concatenate(parts) if parts else None)
        else:
            self.user = np.empty(0, np.int32)
        return self


def _sizes(texts: pa.Array) -> np.ndarray:
    """Bytes of each text, 0 where nothing but markup and space is in it."""
    sizes = np.array(pc.binary_length(texts))
    short = np.flatnonzero((sizes > 0) & (sizes <= SCRAP))
    sizes[short[np.array(pc.equal(clean(texts.take(pa.array(short))), ""), bool)]] = 0
    return sizes


def _hashes(texts: pa.Array) -> np.ndarray:
    # Python's own hash is as fast as reading the letters, and 0 for the empty string.
    return np.fromiter(map(hash, texts.cast(pa.binary()).to_pylist()), np.int64, len(texts))


def _codes(chunks: list[pa.DictionaryArray]) -> tuple[np.ndarray, pa.StringArray]:
    """One number per value, in the order of the values as strings (of UTF-8 bytes, which is that of code points)."""
    whole = pa.chunked_array(chunks).unify_dictionaries()
    ids = whole.chunk(0).dictionary
    order = pc.sort_indices(ids).to_numpy()
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    return np.concatenate([rank[chunk.indices.to_numpy()] for chunk in whole.chunks]), ids.take(pa.array(order))


def _reader_counts(batches: object, parsed: int) -> Iterator[tuple[str, int]]:
    raw = getattr(batches, "counts", {}).get("rows", parsed)
    yield "rows in the source", raw
    yield "usable reviews", parsed


# ---------------------------------------------------------------- second pass: deciding


def _filter(reviews: _Intake, data: config.Data, counts: list[tuple[str, int]], name: str) -> np.ndarray:
    """Positions of the reviews that stay; each step is added to ``counts``. No rating is below every threshold."""
    pair = reviews.user.astype(np.int64) * len(reviews.item_ids) + reviews.item

    def left(step: str, kept: np.ndarray) -> np.ndarray:
        counts.append((step, len(kept)))
        if not len(kept):
            raise UserError(f"{name}: nothing is left of the reviews after '{step}'. {_sentence(counts)}")
        return kept

    kept = left("without exact duplicates", _without(np.arange(len(pair)), _duplicates(reviews, pair)))

    nobody = pc.index_in(pa.array(PLACEHOLDERS), value_set=reviews.user_ids).drop_null().to_numpy()
    kept = left("without placeholder users", kept[~np.isin(reviews.user[kept], nobody)])

    if reviews.words is not None:
        kept = left(f"at least {data.min_words} words", kept[reviews.words[kept] >= data.min_words])

    again = kept[_groups(pair[kept])]
    again = again[np.lexsort((again, reviews.time[again], pair[again]))]
    superseded = again[:-1][pair[again[1:]] == pair[again[:-1]]]
    kept = left("latest review of each user and item", _without(kept, superseded))

    if data.rating_threshold:
        kept = left(f"rating at least {data.rating_threshold:g}", kept[reviews.rating[kept] >= data.rating_threshold])

    inside = kcore.core(reviews.user[kept], reviews.item[kept], data.core)
    if not len(inside):
        most = kcore.deepest(reviews.user[kept], reviews.item[kept])
        raise UserError(
            f"{name}: the {data.core}-core is empty: of {len(kept):,} distinct (user, item) pairs none is left when "
            f"every user and item must keep at least {data.core}. The largest core that is not empty is the "
            f"{most}-core: --data.core {most} or less. {_sentence(counts)}"
        )
    return left(f"{data.core}-core", kept[inside])


def _duplicates(reviews: _Intake, pair: np.ndarray) -> np.ndarray:
    """Positions of the rows that repeat an earlier one in user, item, rating, time and text."""
    rows = _groups(pair)
    columns = [reviews.text_hash[rows], reviews.time[rows], np.nan_to_num(reviews.rating[rows], nan=-1e9), pair[rows]]
    order = np.lexsort((rows, *columns))
    same = np.logical_and.reduce([column[order][1:] == column[order][:-1] for column in columns])
    return rows[order[1:][same]]


def _groups(keys: np.ndarray) -> np.ndarray:
    """Positions whose key occurs more than once."""
    order = np.argsort(keys, kind="stable")
    same = keys[order[1:]] == keys[order[:-1]]
    found = np.zeros(len(keys), bool)
    found[1:] |= same
    found[:-1] |= same
    return order[found]


def _without(rows: np.ndarray, gone: np.ndarray) -> np.ndarray:
    return rows[~np.isin(rows, gone)] if len(gone) else rows


def _number(
    reviews: _Intake, kept: np.ndarray, given: splits.Files | None
) -> tuple[np.ndarray, pa.StringArray, np.ndarray, pa.StringArray, np.ndarray]:
    """Final numbers of the users and items that are left, and the reviews in their order.

    A given split brings its own numbers; what it does not list has the number -1.
    """
    numbered: list = []
    for codes, ids, listed in (
        (reviews.user[kept], reviews.user_ids, given and given.users),
        (reviews.item[kept], reviews.item_ids, given and given.items),
    ):
        if listed is None:
            present = np.bincount(codes, minlength=len(ids)) > 0
            number, listed = np.cumsum(present) - 1, ids.filter(pa.array(present))
        else:
            number = pc.fill_null(pc.index_in(ids, value_set=listed), -1).to_numpy()
        numbered += [listed, number[codes]]
    user_ids, users, item_ids, items = numbered
    order = np.lexsort((items, users))
    return kept[order], user_ids, users[order], item_ids, items[order]


def _split(
    split: config.Split,
    given: splits.Files | None,
    reviews: _Intake,
    kept: np.ndarray,
    users: np.ndarray,
    items: np.ndarray,
    counts: list[tuple[str, int]],
    name: str,
) -> np.ndarray:
    if given is not None:
        part = given.divide(users, items)
        counts.append(("named by the split's files", int(np.count_nonzero(part != splits.DROPPED))))
    elif split.kind == "random":
        part = splits.random(users, split.seed)
    elif (reviews.time[kept] == NO_TIME).all():
        raise UserError(
            f"The reviews carry no dates, so a split of kind '{split.kind}' is impossible. "
            "Choose --data.split.kind random, or name the column of dates (--column time=…)."
        )
    elif split.kind == "last":
        part = splits.last(users, reviews.time[kept], kept)
    else:
        part = splits.time(reviews.time[kept], reviews.time[kept] == NO_TIME)
    part = splits.drop_untrained(part, users)
    inside = int(np.count_nonzero(part != splits.DROPPED))
    if inside < counts[-1][1]:
        counts.append(("of users with a training interaction", inside))
    for number, which in enumerate(("training", "validation", "test")):
        if not np.count_nonzero(part == number):
            raise UserError(
                f"{name}: the split '{split.kind}' leaves no {which} interaction among {inside:,}. "
                "Choose another --data.split.kind, or a larger --data.core so that users have enough to divide."
            )
    return part


def _notes(reviews: _Intake, kept: np.ndarray, part: np.ndarray, users: np.ndarray) -> list[str]:
    named = np.flatnonzero((part != splits.DROPPED) & (reviews.text_bytes[kept] > 0))
    texts = reviews.text_hash[kept[named]]
    # One key for (user, text): a collision needs two texts of a million whose 64-bit hashes differ by a given number.
    repeated = named[_groups(texts ^ (users[named].astype(np.int64) * np.int64(0x9E3779B97F4A7C1)))]
    empty = int(np.count_nonzero(part != splits.DROPPED)) - len(named)
    notes = [*_missing("user", reviews.user, reviews.user_ids), *_missing("item", reviews.item, reviews.item_ids)]
    if len(repeated):
        leaked = np.count_nonzero(part[repeated] != splits.TRAIN)
        notes.append(
            f"{len(repeated):,} interactions share their text with another item of the same user; they are kept. "
            f"{leaked:,} of them are in validation or test."
        )
    if empty:
        notes.append(f"{empty:,} interactions have no text; they are kept as interactions.")
    return notes


def _missing(role: str, codes: np.ndarray, ids: pa.StringArray) -> Iterator[str]:
    """What to say of ids with many reviews that a program wrote where there was none."""
    reviews = np.bincount(codes, minlength=len(ids))
    for code in pc.index_in(pa.array(MISSING), value_set=ids).drop_null().to_pylist():
        if reviews[code] > 1 and (reviews[code] > SUSPICIOUS * len(codes) or reviews[code] == reviews.max()):
            yield (
                f"{reviews[code]:,} reviews are of one {role} called '{ids[code]}', which may stand for a missing id: "
                "to have them dropped, leave the field empty in the source (pandas: `dropna` before `astype(str)`)."
            )


def _sentence(counts: list[tuple[str, int]]) -> str:
    return "Counted: " + ", ".join(f"{step} {left:,}" for step, left in counts) + "."


# ---------------------------------------------------------------- third pass: texts to their places


class _Texts:
    """The kept texts in the order of ``kept``: an external sort by known places."""

    def __init__(self, folder: Path, reviews: _Intake, kept: np.ndarray, part: np.ndarray, tell: Progress):
        self._reviews, self._tell, self._n, self._done = reviews, tell, len(kept), 0
        size = np.cumsum(reviews.text_bytes[kept], dtype=np.int64)
        volume = max(BUCKET_BYTES, int(size[-1]) // MOST_BUCKETS)
        # A bucket ends where its volume is reached, and where a split ends.
        key = size // volume * len(SPLITS) + part
        ends = np.flatnonzero(np.diff(key, append=-1)) + 1
        self._buckets = [(int(owner), folder / f"{number}.arrow") for number, owner in enumerate(part[ends - 1])]
        self._distribute(kept, ends)
        reviews.spill.unlink()

    def _distribute(self, kept: np.ndarray, ends: np.ndarray) -> None:
        place = np.full(len(self._reviews.user), -1, np.int64)
        place[kept] = np.arange(len(kept))
        schema = pa.schema({"place": pa.int64(), "text": pa.string()})
        row = 0
        with ExitStack() as stack:
            files = []
            for _, file in self._buckets:
                sink = stack.enter_context(pa.OSFile(str(file), "wb"))
                files.append(stack.enter_context(pa.ipc.new_stream(sink, schema)))
            source = stack.enter_context(pa.OSFile(str(self._reviews.spill), "rb"))
            for batch in pa.ipc.open_stream(source):
                places = place[row : row + len(batch)]
                here = np.flatnonzero(places >= 0)
                here = here[np.argsort(places[here])]
                places, texts = places[here], batch["text"].take(pa.array(here))
                cuts = np.searchsorted(places, np.insert(ends, 0, 0))
                for number in np.flatnonzero(np.diff(cuts)):
                    piece = slice(cuts[number], cuts[number + 1])
                    columns = [pa.array(places[piece]), texts[piece]]
                    files[number].write_batch(pa.record_batch(columns, schema))
                row += len(batch)
                self._tell("sorting", row, len(place))

    def of(self, part: int) -> Generator[pa.Array, None, None]:
        """The texts of one part, cleaned, in order; can be had once."""
        for texts in ahead(self._collected(part)):
            yield texts
            self._done += len(texts)
            self._tell("writing", self._done, self._n)

    def _collected(self, part: int) -> Iterator[pa.Array]:
        for owner, file in self._buckets:
            if owner != part:
                continue
            with pa.OSFile(str(file), "rb") as source:
                table = pa.ipc.open_stream(source).read_all().combine_chunks()
            order = np.argsort(table["place"].to_numpy())
            for low in range(0, len(order), ROWS_OF_A_CHUNK):
                texts = table["text"].chunk(0).take(pa.array(order[low : low + ROWS_OF_A_CHUNK]))
                yield texts if self._reviews.cleaned else clean(texts)
            file.unlink()


@contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """A folder beside ``out``, gone at the end whatever happens."""
    folder = out.with_name(f".{out.name}.{secrets.token_hex(4)}.scratch")
    try:
        folder.mkdir(parents=True)
        yield folder
    except OSError as error:
        place = Path(os.fsdecode(error.filename or ""))
        here = place.is_relative_to(out.parent) or (error.filename and place in out.parent.parents)
        if not here and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise  # of a source, not of ours
        raise UserError(
            f"Cannot write to {out.parent}: {os.strerror(error.errno or 0)}. Preparing takes three times the size "
            "of the uncompressed texts; free some space or set SYMCERE_HOME to another disk. Nothing half-made is kept."
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
