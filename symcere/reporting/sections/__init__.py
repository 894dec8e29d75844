"""The content of a report: which sentence, table and figure the results of a sweep come to.

Whatever is not there is said in words, with the reason; no figure is guessed.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from datetime import UTC, datetime

from symcere.reporting.collect import Sweep, SweepRun
from symcere.reporting.document import Document, Section
from symcere.reporting.results import NDCG, Results
from symcere.reporting.sections.accuracy import accuracy, average_rank, significance
from symcere.reporting.sections.cost import cost, protocol
from symcere.reporting.sections.popularity import popularity
from symcere.reporting.sections.search import ablation, chosen, importance, temperature
from symcere.reporting.words import DASH, counted, hours_text, lasted, listed, percent, reason

NAMED = 6
"""More data sets than these are counted at the head of the page, not named."""


def document(results: Results) -> Document:
    """The whole report of a sweep."""
    sweep = results.sweep
    gaps = [*sweep.notes, *results.notes, *_gaps(sweep, results)]
    sections = [
        Section("Accuracy", accuracy(results)),
        Section("Significance", significance(results)),
        Section("Average rank", average_rank(results)),
        Section("Temperature", temperature(results)),
        Section("Normalisation, loss and other choices", ablation(results)),
        Section("Popularity bias", popularity(results)),
        Section("Importance of settings", importance(results)),
        Section("Chosen settings", chosen(results)),
        Section("Cost", cost(sweep, results)),
        Section("How this was measured", protocol(sweep)),
    ]
    started = [run.started for run in sweep.runs]
    days = " to ".join(dict.fromkeys((_day(min(started)), _day(max(started)))))
    return Document(
        title=sweep.name,
        subtitle=f"A sweep over {counted(len(sweep.datasets), 'data set')}, {days}",
        lead=_lead(results),
        facts=_facts(sweep, results),
        gaps=gaps,
        sections=sections,
    )


def _day(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%-d %B %Y")


def _lead(results: Results) -> list[str]:
    gains = results.headline(NDCG)
    if not results.datasets:
        return ["No final model is finished yet: this report holds what the search alone shows, on validation."]
    if not gains:
        return [
            f"There is nothing to measure {results.focus} against, so this report says how good it is, not whether it "
            "is better."
        ]
    tested = {d: g.comparison for d, g in gains.items() if g.comparison is not None}
    relative = [g.relative for g in gains.values() if not math.isnan(g.relative)]
    rivals = "variant" if results.against_variants else "baseline"
    lead = []
    if relative:
        spread = percent(relative[0]) if len(relative) == 1 else f"{percent(min(relative))} to {percent(max(relative))}"
        middle = "" if len(relative) < 3 else f", median {percent(statistics.median(relative))}"
        where = f"on {next(iter(gains))}" if len(gains) == 1 else f"over {len(gains)} data sets"
        lead.append(f"{results.focus} against the strongest {rivals}, test NDCG@10 {where}: {spread}{middle}.")
    if tested:
        won = [d for d, c in tested.items() if c.marks and c.difference > 0]
        lost = [d for d, c in tested.items() if c.marks and c.difference < 0]
        open_ = [d for d in tested if d not in won and d not in lost]
        told = [
            f"{verb} on {listed(names) if len(tested) <= NAMED else counted(len(names), 'data set')}"
            for verb, names in (("significantly better", won), ("significantly worse", lost), ("not told apart", open_))
            if names
        ]
        over = "users and seeds" if any(c.seeds > 1 for c in tested.values()) else "users"
        lead.append(f"Over {over}, Holm-corrected, it is {'; '.join(told)}.")
    return lead


def _facts(sweep: Sweep, results: Results) -> dict[str, str]:
    methods = {run.method for run in sweep.runs}
    seeds = max((len(runs) for runs in results.finals.values()), default=0)
    hours = sum(lasted(run) for run in sweep.runs) / 3600
    return {
        "data sets": str(len(sweep.datasets)),
        "methods": str(len(methods)),
        "trials": f"{len(sweep.trials):,}",
        "final models": f"{len(sweep.finals):,}",
        "seeds": str(seeds or DASH),
        "hours": hours_text(hours),
    }


def _gaps(sweep: Sweep, results: Results) -> list[str]:
    gaps = []
    status = Counter(t.status for t in sweep.trials)
    if not sweep.trials:
        gaps.append("The store holds no trial of this sweep, so nothing is said about the search.")
    if status["FAILED"]:
        reasons = Counter(reason(t) for t in sweep.trials if t.status == "FAILED").most_common(1)[0]
        gaps.append(
            f"{counted(status['FAILED'], 'trial')} of {len(sweep.trials):,} failed and count nowhere but in the cost; "
            f"the commonest reason ({reasons[1]}): {reasons[0]}"
        )
    if status["KILLED"]:
        gaps.append(
            f"{counted(status['KILLED'], 'trial')} were stopped from outside before they ended; they are left out."
        )
    if status["RUNNING"] or status["SCHEDULED"]:
        gaps.append(
            f"{counted(status['RUNNING'] + status['SCHEDULED'], 'trial')} still run: the search is not over, and what "
            "is said about it may change."
        )
    empty = [t for t in sweep.trials if t.finished and math.isnan(t.validation)]
    if empty:
        names = sorted({t.method for t in empty})
        gaps.append(f"{counted(len(empty), 'finished trial')} logged no validation NDCG@10 ({listed(names)}).")
    if not sweep.finals:
        gaps.append("There is no finished final model, so there is no test figure, no significance and no rank.")
        return gaps + [_final_failure(run) for run in sweep.unfinished[:5]]
    tried = {(t.dataset, t.method) for t in sweep.trials}
    absent = sorted(tried - set(results.finals))
    if absent:
        gaps.append(f"Searched, but without a finished final model: {listed([f'{m} on {d}' for d, m in absent])}.")
    gaps += [_final_failure(run) for run in sweep.unfinished[:5]]
    if len(sweep.unfinished) > 5:
        gaps.append(f"{len(sweep.unfinished) - 5} further final models are not finished either.")
    counts = {key: len(runs) for key, runs in results.finals.items()}
    if max(counts.values()) == 1:
        gaps.append(
            "Every final model was trained with one seed: there is no spread over seeds, and every p-value speaks of "
            "these very models, not of the methods."
        )
    else:
        fewer = [
            f"{m} on {d} ({n})"
            for (d, m), n in counts.items()
            if n < max(counts.values()) and not results.deterministic(d, m)
        ]
        if fewer:
            gaps.append(f"Fewer than {max(counts.values())} seeds: {listed(sorted(fewer))}.")
    short = sorted({f"{r.method} on {r.dataset}" for r in sweep.finals if f"test_{NDCG}" not in r.metrics})
    if short:
        gaps.append(f"No test NDCG@10 (a catalogue of fewer than ten items has none): {listed(short)}.")
    blind = sorted(set(results.without_validation()))
    if blind:
        gaps.append(
            f"{listed(blind)} have no validation NDCG@10 in the store, so they could not be chosen as the strongest "
            "baseline; the tables show how they did on test."
        )
    return gaps


def _final_failure(run: SweepRun) -> str:
    state = {"FAILED": "failed", "KILLED": "was stopped", "RUNNING": "still runs"}.get(run.status, "has no test metric")
    why = f": {reason(run)}" if run.error else "."
    return f"The final model of {run.method} on {run.dataset}, seed {run.seed}, {state}{why}"
