"""What a person sees of an explanation: reviews coloured in the terminal, and a page that holds everything itself."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from symcere.explanation.claim import Summary
from symcere.explanation.lime import Explained, Explanation
from symcere.explanation.words import CLASSES

LISTED = 12
"""Words listed on each side of zero."""


@dataclass(frozen=True, eq=False)
class PairReport:
    """The explanation of one pair, with the names of what it is about.

    Attributes:
        known: the pair is one of training: the user's own review of the item may be among the texts.
        writers: ids of who wrote each perturbed review (or of what it is about, for the user's side).
    """

    run: str
    user: str
    item: str
    title: str
    known: bool
    explanation: Explanation
    writers: list[str]
    notes: list[str]
    page: Path | None = None

    def show(self) -> None:
        """Prints it for a person: the reviews with their words coloured, the strongest words, how far to trust them."""
        print_pair(self)

    def summary(self) -> dict[str, Any]:
        """As JSON holds it."""
        e = self.explanation
        return {
            "run": self.run,
            "user": self.user,
            "item": self.item,
            "title": self.title,
            "in_training": self.known,
            "alignment": e.alignment,
            "side": e.side,
            "view": e.view,
            "fidelity": _fidelity(e),
            "words": [
                {"word": w, "class": c, "weight": float(x)}
                for w, c, x in zip(e.words, e.classes, e.weights, strict=True)
            ],
            "reviews": [
                {
                    "of": writer,
                    "text": one.worded.text,
                    "weights": dict(zip(one.worded.words, one.weights.tolist(), strict=True)),
                }
                for writer, one in zip(self.writers, e.reviews, strict=True)
            ],
            "page": self.page,
            "notes": self.notes,
        }


@dataclass(frozen=True, eq=False)
class ModelReport:
    """The explanation of a model as a whole, and the files it was written to."""

    run: str
    split: str
    side: str
    view: str
    found: Summary
    files: list[Path]

    def show(self) -> None:
        """Prints it for a person: the verdict, the classes, the strongest words, how far to trust them."""
        print_model(self)

    def summary(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "run": self.run,
            "verdict": self.found.verdict,
            "pairs": self.found.pairs,
            "split": self.split,
            "side": self.side,
            "view": self.view,
            "objective_against_sentiment": {"within_pairs": self.found.within, "over_words": self.found.over},
            "objective_over_sentiment": self.found.ratio,
            "strongest_words": self.found.strongest,
            "fidelity": self.found.fidelity,
            "classes": self.found.classes,
            "strata": self.found.strata,
            "words": self.found.words,
            "files": self.files,
            "notes": self.found.notes,
        }


def _fidelity(e: Explanation) -> dict[str, Any]:
    return {
        "r2": e.r2,
        "drop_without_top_words": e.drop_top,
        "drop_without_random_words": e.drop_random,
        "share_of_reviews_perturbed": e.share,
    }


# ---------------------------------------------------------------- terminal


def print_pair(report: PairReport) -> None:
    """The reviews with their words coloured: blue binds the pair, orange parts it; then the strongest words."""
    import sys

    from rich.text import Text

    from symcere import console

    e = report.explanation
    out = console._console(sys.stdout)
    print(f"{report.user}  →  {report.title or report.item}" + ("  (a training pair)" if report.known else ""))
    print(f"alignment {e.alignment:.3f} ({e.view} view of the {_other(e)} against the {e.side}'s text)\n")
    strongest = _strongest(e)
    for writer, one in zip(report.writers, e.reviews, strict=True):
        line = Text()
        line.append(f"{writer}: ", style="dim")
        for piece, strength in _pieces(one, strongest):
            line.append(piece, style=_style(strength))
        out.print(line, soft_wrap=not sys.stdout.isatty())
        print()
    rows = [
        {"word": w, "class": c, "weight": float(x)}
        for w, c, x in zip(e.words, e.classes, e.weights, strict=True)
        if x != 0
    ]
    if rows:
        shown = rows if len(rows) <= 2 * LISTED else rows[:LISTED] + rows[-LISTED:]
        console.table(shown)
        print()
    console.facts(_fidelity(e))
    if report.page is not None:
        print(f"page  {report.page}")
    for note in report.notes:
        print(console.paragraph(f"note: {note}", sys.stdout))


def print_model(report: ModelReport) -> None:
    """The verdict, the classes, the strongest words, and how far to trust them."""
    from symcere import console

    told = report.summary()
    told["words"] = told["words"][:20]
    told["objective_against_sentiment"] = [
        {"reading": name.replace("_", " "), **vars(effect)}
        for name, effect in told["objective_against_sentiment"].items()
    ]
    console.show(told)


def _other(e: Explanation) -> str:
    return "user" if e.side == "item" else "item"


def _strongest(e: Explanation) -> float:
    return max((float(np.abs(one.weights).max(initial=0)) for one in e.reviews), default=0.0) or 1.0


def _pieces(one: Explained, strongest: float) -> list[tuple[str, float]]:
    """A review cut at its words, with each piece's strength in −1..1 (0 between words)."""
    pieces, end = [], 0
    for start, stop, word in one.worded.spans.tolist():
        pieces.append((one.worded.text[end:start], 0.0))
        pieces.append((one.worded.text[start:stop], float(one.weights[word]) / strongest))
        end = stop
    return [*pieces, (one.worded.text[end:], 0.0)]


def _style(strength: float) -> str:
    size = abs(strength)
    if size < 0.08:
        return ""
    level = 0 if size < 0.3 else 1 if size < 0.6 else 2
    shades = ("#cfe0f5", "#7fb0e6", "#2563a8") if strength > 0 else ("#fbdccf", "#f0a184", "#c8481c")
    return f"{'#ffffff bold' if level == 2 else '#14202b'} on {shades[level]}"


# ---------------------------------------------------------------- page


def page(report: PairReport | ModelReport) -> str:
    """One HTML page without any other file: opens offline, light and dark."""
    inside = _pair_page(report) if isinstance(report, PairReport) else _model_page(report)
    template = Template((Path(__file__).parent / "report.html").read_text(encoding="utf-8"))
    return template.substitute(inside)


def _pair_page(report: PairReport) -> dict[str, str]:
    e = report.explanation
    strongest = _strongest(e)
    reviews = "".join(
        f'<article><h3>{_of(writer, e)}</h3><p dir="auto">{_coloured(one, strongest)}</p></article>'
        for writer, one in zip(report.writers, e.reviews, strict=True)
    )
    order = np.argsort(-np.abs(e.weights), kind="stable")[: 2 * LISTED]
    order = order[e.weights[order] != 0]
    order = order[np.argsort(-e.weights[order], kind="stable")]
    top = float(np.abs(e.weights).max(initial=0)) or 1.0
    bars = "".join(
        _bar(e.words[n], e.classes[n], f"{e.weights[n]:+.4f}", float(e.weights[n]) / top) for n in order.tolist()
    )
    facts = {
        "alignment": f"{e.alignment:.3f}",
        "R² on unseen variants": f"{e.r2:.2f}",
        "fall without the top words": f"{e.drop_top:.3f}",
        "fall without random words": f"{e.drop_random:.3f}",
        "reviews perturbed": f"{len(e.reviews)} ({e.share:.0%})",
    }
    kind = "a training pair" if report.known else "not in training"
    return {
        "title": _escape(f"{report.user} and {report.title or report.item}"),
        "heading": f"{_name(report.user)} and {_name(report.title or report.item)}",
        "lead": f"Which words of the {e.side}'s reviews bind user <b>{_name(report.user)}</b> to item "
        f"<b>{_name(report.title or report.item)}</b> ({kind}; run {_escape(report.run)}).",
        "facts": _facts(facts),
        "body": '<p class="legend"><i class="plus"></i> binds the pair <i class="minus"></i> parts it</p>'
        f"<section><h2>Words</h2>{_marked_bars(bars)}</section><section><h2>Reviews</h2>{reviews}</section>"
        + _notes(report.notes),
    }


def _model_page(report: ModelReport) -> dict[str, str]:
    found = report.found
    words = found.words[:30]
    top = max((w["high"] for w in words), default=1.0) or 1.0
    bars = "".join(
        _bar(
            w["word"], w["class"], f"{w['mean_abs_weight']:.4f}", w["mean_abs_weight"] / top,
            f"{w['pairs']} pairs", (w["low"] / top, w["high"] / top),
        )
        for w in words
    )  # fmt: skip
    facts = {
        "pairs": f"{found.pairs:,}",
        "Cliff’s delta within pairs": f"{found.within.delta:+.2f} [{found.within.low:+.2f}, {found.within.high:+.2f}]",
        "p (Wilcoxon)": f"{found.within.p:.2g}",
        "objective over sentiment, mean": f"{found.ratio['value']:.2f} [{found.ratio['low']:.2f}, "
        f"{found.ratio['high']:.2f}]",
        "over words": f"{found.over.delta:+.2f} [{found.over.low:+.2f}, {found.over.high:+.2f}]",
        "median R² of local models": f"{found.fidelity['r2_median']:.2f}",
        "top words beat random ones in": f"{found.fidelity['pairs_where_top_drops_more']:.0%} of pairs",
    }
    rows = "".join(
        f'<tr><td><i class="dot {c["class"]}"></i>{c["class"]}</td><td>{c["words"]:,}</td>'
        f"<td>{c['mean_abs_weight']:.5f}</td><td>{c['low']:.5f} – {c['high']:.5f}</td>"
        f"<td>{c['share_of_weight']:.0%}</td><td>{c['share_of_words']:.0%}</td></tr>"
        for c in found.classes
    )
    strongest = ", ".join(f"{c['strongest']} {c['class']}" for c in found.strongest)
    return {
        "title": _escape(f"What {report.run} aligns on"),
        "heading": _escape(f"What {report.run} aligns on"),
        "lead": f"<b>{_escape(found.verdict)}</b> Mean absolute weight of words in the alignment of {found.pairs:,} "
        f"{_escape(report.split)} pairs of run {_escape(report.run)}, with 95 % bootstrap intervals over pairs.",
        "facts": _facts(facts),
        "body": "<section><h2>Classes of words</h2><table><tr><th>class</th><th>words</th><th>mean |weight|</th>"
        f"<th>95 % interval</th><th>of all weight</th><th>of all words</th></tr>{rows}</table>"
        f"<p>The {sum(c['strongest'] for c in found.strongest)} strongest words below: {strongest}.</p></section>"
        f"<section><h2>Words</h2>{_marked_bars(bars)}</section>" + _notes(found.notes),
    }


def _coloured(one: Explained, strongest: float) -> str:
    return "".join(_span(*piece) for piece in _pieces(one, strongest))


def _of(writer: str, e: Explanation) -> str:
    return f"{'by' if e.side == 'item' else 'of'} {_name(writer)}"


def _name(text: str) -> str:
    """A name, apart from the direction of the text around it."""
    return f"<bdi>{_escape(text)}</bdi>"


def _span(piece: str, strength: float) -> str:
    if abs(strength) < 0.02:
        return _escape(piece)
    side = "plus" if strength > 0 else "minus"
    return f'<span class="{side}" style="--s:{abs(strength):.2f}">{_escape(piece)}</span>'


def _bar(
    word: str, kind: str, told: str, share: float, more: str = "", interval: tuple[float, float] | None = None
) -> str:
    whisker = ""
    if interval is not None and all(np.isfinite(interval)):
        whisker = f'<u style="left:{100 * interval[0]:.1f}%;width:{100 * (interval[1] - interval[0]):.1f}%"></u>'
    sign = "" if interval is not None else " plus" if share > 0 else " minus"
    return (
        f'<div class="bar"><span class="word">{_escape(word)}</span><span class="track">'
        f'<b class="{kind}{sign}" style="width:{100 * min(abs(share), 1):.1f}%"></b>{whisker}</span>'
        f'<span class="told">{told}</span><span class="kind">{kind}{" · " + more if more else ""}</span></div>'
    )


def _marked_bars(bars: str) -> str:
    return f'<div class="bars">{bars}</div>' if bars else "<p>No word moves the alignment.</p>"


def _facts(values: dict[str, str]) -> str:
    return "".join(f"<div><dt>{_escape(k)}</dt><dd>{_escape(v)}</dd></div>" for k, v in values.items())


def _notes(notes: list[str]) -> str:
    return "".join(f'<p class="note">{_escape(note)}</p>' for note in notes)


def _escape(text: str) -> str:
    return html.escape(text)


def figures(report: ModelReport) -> dict[str, Any]:
    """Bar plots by name: the strongest words of each class, and the classes with their intervals."""
    from symcere.plots import bars, word_weights

    words = [
        w
        for kind, most in (("objective", 10), ("sentiment", 6), ("function", 6))
        for w in [w for w in report.found.words if w["class"] == kind][:most]
    ]
    middle = np.array([c["mean_abs_weight"] for c in report.found.classes])
    low, high = (np.array([c[end] for c in report.found.classes]) for end in ("low", "high"))
    spread = np.maximum([middle - low, high - middle], 0)  # a percentile interval need not hold the mean
    return {
        "words": word_weights(
            [w["word"] for w in words],
            [w["mean_abs_weight"] for w in words],
            [w["class"] for w in words],
            most=len(words),
            title="Strongest words of each class",
            label="mean |weight| in the cosine",
        ),
        "classes": bars(
            CLASSES,
            {"mean |weight|": middle},
            {"mean |weight|": spread},
            ylabel="mean |weight|",
            title="Weight of a word by its class",
        ),
    }
