"""Reports of sweeps, from MLflow alone: tables and figures as one page, as Markdown, LaTeX, PNG and PDF.

results = Results(collect("paper"))       # what the store holds, arranged
files = write(document(results), folder)  # report.html, report.md, tables/*.tex, figures/*.{png,pdf}
"""

from symcere.reporting.collect import Sweep, SweepRun, collect
from symcere.reporting.document import Document
from symcere.reporting.results import Results
from symcere.reporting.sections import document
from symcere.reporting.write import Written, write

__all__ = ["Document", "Results", "Sweep", "SweepRun", "Written", "collect", "document", "write"]
