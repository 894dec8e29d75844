"""Everything the explore page shows, from a trained model, as one self-contained HTML file.

Large arrays travel as base64 of typed arrays, ids and titles as JSON. Neighbours, words, themes and recommendations are
computed here, so that the page only draws: fifty thousand items are about 15 MB.
"""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from symcere.data.corpus import Corpus
from symcere.errors import UserError
from symcere.evaluation import top_k
from symcere.evaluation.popularity import norm_correlation
from symcere.model.recommender import Recommender
from symcere.model.scorer import FactorScorer
from symcere.text import Embeddings, profiles

MOST_ITEMS = 50_000
"""Items on a page, the most popular ones."""
NEIGHBOURS = RECOMMENDED = 10
ITEM_WORDS, USER_WORDS, LIKED = 8, 24, 12
THEMES = 8
REVIEWS, LETTERS = 30, 2000
"""Reviews of a node, and letters of each, that its words are taken from."""
BLOCK = 2**23
"""Similarities held at a time."""
NONE = np.uint32(0xFFFFFFFF)

Progress = Callable[..., None] | None


def atlas(
    name: str,
    model: Recommender | None,
    scorer: Any,
    corpus: Corpus,
    embeddings: Embeddings | None,
    users: int = 2000,
    seed: int = 0,
    progress: Progress = None,
) -> dict[str, Any]:
    """The page's data, as JSON holds it.

    Args:
        name: of the run.
        scorer: what recommends, :class:`FactorScorer`.
        users: drawn at random, with their recommendations.

    Raises:
        UserError: the run has no vectors.
    """
    if model is None or not isinstance(scorer, FactorScorer):
        raise UserError(
            f"Run {name} is a closed form: it has scores and no vectors, so there is no map to draw. Explore a trained "
            "run (`symcere train`)."
        )
    tell = progress or (lambda *_: None)
    rng = np.random.default_rng(seed)
    popularity = corpus.item_popularity
    shown = np.sort(np.argsort(-popularity, kind="stable")[:MOST_ITEMS])
    chosen = np.sort(rng.choice(corpus.num_users, min(users, corpus.num_users), replace=False))

    tell("map", 0, 3)
    views = {
        key: _view(label, vectors, corpus.num_users, shown, chosen, known)
        for key, label, vectors, known in _vectors(model, corpus, embeddings)
    }
    for key, view in views.items():
        if key != "reviews":
            view["correlation"] = _number(norm_correlation(view.pop("lengths"), popularity[shown]))
        else:
            view.pop("lengths"), view.pop("norms")
    tell("words", 1, 3)
    words, of_items, of_users, weights = _words(corpus, shown, chosen)
    themes, theme = _themes(next(iter(views.values()))["unit"], weights, words, seed)
    tell("recommendations", 2, 3)
    recommended = _recommendations(scorer, corpus, chosen, shown)
    for view in views.values():
        del view["unit"]
    tell("recommendations", 3, 3)
    title = corpus.item_titles
    notes = []
    if len(shown) < corpus.num_items:
        notes.append(f"The {len(shown):,} most popular of {corpus.num_items:,} items are shown.")
    if len(chosen) < corpus.num_users:
        notes.append(f"{len(chosen):,} of {corpus.num_users:,} users are shown, drawn at random.")
    return {
        "run": name,
        "corpus": {
            "name": corpus.name,
            "users": corpus.num_users,
            "items": corpus.num_items,
            "interactions": int(corpus.train.nnz),
        },
        "notes": notes,
        "items": {
            "ids": corpus.item_ids.take(shown).to_pylist(),
            "titles": None if title is None else title.take(shown).to_pylist(),
            "popularity": _packed(popularity[shown], "<u4"),
            "words": _packed(of_items, "<u4"),
            "theme": _packed(theme, "<u1"),
        },
        "users": {
            "ids": corpus.user_ids.take(chosen).to_pylist(),
            "activity": _packed(corpus.user_activity[chosen], "<u4"),
            "words": _packed(of_users, "<u4"),
            **recommended,
        },
        "words": words,
        "themes": themes,
        "views": views,
        "widths": {"neighbours": NEIGHBOURS, "words": ITEM_WORDS, "userWords": USER_WORDS, "recommended": RECOMMENDED},
    }


def page(data: dict[str, Any]) -> str:
    """The page of some data: no other file, no network (a content policy in it forbids both)."""
    template = (Path(__file__).parent / "atlas.html").read_text(encoding="utf-8")
    inside = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    before, after = template.split("__DATA__")
    return before + inside + after


def _number(value: float) -> float | None:
    """None for NaN, which JSON does not know."""
    return float(value) if np.isfinite(value) else None


