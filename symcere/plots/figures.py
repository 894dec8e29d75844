"""Every figure, from plain arrays. Each function returns a matplotlib ``Figure``."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from symcere.plots.style import INK, MARKERS, MUTED, PALETTE, figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Values = Sequence[float] | np.ndarray


@styled
def training_curve(
    epochs: Values, loss: Values, metric: Values, *, metric_name: str = "validation NDCG@10", title: str = "Training"
) -> "Figure":
    """Loss and validation metric over epochs, the best epoch marked.

    Args:
        epochs: [n].
        loss: [n], of training.
        metric: [n], higher is better; NaN in epochs without an evaluation.
    """
    drawn, (left, right) = figure(8.4, 3.4, columns=2)
    epochs, loss, metric = (np.asarray(v, dtype=float) for v in (epochs, loss, metric))
    left.plot(epochs, loss, color=PALETTE[0])
    left.set(title=title, xlabel="epoch", ylabel="training loss")
    seen = ~np.isnan(metric)
    right.plot(epochs[seen], metric[seen], color=PALETTE[1], **_dots(int(seen.sum())))
    right.set(title=metric_name[:1].upper() + metric_name[1:], xlabel="epoch", ylabel=metric_name)
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]
    if seen.any():
        best = int(np.nanargmax(metric))
        right.axvline(epochs[best], color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)), zorder=1)
        right.plot(epochs[best], metric[best], "o", color=PALETTE[1], markersize=8, markeredgecolor="white", zorder=5)
        left_of = epochs[best] > epochs[0] + 0.6 * (epochs[-1] - epochs[0])
        right.annotate(
            f"best {metric[best]:.4f}\nepoch {epochs[best]:g}", (epochs[best], 0.04), xytext=(-8 if left_of else 8, 0),
            xycoords=("data", "axes fraction"), textcoords="offset points",
            ha="right" if left_of else "left", color=INK,
        )  # fmt: skip
        right.margins(y=0.16)
    return drawn


@styled
def popularity_trade_off(
    weights: Values,
    ndcg: Values,
    mean_popularity: Values,
    tail_ndcg: Values | None = None,
    *,
    title: str = "Accuracy against popularity",
) -> "Figure":
    """What the weight of the popularity term buys and costs.

    Args:
        weights: [n] w, of the popularity term in scoring.
        ndcg: [n] NDCG@10.
        mean_popularity: [n] mean training interactions of what is recommended.
        tail_ndcg: [n] NDCG@10 for relevant items of the tail third, or None.
    """
    drawn, panels = figure(8.4 if tail_ndcg is not None else 5.2, 3.7, columns=1 if tail_ndcg is None else 2)
    weights = np.asarray(weights, dtype=float)
    for axes, values, colour, name in zip(
        panels, (ndcg, tail_ndcg), PALETTE, ("NDCG@10", "NDCG@10, tail items"), strict=False
    ):
        values = np.asarray(values, dtype=float)
        axes.plot(mean_popularity, values, color=colour, marker="o", markeredgecolor="white", markersize=7)
        axes.margins(x=0.16, y=0.18)
        _along(axes, np.asarray(mean_popularity, dtype=float), values, [f"w = {w:g}" for w in weights])
        axes.set(xlabel="mean popularity of recommended items (interactions)", ylabel=name)
    panels[0].set_title(title)
    if tail_ndcg is not None:
        panels[1].set_title("The same for the tail")
    return drawn


@styled
def norm_against_popularity(
    popularity: Values,
    norms: Values | Mapping[str, Values],
    *,
    title: str = "Vector length against popularity",
    note: str = "",
) -> "Figure":
    """Length of item vectors over training interactions, with the median of each level of popularity.

    Args:
        popularity: int [I].
        norms: float [I], or several by the name of their model.
        note: said under the title, such as a correlation.
    """
    drawn, (axes,) = figure()
    popularity = np.asarray(popularity, dtype=float)
    trained = popularity > 0  # the others have no place on this axis
    series = {
        name: np.asarray(lengths, dtype=float)[trained]
        for name, lengths in (norms if isinstance(norms, Mapping) else {"": norms}).items()
    }
    popularity = popularity[trained]
    alpha = float(np.clip(400 / max(len(popularity), 1), 0.08, 0.6))
    bounds = np.unique(np.geomspace(popularity.min(), popularity.max() + 1, 13).round())
    for n, (name, lengths) in enumerate(series.items()):
        colour = PALETTE[n % len(PALETTE)]
        axes.scatter(popularity, lengths, s=9, color=colour, alpha=alpha, linewidths=0, rasterized=True)
        bins = np.digitize(popularity, bounds)
        middle = [(np.median(popularity[bins == b]), np.median(lengths[bins == b])) for b in np.unique(bins)]
        axes.plot(
            *zip(*middle, strict=True), color=colour, marker=MARKERS[n % len(MARKERS)], markeredgecolor="white",
            markersize=6.5, label=name or "median", zorder=4,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set(xlabel="training interactions of the item", ylabel="length of its vector")
    axes.xaxis.get_major_locator().set_params(subs=(1, 2, 5))  # type: ignore[call-arg]
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, _: "")
    _title(axes, title, note)
    _legend(axes)
    if np.ptp(np.concatenate(list(series.values()))) < 1e-4:
        axes.set_ylim(0, 1.25 * max(float(np.max(v)) for v in series.values()))  # lengths all alike: no false drama
    return drawn


@styled
def temperature_curve(
    temperatures: Values,
    scores: Mapping[str, Values],
    spreads: Mapping[str, Values] | None = None,
    *,
    metric_name: str = "NDCG@10",
    title: str = "Temperature",
) -> "Figure":
    """A metric over τ, one line for each loss, normalisation or data set; a ring marks each line's best.

    Args:
        temperatures: [n].
        scores: [n] by name; NaN where a point is missing.
        spreads: [n] by name, standard deviations over seeds, drawn as bands.
    """
    drawn, (axes,) = figure()
    temperatures = np.asarray(temperatures, dtype=float)
    order = np.argsort(temperatures)
    for n, (name, values) in enumerate(scores.items()):
        values, colour = np.asarray(values, dtype=float), PALETTE[n % len(PALETTE)]
        there = order[~np.isnan(values[order])]
        x, y = temperatures[there], values[there]
        axes.plot(x, y, color=colour, marker=MARKERS[n % len(MARKERS)], markeredgecolor="white", label=name)
        if spreads is not None and name in spreads:
            spread = np.asarray(spreads[name], dtype=float)[there]
            axes.fill_between(x, y - spread, y + spread, color=colour, alpha=0.13, linewidth=0)
        if len(y):
            best = int(np.argmax(y))
            axes.plot(x[best], y[best], "o", markersize=11, markerfacecolor="none", color=colour, markeredgewidth=1.3)
    axes.set_xscale("log")
    shown = _apart(temperatures[order])
    axes.set_xticks(shown, [f"{t:.3g}" for t in shown])
    axes.minorticks_off()
    axes.set(title=title, xlabel="temperature τ", ylabel=metric_name)
    _legend(axes)
    return drawn


def _apart(ascending: np.ndarray) -> list[float]:
    """Those of some positive numbers whose labels have room beside each other on a logarithmic axis."""
    least = math.log(ascending[-1] / ascending[0]) / 9 if len(ascending) else 0.0
    found: list[float] = []
    for value in ascending:
        if not found or math.log(value / found[-1]) >= least:
            found.append(float(value))
    return found


@styled
def critical_difference(
    methods: Sequence[str], ranks: Values, difference: float, *, title: str = "", datasets: int | None = None
) -> "Figure":
    """Average ranks on a line; methods under one bar are not told apart (Demšar 2006).

    Args:
        methods: [M].
        ranks: [M], 1 is best.
        difference: Nemenyi's critical difference; NaN draws no bars.
        datasets: how many stand behind the ranks, for the subtitle.
    """
    order = np.argsort(ranks, kind="stable")
    values = np.asarray(ranks, dtype=float)[order]
    names = [methods[n] for n in order]
    total = len(names)
    bars = _cliques(values, difference)
    rows = (total + 1) // 2
    drawn, (axes,) = figure(7.6, 1.5 + 0.27 * (rows + len(bars)))
    axes.axis("off")
    low, high = 1.0, float(max(total, 2))
    axes.set_xlim(low - 0.34 * (high - low), high + 0.34 * (high - low))
    axes.plot([low, high], [0, 0], color=INK, linewidth=1)
    for tick in range(1, int(high) + 1):
        axes.plot([tick, tick], [0, 0.22], color=INK, linewidth=1)
        axes.text(tick, 0.36, str(tick), ha="center", va="bottom", color=MUTED)
    if np.isfinite(difference):
        shown = min(difference, high - low)
        axes.plot([low, low + shown], [1.75, 1.75], color=INK, linewidth=1.4)
        for end in (low, low + shown):
            axes.plot([end, end], [1.6, 1.9], color=INK, linewidth=1.4)
        axes.text(low + shown / 2, 2.0, f"critical difference {difference:.2f}", ha="center", va="bottom")
    for n, (first, last) in enumerate(bars):
        level = -0.38 - 0.42 * n
        axes.plot(
            [values[first] - 0.04, values[last] + 0.04], [level, level], color=PALETTE[0], linewidth=4.5, zorder=3,
            solid_capstyle="round",
        )  # fmt: skip
    below = -0.5 - 0.42 * len(bars)
    for n, (name, value) in enumerate(zip(names, values, strict=True)):
        good = n < rows
        depth = below - 0.72 * (n if good else total - 1 - n) - 0.2
        side = low - 0.04 * (high - low) if good else high + 0.04 * (high - low)
        colour = INK if n else PALETTE[1]
        label = f"{name}  {value:.2f}" if good else f"{value:.2f}  {name}"
        axes.plot([value, value, side], [0, depth, depth], color=colour if n == 0 else "#9aa5b1", linewidth=1)
        axes.plot(value, 0, "o", color=colour, markersize=4.5, zorder=4)
        axes.text(
            side + (-1 if good else 1) * 0.012 * (high - low), depth, label,
            ha="right" if good else "left", va="center", color=colour, fontweight="semibold" if n == 0 else "normal",
        )  # fmt: skip
    axes.set_ylim(below - 0.72 * (rows - 1) - 0.7, 2.9)
    over = f" over {datasets} data sets" if datasets else ""
    axes.set_title(title or f"Average rank{over} (1 is best)")
    return drawn


@styled
def word_weights(
    words: Sequence[str],
    weights: Values,
    classes: Sequence[str] | None = None,
    *,
    most: int = 20,
    title: str = "What the alignment rests on",
    label: str = "weight of the word",
) -> "Figure":
    """Bars of the words with the largest absolute weights, coloured by class where classes are given.

    Args:
        words, weights: [n].
        classes: [n], such as "objective", "sentiment", "other".
        most: words shown.
    """
    weights = np.asarray(weights, dtype=float)
    top = np.argsort(-np.abs(weights), kind="stable")[:most][::-1]
    drawn, (axes,) = figure(5.6, 1.2 + 0.24 * max(len(top), 3))
    kinds = list(dict.fromkeys(classes)) if classes is not None else []
    colours = [PALETTE[kinds.index(classes[n]) % len(PALETTE)] if classes is not None else PALETTE[0] for n in top]
    places = np.arange(len(top))
    axes.barh(places, weights[top], color=colours, height=0.72)
    axes.set_yticks(places, [words[n] for n in top])
    axes.tick_params(axis="y", colors=INK)
    axes.grid(visible=False, axis="y")
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.spines["left"].set_visible(False)
    axes.margins(y=0.02)
    axes.set(title=title, xlabel=label)
    shown = [kind for kind in kinds if any(classes[n] == kind for n in top)] if classes is not None else []
    if shown:
        from matplotlib.patches import Patch

        _legend(axes, [Patch(color=PALETTE[kinds.index(k) % len(PALETTE)], label=k) for k in shown])
    return drawn


@styled
def bars(
    groups: Sequence[str],
    series: Mapping[str, Values],
    errors: Mapping[str, Values] | None = None,
    *,
    ylabel: str = "NDCG@10",
    title: str = "",
) -> "Figure":
    """Bars side by side: a group for each data set (or ablation), a bar for each method; thin lines are spreads.

    Args:
        groups: [n].
        series: [n] by name; NaN leaves a gap.
        errors: [n] by name, half lengths of the error lines; or [2, n], their lengths below and above.
    """
    count = len(series)
    drawn, (axes,) = figure(float(np.clip(1.8 + 0.24 * len(groups) * (count + 1), 5, 13)), 3.8)
    width = 0.82 / max(count, 1)
    places = np.arange(len(groups))
    for n, (name, values) in enumerate(series.items()):
        values = np.asarray(values, dtype=float)
        at = places + (n - (count - 1) / 2) * width
        axes.bar(at, values, width * 0.9, color=PALETTE[n % len(PALETTE)], label=name)
        if errors is not None and name in errors:
            axes.errorbar(at, values, np.asarray(errors[name], dtype=float), fmt="none", ecolor=INK, elinewidth=0.9)
    axes.set_xticks(places, groups)
    axes.tick_params(axis="x", colors=INK)
    inches = drawn.get_figwidth() - (2.4 if count > 1 else 1)
    if len(groups) * (max((len(g) for g in groups), default=0) + 2) * 0.075 > inches:
        axes.tick_params(axis="x", rotation=30)
        for text in axes.get_xticklabels():
            text.set(ha="right", rotation_mode="anchor")
    axes.grid(visible=False, axis="x")
    axes.set(ylabel=ylabel, title=title)
    if count > 1:
        _legend(axes)
    return drawn


def _cliques(ranks: np.ndarray, difference: float) -> list[tuple[int, int]]:
    """Maximal runs [first, last] of sorted ranks that lie within ``difference``, of at least two."""
    runs: list[tuple[int, int]] = []
    for first in range(len(ranks)):
        last = int(np.searchsorted(ranks, ranks[first] + difference, side="right")) - 1
        if last > first and (not runs or last > runs[-1][1]):
            runs.append((first, last))
    return runs if np.isfinite(difference) else []


def _along(axes: "Axes", x: np.ndarray, y: np.ndarray, labels: Sequence[str]) -> None:
    """Labels beside points of a path, on the outer side of its bends; those too near the last are left out."""
    span = np.array([np.ptp(x) or 1, np.ptp(y) or 1])
    points = np.stack([x, y], 1) / span
    centre = points.mean(0)
    last = None
    for n, label in enumerate(labels):
        ends = n in (0, len(labels) - 1)
        if last is not None and not ends and np.linalg.norm(points[n] - points[last]) < 0.12:
            continue
        if n != len(labels) - 1 and not ends and np.linalg.norm(points[n] - points[-1]) < 0.12:
            continue
        before, after = points[max(n - 1, 0)], points[min(n + 1, len(points) - 1)]
        normal = np.array([-(after - before)[1], (after - before)[0]])
        normal = normal if np.linalg.norm(normal) > 1e-9 else np.array([0.0, 1.0])
        if normal @ (points[n] - centre) < 0:
            normal = -normal
        dx, dy = 12 * normal / np.linalg.norm(normal)
        axes.annotate(
            label, (x[n], y[n]), xytext=(dx, dy), textcoords="offset points", color=MUTED, fontsize=8.5,
            ha="left" if dx > 4 else "right" if dx < -4 else "center",
            va="bottom" if dy > 4 else "top" if dy < -4 else "center",
        )  # fmt: skip
        last = n


def _dots(count: int) -> dict:
    """Markers where there are few enough points to see them."""
    return {"marker": "o", "markersize": 3.5} if count <= 40 else {}


def _title(axes: "Axes", title: str, note: str) -> None:
    axes.set_title(title, pad=24 if note else None)
    if note:
        axes.text(0, 1.02, note, transform=axes.transAxes, color=MUTED, fontsize=9, va="bottom")


def _legend(axes: "Axes", handles: list | None = None) -> None:
    """Beside the axes: never over the data."""
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)
