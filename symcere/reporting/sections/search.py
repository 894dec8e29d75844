"""What the search shows, on validation: temperatures, alternatives, what mattered, what was chosen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from symcere import plots
from symcere.reporting import search
from symcere.reporting.collect import SweepRun
from symcere.reporting.document import Block, Cell, Figure, Row, Table, Text
from symcere.reporting.results import Results
from symcere.reporting.words import DASH, counted, digits, file_name, listed, mean_of, short

MOST_LINES = 7
"""More data sets, or methods, than these are not drawn one by one."""
ABLATED = {"model.normalise": "normalisation", "objective.ranking.loss": "ranking loss"}
"""Always spoken of, also where they did not vary; what they are called."""
TEMPERATURE = "objective.ranking.temperature"


def temperature(results: Results) -> list[Block]:
    trials = {m: {d: search.useful(t) for (d, of), t in results.trials.items() if of == m} for m in results.searched}
    tops: dict[str, float] = {}
    for each in trials.values():
        for dataset, of in each.items():
            tops[dataset] = max([tops.get(dataset, 0.0), *(t.validation for t in of)])
    blocks: list[Block] = []
    for name in _temperatures(trials.get(results.focus, {})):
        lines = trials[results.focus]
        blocks += _curve(results.focus, name, lines, tops, "data set")
        losses = _by_loss(lines, tops) if name == TEMPERATURE else {}
        if len(losses) > 1:
            blocks += _curve(f"{results.focus}, by ranking loss", name, losses, dict.fromkeys(losses, 1.0), "loss")
    main = {method: names[0] for method in trials if (names := _temperatures(trials[method]))}
    if set(main) - {results.focus}:
        blocks += _curve_of_methods(results, main, trials, tops)
    if not blocks:
        return [Text("No temperature with an effect was varied in this sweep, so there is no curve.", missing=True)]
    lead = (
        "Best validation NDCG@10 among the trials with each temperature, whatever their other settings, as a share of "
        "the best of any method on the data set: an upper envelope of the search, not a controlled experiment. "
        f"Where there are more than {search.MOST_POINTS}, they are gathered in ranges of equal ratio. A ring marks the "
        "best of each line."
    )
    return [Text(lead), *blocks]


Trials = Mapping[str, list[SweepRun]]
"""Of one method, by data set."""


def _temperatures(trials: Trials) -> list[str]:
    """Temperatures that varied and had an effect, that of the ranking loss first."""
    names = {n for t in trials.values() for n in search.varied(t) if n.endswith(".temperature")}
    acting = [n for n in names if any(len(search.by_value(t, n)) > 1 for t in trials.values())]
    return sorted(acting, key=lambda n: (n != TEMPERATURE, n))


def _share(
    trials: Trials, name: str, tops: Mapping[str, float], lines: int = 1
) -> tuple[dict[str, dict[float, float]], int]:
    """:func:`_on` the ranges that suit these trials."""
    return _on(search.grid((t for each in trials.values() for t in each), name, lines), trials, name, tops)


def _curve(title: str, name: str, trials: Trials, tops: Mapping[str, float], lines: str) -> list[Block]:
    """A line for each key of ``trials``; too many are drawn as their mean and its spread."""
    shares, count = _share(trials, name, tops, min(len(trials), MOST_LINES))
    where = sorted({v for share in shares.values() for v in share})
    if len(where) < 2:
        return []
    table = {key: [share.get(v, math.nan) for v in where] for key, share in shares.items()}
    spreads, shown = None, f"one line for each {lines}"
    if len(table) > MOST_LINES:
        values = np.array(list(table.values()))
        shown = f"mean of {len(values)} {lines}s"
        table = {shown: np.nanmean(values, axis=0).tolist()}
        spreads = {shown: np.nanstd(values, axis=0)}
        shown += " and, shaded, their standard deviation"
    drawn = plots.temperature_curve(
        where, table, spreads, metric_name="share of the best validation NDCG@10", title=title
    )
    caption = f"{title}: `{name}`, {counted(count, 'trial')}, {shown}."
    return [Figure(f"{name.replace('.', '_')}_{file_name(title)}", caption, drawn)]


def _by_loss(trials: Trials, tops: Mapping[str, float]) -> dict[str, list[SweepRun]]:
    """The trials of each ranking loss with a temperature, each validation as a share of its data set's best."""
    found: dict[str, list[SweepRun]] = {}
    for dataset, each in trials.items():
        top = tops[dataset]
        for trial in each:
            if top > 0 and search.acts(trial, TEMPERATURE) and TEMPERATURE in trial.params:
                loss = str(trial.params["objective.ranking.loss"])
                found.setdefault(loss, []).append(replace(trial, validation=trial.validation / top))
    return found


