"""Synthetic reviews with planted truth: the embedded default, and what proofs are made of.

The world. An item has one value in each *facet* (part, material, fit, feature); a value is an *attribute*. A user
cares for a few facets and has favourite values in them. With ``m(u, i)`` the number of cared-for facets in which
item i has a favourite value of user u, and ``pop`` Zipf-like,

    P(u picks i) ∝ pop_i · exp(sharpness · m(u, i))

so preference is log-linear in attributes beside a popularity term; picks are drawn without replacement. A review
mixes *objective* sentences, each naming an attribute that the item has (more often one the user came for), with
*sentiment* sentences that follow the rating alone and say nothing about who likes what.

Many items share all that a user cares for, and a user picks few of them: the rest are *false negatives*, liked but
never observed. :meth:`Synthetic.truth` knows them.

Reviews are made in blocks of users, each block from its own seed, so that ten million stream through memory that
grows with users and items only.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from symcere.config.fields import build, setting
from symcere.data.schema import SCHEMA
from symcere.data.wording import (
    BRANDS,
    FACETS,
    MIXED,
    NAMES,
    NEGATIVE,
    OBJECTIVE,
    POSITIVE,
    SENTIMENT,
    SENTIMENT_WORDS,
    VERDICT,
)
from symcere.errors import UserError, nearest

_DAY = 86_400
_START, _DAYS = 1_325_376_000, 3_600  # 2012-01-01, and the days in which users leave their first review
_MAX_SENTENCES = 9


@dataclass(frozen=True)
class Synthetic:
    """A world of users and items, and the reviews they leave.

    Two equal values yield the same bytes, whatever the batch size.
    """

    users: int = setting(700, "number of users", low=1)
    items: int = setting(300, "number of items", low=2)
    reviews: int = setting(4000, "number of reviews, each of another (user, item) pair", low=1)
    min_reviews: int = setting(3, "every user leaves at least this many", low=1)
    activity: float = setting(0.8, "sigma of the log-normal activity of users; 0: all equally active", low=0)
    facets: int = setting(3, "facets that items have: part, material, fit, feature", low=1, high=4)
    values: int = setting(6, "attributes in each facet", low=2, high=12)
    cares: int = setting(2, "facets a user cares for", low=1, high=4)
    favourites: int = setting(1, "favourite attributes of a user in each facet cared for", low=1, high=11)
    sharpness: float = setting(
        2.8, "log-odds that a matching facet adds to a pick; 0: popularity decides", low=0, high=50
    )
    skew: float = setting(0.6, "exponent of Zipf's law of item popularity; 0: uniform", low=0)
    sentences: float = setting(5.0, "mean sentences of a review (at most 9)", low=1, high=8)
    objective: float = setting(
        0.5, "share of sentences with an objective word; the others carry sentiment", low=0, high=1
    )
    focus: float = setting(6.0, "a sentence names what the user came for 1 + focus times as often", low=0)
    empty: float = setting(0.0, "share of reviews without a text", low=0, high=1)
    seed: int = setting(0, "seed of everything", low=0)

    def __post_init__(self):
        if self.cares > self.facets:
            raise ValueError(f"cares is {self.cares}, but items have {self.facets} facets.")
        if self.favourites >= self.values:
            raise ValueError(f"favourites is {self.favourites}, but a facet has {self.values} values: leave one out.")
        if not self.users * self.min_reviews <= self.reviews <= self.users * self._most:
            raise ValueError(
                f"reviews is {self.reviews}, but {self.users} users leave {self.min_reviews} (min_reviews) to "
                f"{self._most} (two thirds of the items) each."
            )

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> "Synthetic":
        """From a flat mapping as cards and flags give it, values as text or numbers; ``preset`` names a start.

        >>> Synthetic.from_options({"preset": "demo", "seed": "3"}).seed
        3

        Raises:
            UserError: an unknown key, preset or value.
        """
        options = dict(options)
        preset = str(options.pop("preset", "") or "")
        if preset and preset not in PRESETS:
            raise UserError(f"There is no synthetic preset '{preset}'. {nearest(preset, PRESETS)}")
        return build(cls, {**PRESETS.get(preset, {}), **options}, "synthetic")

    # ---- the world

    @property
    def _most(self) -> int:
        return max(1, 2 * self.items // 3)

    def _rng(self, stream: int, block: int = 0) -> np.random.Generator:
        return np.random.default_rng([self.seed, stream, block])

    @functools.cached_property
    def _item_values(self) -> np.ndarray:
        """int8 [I, facets]: the value of every item in every facet."""
        return self._rng(1).integers(0, self.values, (self.items, self.facets), dtype=np.int8)

    @functools.cached_property
    def _popularity(self) -> np.ndarray:
        """float64 [I], sums to one: what decides when preference does not."""
        weights = np.arange(1, self.items + 1, dtype=float) ** -self.skew
        return self._rng(2).permutation(weights / weights.sum())

    @functools.cached_property
    def _tastes(self) -> np.ndarray:
        """uint16 [U, facets]: the favourite values of every user as bits; 0 in a facet that is not cared for."""
        rng = self._rng(3)
        tastes = np.zeros((self.users, self.facets), dtype=np.uint16)
        for rows in _ranges(self.users, 65_536):
            size = rows.stop - rows.start
            favourite = rng.random((size, self.facets, self.values)).argpartition(self.favourites, axis=2)
            bits = np.left_shift(1, favourite[:, :, : self.favourites]).sum(2)
            cared = rng.random((size, self.facets)).argsort(1) < self.cares
            tastes[rows] = np.where(cared, bits, 0)
        return tastes

    @functools.cached_property
    def _activity(self) -> np.ndarray:
        """int64 [U]: reviews of every user; they sum to ``reviews``."""
        rng = self._rng(4)
        weights = rng.lognormal(0.0, self.activity, self.users)
        counts = np.full(self.users, self.min_reviews, dtype=np.int64)
        while (left := self.reviews - counts.sum()) > 0:  # what a full user cannot take goes to the others
            open_ = weights * (counts < self._most)
            counts += rng.multinomial(left, open_ / open_.sum())
            np.minimum(counts, self._most, out=counts)
        return counts

    @functools.cached_property
    def item_ids(self) -> pa.StringArray:
        """Ids such as ``brass-gasket-00042``; the number is the item's position in :meth:`truth`."""
        part, material = self._words(0), self._words(min(1, self.facets - 1))
        stems = [f"{m}-{p}" if m != p else p for p, m in zip(part, material, strict=True)]
        return _numbered(pa.array(stems), np.arange(self.items), self.items)

    @functools.cached_property
    def item_titles(self) -> pa.StringArray:
        """Titles such as ``Norvik waterproof brass gasket (oem), model 42``."""
        brands = self._rng(5).integers(0, len(BRANDS), self.items)
        words = [self._words(facet) for facet in range(self.facets)]
        titles = []
        for item, brand in enumerate(brands):
            own = [column[item] for column in words]
            fit = f" ({own[2]})" if len(own) > 2 else ""
            titles.append(f"{BRANDS[brand]} {' '.join(own[3:] + own[1:2] + own[:1])}{fit}, model {item}")
        return pa.array(titles)

    def _words(self, facet: int) -> list[str]:
        names = list(list(FACETS.values())[facet])
        return [names[value] for value in self._item_values[:, facet]]

    def user_ids(self, users: np.ndarray) -> pa.StringArray:
        """Ids such as ``mona-00042`` of users by position."""
        return _numbered(pa.array(NAMES).take(pa.array(users % len(NAMES))), users, self.users)

    # ---- picks

    @functools.cached_property
    def _cells(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Items by *cell* (equal in all facets): order [I], popularity cumulated along it [I + 1], bounds [C + 1].

        The items of cell c are order[bounds[c] : bounds[c + 1]].
        """
        order = np.lexsort(self._item_values.T)
        values = self._item_values[order]
        starts = np.flatnonzero(np.r_[True, (values[1:] != values[:-1]).any(1)])
        return order, np.r_[0.0, np.cumsum(self._popularity[order])], np.r_[starts, self.items]

    def _appeal(self, tastes: np.ndarray, values: np.ndarray) -> np.ndarray:
        """exp(sharpness · m) float64 [B, n] of tastes [B, facets] on facet values [n, facets], without popularity."""
        lift = np.exp(self.sharpness)
        appeal = np.ones((len(tastes), len(values)))
        for facet in range(self.facets):
            liked = (tastes[:, facet, None] >> np.arange(self.values)) & 1
            appeal *= np.take(np.where(liked, lift, 1.0), values[:, facet], axis=1)
        return appeal

    def _picks(self, users: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Items picked by a block of users, int64 [sum of their activity], user by user.

        Draws with replacement of which repeats are thrown away follow the law of draws without replacement. The few
        users still short after that (dense ones) get the rest by Gumbel's trick, which is the same law again.
        """
        order, cumulated, bounds = self._cells
        wanted = self._activity[users]
        tastes, taste = np.unique(self._tastes[users], axis=0, return_inverse=True)
        taste = taste.ravel()
        weight = self._appeal(tastes, self._item_values[order[bounds[:-1]]])
        weight *= np.diff(cumulated[bounds])
        np.cumsum(weight, axis=1, out=weight)
        weight /= weight[:, -1:]
        weight += np.arange(len(tastes))[:, None]  # row k fills (k, k + 1]: one sorted array serves all rows
        flat, num_cells = weight.ravel(), weight.shape[1]

        pairs = np.empty(0, dtype=np.int64)  # row * items + item, in the order drawn
        for _ in range(6):
            short = wanted - np.bincount(pairs // self.items, minlength=len(users))
            rows = np.repeat(np.arange(len(users)), np.where(short > 0, short + short // 4 + 1, 0))
            if not len(rows):
                break
            cell = np.searchsorted(flat, taste[rows] + rng.random(len(rows)), side="right") - taste[rows] * num_cells
            cell = np.minimum(cell, num_cells - 1)
            low, high = cumulated[bounds[cell]], cumulated[bounds[cell + 1]]
            place = np.searchsorted(cumulated, low + (high - low) * rng.random(len(rows)), side="right") - 1
            place = np.clip(place, bounds[cell], bounds[cell + 1] - 1)
            pairs = _firsts(np.concatenate([pairs, rows * self.items + order[place]]), wanted, self.items)
        short = wanted - np.bincount(pairs // self.items, minlength=len(users))
        for rows in np.array_split(np.flatnonzero(short), 1 + np.count_nonzero(short) * self.items // 4_000_000):
            if not len(rows):
                continue
            keys = np.log(self._appeal(tastes[taste[rows]], self._item_values) * self._popularity)
            keys += rng.gumbel(size=keys.shape)
            taken = pairs[np.isin(pairs // self.items, rows)]
            keys[np.searchsorted(rows, taken // self.items), taken % self.items] = -np.inf
            best = np.argsort(-keys, axis=1)
            more = [row * self.items + best[n, : short[row]] for n, row in enumerate(rows)]
            pairs = np.concatenate([pairs, *more])
        return pairs[np.argsort(pairs // self.items, kind="stable")] % self.items

    # ---- texts

    @functools.cached_property
    def _sentences(self) -> tuple[pa.StringArray, int, np.ndarray]:
        """Every sentence there is, the number of one attribute's, and where each tone starts (and the last ends)."""
        pool: list[str] = []
        for facet, values in list(FACETS.items())[: self.facets]:
            for words in list(values.values())[: self.values]:
                pool += [_sentence(t, word) for word in words for t in OBJECTIVE[facet]]
        per_attribute = len(pool) // (self.facets * self.values)
        starts = []
        for adjectives, tone in ((NEGATIVE, "negative"), (MIXED, "mixed"), (POSITIVE, "positive")):
            starts.append(len(pool))
            pool += [_sentence(t, word) for word in adjectives for t in SENTIMENT]
            pool += list(VERDICT[tone]) * 6
        return pa.array(pool), per_attribute, np.array([*starts, len(pool)])

    def _texts(
        self, values: np.ndarray, matches: np.ndarray, ratings: np.ndarray, rng: np.random.Generator
    ) -> pa.StringArray:
        """Texts of n reviews, from the items' facet values and whether the user likes each [n, facets], and ratings."""
        pool, per_attribute, starts = self._sentences
        n = len(ratings)
        lengths = 1 + np.minimum(rng.poisson(self.sentences - 1, n), _MAX_SENTENCES - 1)
        lengths[rng.random(n) < self.empty] = 0
        facet_odds = 1.0 + self.focus * matches
        facet_cdf = np.cumsum(facet_odds, axis=1) / facet_odds.sum(1, keepdims=True)
        tone = np.digitize(ratings, (2.5, 3.5))
        slots = []
        for slot in range(int(lengths.max(initial=0))):
            about, which = rng.random((2, n))
            facet = np.minimum((rng.random(n)[:, None] >= facet_cdf).sum(1), self.facets - 1)
            attribute = facet * self.values + values[np.arange(n), facet]
            objective = attribute * per_attribute + (which * per_attribute).astype(np.int64)
            sentiment = starts[tone] + (which * (starts[tone + 1] - starts[tone])).astype(np.int64)
            index = np.where(about < self.objective, objective, sentiment)
            slots.append(pool.take(pa.array(index, mask=lengths <= slot)))
        if not slots:
            return pa.array([""] * n)
        slots[0] = slots[0].fill_null("")  # a row of nulls alone would be left out
        return pc.binary_join_element_wise(*slots, " ", null_handling="skip")

    # ---- the stream

    @property
    def _block(self) -> int:
        """Users of a block: about 65k reviews, and a bounded matrix of different tastes × cells."""
        by_rows = 65_536 * self.users // self.reviews
        by_matrix = 4_000_000 // (len(self._cells[2]) - 1)
        tastes = math.comb(self.facets, self.cares) * math.comb(self.values, self.favourites) ** self.cares
        return max(1, by_rows if tastes <= by_matrix else min(by_rows, by_matrix))

    def _blocks(self) -> Iterator[pa.RecordBatch]:
        row = 0
        for block, span in enumerate(_ranges(self.users, self._block)):
            rng = self._rng(6, block)
            members = np.arange(span.start, span.stop)
            items = self._picks(members, rng)
            users = np.repeat(members, self._activity[members])
            values = self._item_values[items]
            matches = (self._tastes[users] >> values.astype(np.uint16)) & 1
            lenience = np.repeat(rng.normal(0, 0.5, len(members)), self._activity[members])
            latent = 3.6 + 0.8 * matches.sum(1) / self.cares + lenience + rng.normal(0, 0.7, len(users))
            ratings = np.clip(np.rint(latent), 1, 5).astype(np.float32)
            first = np.repeat(rng.integers(0, _DAYS, len(members)), self._activity[members])
            days = first + np.minimum(rng.exponential(200.0, len(users)), 700).astype(np.int64)
            yield pa.RecordBatch.from_arrays(
                [
                    self.user_ids(users),
                    self.item_ids.take(pa.array(items)),
                    pa.array(ratings),
                    pa.array(_START + _DAY * days),
                    self._texts(values, matches, ratings, rng),
                    pa.array(np.arange(row, row + len(users))),
                ],
                schema=SCHEMA,
            )
            row += len(users)

    def batches(self, batch_size: int = 65_536) -> Iterator[pa.RecordBatch]:
        """The reviews as record batches of :data:`symcere.data.schema.SCHEMA`, ``batch_size`` rows each but the last.

        Users follow each other by number, each one's reviews in the order picked; times are whole days.
        """
        waiting: list[pa.RecordBatch] = []
        held = 0
        for block in self._blocks():
            waiting.append(block)
            held += len(block)
            if held < batch_size:
                continue
            joined = pa.concat_batches(waiting)
            whole = held - held % batch_size
            yield from (joined.slice(start, batch_size) for start in range(0, whole, batch_size))
            waiting, held = [joined.slice(whole)], held - whole
        if held:
            yield pa.concat_batches(waiting)

    def truth(self) -> "Truth":
        """What was planted: attributes, preferences, words."""
        return Truth(self, np.arange(self.users), np.arange(self.items))


def _ranges(total: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, total)) for start in range(0, total, step))


def _firsts(pairs: np.ndarray, wanted: np.ndarray, items: int) -> np.ndarray:
    """The distinct pairs in the order drawn, at most ``wanted`` of each row."""
    _, first = np.unique(pairs, return_index=True)
    pairs = pairs[np.sort(first)]
    rows = pairs // items
    order = np.argsort(rows, kind="stable")
    counts = np.bincount(rows, minlength=len(wanted))
    rank = np.empty(len(rows), dtype=np.int64)
    rank[order] = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    return pairs[rank < wanted[rows]]


def _sentence(template: str, word: str) -> str:
    text = template.format(*[word] * template.count("{}"))
    return text[0].upper() + text[1:]


def _numbered(stems: pa.StringArray, numbers: np.ndarray, total: int) -> pa.StringArray:
    digits = pc.utf8_lpad(pc.cast(pa.array(numbers), pa.string()), max(5, len(str(total - 1))), "0")
    return pc.binary_join_element_wise(stems, digits, "-")


# ---------------------------------------------------------------- presets

PRESETS: dict[str, dict[str, Any]] = {
    # 700 users leave 4,000 reviews, three training reviews at the median: sparse, as hotels are. Test NDCG@10 of
    # prototypes (random split, 3-core, mean of seeds 0-2): popularity .076, EASE .111, LightGCN .115; text with an item
    # bias, tau .2 to .4: LSA .162 to .187, MiniLM .170 to .199; the oracle .372. Each seed has the same order.
    "demo": {},
    # Equally dense users of 40 reviews, who like a quarter of the items and leave about half of those untouched: where
    # known positives in a denominator push equals apart. Test NDCG@10 of ids with an item bias, mean of seeds 0-1,
    # InfoNCE against SINCERE: .239, .308 (tau .1); .281, .335 (.2); .344, .359 (.4); equal at .8. The oracle: .425.
    "dense": {
        "users": 300, "items": 240, "reviews": 12_000, "min_reviews": 20, "activity": 0, "values": 4, "cares": 1,
        "sharpness": 3.0,
    },
}  # fmt: skip
"""Named settings, to start from: ``Synthetic.from_options({"preset": "dense"})``. The defaults are the demo."""


@dataclass(frozen=True, eq=False)
class Planted:
    """Reviews given together with their split."""

    reviews: pa.RecordBatch
    """of :data:`symcere.data.schema.SCHEMA`"""
    part: np.ndarray
    """int8, one for each review: 0 training, 1 validation, 2 test."""

    def write(self, folder: Path) -> tuple[Path, Path]:
        """JSON lines of the reviews, and beside them a split as ``split: {kind: files}`` reads it: both paths."""
        reviews, split = folder / "reviews.jsonl", folder / "split"
        split.mkdir(parents=True, exist_ok=True)
        reviews.write_text("".join(json.dumps(row) + "\n" for row in self.reviews.drop_columns("row").to_pylist()))
        numbers = []
        for column in ("user", "item"):
            ids, number = np.unique(self.reviews[column].to_numpy(zero_copy_only=False), return_inverse=True)
            (split / f"{column}s.json").write_text(json.dumps(ids.tolist()))
            numbers.append(number)
        for part, name in enumerate(("train", "val", "test")):
            pairs = np.stack(numbers, axis=1)[self.part == part]
            (split / f"{name}.csv").write_text("user,item\n" + "".join(f"{u},{i}\n" for u, i in pairs))
        return reviews, split


def communities(users: int = 30, items: int = 24, train: int = 8, seed: int = 0) -> Planted:
    """Two communities without a common item: the known answer that every personalised model must find.

    Each of ``users`` users of a community trains on ``train`` of its ``items`` items; *all* the others are in
    validation (one half) or test (the other). With training and validation masked, the test items are exactly what
    remains of the user's own community, so a model that tells the communities apart has a test NDCG@k of 1, while a
    popularity ranking mixes them.
    """
    if not 0 < train <= items - 2:
        raise ValueError(f"train is {train}, but a user of {items} items leaves two at least.")
    world = Synthetic(
        users=2 * users, items=2 * items, reviews=2 * users, min_reviews=1, facets=1, values=2, cares=1, seed=seed
    )
    rng = world._rng(7)
    order = rng.random((2 * users, items)).argsort(1)
    part = np.where(order < train, 0, np.where(order < train + (items - train) // 2, 1, 2)).astype(np.int8).ravel()
    user = np.repeat(np.arange(2 * users), items)
    own = user // users
    item = own * items + np.tile(np.arange(items), 2 * users)
    stems = pa.array(list(next(iter(FACETS.values())))[:2]).take(pa.array(own))
    ratings = np.clip(np.rint(rng.normal(4.2, 0.7, len(user))), 1, 5).astype(np.float32)
    reviews = pa.RecordBatch.from_arrays(
        [
            world.user_ids(user),
            _numbered(stems, item, 2 * items),
            pa.array(ratings),
            pa.array(_START + _DAY * rng.integers(0, _DAYS, len(user))),
            world._texts(own[:, None], np.ones((len(user), 1)), ratings, rng),
            pa.array(np.arange(len(user))),
        ],
        schema=SCHEMA,
    )
    return Planted(reviews, part)


# ---------------------------------------------------------------- the truth


@dataclass(frozen=True, eq=False)
class Truth:
    """What was planted, in the numbering of ``users`` and ``items`` (positions in the generator)."""

    source: Synthetic
    users: np.ndarray
    """int64 [U]"""
    items: np.ndarray
    """int64 [I]"""

    def numbered_as(self, user_ids: Any, item_ids: Any) -> "Truth":
        """The same truth in the numbering of a corpus, which may lack users and items and orders them by id."""
        return dataclasses.replace(self, users=_positions(user_ids), items=_positions(item_ids))

    @functools.cached_property
    def attributes(self) -> list[str]:
        """Names of the A attributes, facet by facet."""
        source = self.source
        return [n for facet in list(FACETS.values())[: source.facets] for n in list(facet)[: source.values]]

    @functools.cached_property
    def words(self) -> dict[str, tuple[str, ...]]:
        """Attribute -> its objective words (lower case)."""
        every = {name: words for facet in FACETS.values() for name, words in facet.items()}
        return {name: every[name] for name in self.attributes}

    @property
    def objective_words(self) -> frozenset[str]:
        return frozenset(word for words in self.words.values() for word in words)

    @property
    def sentiment_words(self) -> frozenset[str]:
        return SENTIMENT_WORDS

    @functools.cached_property
    def item_attributes(self) -> np.ndarray:
        """bool [I, A]"""
        values = self.source._item_values[self.items]
        return (values[:, :, None] == np.arange(self.source.values)).reshape(len(values), -1)

    def user_attributes(self, users: np.ndarray | None = None) -> np.ndarray:
        """bool [B, A]: the favourite attributes of users (all when None)."""
        tastes = self.source._tastes[self.users if users is None else self.users[users]]
        return ((tastes[:, :, None] >> np.arange(self.source.values)) & 1).astype(bool).reshape(len(tastes), -1)

    def matches(self, users: np.ndarray | None = None) -> np.ndarray:
        """int64 [B, I]: m(u, i), facets cared for in which the item has a favourite value."""
        return self.user_attributes(users).astype(np.int64) @ self.item_attributes.T.astype(np.int64)

    def likes(self, users: np.ndarray | None = None) -> np.ndarray:
        """bool [B, I]: the item has all that the user cares for, picked or not."""
        return self.matches(users) == self.source.cares

    def preference(self, users: np.ndarray | None = None) -> np.ndarray:
        """float64 [B, I]: the probability that a user's first pick is the item. Ranking by it is the oracle."""
        weight = np.exp(self.source.sharpness * self.matches(users)) * self.source._popularity[self.items]
        return weight / weight.sum(1, keepdims=True)


def _positions(ids: Any) -> np.ndarray:
    return np.array([int(str(i).rpartition("-")[2]) for i in (ids.to_pylist() if hasattr(ids, "to_pylist") else ids)])