def _packed(values: np.ndarray, kind: str) -> str:
    """An array as base64 of its bytes, in little-endian type ``kind``."""
    return base64.b64encode(np.ascontiguousarray(values, dtype=kind).tobytes()).decode()


# ---------------------------------------------------------------- views


def _vectors(
    model: Recommender, corpus: Corpus, embeddings: Embeddings | None
) -> list[tuple[str, str, torch.Tensor, np.ndarray | None]]:
    """Key, label, vectors [N, d] and which nodes have one, of every view there is."""
    found: list[tuple[str, str, torch.Tensor, np.ndarray | None]] = []
    with torch.no_grad():
        if hasattr(model, "tower"):
            found.append(("text", "Text view", model.text_view().float(), None))
        if model.settings.features != "text":
            found.append(("graph", "Graph view", model.graph_view()[0].float(), None))
    if embeddings is not None:
        plain, has_text = profiles(corpus, embeddings, model.settings.user_profile)
        found.append(("reviews", "Reviews alone", torch.from_numpy(plain), has_text))
    return found


def _view(
    label: str,
    vectors: torch.Tensor,
    num_users: int,
    shown: np.ndarray,
    chosen: np.ndarray,
    known: np.ndarray | None,
) -> dict[str, Any]:
    """Map, lengths and neighbours of one view."""
    from sklearn.decomposition import PCA

    unit = F.normalize(vectors, dim=1)
    items, users = unit[num_users:][shown], unit[chosen]
    both = torch.cat([items, users]).numpy()
    count = min(2, *both.shape)
    plane = PCA(count, random_state=0).fit(items.numpy() if len(items) > 2 else both)
    flat = np.zeros((len(both), 2), np.float32)
    flat[:, :count] = plane.transform(both)
    low, high = np.percentile(flat, 0.1, axis=0), np.percentile(flat, 99.9, axis=0)
    scale = float(max(*(high - low), 1e-9))
    spread = np.clip((flat - (low + high) / 2) / scale + 0.5, 0, 1)
    lengths = vectors[num_users:][shown].norm(dim=1).numpy()
    near, similar = _neighbours(items)
    if known is not None:
        lost = ~known[num_users:][shown]
        near[lost] = NONE
    return {
        "label": label,
        "width": vectors.shape[1],
        "explained": _number(plane.explained_variance_ratio_.sum()),
        "places": _packed(np.rint(65535 * spread), "<u2"),
        "near": _packed(near, "<u4"),
        "similar": _packed(np.rint((similar + 1) * 127.5), "<u1"),
        "norms": _packed(lengths, "<f4"),
        "lengths": lengths,
        "unit": items.numpy(),
    }