def _curve_of_methods(
    results: Results, main: Mapping[str, str], trials: Mapping[str, Trials], tops: Mapping[str, float]
) -> list[Block]:
    """One line for each method, over its main temperature: the mean over data sets."""
    strongest = sorted(main, key=lambda m: (m != results.focus, -results.strength(m)))[:MOST_LINES]
    shares = {m: _share(trials[m], main[m], tops) for m in strongest}
    values = {v for share, _ in shares.values() for points in share.values() for v in points}
    if len(values) > search.MOST_POINTS:  # methods whose ranges differ: one grid for all
        bounds = np.geomspace(min(values), max(values), 8)
        shares = {m: _on(bounds, trials[m], main[m], tops) for m in strongest}
        values = {v for share, _ in shares.values() for points in share.values() for v in points}
    where = sorted(values)
    lines = {}
    for method, (share, _) in shares.items():
        part = main[method].split(".")[-2]
        means = [mean_of(points[v] for points in share.values() if v in points) for v in where]
        lines[method if part == "ranking" else f"{method} ({part})"] = means
    drawn = plots.temperature_curve(
        where, lines, metric_name="share of the best validation NDCG@10", title="Every method with a temperature"
    )
    caption = (
        "Every method over its main temperature (in brackets the term, where it is not the ranking loss), mean over "
        f"data sets, {counted(sum(count for _, count in shares.values()), 'trial')}."
    )
    return [Figure("temperature_of_methods", caption, drawn)]


def _on(
    bounds: np.ndarray | None, trials: Trials, name: str, tops: Mapping[str, float]
) -> tuple[dict[str, dict[float, float]], int]:
    """For each data set, the share of its best by temperature; and how many trials stand behind it all."""
    curves = {d: search.curve(each, name, bounds) for d, each in sorted(trials.items())}
    shares = {d: {v: r.best / tops[d] for v, r in c.items()} for d, c in curves.items() if c and tops[d] > 0}
    return shares, sum(r.trials for c in curves.values() for r in c.values())


def ablation(results: Results) -> list[Block]:
    trials = {m: {d: search.useful(t) for (d, of), t in results.trials.items() if of == m} for m in results.searched}
    by_setting: dict[str, list[str]] = {}
    for method, by_dataset in trials.items():
        for name in dict.fromkeys(n for each in by_dataset.values() for n in search.varied(each)):
            if name in ABLATED or not all(search.is_number(each, name) for each in by_dataset.values()):
                by_setting.setdefault(name, []).append(method)
    blocks: list[Block] = []
    for name in ABLATED:
        if results.focus in by_setting.get(name, []):
            blocks += _ablation_bars(results.focus, name, trials[results.focus])
    for name in sorted(by_setting, key=lambda n: list(ABLATED).index(n) if n in ABLATED else len(ABLATED)):
        blocks.append(_ablation_table(name, {m: trials[m] for m in by_setting[name]}))
    if blocks:
        note = (
            "Best validation NDCG@10 among the trials with each value, beside it their median and number; marginal "
            "over all other settings, on validation. A sampler spends more trials where it sees promise, and the best "
            "of many is higher than the best of few: read the best and the number together."
        )
        blocks.insert(0, Text(note))
    absent = [ABLATED[n] for n in ABLATED if results.focus not in by_setting.get(n, [])]
    if absent:
        whose = f"{results.focus} was not searched over its {listed(absent)}, so this sweep says nothing about it."
        blocks.append(Text(whose, missing=True))
    return blocks


