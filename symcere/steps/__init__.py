"""One function for each command; the Python API a notebook uses.

    from symcere import steps
    steps.prepare("my-shop", sources=["reviews.csv"], settings={"core": 3})
    run = steps.train("my-shop")
    steps.recommend(run.name, ["user-17"], k=10)

A step composes the rooms below it and adds tracking; it holds no logic of its own.
"""

from symcere.steps.corpora import datasets, embed, fetch, open_corpus, prepare
from symcere.steps.demo import demo
from symcere.steps.doctor import doctor
from symcere.steps.explain import explain, explore
from symcere.steps.report import report
from symcere.steps.runs import Run, baselines, evaluate, restore, train
from symcere.steps.serving import export, promote, recommend, register, score
from symcere.steps.stored import ls, rm
from symcere.steps.submit import submit
from symcere.steps.sweeps import plan, sweep

__all__ = [
    "Run",
    "baselines",
    "datasets",
    "demo",
    "doctor",
    "embed",
    "evaluate",
    "explain",
    "explore",
    "export",
    "fetch",
    "ls",
    "open_corpus",
    "plan",
    "prepare",
    "promote",
    "recommend",
    "register",
    "report",
    "restore",
    "rm",
    "score",
    "submit",
    "sweep",
    "train",
]
