"""How much of a model is popularity: whom it serves, what it recommends, what its vector lengths hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from symcere import plots
from symcere.evaluation.popularity import norm_correlation
from symcere.reporting.document import Block, Cell, Figure, Row, Table, Text
from symcere.reporting.results import NDCG, Results
from symcere.reporting.words import DASH, digits, file_name, listed, value_or

MOST_DATASETS = 7
"""More of them than these are drawn as their mean."""
FEW_DATASETS = 4
"""So many pictures of vector lengths stand for all, where there are more data sets."""
MOST_METHODS = 5
"""Methods beside each other in a figure; the table holds all."""
THIRDS = ("head", "middle", "tail")


def popularity(results: Results) -> list[Block]:
    if not results.datasets:
        return [Text("No final model has finished, so what is recommended is not known.", missing=True)]
    blocks: list[Block] = []
    rows: list[Row] = []
    for dataset in results.datasets:
        for method in results.methods:
            if (dataset, method) in results.finals:
                values = [results.score(dataset, method, f"{NDCG}_{third}") for third in THIRDS]
                others = [results.score(dataset, method, f"{name}_at_10") for name in ("arp", "gini", "coverage")]
                rows.append(
                    [
                        dataset,
                        method,
                        *(Cell(digits(s.mean)) if s else DASH for s in values),
                        f"{others[0].mean:,.1f}" if others[0] else DASH,
                        *(f"{s.mean:.3f}" if s else DASH for s in others[1:]),
                        _correlation(results.items(dataset, method)),
                    ]
                )
    blocks.append(
        Text(
            "Items stand in three thirds of the training interactions: a few popular ones hold the first (head), many "
            "rare ones the last (tail). Mean popularity is in training interactions of what is recommended; Gini is 0 "
            "where all items are recommended equally often; coverage is the share of items recommended to anybody; "
            "norm is the Spearman correlation of the length of item vectors with popularity, of one final model."
        )
    )
    methods = _shown(results)
    for dataset in results.datasets if len(results.datasets) <= MOST_DATASETS else ():
        series, errors = {}, {}
        for method in methods:
            scores = [results.score(dataset, method, f"{NDCG}_{third}") for third in THIRDS]
            if any(scores):
                series[method] = [s.mean if s else math.nan for s in scores]
                errors[method] = [0.0 if s is None or math.isnan(s.sd) else s.sd for s in scores]
        if series:
            drawn = plots.bars(THIRDS, series, errors, title=dataset, ylabel="test NDCG@10")
            caption = (
                f"{dataset}: test NDCG@10 for relevant items of each third of popularity; thin lines are ± one "
                "standard deviation over seeds."
            )
            blocks.append(Figure(f"popularity_{file_name(dataset)}", caption, drawn))
        else:
            blocks.append(Text(f"NDCG by popularity was not stored for {dataset}.", missing=True))
    if len(results.datasets) > MOST_DATASETS:
        blocks += _mean_thirds(results, methods)
    blocks.append(
        Table(
            "popularity", "Popularity of what is found and recommended, test split, mean over seeds",
            ["data set", "method", "NDCG@10 head", "middle", "tail", "mean popularity", "Gini", "coverage", "norm"],
            rows, stub=2, folded=len(rows) > 24,
        )
    )  # fmt: skip
    return blocks + _norms(results)


def _mean_thirds(results: Results, methods: Sequence[str]) -> list[Block]:
    series = {}
    for method in methods:
        shares = []
        for dataset in results.datasets:
            scores = [results.score(dataset, method, f"{NDCG}_{third}") for third in THIRDS]
            rival = [results.score(dataset, results.focus, f"{NDCG}_{third}") for third in THIRDS]
            shares.append(
                [s.mean / r.mean if s and r and r.mean else math.nan for s, r in zip(scores, rival, strict=True)]
            )
        table = np.array(shares)
        if not np.isnan(table).all(axis=0).any():
            series[method] = np.nanmean(table, axis=0)
    if not series:
        return [Text("NDCG by popularity was not stored.", missing=True)]
    drawn = plots.bars(
        THIRDS,
        series,
        title=f"Mean over {len(results.datasets)} data sets",
        ylabel=f"NDCG@10 / that of {results.focus}",
    )
    caption = f"Test NDCG@10 by third of popularity, as a share of {results.focus}'s, mean over data sets."
    return [Figure("popularity_thirds", caption, drawn)]


def _norms(results: Results) -> list[Block]:
    """Vector length against popularity: the focus beside the strongest rival whose vectors differ in length."""
    blocks: list[Block] = []
    alike: list[str] = []
    without: list[str] = []
    drawn_ones = results.datasets if len(results.datasets) <= MOST_DATASETS else results.datasets[:FEW_DATASETS]
    for dataset in drawn_ones:
        ranked = sorted(results.rivals, key=lambda m: -value_or(results.validation(dataset, m), -1))
        known = {m: table for m in [results.focus, *ranked] if (table := results.items(dataset, m)) is not None}
        moving = [m for m in known if not math.isnan(norm_correlation(known[m]["norm"], known[m]["popularity"]))]
        shown = list(dict.fromkeys([*(m for m in known if m == results.focus), *moving]))[:2]
        if not moving:
            (alike if known else without).append(dataset)
            continue
        popularity = known[shown[0]]["popularity"]
        lengths = {m: known[m]["norm"] / np.median(known[m]["norm"]) for m in shown}
        told = [f"{m} {_correlation(known[m])}" for m in shown]
        note = f"Spearman correlation: {', '.join(told)}"
        drawn = plots.norm_against_popularity(popularity, lengths, title=dataset, note=note)
        caption = f"{dataset}: length of item vectors, median 1, against training interactions; one final model each."
        blocks.append(Figure(f"norms_{file_name(dataset)}", caption, drawn))
    if alike:
        blocks.append(
            Text(f"On {listed(alike)} every model's item vectors are of one length, so there is nothing to draw.")
        )
    if without:
        blocks.append(
            Text(f"No vectors of items were stored for {listed(without)}, so their length is not drawn.", missing=True)
        )
    if len(results.datasets) > MOST_DATASETS:
        blocks.append(
            Text(f"Drawn for the first {FEW_DATASETS} data sets; the table has the correlation on all of them.")
        )
    return blocks


def _correlation(table: Mapping[str, np.ndarray] | None) -> str:
    if table is None:
        return DASH
    correlation = norm_correlation(table["norm"], table["popularity"])
    return "constant" if math.isnan(correlation) else f"{correlation:+.2f}".replace("-", "−")


def _shown(results: Results) -> list[str]:
    """The methods of a figure: the focus, and the others that did best on validation over data sets."""
    others = sorted((m for m in results.methods if m != results.focus), key=lambda m: -results.strength(m))
    chosen = others[: MOST_METHODS - 1]
    if "popularity" in others and "popularity" not in chosen:
        chosen[-1] = "popularity"
    return [results.focus, *chosen]
