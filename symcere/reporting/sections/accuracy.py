"""How good the final models are, whether the difference is real, and who is best over all data sets."""

from __future__ import annotations

import math

import numpy as np

from symcere import plots
from symcere.evaluation.significance import Comparison
from symcere.reporting.document import Block, Cell, Figure, Row, Table, Text
from symcere.reporting.results import NDCG, TITLES, Gain, Results
from symcere.reporting.words import DASH, STARS, digits, listed, p_is, p_value, percent, signed


def accuracy(results: Results) -> list[Block]:
    if not results.datasets:
        return [Text("No final model has finished, so there is no test figure yet.", missing=True)]
    rivals = "other variant" if results.against_variants else "baseline"
    blocks: list[Block] = []
    if results.rivals:
        blocks.append(
            Text(
                "Mean over seeds ± standard deviation on the test split, which only these final models have seen, "
                f"once. The last column is the relative gain of {results.focus} over the strongest {rivals} of the "
                "data set: the one with the best validation NDCG@10 of its final models, chosen before test figures "
                "are looked at."
            )
        )
    variants = [m for m in results.methods if m not in (results.focus, *results.rivals)]
    if variants and results.rivals:
        blocks.append(Text(f"{listed(variants)}: variants of {results.focus}, shown, but no baselines to it."))
    if results.elected and results.rivals:
        blocks.append(
            Text(
                f"{results.focus} is the one measured because its validation NDCG@10 is the best on most data sets; it "
                "was not proposed before the sweep, so its gain is that of a winner chosen among all."
            )
        )
    for metric, title in TITLES.items():
        blocks.append(_main_table(results, metric, title))
    told = []
    for dataset in results.datasets:
        strongest = results.best(dataset, NDCG, results.rivals)
        if results.strongest(dataset) and strongest and results.strongest(dataset) not in strongest:
            gain = results.gain(dataset, strongest[0], NDCG)
            assert gain is not None
            told.append(f"{strongest[0]} on {dataset}, against which the gain is {percent(gain.relative)}")
    if told:
        blocks.append(
            Text(f"Chosen with hindsight, by test, the strongest {rivals} would be another: {'; '.join(told)}.")
        )
    seen = {d: results.best(d, NDCG) for d in results.datasets if results.score(d, results.focus, NDCG)}
    told = [f"{listed(best)} on {d}" for d, best in seen.items() if results.focus not in best]
    if told:
        blocks.append(
            Text(f"{results.focus} does not have the best mean NDCG@10 everywhere. Higher on test: {listed(told, 15)}.")
        )
    return blocks


def _main_table(results: Results, metric: str, title: str) -> Table:
    gains = results.headline(metric)
    rows: list[Row] = []
    for dataset in results.datasets:
        best, second = (results.best(dataset, metric, place=place) for place in (1, 2))
        row: list[Cell | str] = [dataset]
        for method in results.methods:
            score = results.score(dataset, method, metric)
            row.append(
                Cell(
                    digits(score.mean),
                    "" if math.isnan(score.sd) else f"± {digits(score.sd)}",
                    best=method in best and len(results.methods) > 1,
                    second=method in second and len(results.methods) > 2,
                )
                if score
                else DASH
            )
        if results.rivals:
            gain = gains.get(dataset)
            row += [DASH, DASH] if gain is None else [gain.other, _gain_cell(gain)]
        rows.append(row)
    head = ["data set", *results.methods, *(["strongest", "gain"] if results.rivals else [])]
    note = "**Best** and _second best_ mean of each row. " if len(results.methods) > 2 else ""
    note += f"Stars: {STARS} over data sets, paired over users and seeds." if results.rivals else ""
    return Table(f"main_{metric}", f"{title} on the test split", head, rows, note=note.strip())


def _gain_cell(gain: Gain) -> Cell:
    marks = gain.comparison.marks if gain.comparison else ""
    return Cell(percent(gain.relative), marks=marks, good=int(np.sign(gain.relative)) if marks else 0)


