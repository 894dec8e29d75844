"""The one thing that recommends: known users and new ones, with filters, fallbacks and reasons.

A request is answered on the first of these grounds that there is, and the answer says which:

    known        the user was trained on
    text         their own words (with the items they liked, if those are given too, as edges of the graph)
    liked        items they liked
    popularity   nothing is known of them: what most users have
"""

import difflib
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
import torch
from torch import Tensor

from symcere.config.fields import listed
from symcere.data.cleaning import clean_text
from symcere.data.corpus import Corpus
from symcere.data.schema import as_text
from symcere.errors import UserError
from symcere.evaluation.ranking import entries, top_k
from symcere.model.closed_form import ItemToItem, Popularity
from symcere.model.scorer import FactorScorer, Scorer
from symcere.serving.newcomers import Newcomers
from symcere.serving.reasons import Reasons, sentences

if TYPE_CHECKING:
    from symcere.text import Embeddings, Joined
    from symcere.training import Fitted

HELPFUL = 64
"""Requests at once up to which an unknown item is told the nearest ones: that takes milliseconds each."""
MOST = 1e6
"""The largest weight of the popularity term."""

Basis = Literal["known", "text", "liked", "popularity"]


@dataclass(frozen=True)
class Request:
    """What somebody asks for.

    Attributes:
        user_id: as in the reviews; unknown ones fall back on what follows.
        review_text: the words of a new user.
        liked_items: ids of items that a new user liked.
        k: how many items, at most.
        exclude_seen: leave out what the user has reviewed, in whatever split, or says to have liked.
        popularity_weight: w of the popularity term; None: that of the experiment.
        candidates: rank these alone (what is in stock); None: all items.
        exclude: never these.
        why: look for the phrases of reviews that say why.
    """

    user_id: str | None = None
    review_text: str | None = None
    liked_items: Sequence[str] = ()
    k: int = 10
    exclude_seen: bool = True
    popularity_weight: float | None = None
    candidates: Sequence[str] | None = None
    exclude: Sequence[str] = ()
    why: bool = False


@dataclass
class Answer:
    """Ranked items, best first, and on what ground. Lists are of one length, k or less."""

    user_id: str | None
    basis: Basis
    items: list[str]
    scores: list[float]
    titles: list[str | None]
    why: list[str | None]
    """A phrase of each item's reviews; None where nobody asked, or there is none."""
    notes: list[str] = field(default_factory=list)


class _Ground(NamedTuple):
    """On what a request is answered."""

    basis: Basis
    user: int
    """Number of a known user, else -1."""
    liked: tuple[int, ...]
    notes: list[str]


def raw_id(value: Any) -> str | None:
    """An id as ``prepare`` reads it, whatever a request holds: 12.0 is "12"; None where it says nothing.

    Raises:
        UserError: a number beyond 2⁵³, whose last digits a float does not hold.
    """
    if isinstance(value, float) and abs(value) >= 2**53:
        raise UserError(f"An id is a text: as the number {value:g} its last digits are lost.")
    return (as_text(value) or "").strip() or None


class _Ids(tuple):
    """Item ids that were read: what a batch has in common is read once."""


def read(request: Request) -> Request:
    """A request with its ids as ``prepare`` reads them, whatever they came as: numbers, arrays, generators.

    Raises:
        UserError: one id where a list of them is due, or a number or a text that is none.
    """
    lists: dict[str, tuple[str, ...] | None] = {}
    for name in ("liked_items", "exclude", "candidates"):
        ids = getattr(request, name)
        if isinstance(ids, str) or (ids is None and name != "candidates"):
            raise UserError(f"{name} is a list of item ids, not {ids!r}.")
        if ids is None or type(ids) is _Ids:
            lists[name] = ids
        else:
            lists[name] = _Ids(id for value in listed(ids) if (id := raw_id(value)) is not None)
    words = request.review_text
    if words is not None and not isinstance(words, str):
        if words == words:  # NaN, with which pandas says nothing, is not itself
            raise UserError(f"review_text is a text, not {words!r}.")
        words = None
    try:
        k = operator.index(request.k)
        weight = None if request.popularity_weight is None else float(request.popularity_weight)
    except (TypeError, ValueError):
        raise UserError(
            f"k is a whole number and popularity_weight a number, not {request.k!r} and {request.popularity_weight!r}."
        ) from None
    user = raw_id(request.user_id)
    return replace(request, user_id=user, review_text=words, k=k, popularity_weight=weight, **lists)  # type: ignore[arg-type]


