"""What the sweep cost, and how everything was measured."""

from __future__ import annotations

import statistics
from collections import Counter

from symcere.reporting.collect import Sweep
from symcere.reporting.document import Block, Row, Table, Text
from symcere.reporting.results import Results
from symcere.reporting.words import DASH, counted, hours_text, lasted, listed, reason, seconds_text
from symcere.tracking import tag


def cost(sweep: Sweep, results: Results) -> list[Block]:
    rows: list[Row] = []
    keys = sorted({(r.dataset, r.method) for r in sweep.runs}, key=lambda k: (k[0], results.place(k[1])))
    for dataset, method in keys:
        trials = [t for t in sweep.trials if (t.dataset, t.method) == (dataset, method)]
        finals = [t for t in (*sweep.finals, *sweep.unfinished) if (t.dataset, t.method) == (dataset, method)]
        done = [lasted(t) for t in trials if t.finished]
        failed = sum(t.status == "FAILED" for t in trials)
        cut = sum(t.stopped for t in trials)
        rows.append(
            [
                dataset, method, f"{len(trials):,}", str(failed or DASH), str(cut or DASH),
                str(len(trials) - len(done) - failed or DASH),
                seconds_text(statistics.median(done)) if done else DASH,
                hours_text(sum(map(lasted, trials)) / 3600), str(len(finals)),
                hours_text(sum(map(lasted, finals)) / 3600),
            ]
        )  # fmt: skip
    head = ["data set", "method", "trials", "failed", "cut short", "unfinished", "seconds a trial", "hours"]
    head += ["final models", "hours"]
    total = sum(lasted(r) for r in sweep.runs) / 3600
    blocks: list[Block] = [
        Text(
            f"{counted(len(sweep.trials), 'trial')}, "
            f"{counted(len(sweep.finals) + len(sweep.unfinished), 'final model')}: {hours_text(total)} hours of runs, "
            "each from its start to its end, added up whether or not they ran side by side. Seconds are the median of "
            "finished trials; those cut short were stopped by the scheduler and count with the best they had reached."
        ),
        Table("cost", "Cost of the search and of the final models", head, rows, stub=2, folded=len(rows) > 30),
    ]
    reasons = Counter((reason(r), r.method) for r in sweep.runs if r.status == "FAILED")
    if reasons:
        told = [[method, why, str(number)] for (why, method), number in reasons.most_common(12)]
        blocks.append(Table("failures", "Failed runs and their reasons", ["method", "reason", "runs"], told, stub=2))
    return blocks


def protocol(sweep: Sweep) -> list[Block]:
    corpora = {r.dataset: r.corpus for r in sweep.runs if r.corpus}
    commits = Counter(r.tags.get(tag.COMMIT, "")[:12] for r in sweep.runs)
    commits.pop("", None)
    versions = sorted({r.tags.get(tag.VERSION, "") for r in sweep.runs} - {""})
    changed = any(r.tags.get(tag.CHANGED) == "true" for r in sweep.runs)
    code = f"symcere {listed(versions)}" if versions else "an unknown version of symcere"
    if commits:
        code += f", commit {listed([f'`{c}`' for c in commits])}" + (" with uncommitted changes" if changed else "")
    blocks: list[Block] = [
        Text(
            "All items that a user has not trained on are ranked, validation items masked on test; relevance is "
            "binary; means are over users with at least one test interaction. Settings are chosen by validation "
            "NDCG@10 alone. The chosen setting of each data set and method is trained again for each seed, and only "
            "these models read the test split, once."
        ),
        Text(f"Made by {code}; everything on this page comes from the MLflow experiment `{sweep.experiment}`."),
    ]
    if corpora:
        rows = [[d, corpora[d][:16]] for d in sorted(corpora)]
        blocks.append(Table("corpora", "Corpora", ["data set", "fingerprint"], rows, stub=2, folded=True))
    return blocks