def _ablation_bars(method: str, name: str, trials: Trials) -> list[Block]:
    reached = {d: found for d, each in sorted(trials.items()) if len(found := search.by_value(each, name)) > 1}
    values = sorted({v for found in reached.values() for v in found}, key=str)
    top = {d: max(r.best for r in found.values()) for d, found in reached.items()}
    shares = {
        str(v): [reached[d][v].best / top[d] if v in reached[d] and top[d] else math.nan for d in reached]
        for v in values
    }
    if not reached:
        return []
    groups = list(reached)
    if len(groups) > MOST_LINES:
        shares = {v: [mean_of(s for s in share if not math.isnan(s))] for v, share in shares.items()}
        groups = [f"mean of {len(groups)} data sets"]
    title = f"{ABLATED[name][:1].upper()}{ABLATED[name][1:]}, {method}"
    drawn = plots.bars(groups, shares, ylabel="share of the best validation NDCG@10", title=title)
    caption = f"{title}: best trial with each value, as a share of the best of the data set."
    return [Figure(f"{name.replace('.', '_')}_{file_name(method)}", caption, drawn)]


def _ablation_table(name: str, methods: Mapping[str, Trials]) -> Table:
    datasets = sorted({d for by_dataset in methods.values() for d, each in by_dataset.items() if each})
    rows: list[Row] = []
    for method, by_dataset in methods.items():
        reached = {d: search.by_value(by_dataset.get(d, []), name) for d in datasets}
        for value in sorted({v for found in reached.values() for v in found}, key=lambda v: (isinstance(v, str), v)):
            row: list[Cell | str] = [method, short(value)]
            for found in reached.values():
                here = found.get(value)
                best = here is not None and len(found) > 1 and here.best == max(r.best for r in found.values())
                row.append(
                    Cell(digits(here.best), f"{digits(here.median)}, {here.trials}", best=best) if here else DASH
                )
            rows.append(row)
    title = ABLATED.get(name, f"`{name}`")
    return Table(
        f"ablation_{name.replace('.', '_')}",
        f"{title[:1].upper()}{title[1:]}: best validation NDCG@10 (median, trials)",
        ["method", search.label(name), *datasets],
        rows,
        stub=2,
        folded=name not in ABLATED,
    )


def importance(results: Results) -> list[Block]:
    blocks: list[Block] = []
    silent: dict[str, list[str]] = {}
    for method in results.searched:
        shares: dict[str, list[float]] = {}
        told = 0
        for (dataset, m), trials in sorted(results.trials.items()):
            if m != method:
                continue
            found = search.importance(trials)
            if isinstance(found, str):
                silent.setdefault(found, []).append(f"{method} on {dataset}")
                continue
            told += 1
            for name, share in found.items():
                shares.setdefault(name, []).append(share)
        if not told:
            continue
        mean = {name: sum(v) / told for name, v in sorted(shares.items(), key=lambda s: -sum(s[1]))}
        over = f", mean over {told} data sets" if told > 1 else ""
        drawn = plots.word_weights(
            list(mean), list(mean.values()), most=10, title=f"{method}{over}", label="share of the variance explained"
        )
        caption = (
            f"{method}: share of the variance of validation NDCG@10 over trials that each setting explains "
            f"(fANOVA){over}."
        )
        blocks.append(Figure(f"importance_{file_name(method)}", caption, drawn))
    if blocks:
        blocks.insert(
            0,
            Text(
                "fANOVA (Hutter et al., ICML 2014) on studies rebuilt from the trials. The space is taken as wide as "
                "the trials reached, and a sampler that homes in makes what it has settled early look unimportant."
            ),
        )
    for reason, which in silent.items():
        blocks.append(Text(f"No importance for {listed(which)}: {reason}.", missing=True))
    return blocks or [Text("There are no trials, so there is nothing to weigh.", missing=True)]


def chosen(results: Results) -> list[Block]:
    """The searched settings of the final models; what a reader needs to repeat them."""
    blocks: list[Block] = []
    for method in results.methods:
        runs = {d: results.finals[d, method][0] for d in results.datasets if (d, method) in results.finals}
        names = list(
            dict.fromkeys(n for d in runs for n in search.varied(results.trials.get((d, method), [])))
        ) or search.varied(list(runs.values()))
        if not names:
            continue
        rows = [[d, *(short(run.params.get(n)) for n in names)] for d, run in runs.items()]
        blocks.append(
            Table(
                f"chosen_{file_name(method)}", f"{method}: the setting with the best validation",
                ["data set", *map(search.label, names)], rows, folded=len(results.methods) > 3,
            )
        )  # fmt: skip
    return blocks or [Text("Nothing was searched over, so every method ran with its given settings.", missing=True)]