class Service:
    """Recommends from a trained model.

    Args:
        name: of the model, for messages.
        scorer: the model at popularity weight 1 and what ranks known users; vectors, or an item-to-item model.
        weight: of the popularity term where a request names none.
        user_ids, item_ids: raw ids, [U] and [I]; ``item_titles`` [I] or None.
        seen: [U, I], what ``exclude_seen`` leaves out.
        popularity: training interactions of each item, [I].
        newcomers: gives new users a vector; None for models without vectors.
        encoder: loads what encodes a text; None for models that read none.
        sentences: of an item's training reviews, by its number.
    """

    def __init__(
        self,
        *,
        name: str,
        scorer: Scorer,
        weight: float,
        user_ids: pa.StringArray,
        item_ids: pa.StringArray,
        item_titles: pa.StringArray | None,
        seen: sp.csr_array,
        popularity: np.ndarray,
        newcomers: Newcomers | None = None,
        encoder: "Callable[[], Joined] | None" = None,
        sentences: Callable[[int], Sequence[str]] | None = None,
    ):
        self.name, self.scorer, self.weight = name, scorer, weight
        self.user_ids, self.item_ids, self.item_titles = user_ids, item_ids, item_titles
        self.seen, self.popularity = seen, popularity
        self.newcomers, self.sentences = newcomers, sentences
        self._encoder = encoder

    @classmethod
    def of(cls, fitted: "Fitted", corpus: Corpus, embeddings: "Embeddings | None", name: str) -> "Service":
        """A service from what training returns."""
        from symcere.model.recommender import marked
        from symcere.text import profiles

        model, experiment = fitted.model, fitted.checkpoint.experiment
        newcomers, scorer = None, fitted.scorer
        if model is not None:
            found = model.scorer(1.0)
            bias = None if found.bias is None else found.bias.float().cpu()
            scorer = FactorScorer(found.users.float().cpu(), found.items.float().cpu(), bias)
            x = None
            if embeddings is not None and experiment.model.features != "id":
                x = marked(*profiles(corpus, embeddings, experiment.model.user_profile), corpus.num_users)
            newcomers = Newcomers.of(model, x)
        return cls(
            name=name,
            scorer=scorer,
            weight=experiment.evaluate.popularity_weight,
            user_ids=corpus.user_ids,
            item_ids=corpus.item_ids,
            item_titles=corpus.item_titles,
            seen=sp.csr_array(corpus.train + corpus.val + corpus.test),
            popularity=corpus.item_popularity,
            newcomers=newcomers,
            encoder=None if embeddings is None else lambda: embeddings.encoder,
            sentences=sentences(corpus),
        )

    @property
    def num_items(self) -> int:
        return len(self.item_ids)

    @cached_property
    def encoder(self) -> "Joined | None":
        """What encodes a text; loaded when first asked for."""
        return None if self._encoder is None else self._encoder()

    @cached_property
    def users(self) -> dict[str, int]:
        """Numbers of the user ids."""
        return {id: number for number, id in enumerate(self.user_ids.to_pylist())}

    @cached_property
    def items(self) -> dict[str, int]:
        """Numbers of the item ids."""
        return {id: number for number, id in enumerate(self.item_ids.to_pylist())}

    def user(self, user_id: str) -> int:
        """The number of a known user.

        Raises:
            UserError: unknown, with the nearest ids.
        """
        id = raw_id(user_id) or ""
        if id not in self.users:
            raise UserError(f"There is no user '{id}' in {self.name}. {_near(id, self.user_ids)}")
        return self.users[id]

    @cached_property
    def reasons(self) -> Reasons | None:
        """What finds phrases; None where the model has no text to compare them with."""
        if self.newcomers is None or not self.newcomers.explains or self.encoder is None or self.sentences is None:
            return None
        return Reasons(self.newcomers, self.encoder.encode, self.sentences)

    # ------------------------------------------------------------ answering

    def recommend(self, requests: Sequence[Request]) -> list[Answer]:
        """Answers, in the order of the requests.

        Raises:
            UserError: k is out of range, no candidate is known, or a popularity weight for a model without the term.
        """
        requests = [read(request) for request in requests]
        for request in requests:
            self._check(request)
        X, readable = self._encoded(requests)
        helpful = len(requests) <= HELPFUL
        grounds = [self._ground(request, readable[k], helpful) for k, request in enumerate(requests)]
        groups: dict[tuple, list[int]] = {}
        for k, (request, ground) in enumerate(zip(requests, grounds, strict=True)):
            weight = self.weight if request.popularity_weight is None else float(request.popularity_weight)
            key = (ground.basis == "popularity", request.k, weight, request.candidates, request.exclude)
            groups.setdefault(key, []).append(k)
        answers: list[Answer | None] = [None] * len(requests)
        for (by_popularity, k, weight, candidates, exclude), members in groups.items():
            allowed, notes = self._allowed(candidates, exclude)
            some = [grounds[m] for m in members]
            vectors = None
            if by_popularity:
                counts = torch.from_numpy(np.asarray(self.popularity, dtype=np.float32))
                scorer: Scorer = Popularity(counts, len(members))
            else:
                scorer, vectors = self._scorer(some, X, members, weight)
            seen = self._seen([requests[m] for m in members], some)
            items, scores = top_k(scorer, np.arange(len(members)), k, seen, allowed=allowed)
            phrases = self._phrases([requests[m].why for m in members], vectors, items)
            for m, row, values, why in zip(members, items.tolist(), scores.tolist(), phrases, strict=True):
                answers[m] = self._answer(requests[m], grounds[m], notes, row, values, why)
        return [answer for answer in answers if answer is not None]

    def _check(self, request: Request) -> None:
        if not 1 <= request.k <= self.num_items:
            raise UserError(
                f"k is {request.k}, but {self.name} knows {self.num_items} items: choose 1 to {self.num_items}."
            )
        weight = request.popularity_weight
        if weight is None:
            return
        if not 0 <= weight <= MOST:
            raise UserError(f"popularity_weight is {weight}: it must be a number from 0 to {MOST:g}.")
        if getattr(self.scorer, "bias", None) is None:
            raise UserError(
                f"{self.name} has no popularity term to weigh: leave popularity_weight away, or train with "
                "model.popularity learned or log-count."
            )

    def _encoded(self, requests: Sequence[Request]) -> tuple[np.ndarray | None, list[bool]]:
        """Embeddings of the texts of those who are not known, [n, t], and whether each has one that says something."""
        new = [r.user_id is None or r.user_id not in self.users for r in requests]
        texts = [clean_text(r.review_text or "") if n else "" for r, n in zip(requests, new, strict=True)]
        reads = self.newcomers is not None and self.newcomers.reads_text
        if not reads or not any(texts) or self.encoder is None:  # loaded only where there is something to read
            return None, [False] * len(requests)
        X = self.encoder.encode(texts)
        return X, np.any(X, axis=1).tolist()

    def _ground(self, request: Request, readable: bool, helpful: bool) -> _Ground:
        notes: list[str] = []
        known = None if request.user_id is None else self.users.get(request.user_id)
        words = bool((request.review_text or "").strip())
        if known is not None and (words or request.liked_items):
            notes.append("Words and liked items of a known user do not count for the ranking; the items are left out.")
        if known is None and request.user_id is not None:  # others' ids are nobody's business
            notes.append(f"User '{request.user_id}' is not known.")
        if known is None and words and not readable:
            reads = self.newcomers is not None and self.newcomers.reads_text
            why = "holds no word that its encoder knows" if reads else "does not count: the model reads no text"
            notes.append(f"The text {why}.")
        unknown = [item for item in request.liked_items if item not in self.items]
        if unknown:
            near = _near(unknown[0], self.item_ids) if helpful else ""
            notes.append(f"{len(unknown)} liked items are not known, such as '{unknown[0]}'. {near}".strip())
        liked = tuple(sorted({self.items[item] for item in request.liked_items if item in self.items}))
        if known is not None:
            return _Ground("known", known, liked, notes)
        if readable:
            return _Ground("text", -1, liked, notes)
        if liked and (self.newcomers.uses_items if self.newcomers else isinstance(self.scorer, ItemToItem)):
            return _Ground("liked", -1, liked, notes)
        if liked:
            notes.append("The liked items do not count: the model has no use for them.")
        return _Ground("popularity", -1, liked, notes)

    def _allowed(
        self, candidates: tuple[str, ...] | None, exclude: tuple[str, ...]
    ) -> tuple[np.ndarray | None, list[str]]:
        """bool [I] or None for all; and what was not known of the lists."""
        if candidates is None and not exclude:
            return None, []
        notes = []
        allowed = np.full(self.num_items, candidates is None)
        for name, ids, value in (("candidates", candidates or (), True), ("excluded items", exclude, False)):
            found = [self.items[id] for id in ids if id in self.items]
            allowed[found] = value
            if len(found) < len(ids):
                notes.append(f"{len(ids) - len(found)} of {len(ids)} {name} are not known to {self.name}.")
        if not allowed.any():
            near = _near(candidates[0], self.item_ids) if candidates else ""
            why = "no candidate is given" if candidates == () else f"all are unknown to {self.name} or excluded"
            raise UserError(f"No item is left to recommend: {why}. {near}".rstrip())
        return allowed, notes

    def _scorer(
        self, grounds: list[_Ground], X: np.ndarray | None, members: list[int], weight: float
    ) -> tuple[Scorer, Tensor | None]:
        """What ranks these users, numbered from 0, and their vectors if they have some."""
        users = torch.tensor([g.user for g in grounds])
        new = (users < 0).numpy()
        liked = _matrix([g.liked if g.user < 0 else () for g in grounds], self.num_items)
        if isinstance(self.scorer, ItemToItem):
            history = self.scorer.history[np.where(new, 0, users.numpy())]
            history = sp.csr_array(sp.diags_array((~new).astype(np.float32)) @ history + liked)
            return ItemToItem(history, self.scorer.weights, self.scorer.counts), None
        if not isinstance(self.scorer, FactorScorer):
            return _Some(self.scorer, users), None
        Z = self.scorer.users[users.clamp(min=0)].clone()
        if new.any():
            assert self.newcomers is not None
            has_text = np.array([g.basis == "text" for g in grounds])[new]
            texts = None if X is None else X[members][new]
            Z[torch.from_numpy(new)] = self.newcomers.users(texts, has_text, liked[np.flatnonzero(new)])
        bias = self.scorer.bias
        return self.scorer.of(Z, None if bias is None else weight * bias), Z

    def _seen(self, requests: list[Request], grounds: list[_Ground]) -> sp.csr_array:
        """[B, I]: what each is not to be told of."""
        rows: list[Iterable[int]] = []
        for request, ground in zip(requests, grounds, strict=True):
            if not request.exclude_seen:
                rows.append(())
            elif ground.user >= 0:
                rows.append(sorted({*entries(self.seen, np.array([ground.user]))[1].tolist(), *ground.liked}))
            else:
                rows.append(ground.liked)
        return _matrix(rows, self.num_items)

    def _phrases(self, wanted: list[bool], vectors: Tensor | None, items: Tensor) -> list[list[str | None]]:
        told: list[list[str | None]] = [[None] * items.shape[1] for _ in wanted]
        asking = [row for row, why in enumerate(wanted) if why]
        if vectors is not None and asking and self.reasons is not None:
            ranked = [[i for i in items[row].tolist() if i >= 0] for row in asking]
            for row, phrases in zip(asking, self.reasons.choose(vectors[asking], ranked), strict=True):
                told[row][: len(phrases)] = phrases
        return told

    def _answer(
        self, request: Request, ground: _Ground, notes: list[str], row: list[int], scores: list[float], why: list
    ) -> Answer:
        n = sum(item >= 0 for item in row)
        notes = ground.notes + notes
        if ground.basis == "popularity":
            notes = [*notes, "Nothing is known of this user: the most popular items."]
        if n < request.k:
            notes = [*notes, f"{n} items are left for k = {request.k}."]
        if request.why and (ground.basis == "popularity" or self.reasons is None):
            notes = [*notes, "No reasons: the ranking does not come from texts."]
        titles = self.item_titles
        return Answer(
            request.user_id,
            ground.basis,
            [self.item_ids[item].as_py() for item in row[:n]],
            scores[:n],
            [None if titles is None else titles[item].as_py() for item in row[:n]],
            why[:n],
            notes,
        )


