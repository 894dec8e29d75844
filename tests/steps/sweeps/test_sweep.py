"""Whole sweeps, over real Ray."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
from sweeping import CHOICES, driver, ended, make_corpus, optuna_studies, outcomes, runs_of, wait_for, write_sweep

from symcere.config import Experiment
from symcere.config.baselines import baseline
from symcere.distributed.trial import read_outcome
from symcere.errors import UserError


def best_of(run) -> float:
    return run.metrics["best_val_ndcg_at_10"] if run.tags["symcere.method"] == "lightgcn" else -1.0


def check_records(trials: int = 10) -> None:
    """Every trial once, nothing RUNNING, test figures in final models alone."""
    from symcere import tracking

    store = tracking.client()
    assert {run.status for run in tracking.list_runs("tiny")} <= {"FINISHED", "FAILED", "KILLED"}
    found = runs_of("trial")
    names = [run.tags["symcere.trial"] for run in found]
    assert len(names) == len(set(names)) == trials
    parents = {run.id: run.tags["symcere.dataset"] for run in runs_of("dataset")}
    assert sorted(parents.values()) == ["one", "two"]
    for run in found:
        assert parents[run.tags["mlflow.parentRunId"]] == run.tags["symcere.dataset"]
        assert not any(name.startswith("test_") for name in run.metrics)
        history = [m.value for m in store.get_metric_history(run.id, "val_ndcg_at_10")]
        assert run.metrics["best_val_ndcg_at_10"] == max(history)
        assert {"symcere.sweep", "symcere.sweep_file", "symcere.corpus", "symcere.experiment"} <= set(run.tags)
    finals = [run for run in runs_of("final") if run.status == "FINISHED"]
    chosen = sorted((r.tags["symcere.dataset"], r.tags["symcere.method"], r.params["train.seed"]) for r in finals)
    assert chosen == [
        (d, *rest) for d in ("one", "two") for rest in [("lightgcn", "1"), ("lightgcn", "2"), ("popularity", "1")]
    ]
    for run in finals:
        best = max(
            (t for t in found if all(t.tags[k] == run.tags[k] for k in ("symcere.dataset", "symcere.method"))),
            key=lambda t: t.metrics["best_val_ndcg_at_10"],
        )
        assert run.params["objective.reg"] == best.params["objective.reg"]
        assert "test_ndcg_at_10" in run.metrics
        assert run.artifact("per_user.parquet").exists()


def test_a_whole_sweep_over_two_data_sets(corpora, ray_here, monkeypatch):
    from symcere.steps import plan, sweep

    file = write_sweep(corpora)
    planned = plan(file)
    assert (planned["trials"], planned["final models"], planned["missing"]) == (10, 6, [])
    assert planned["hours"] > 0
    assert not (corpora / "sweeps").exists()

    told = []
    result = sweep(file, on_standing=told.append)
    assert result["trials"] == 10  # popularity has nothing to tune
    assert [(row["data set"], row["method"]) for row in result["table"]] == [
        (d, m) for d in ("one", "two") for m in ("popularity", "lightgcn")
    ]
    assert all(0 < row["test NDCG@10"] <= 1 for row in result["table"])
    assert told[-1] == [
        {"data set": d, "method": m, "final models": n}
        for d in ("one", "two")
        for m, n in (("popularity", "1/1"), ("lightgcn", "2/2"))
    ]
    assert max(sum(record.get("running", 0) for record in records) for records in told) >= 1
    check_records()
    with pytest.raises(UserError, match="--resume tiny"):
        sweep(file)

    before = {path: path.stat().st_mtime_ns for path in (corpora / "sweeps").rglob("outcome.json")}
    kept = corpora / "sweeps" / "tiny" / "sweep.yaml"
    text = kept.read_text()
    kept.write_text(text.replace("epochs: 12", "epochs: 13"))
    with pytest.raises(UserError, match="was changed since the sweep began"):
        sweep(resume="tiny")
    kept.write_text(text)
    again = sweep(resume="tiny")  # all is there: nothing runs again
    assert again["table"] == result["table"]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    check_records()
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{corpora}/other.db")
        assert sweep(resume="tiny")["table"] == result["table"]  # another store gets the trials that went to the first
        check_records()
    assert {path: path.stat().st_mtime_ns for path in before} == before

    # With some of it, more trials and one seed: figures are of the best setting alone, and the sweep stays what it was.
    more = sweep(resume="tiny", methods=["lightgcn"], datasets=["one"], trials=8, seeds=1)
    (row,) = more["table"]
    best = max((r for r in runs_of("trial") if r.tags["symcere.dataset"] == "one"), key=best_of)
    tested = [r for r in runs_of("final") if r.tags["symcere.trial"] == best.tags["symcere.trial"]]
    assert row["test NDCG@10"] == pytest.approx(np.mean([r.metrics["test_ndcg_at_10"] for r in tested]))
    plan = json.loads((corpora / "sweeps" / "tiny" / "plan.json").read_text())
    assert (plan["methods"], plan["datasets"]) == ([], [])

    make_corpus(corpora / "corpora" / "one", "one", 7)
    with pytest.raises(UserError, match="'one' was prepared anew since the sweep 'tiny' began"):
        sweep(resume="tiny")
    make_corpus(corpora / "corpora" / "one", "one", 0)

    shutil.rmtree(corpora / "sweeps" / "tiny")
    with pytest.raises(UserError, match=r"earlier sweep 'tiny'.*--name"):
        sweep(file)
    assert not (corpora / "sweeps" / "tiny").exists()


def test_a_grid_is_tried_whole_and_the_worse_half_is_stopped(corpora, ray_here):
    from symcere.steps import sweep

    file = corpora / "tiny.yaml"
    file.write_text(CHOICES + "sampler: {kind: grid}\nstopping: {kind: median, grace: 6}\n")
    result = sweep(file)
    assert result["trials"] == 5  # `trials` is not asked
    found = {}
    for path in (corpora / "sweeps" / "tiny" / "trials").rglob("outcome.json"):
        found[json.loads((path.parent / "spec.json").read_text())["values"]["train.lr"]] = read_outcome(path.parent)
    assert sorted(found) == [1e-8, 2e-8, 0.03, 0.05, 0.1]
    good = {lr: outcome for lr, outcome in found.items() if lr > 1e-3}
    assert all(outcome.status == "finished" and outcome.epoch == 24 for outcome in good.values())
    bad = [found[lr] for lr in (1e-8, 2e-8)]  # they learn nothing
    assert all(outcome.value < min(o.value for o in good.values()) for outcome in bad)
    # The last one comes after three others; the one before it may be through before the third of the good ones is.
    assert any(outcome.status == "stopped" for outcome in bad)
    assert all((outcome.status == "stopped") == (outcome.epoch < 24) for outcome in bad)
    best = max(good, key=lambda lr: good[lr].value)
    (final,) = runs_of("final")
    assert final.params["train.lr"] == str(best)
    ends = {float(run.params["train.lr"]): run.tags["symcere.ended"] for run in runs_of("trial")}
    assert ends == {lr: outcome.status for lr, outcome in found.items()}


def test_a_random_search_tries_other_points_than_were_given(corpora, ray_here):
    from symcere.steps import sweep

    file = corpora / "tiny.yaml"
    text = CHOICES.replace("[0.03, 0.05, 0.1, 1.0e-8, 2.0e-8]", "{loguniform: [1e-4, 0.5]}").replace("24", "4")
    file.write_text(text + "sampler: {kind: random}\nstopping: {kind: none}\n")
    result = sweep(file, trials=4, seeds=0)
    assert result["trials"] == 4
    (found,) = optuna_studies(corpora)
    rates = [trial.params["train.lr"] for trial in found.trials]
    assert rates[0] == Experiment().train.lr or rates[0] == baseline("lightgcn").train.lr
    assert len(set(rates)) == 4
    assert all(trial.state.name == "COMPLETE" for trial in found.trials)
    assert all(outcome["epoch"] == 4 for outcome in outcomes(corpora).values())


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ("{cpu: 3}", "asks for 3 CPU, and Ray's nodes have: 2 CPU"),
        ("{gpu: 0.1}", r"asks for 1 CPU and 0.1 GPU, and Ray's nodes have: 2 CPU, 0 GPU"),
        ("{workers: 3}", "asks for 3 workers of 1 CPU each"),
        ("{workers: 2, gpu: 1}", "asks for 2 workers of 1 CPU and 1 GPU each"),
    ],
)
def test_what_could_never_start_is_an_error_instead_of_a_wait(corpora, ray_here, resources, message):
    from symcere.steps import sweep

    file = corpora / "tiny.yaml"
    file.write_text(CHOICES + f"stopping: {{kind: none}}\nresources: {resources}\n")
    with pytest.raises(UserError, match=message):
        sweep(file)


def test_slips_on_the_command_line_are_named(corpora):
    from symcere.steps import sweep

    file = write_sweep(corpora)
    for words, message in (
        ({"name": "../evil"}, "cannot be called '../evil'"),
        ({"name": ".."}, "cannot be called"),
        ({"seeds": -1}, "--seeds"),
        ({"max_hours": -1.0}, "--max-hours"),
        ({"max_hours": float("nan")}, "--max-hours"),
    ):
        with pytest.raises(UserError, match=message):
            sweep(file, **words)
    odd = corpora / "my sweep.yaml"
    odd.write_text(file.read_text())
    with pytest.raises(UserError, match="--name"):
        sweep(odd)
    assert not (corpora / "sweeps").exists()


def test_a_sweep_without_one_trained_trial_is_an_error(corpora, ray_here):
    from symcere.steps import sweep

    file = corpora / "tiny.yaml"
    file.write_text(CHOICES.replace("[0.03, 0.05, 0.1, 1.0e-8, 2.0e-8]", "[1.0e+30]").replace("24", "2"))
    file.write_text(file.read_text().replace("{model.dim: 8}", "{model.dim: 8, model.normalise: none}"))
    with pytest.raises(UserError, match=r"No trial of the sweep 'tiny' could be trained\. .*not a finite number"):
        sweep(file)
    assert {run.status for run in runs_of("trial")} == {"FAILED"}


def check_quick(datasets: list[str]) -> None:
    from symcere.steps import sweep

    result = sweep("quick", datasets=datasets, trials=2, seeds=1)
    assert [(row["data set"], row["method"], row["trials"]) for row in result["table"]] == [
        (d, m, 2) for d in datasets for m in ("lightgcn", "symcere")
    ]
    assert all(row["test NDCG@10"] > 0 for row in result["table"])
    assert result["notes"] == []


def test_quick_runs_with_text_on_two_data_sets(corpora, ray_here):
    check_quick(["one", "two"])


@pytest.mark.slow
def test_quick_runs_on_two_real_data_sets(home, shared_data):
    from symcere.steps import prepare

    prepare("magazines", sources=[shared_data / "Magazine_Subscriptions_5.json.gz"], settings={"core": 5})
    prepare("cosmetics", sources=[shared_data / "All_Beauty_5.json.gz"], settings={"core": 5})
    check_quick(["magazines", "cosmetics"])  # names that are not the end of a card's name


def test_what_is_missing_is_said_before_anything_starts(corpora):
    from symcere.steps import plan, sweep

    file = write_sweep(corpora)
    file.write_text(file.read_text().replace("[one, two]", "[one, amazon-2014-musical-instruments, nowhere]"))
    with pytest.raises(UserError, match=r"musical-instruments' is not prepared.*Unknown data set 'nowhere'"):
        sweep(file)
    planned = plan(file)
    assert len(planned["missing"]) == 2
    assert "symcere prepare" in planned["missing"][0]
    with pytest.raises(UserError, match="no method 'lightgnc'"):
        sweep(file, methods=("lightgnc",))
    with pytest.raises(UserError, match="There is no sweep 'tine'"):
        sweep(resume="tine")


# ---------------------------------------------------------------- kills


@pytest.mark.slow
def test_a_killed_driver_loses_nothing(corpora):
    file = write_sweep(corpora, epochs=400, trials=3)
    with driver(corpora, file=str(file)):
        wait_for(lambda: len(ended(corpora)) >= 3 and len(outcomes(corpora)) > len(ended(corpora)))
    kept = ended(corpora)
    assert 3 <= len(kept) < 8
    with driver(corpora, resume="tiny") as again:
        printed, _ = again.communicate(timeout=550)
        assert again.returncode == 0, printed
    after = ended(corpora)
    assert len(after) == 8
    assert all(after[name] == outcome for name, outcome in kept.items())  # not run again
    check_records(8)
    states = [trial.state.name for found in optuna_studies(corpora) for trial in found.trials]
    assert set(states) <= {"COMPLETE", "FAIL"}
    assert states.count("COMPLETE") == 8


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_sweep_ends_in_order_and_goes_on(corpora, number):
    from symcere import tracking

    file = write_sweep(corpora, epochs=400, trials=3)
    with driver(corpora, file=str(file), methods=["lightgcn"], seeds=0) as first:
        wait_for(lambda: len(ended(corpora)) >= 2)
        os.kill(first.pid, number)
        printed, _ = first.communicate(timeout=120)
    assert first.returncode != 0
    assert number != signal.SIGINT or "symcere sweep --resume tiny" in printed
    assert "RUNNING" not in {run.status for run in tracking.list_runs("tiny")}
    with driver(corpora, resume="tiny") as again:
        printed, _ = again.communicate(timeout=550)
        assert again.returncode == 0, printed
    assert len(ended(corpora)) == 6


@pytest.mark.slow
def test_a_killed_worker_goes_on_from_its_checkpoint(corpora):
    import psutil

    file = write_sweep(corpora, epochs=4000, trials=1)
    file.write_text(file.read_text().replace("stopping: {grace: 3, reduction: 2}", "stopping: {kind: none}"))
    trials = corpora / "sweeps" / "tiny" / "trials"
    with driver(corpora, file=str(file), datasets=["one"], methods=["lightgcn"], seeds=0) as one:
        wait_for(lambda: list(trials.rglob("checkpoint.pt")))
        folder = next(iter(trials.rglob("checkpoint.pt"))).parent
        before = json.loads((folder / "outcome.json").read_text())
        below = psutil.Process(one.pid).children(recursive=True)
        workers = [p for p in below if "ImplicitFunc" in " ".join(p.cmdline())]
        assert workers
        for worker in workers:
            worker.kill()
        printed, _ = one.communicate(timeout=550)
        assert one.returncode == 0, printed
    after = json.loads((folder / "outcome.json").read_text())
    assert after["status"] == "finished"
    assert after["started"] > before["started"]  # it was begun again
    assert [e["epoch"] for e in after["history"]] == list(range(1, 4001))
    # an epoch that was not done again has the very time that it took
    assert after["history"][0] == before["history"][0]
