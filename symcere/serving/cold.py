"""Cold start, measured: users and items that training never saw, ranked from their texts alone.

A seeded share of users and of items is taken out before training: their interactions, their reviews and their nodes.
A model is trained on the rest by the run's own experiment, LSA (which is fitted) is fitted anew on what is left, and
then

    cold users    each is described by the reviews they wrote in training; ranked are all warm items but those they
                  wrote about; to be found are their warm items of validation and test
    cold items    each is described by its training reviews; ranked are all cold items, for every warm user, but those
                  whose description has a review by this very user; to be found are the cold items of that user's
                  validation and test interactions

so no text that describes anybody speaks of a pair that is to be found. Beside the text stand the baselines that know
equally much: the popularity of warm items among warm users, and, for cold items, the number of reviews that describe
them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from symcere.config import Experiment
from symcere.data.corpus import Corpus
from symcere.errors import UserError
from symcere.evaluation import Evaluation, Evaluator
from symcere.evaluation.significance import compare
from symcere.model.closed_form import Popularity
from symcere.model.recommender import marked
from symcere.model.scorer import FactorScorer, Scorer
from symcere.serving.newcomers import Newcomers
from symcere.text import Embeddings, profiles
from symcere.training import fit


@dataclass(frozen=True)
class Warm:
    """What is left of a corpus when cold users and items are gone."""

    corpus: Corpus
    """Of the warm users and items alone, renumbered in their order."""
    embeddings: Embeddings
    users: np.ndarray
    """int64, numbers of the warm users in the whole corpus."""
    items: np.ndarray
    cold_users: np.ndarray
    cold_items: np.ndarray
    reviews: np.ndarray
    """float32 [n_train, t]: every training review of the whole corpus in the space of ``embeddings``."""


def hold_out(corpus: Corpus, embeddings: Embeddings, share: float, seed: int) -> Warm:
    """Takes a share of the users and of the items out of training.

    Raises:
        UserError: nothing would be left to train on, or nobody to rank for.
    """
    if not 0 < share < 1:
        raise UserError(f"The share that is held out is {share}: it must lie between 0 and 1.")
    random = np.random.default_rng(seed)
    users, cold_users = _cut(random, corpus.num_users, share)
    items, cold_items = _cut(random, corpus.num_items, share)
    row = np.repeat(np.arange(corpus.num_users), np.diff(corpus.train.indptr))
    kept = ~np.isin(row, cold_users) & ~np.isin(corpus.train.indices, cold_items)
    if not kept.any():
        raise UserError(f"Nothing is left of '{corpus.name}' without a share of {share} of its users and items.")
    parts = {name: _part(getattr(corpus, name), users, items) for name in ("train", "val", "test")}
    # Users whose items are all cold have nothing to train on, hence nothing to validate on either.
    active = np.diff(parts["train"].indptr) > 0
    for name in ("val", "test"):
        parts[name] = sp.csr_array(sp.diags_array(active.astype(np.float32)) @ parts[name])
        parts[name].eliminate_zeros()
    warm = replace(
        corpus, user_ids=corpus.user_ids.take(users), item_ids=corpus.item_ids.take(items), item_titles=None, **parts
    )
    reviews = _reviews(corpus, embeddings, kept)
    left = replace(embeddings, reviews=reviews[kept].astype(np.float16))
    return Warm(warm, left, users, items, cold_users, cold_items, reviews)


def cold_start(
    corpus: Corpus,
    embeddings: Embeddings,
    experiment: Experiment,
    *,
    share: float = 0.1,
    seed: int = 0,
    on_epoch: Callable[..., bool | None] | None = None,
) -> dict[str, Any]:
    """Trains without a share of the users and items, ranks those from their texts, and compares with popularity.

    Args:
        experiment: the run's; the model must read text.
        share: of users and of items that are held out.
        seed: of the choice; training has its own.

    Returns:
        ``cold_users`` and ``cold_items``, each a table of methods with NDCG and recall at the default cut-offs that the
        number of candidates allows, its 95 % interval, and the p of the paired test against the first row.

    Raises:
        UserError: a model that reads no text, or too little data.
    """
    if experiment.closed_form.kind != "none" or experiment.model.features == "id":
        raise UserError("Cold start is measured on models that read text: train one with model.features text or both.")
    warm = hold_out(corpus, embeddings, share, seed)
    fitted = fit(warm.corpus, warm.embeddings, experiment, on_epoch=on_epoch)
    assert fitted.model is not None
    x = marked(*profiles(warm.corpus, warm.embeddings, experiment.model.user_profile), warm.corpus.num_users)
    newcomers = Newcomers.of(fitted.model, x)
    scorer = fitted.model.scorer(experiment.evaluate.popularity_weight)
    bias = None if scorer.bias is None else scorer.bias.float().cpu()
    Z_u, Z_i = scorer.users.float().cpu(), scorer.items.float().cpu()
    ks = experiment.evaluate.ks

    told: dict[str, Any] = {}
    user_of = np.repeat(np.arange(corpus.num_users), np.diff(corpus.train.indptr))
    profile, has_text = _profile(warm.reviews, _groups(warm.cold_users, user_of))
    history = _part(corpus.train, warm.cold_users, warm.items)
    sought = _part(sp.csr_array(corpus.val + corpus.test), warm.cold_users, warm.items)
    nothing = sp.csr_array(history.shape, dtype=np.float32)
    by_text = newcomers.users(profile, has_text, nothing)
    ways: dict[str, Scorer] = {
        "popularity": Popularity(torch.from_numpy(warm.corpus.item_popularity.astype(np.float32)), len(profile)),
        "text": FactorScorer(by_text, Z_i, bias),
        "liked items": FactorScorer(newcomers.users(None, np.zeros(len(profile), bool), history), Z_i, bias),
        "text and liked items": FactorScorer(newcomers.users(profile, has_text, history), Z_i, bias),
    }
    if bias is not None:
        ways["text, without the popularity term"] = FactorScorer(by_text, Z_i)
    told["cold_users"] = _table(ways, history, sought, ks, f"Of {len(profile)} cold users")

    groups = _groups(warm.cold_items, corpus.train.indices)
    profile, has_text = _profile(warm.reviews, groups)
    wrote = _part(corpus.train, warm.users, warm.cold_items)
    sought = _part(sp.csr_array(corpus.val + corpus.test), warm.users, warm.cold_items)
    described = np.diff(groups.indptr).astype(np.float32)
    ways = {
        "number of reviews": Popularity(torch.from_numpy(described), len(warm.users)),
        "text": FactorScorer(Z_u, newcomers.items(profile) * torch.from_numpy(has_text)[:, None]),
    }
    if bias is not None:
        # The term of a new item: what the warm items' terms say about a number of reviews, by least squares.
        counts = np.log1p(warm.corpus.item_popularity)
        slope, level = np.polyfit(counts, bias.numpy(), 1) if np.ptp(counts) > 0 else (0.0, 0.0)
        term = torch.from_numpy((slope * np.log1p(described) + level).astype(np.float32))
        ways["text and number of reviews"] = FactorScorer(Z_u, ways["text"].items, term)  # type: ignore[attr-defined]
    told["cold_items"] = _table(ways, wrote, sought, ks, f"Of {len(profile)} cold items")
    told["notes"] = [
        f"A share of {share:g} of users and items (seed {seed}) was held out of a new training: "
        f"{len(warm.cold_users)} users, {len(warm.cold_items)} items; {warm.corpus.train.nnz:,} of "
        f"{corpus.train.nnz:,} interactions were left.",
        "Cold users are ranked all warm items, cold items against each other; p is of the paired test over users "
        "against the first row.",
    ]
    return told


def _cut(random: np.random.Generator, n: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    order = random.permutation(n)
    cold = max(1, round(n * share))
    return np.sort(order[cold:]), np.sort(order[:cold])


def _part(matrix: sp.csr_array, users: np.ndarray, items: np.ndarray) -> sp.csr_array:
    """Some rows and columns, entries sorted as in the whole."""
    part = sp.csr_array(matrix[users][:, items])
    part.sort_indices()
    return sp.csr_array((part.data, part.indices.astype(np.int32), part.indptr), shape=part.shape)


def _reviews(corpus: Corpus, embeddings: Embeddings, kept: np.ndarray) -> np.ndarray:
    """Every training review, [n_train, t]: blocks of encoders that are fitted, fitted on the kept ones alone."""
    from symcere.text import make_encoder

    X = np.asarray(embeddings.reviews, np.float32)
    blocks, start = [], 0
    texts: list[str] | None = None
    for settings, (_, width) in zip(embeddings.encoder.settings, embeddings.blocks, strict=True):
        block = X[:, start : start + width]
        start += width
        if settings.name == "lsa":
            texts = corpus.texts("train").to_pylist() if texts is None else texts
            encoder = make_encoder(settings)
            encoder.fit(list(dict.fromkeys(t for t, keep in zip(texts, kept, strict=True) if keep and t.strip())))
            block = encoder.encode(texts)
            block[[not t.strip() for t in texts]] = 0
        blocks.append(block)
    return np.concatenate(blocks, axis=1)


def _profile(reviews: np.ndarray, groups: sp.csr_array) -> tuple[np.ndarray, np.ndarray]:
    """Mean embedding [n, t] of some nodes' reviews that have a text, and whether there is any.

    Args:
        groups: [n, n_train], an entry for each of a node's training reviews.
    """
    with_text = reviews.any(axis=1).astype(np.float32)
    count = groups @ with_text
    return (groups @ reviews) / np.maximum(count, 1)[:, None], count > 0


def _groups(nodes: np.ndarray, of_review: np.ndarray) -> sp.csr_array:
    """[len(nodes), n_train] of the node ``of_review`` [n_train] that each review belongs to; ``nodes`` ascend."""
    at = np.minimum(np.searchsorted(nodes, of_review), len(nodes) - 1)
    rows = np.flatnonzero(nodes[at] == of_review)
    ones = np.ones(len(rows), np.float32)
    return sp.csr_array((ones, (at[rows], rows)), shape=(len(nodes), len(of_review)))


def _table(
    ways: dict[str, Scorer], seen: sp.csr_array, sought: sp.csr_array, ks: tuple[int, ...], whom: str
) -> list[dict[str, Any]]:
    """A row of figures for each way of ranking."""
    data: Any = SimpleNamespace(train=seen, val=sp.csr_array(seen.shape, dtype=np.float32), test=sought)
    try:
        judge = Evaluator(data, "test", ks)
    except UserError:
        raise UserError(f"{whom} nobody has an item that could be found: hold out a larger share.") from None
    k = 10 if 10 in judge.ks else judge.ks[-1]
    judged: dict[str, Evaluation] = {name: judge(scorer) for name, scorer in ways.items()}
    first = next(iter(judged.values()))
    rows = []
    for name, found in judged.items():
        low, high = found.interval(f"ndcg_at_{k}")
        mine, base = (e.per_user[f"ndcg_at_{k}"] for e in (found, first))
        rows.append(
            {
                "ranked by": name,
                "users": len(found.users),
                f"ndcg_at_{k}": found.metrics[f"ndcg_at_{k}"],
                "low": low,
                "high": high,
                f"recall_at_{k}": found.metrics[f"recall_at_{k}"],
                "p": None if found is first or len(mine) < 2 else compare(mine, base).p,
            }
        )
    return rows