def _neighbours(unit: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The nearest other rows of each row by cosine: uint32 and float32 [I, NEIGHBOURS]; NONE where there are fewer."""
    n = len(unit)
    k = min(NEIGHBOURS, n - 1)
    near = np.full((n, NEIGHBOURS), NONE, np.uint32)
    similar = np.zeros((n, NEIGHBOURS), np.float32)
    step = max(1, BLOCK // n)
    for start in range(0, n, step) if k else ():
        rows = torch.arange(start, min(start + step, n))
        cosines = unit[rows] @ unit.T
        cosines[torch.arange(len(rows)), rows] = -torch.inf
        values, places = cosines.topk(k, dim=1)
        near[start : start + len(rows), :k], similar[start : start + len(rows), :k] = places.numpy(), values.numpy()
    return near, np.clip(similar, -1, 1)


# ---------------------------------------------------------------- words


def _words(corpus: Corpus, shown: np.ndarray, chosen: np.ndarray) -> tuple[list[str], np.ndarray, np.ndarray, Any]:
    """The words of items and users, by TF-IDF over items (all that was written on an item is one document).

    Returns:
        vocabulary used; uint32 [items, ITEM_WORDS], [users, USER_WORDS], strongest first, NONE where there are fewer;
        the items' weights, sparse [items, terms].
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = corpus.texts("train")
    order = np.argsort(np.asarray(corpus.train.indices), kind="stable")
    ends = np.cumsum(corpus.item_popularity)

    def document(entries: np.ndarray) -> str:
        return "\n".join((texts[int(e)].as_py() or "")[:LETTERS] for e in entries[:REVIEWS])

    def of_items():
        return (document(order[ends[i] - corpus.item_popularity[i] : ends[i]]) for i in shown)

    def of_users():
        return (document(np.arange(*corpus.train.indptr[u : u + 2])) for u in chosen)

    for least, most in ((3, 0.3), (1, 1.0)):
        vectorizer = TfidfVectorizer(
            stop_words="english", token_pattern=r"(?u)\b[^\W\d_][^\W_]{2,}\b", min_df=least, max_df=most,
            sublinear_tf=True, max_features=100_000, dtype=np.float32,
        )  # fmt: skip
        try:
            weights = vectorizer.fit_transform(of_items())
            break
        except ValueError:  # scikit-learn's way to say that no word is left
            continue
    else:
        return [], np.full((len(shown), ITEM_WORDS), NONE), np.full((len(chosen), USER_WORDS), NONE), None
    items, users = _strongest(weights, ITEM_WORDS), _strongest(vectorizer.transform(of_users()), USER_WORDS)
    terms = vectorizer.get_feature_names_out()
    used = np.unique(np.concatenate([items.ravel(), users.ravel()]))
    used = used[used != NONE]
    renumber = np.full(len(terms) + 1, NONE, np.uint32)
    renumber[used] = np.arange(len(used), dtype=np.uint32)

    def numbered(rows: np.ndarray) -> np.ndarray:
        return renumber[np.minimum(rows, len(terms)).astype(np.int64)]

    return terms[used].tolist(), numbered(items), numbered(users), (weights, terms)


def _strongest(weights: Any, count: int) -> np.ndarray:
    """Columns of the largest entries of each sparse row: uint32 [rows, count], NONE where there are fewer."""
    found = np.full((weights.shape[0], count), NONE, np.uint32)
    for row, (start, stop) in enumerate(zip(weights.indptr[:-1], weights.indptr[1:], strict=True)):
        best = np.argsort(-weights.data[start:stop], kind="stable")[:count]
        found[row, : len(best)] = weights.indices[start:stop][best]
    return found


def _themes(unit: np.ndarray, found: Any, words: list[str], seed: int) -> tuple[list[str], np.ndarray]:
    """Groups of items near each other in the first view, named by the words that set them apart; uint8 [items]."""
    from sklearn.cluster import MiniBatchKMeans

    count = min(THEMES, len(unit) // 8)
    if count < 2 or found is None:
        return ["all items"], np.zeros(len(unit), np.uint8)
    group = MiniBatchKMeans(count, random_state=seed, n_init=3, batch_size=2048).fit_predict(unit)
    group = np.argsort(np.argsort(-np.bincount(group, minlength=count), kind="stable"), kind="stable")[group]
    weights, terms = found
    everywhere = np.asarray(weights.mean(axis=0)).ravel()
    names = []
    for theme in range(count):
        mine = np.asarray(weights[group == theme].mean(axis=0)).ravel() if (group == theme).any() else everywhere
        apart = mine - everywhere
        names.append(" · ".join(terms[np.argsort(-apart, kind="stable")[:3]]))
    return names, group.astype(np.uint8)


# ---------------------------------------------------------------- recommendations


def _recommendations(
    scorer: FactorScorer, corpus: Corpus, chosen: np.ndarray, shown: np.ndarray
) -> dict[str, str | list]:
    """Top items of each user among those shown, each with what its score is made of and the liked item next to it."""
    place = np.full(corpus.num_items, NONE, np.uint32)
    place[shown] = np.arange(len(shown), dtype=np.uint32)
    items, vectors = scorer.items.float(), F.normalize(scorer.items.float(), dim=1)
    allowed = place != NONE
    k = min(RECOMMENDED, corpus.num_items)
    ranked, because = (np.full((len(chosen), RECOMMENDED), NONE, np.uint32) for _ in range(2))
    match, popular, close = (np.zeros((len(chosen), RECOMMENDED), np.float32) for _ in range(3))
    liked = np.full((len(chosen), LIKED), NONE, np.uint32)
    found, _ = top_k(scorer, chosen, k, corpus.train + corpus.val, allowed=allowed)
    for at, (user, best) in enumerate(zip(chosen, found.numpy(), strict=True)):
        best = best[best >= 0]
        n = len(best)
        mine = np.asarray(corpus.train.indices[slice(*corpus.train.indptr[user : user + 2])], dtype=np.int64)
        mine = mine[allowed[mine]]
        liked[at, : min(len(mine), LIKED)] = place[mine[:LIKED]]
        ranked[at, :n] = place[best]
        match[at, :n] = (items[best] @ scorer.users[user].float()).numpy()
        if scorer.bias is not None:
            popular[at, :n] = scorer.bias[best].float().numpy()
        if len(mine) and n:
            value, which = (vectors[best] @ vectors[mine].T).max(dim=1)
            because[at, :n], close[at, :n] = place[mine[which.numpy()]], value.numpy()
    return {
        "recommended": _packed(ranked, "<u4"),
        "match": _packed(match, "<f4"),
        "popular": _packed(popular, "<f4"),
        "because": _packed(because, "<u4"),
        "close": _packed(close, "<f4"),
        "liked": _packed(liked, "<u4"),
    }
