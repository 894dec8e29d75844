"""The report of a sweep: from the MLflow store to files, and back into the store."""

from pathlib import Path
from typing import Any

from symcere import tracking
from symcere.errors import UserError
from symcere.home import home
from symcere.steps.corpora import Progress
from symcere.tracking import tag


def report(sweep: str, out: str | Path | None = None, method: str = "", progress: Progress = None) -> dict[str, Any]:
    """Report of a sweep, from MLflow alone: a page, Markdown, LaTeX, figures; logged as a run beside the sweep's.

    Args:
        sweep: its name.
        out: folder to write to, by default ``reports/<sweep>`` under the home; an older report there is replaced.
        method: the method whose gain is reported, by default ``symcere`` if it took part, else the best on validation.

    Raises:
        UserError: an unreachable store, an unknown sweep or method, or a folder that holds something else.
    """
    from symcere.reporting import Results, collect, document, write
    from symcere.reporting.results import NDCG, RECALL

    folder = (Path(out) if out else home() / "reports" / sweep).absolute()
    if (
        folder.exists()
        and not (folder / "report.html").exists()
        and not (folder.is_dir() and not any(folder.iterdir()))
    ):
        raise UserError(f"{folder} holds something else than a report; it would be replaced. Give another --out.")
    tell = progress or (lambda *_: None)
    tell("report", 0, 3, "reading the store")
    found = collect(sweep)
    tell("report", 1, 3, "comparing, drawing")
    results = Results(found, method)
    made = document(results)
    tell("report", 2, 3, "writing")
    files = write(made, folder)
    with tracking.start_run(found.experiment, f"{sweep}-report", tags={tag.SWEEP: sweep, tag.ROLE: "report"}) as run:
        run.log_file(files.folder, "report")
    table = []
    for dataset in results.datasets:
        gain = results.headline(NDCG).get(dataset)
        for name in results.methods:
            ndcg, recall = (results.score(dataset, name, metric) for metric in (NDCG, RECALL))
            here = gain if gain and name == results.focus else None
            table.append(
                {
                    "data set": dataset,
                    "method": name,
                    "seeds": len(ndcg.values) if ndcg else 0,
                    "NDCG@10": ndcg.mean if ndcg else None,
                    "± NDCG@10": ndcg.sd if ndcg else None,
                    "Recall@10": recall.mean if recall else None,
                    "gain": here.relative if here else None,
                    "over": here.other if here else None,
                    "p": here.comparison.p_holm if here and here.comparison else None,
                }
            )
    return {
        "sweep": sweep,
        "page": files.page,
        "markdown": files.markdown,
        "tables": files.folder / "tables",
        "figures": files.folder / "figures",
        "run": run.name,
        "finding": " ".join(made.lead),
        "results": table,
        "notes": list(made.gaps),
    }