def significance(results: Results) -> list[Block]:
    if not results.headline(NDCG):
        why = (
            "no final model has finished" if not results.datasets
            else "no baseline has both a final model and a validation value" if results.rivals
            else "the sweep has one method only"
        )  # fmt: skip
        return [Text(f"Nothing is compared: {why}.", missing=True)]
    rivals = "variant" if results.against_variants else "baseline"
    blocks: list[Block] = [
        Text(
            f"{results.focus} minus the strongest {rivals}, user by user and seed by seed; users and seeds are both "
            "random, crossed (quasi-F with Satterthwaite's degrees of freedom). The interval is of the difference, at "
            "95 %, uncorrected; d is the mean difference in standard deviations of the users' differences (0.2 is "
            "called small)."
        )
    ]
    rows = [[TITLES[metric], *_compared(gain)] for metric in TITLES for gain in results.headline(metric).values()]
    head = [
        "metric",
        "data set",
        f"strongest {rivals}",
        "difference",
        "95 % interval",
        "relative",
        "d",
        "p",
        "p (Holm)",
        "users",
        "seeds",
    ]
    blocks.append(
        Table(
            "significance", f"{results.focus} against the strongest {rivals}", head, rows, stub=3,
            note=f"Holm's correction over the data sets, for each metric apart. {STARS}.",
        )
    )  # fmt: skip
    everyone = results.everyone(NDCG)
    if len(everyone) > len(results.headline(NDCG)):
        rows = [_compared(gain) for gain in everyone]
        blocks.append(
            Table(
                "comparisons", f"{results.focus} against every other method, NDCG@10",
                ["data set", "method", *head[3:]], rows, stub=2,
                note=f"Holm's correction over all {len(everyone)} comparisons. {STARS}.", folded=True,
            )
        )  # fmt: skip
    missing = sorted({f"{g.other} on {g.dataset}: {g.missing}" for g in everyone if g.missing})
    if missing:
        blocks.append(Text(f"Not tested: {'; '.join(missing)}.", missing=True))
    return blocks


def _compared(gain: Gain) -> list[Cell | str]:
    c = gain.comparison
    if c is None:
        return [gain.dataset, gain.other, signed(gain.ours - gain.theirs), DASH, percent(gain.relative), *[DASH] * 5]
    return [
        gain.dataset,
        gain.other,
        Cell(signed(c.difference), marks=c.marks, good=int(np.sign(c.difference)) if c.marks else 0),
        f"{signed(c.low)} … {signed(c.high)}",
        percent(gain.relative),
        f"{c.effect:+.2f}".replace("-", "−"),
        p_value(c.p),
        p_value(_holm(c)),
        f"{c.users:,}",
        str(c.seeds),
    ]


def _holm(c: Comparison) -> float:
    return c.p if c.p_holm is None else c.p_holm


def average_rank(results: Results) -> list[Block]:
    ranks, datasets, left = results.ranks()
    if ranks is None:
        return [Text("Fewer than two methods have test NDCG@10 on every data set, so there is no rank.", missing=True)]
    blocks: list[Block] = []
    without = [d for d in results.datasets if d not in datasets]
    if without:
        blocks.append(Text(f"Without {listed(without)}, where no method has test NDCG@10.", missing=True))
    if len(datasets) == 1:
        blocks.append(
            Text("One data set gives an order, not an average rank; a critical difference needs several.", missing=True)
        )
    else:
        friedman = f"Friedman's test that all are alike: {p_is(ranks.p)}."
        caution = (
            f" {len(datasets)} data sets are few for it: differences in rank have to be very large to be told apart."
            if len(datasets) < 5
            else ""
        )
        blocks.append(
            Text(
                f"Average rank by test NDCG@10 over {len(datasets)} data sets, {len(ranks.methods)} methods. "
                f"{friedman} Nemenyi's critical difference at 5 %: {ranks.critical_difference:.2f}.{caution}"
            )
        )
        drawn = plots.critical_difference(ranks.methods, ranks.ranks, ranks.critical_difference, datasets=len(datasets))
        caption = "Average ranks, 1 is best. Methods under one bar are not told apart (Demšar, JMLR 2006)."
        blocks.append(Figure("critical_difference", caption, drawn))
    if left:
        blocks.append(
            Text(f"Without test NDCG@10 on every data set, and so without a rank: {listed(left)}.", missing=True)
        )
    return blocks