class _Some:
    """Some users of a scorer, numbered from 0."""

    def __init__(self, scorer: Scorer, users: Tensor):
        self.scorer, self.chosen = scorer, users
        self.num_users, self.num_items = len(users), scorer.num_items

    def scores(self, users: Tensor) -> Tensor:
        return self.scorer.scores(self.chosen[users.cpu()])


def _matrix(rows: Sequence[Iterable[int]], width: int) -> sp.csr_array:
    """Ones [B, width] at the columns of each row."""
    lists = [np.fromiter(row, dtype=np.int64) for row in rows]
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in lists])])
    indices = np.concatenate(lists) if lists else np.empty(0, dtype=np.int64)
    return sp.csr_array((np.ones(len(indices), np.float32), indices, indptr), shape=(len(lists), width))


def _near(id: str, ids: pa.StringArray) -> str:
    """The nearest of many ids, as a sentence: those with the longest common beginning are compared."""
    for length in range(min(len(id), 8), -1, -1):
        alike = ids.filter(pc.starts_with(ids, id[:length])).slice(0, 2000).to_pylist()
        close = difflib.get_close_matches(id, alike, n=3, cutoff=0.5)
        if close:
            return f"Did you mean {' or '.join(close)}?"
    return f"Ids look like {', '.join(ids[:3].to_pylist())}."
