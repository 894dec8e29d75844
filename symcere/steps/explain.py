"""Why a run recommends what it does: the words behind one pair, behind the model, and a page to look around in."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from symcere import tracking
from symcere.errors import UserError
from symcere.home import writing
from symcere.steps.corpora import Progress
from symcere.steps.runs import Restored, restore

if TYPE_CHECKING:
    from symcere.explanation import Alignment, Lime
    from symcere.explanation.report import ModelReport, PairReport

PAIRS = 200
OF_PAIR, OF_MODEL = (300, 8), (100, 4)
"""Variants of each review, and reviews perturbed at most: one pair is worth a closer look than each of many is."""


def explain(
    run: str | Path,
    user: str = "",
    item: str = "",
    *,
    side: Literal["item", "user"] = "item",
    pairs: int = 0,
    split: Literal["train", "val", "test"] | None = None,
    samples: int = 0,
    reviews: int = 0,
    seed: int = 0,
    html: Path | None = None,
    out: Path | None = None,
    progress: Progress = None,
) -> "PairReport | ModelReport":
    """The words that align one pair (with ``user`` and ``item``), or a model's pairs as a whole.

    The whole is written to ``out`` as JSON, page and plots, and to the run's files in MLflow.

    Args:
        side: whose reviews are perturbed.
        pairs: how many are sampled for the whole, from thirds of item popularity alike; 0: 200.
        split: where those are sampled, by default ``val``.
        samples: variants of each review; 0: 300 for one pair, 100 for the whole.
        reviews: of each item that are perturbed at most; 0: the 8 most influential for one pair, 4 random ones.
        html: page of one pair.
        out: folder of the whole's files, by default ``explanation`` beside the checkpoint.

    Raises:
        UserError: unknown user or item (nearest names), a run without text, no text to perturb, or what only the other
            of the two takes.
    """
    from symcere.explanation import Alignment, Lime

    if bool(user) != bool(item):
        raise UserError(
            f"To explain one pair give the {'item' if user else 'user'} too (--user … --item …); "
            "without both, the model as a whole is explained."
        )
    if html is not None and not user:
        raise UserError(
            "--html writes the page of one pair: give --user and --item too. The model as a whole has its page among "
            "its own files (--out DIR)."
        )
    if user and (of_whole := [f"--{k}" for k, v in (("pairs", pairs), ("split", split), ("out", out)) if v]):
        raise UserError(
            f"{' and '.join(of_whole)} belong to the model as a whole, not to one pair: leave them out, or leave out "
            "--user and --item. The page of one pair is --html FILE."
        )
    restored = restore(run, progress)
    alignment = Alignment(restored.fitted.model, restored.corpus, restored.embeddings, side)
    variants, texts = OF_PAIR if user else OF_MODEL
    lime = Lime(samples or variants, reviews or texts, "influence" if user else "random", seed=seed)
    if lime.samples < 20:
        raise UserError(f"{lime.samples} variants of a review are too few to fit its words: take 20 or more.")
    if user:
        return _pair(restored, alignment, lime, user, item, html)
    return _whole(run, restored, alignment, lime, pairs or PAIRS, split or "val", out, progress)


def _pair(
    restored: Restored, alignment: "Alignment", lime: "Lime", user: str, item: str, html: Path | None
) -> "PairReport":
    from symcere.explanation import explain
    from symcere.explanation.report import PairReport, page
    from symcere.explanation.words import english_share

    corpus = restored.corpus
    u, i = corpus.user_index(user), corpus.item_index(item)
    (found,) = explain(alignment, np.array([[u, i]]), lime)
    rows = [one.row for one in found.reviews]
    if alignment.side == "item":
        writers = corpus.user_ids.take(np.searchsorted(corpus.train.indptr, rows, side="right") - 1)
    else:
        writers = corpus.item_ids.take(np.array(corpus.train.indices[rows], dtype=np.int64))
    notes = []
    if not np.isfinite(found.r2):
        notes.append("The encoder knows no word of these reviews: nothing moves the alignment.")
    elif found.r2 < 0.5:
        notes.append(f"The local model explains only {max(found.r2, 0):.0%} of the alignment: read it with care.")
    if found.share < 1:
        whole = round(len(rows) / found.share)
        notes.append(f"The {len(rows)} most influential of the {whole} reviews were perturbed; all are in the profile.")
    if english_share(one.worded.text for one in found.reviews) < 0.2:
        notes.append("The reviews do not look English: classes of words come from English lists and mean little here.")
    title = corpus.item_titles[i].as_py() if corpus.item_titles is not None else ""
    known = bool((corpus.train.indices[slice(*corpus.train.indptr[u : u + 2])] == i).any())
    report = PairReport(restored.name, user, item, title or "", known, found, writers.to_pylist(), notes, html)
    if html is not None:
        with writing(html) as temporary:
            temporary.write_text(page(report), encoding="utf-8")
    return report


def _whole(
    run: str | Path,
    restored: Restored,
    alignment: "Alignment",
    lime: "Lime",
    pairs: int,
    split: str,
    out: Path | None,
    progress: Progress,
) -> "ModelReport":
    from symcere import console
    from symcere.explanation import explain, sample_pairs, summarise
    from symcere.explanation.report import ModelReport, figures, page
    from symcere.plots import png

    sampled, thirds = sample_pairs(restored.corpus, alignment, pairs, split, lime.seed)
    found = explain(alignment, sampled, lime, progress and (lambda *told: progress("pairs", *told)))
    folder = Path(out or restored.path.parent / "explanation")
    files = [folder / name for name in ("explanation.json", "explanation.html", "words.png", "classes.png")]
    report = ModelReport(
        restored.name, split, alignment.side, alignment.view, summarise(found, thirds, lime.seed), files
    )
    contents = [json.dumps(console.plain(report), ensure_ascii=False, indent=1).encode(), page(report).encode()]
    for path, content in zip(files, [*contents, *map(png, figures(report).values())], strict=True):
        with writing(path) as temporary:
            temporary.write_bytes(content)
    _log(run, files)
    return report


def _log(run: str | Path, files: list[Path]) -> None:
    """The files among the run's artifacts, where the run is known to a store."""

    found = tracking.find_run(run)
    if found.id:
        tracker = tracking.attach(found.id)
        for path in files:
            tracker.log_file(path, "explanation")


def explore(
    run: str | Path, out: Path | None = None, *, users: int = 2000, progress: Progress = None
) -> dict[str, object]:
    """One self-contained page to look around in a run.

    Args:
        out: the page; by default ``explore.html`` beside the checkpoint.
        users: with their recommendations on it, drawn at random where there are more.

    Raises:
        UserError: the run has no vectors (a closed form).
    """
    from symcere.explanation.atlas import atlas, page

    restored = restore(run, progress)
    fitted = restored.fitted
    data = atlas(
        restored.name, fitted.model, fitted.scorer, restored.corpus, restored.embeddings, users, progress=progress
    )
    text = page(data)
    out = restored.path.parent / "explore.html" if out is None else Path(out)
    with writing(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return {
        "page": out,
        "megabytes": round(len(text) / 1e6, 2),
        "items": len(data["items"]["ids"]),
        "users": len(data["users"]["ids"]),
        "views": [view["label"] for view in data["views"].values()],
        "notes": data["notes"],
    }
