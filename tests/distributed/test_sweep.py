"""Studies side by side, what a restart finds, and whole sweeps over real Ray."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from symcere.config import Experiment
from symcere.config.baselines import baseline
from symcere.config.space import read_space
from symcere.config.sweep import Sampler, Search, Stopping
from symcere.data.corpus import Corpus, Entries
from symcere.distributed import trial as trials
from symcere.distributed.studies import Study, open_storage, open_study
from symcere.distributed.trial import Outcome, Spec, read_outcome, read_spec, write
from symcere.errors import UserError
from symcere.steps.sweeps.finals import final
from symcere.training import fit

SPACE = {"train.lr": {"loguniform": [1e-4, 1e-1]}, "model.layers": {"int": [1, 3]}}


def make_corpus(path: Path, name: str, seed: int, users: int = 40, items: int = 20) -> Corpus:
    """Users who mostly pick every second item."""
    rng = np.random.default_rng(seed)
    rows: dict[str, list[tuple[int, int]]] = {"train": [], "val": [], "test": []}
    for user in range(users):
        weights = np.where(np.arange(items) % 2 == user % 2, 4.0, 1.0)
        for n, item in enumerate(rng.choice(items, size=7, replace=False, p=weights / weights.sum())):
            rows[("val", "test", "train")[min(n, 2)]].append((user, int(item)))
    ids = {"user_ids": [f"u{n:03}" for n in range(users)], "item_ids": [f"i{n:03}" for n in range(items)]}
    splits = {
        split: Entries(*np.array(sorted(found)).T, texts=[f"word{i} for {u}" for u, i in sorted(found)])
        for split, found in rows.items()
    }
    return Corpus.write(
        path, name=name, settings=dataclasses.asdict(Experiment().data) | {"dataset": name}, **ids, **splits
    )


def search(space: dict | None = None, trials: int = 6, method: str = "lightgcn", **settings) -> Search:
    base = Experiment().replace({"model.features": "id", "train.epochs": 30}, settings)
    found = read_space(SPACE if space is None else space, ())
    return Search(method, method, base, found, [found.nearest_point(base.flat())], trials)


def study(folder: Path, dataset: str = "hotels", searched: Search | None = None, kind: str = "tpe", **more) -> Study:
    found = searched or search()
    optimiser = open_study(open_storage("", folder), f"{dataset}/{found.method}", Sampler(kind=kind))
    return Study(dataset, folder / "corpus", found, {}, folder / "trials", optimiser, lambda epochs: [2, 6, 18], **more)


def done(value: float, status: str = "finished") -> Outcome:
    now = time.time()
    history = [{"epoch": n, "val_ndcg_at_10": value * n / 20} for n in range(1, 21)]
    return Outcome(status, value, 20, 20, history=history, started=now, ended=now, seconds=1.0)


def finish(one: Study, spec: Spec, value: float) -> None:
    write(one.folder / spec.id / "outcome.json", done(value))
    one.end(spec.id, done(value))


# ---------------------------------------------------------------- one study


def test_what_goes_on_goes_on_with_what_is_there_now(tmp_path):
    """Resumed without the GPU it began with, and from another home."""
    first = study(tmp_path, gpu=0.1, threads=4)
    begun = first.next()
    assert (begun.gpu, begun.threads) == (0.1, 4)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "trials").rename(tmp_path / "elsewhere" / "trials")
    again = study(tmp_path / "elsewhere")
    spec = again.next()
    assert spec == dataclasses.replace(begun, gpu=0.0, threads=1, corpus=str(tmp_path / "elsewhere" / "corpus"))
    assert read_spec(tmp_path / "elsewhere" / "trials" / spec.id) == spec == again.specs[spec.id]


def test_a_number_is_given_once(tmp_path):
    """Whatever became of a trial's files: the next one must not write over another."""
    one = study(tmp_path)
    for value in (0.1, 0.2, 0.3):
        finish(one, one.next(), value)
    (one.folder / "hotels/lightgcn/0001/spec.json").write_text("")
    shutil.rmtree(one.folder / "hotels/lightgcn/0000")
    again = study(tmp_path)
    assert sorted(again.specs) == ["hotels/lightgcn/0002"]
    assert again.next().id == "hotels/lightgcn/0003"


def test_a_range_is_searched_whole_whatever_a_grid_would_take_of_it(tmp_path):
    space = {"model.dim": {"int": [16, 128], "steps": 3}}
    assert study(tmp_path, searched=search(space, trials=20)).limit == 20
    assert study(tmp_path / "few", searched=search({"model.layers": {"int": [1, 3]}}, trials=20)).limit == 3


def test_two_methods_with_one_setting_have_models_of_their_own(corpora):
    from symcere import tracking

    (corpora / "sweeps" / "twins").mkdir(parents=True)
    (corpora / "sweeps" / "twins" / "plan.json").write_text("{}")
    experiment = Experiment().replace({"model.features": "id", "train.epochs": 1}).to_dict()
    one = {"sweep": "twins", "dataset": "one", "experiment": experiment, "seed": 1, "workers": 1, "gpus": 0}
    one |= {"parent": "", "tags": {}, "environment": {}}
    figures = [final({**one, "method": method})["test_ndcg_at_10"] for method in ("plain", "layered", "plain")]
    assert figures[0] == figures[1] == figures[2] > 0
    assert sorted(run.tags["symcere.method"] for run in tracking.list_runs("twins")) == ["layered", "plain"]


def test_a_study_starts_with_the_published_setting_and_ends_with_its_budget(tmp_path):
    one = study(tmp_path)
    seen = []
    while (spec := one.next()) is not None:
        seen.append(spec)
        finish(one, spec, spec.experiment["train"]["lr"])
    assert len(seen) == 6
    assert one.finished
    base = one.search.base
    assert seen[0].values == {"train.lr": base.train.lr, "model.layers": base.model.layers}
    assert len({s.model for s in seen}) == 6
    assert one.best()[1].value == max(s.experiment["train"]["lr"] for s in seen)
    complete = [t for t in one.optimiser.trials if t.state.name == "COMPLETE"]
    assert sorted(t.value for t in complete) == sorted(o.value for o in one.done.values())


def test_settings_that_are_the_same_model_are_tried_once(tmp_path):
    # bpr does not ask for candidates or a reduction, and supcon has but two of the three reductions
    space = {
        "objective.ranking.loss": ["bpr", "supcon"],
        "objective.ranking.reduction": ["pair", "anchor", "history"],
        "objective.ranking.candidates": ["batch", "all"],
    }
    for kind in ("tpe", "random"):
        one = study(tmp_path / kind, searched=search(space, trials=12), kind=kind)
        while (spec := one.next()) is not None:
            finish(one, spec, 0.1 * len(one.specs))
        models = {s.model for s in one.specs.values()}
        assert len(models) == len(one.specs) == 5
        assert one.finished
        assert one.total == 5


def test_a_method_without_parameters_is_one_trial(tmp_path):
    one = study(tmp_path, searched=search({}, trials=10))
    finish(one, one.next(), 0.5)
    assert one.next() is None
    assert one.finished
    assert one.total == 1


def test_an_impossible_combination_counts_as_a_failed_trial(tmp_path):
    space = {"model.layers": [0, 1], "model.skip_input": [True, False]}
    one = study(tmp_path, searched=search(space, trials=4), kind="random")
    while (spec := one.next()) is not None:
        finish(one, spec, 0.5)
    failed = [o for o in one.done.values() if o.status == "failed"]
    assert len(failed) == 1 or len(one.done) < 4  # random draws may repeat what was possible
    assert all("skip_input leaves nothing" in o.reason for o in failed)
    assert all(o.value is None for o in failed)


def test_the_search_learns_within_its_study(tmp_path):
    """Best far from the start: tpe finds it more closely than the start, and only by what it was told."""
    space = {"train.lr": {"loguniform": [1e-4, 1]}}
    one = study(tmp_path, searched=search(space, trials=40))
    while (spec := one.next()) is not None:
        finish(one, spec, 1 - abs(np.log10(spec.experiment["train"]["lr"]) + 1) / 4)
    late = [spec.experiment["train"]["lr"] for spec in one.specs.values() if spec.number >= 20]
    assert np.median(np.abs(np.log10(late) + 1)) < 0.5


# ---------------------------------------------------------------- after a kill


def test_a_restart_keeps_what_is_done_and_goes_on_with_the_rest(tmp_path):
    one = study(tmp_path)
    first, second, third, fourth = (one.next() for _ in range(4))
    finish(one, first, 0.4)
    write(one.folder / second.id / "outcome.json", done(0.7))  # ended, but nobody was told
    running = done(0.2)
    running.status = "running"
    write(one.folder / third.id / "outcome.json", running)
    with (tmp_path / "optuna.journal").open("ab") as file:  # the power failed in the middle of a line
        file.write(b'{"op_code": 5, "tri')

    again = study(tmp_path)
    states = [t.state.name for t in again.optimiser.trials]
    assert states == ["COMPLETE", "COMPLETE", "FAIL", "FAIL"]
    assert set(again.done) == {first.id, second.id}
    assert again.best()[0].id == second.id
    assert [again.next().id, again.next().id] == [third.id, fourth.id]
    assert again.optimiser.trials[4].params == third.values
    fresh = again.next()
    assert fresh.number == 4
    assert fresh.model not in {s.model for s in (first, second, third, fourth)}
    again.end(third.id, done(0.3))
    assert again.optimiser.trials[4].value == 0.3


def test_results_outlive_the_loss_of_optunas_storage(tmp_path):
    one = study(tmp_path)
    for value in (0.1, 0.3, 0.2):
        finish(one, one.next(), value)
    (tmp_path / "optuna.journal").unlink()
    again = study(tmp_path)
    assert [t.value for t in again.optimiser.trials] == [0.1, 0.3, 0.2]
    assert again.next().number == 3


def test_a_stale_lock_of_the_journal_is_no_obstacle(tmp_path):
    study(tmp_path)
    os.symlink(tmp_path / "optuna.journal", tmp_path / "optuna.journal.lock")
    start = time.monotonic()
    assert study(tmp_path).next() is not None
    assert time.monotonic() - start < 10


def test_other_first_points_after_a_restart(tmp_path):
    """The sampler's seed must not bring the same random points again."""
    one = study(tmp_path, kind="random")
    before = [one.next().values for _ in range(3)]
    again = study(tmp_path, kind="random")
    for _ in range(3):
        again.next()
    assert again.next().values not in before


# ---------------------------------------------------------------- many studies


def test_the_study_that_is_least_far_goes_next(tmp_path):
    from symcere.distributed.sweep import Searcher

    some = {s.name: s for s in (study(tmp_path, "a"), study(tmp_path, "b"), study(tmp_path, "c", search(trials=3)))}
    searcher = Searcher(some)
    order = [searcher.suggest(f"t{n}")["spec"]["dataset"] for n in range(15)]
    assert order[:3] == ["a", "b", "c"]
    counts = np.array([[order[:n].count(d) for d in "abc"] for n in range(1, 16)])
    shares = counts / [6, 6, 3]
    assert (shares.max(1) - shares.min(1) <= 1 / 3 + 1e-9).all()
    assert searcher.suggest("t15") == searcher.FINISHED


def test_each_study_is_told_of_its_own_trials_alone(tmp_path):
    from symcere.distributed.sweep import Searcher

    a, b = study(tmp_path, "a"), study(tmp_path, "b")
    ended = []
    searcher = Searcher(
        {"a/lightgcn": a, "b/lightgcn": b},
        lambda name: name.startswith("b"),
        lambda s, o: ended.append((s.id, o.status)),
    )
    for n in range(4):
        searcher.suggest(f"t{n}")
    write(a.folder / "a/lightgcn/0000/outcome.json", done(0.9))
    searcher.on_trial_complete("t0", {"value": 0.9})
    half = done(0.4)
    half.status = "running"
    write(b.folder / "b/lightgcn/0000/outcome.json", half)
    searcher.on_trial_complete("t1", {"value": 0.4})  # its scheduler stopped it: the best so far is its result
    searcher.on_trial_complete("t2", None, error=True)  # its worker died
    write(b.folder / "b/lightgcn/0001/outcome.json", half)
    searcher.decided = lambda name: False
    searcher.on_trial_complete("t3", {"value": 0.4})  # ended by Ctrl-C: no result
    assert ended == [("a/lightgcn/0000", "finished"), ("b/lightgcn/0000", "stopped"), ("a/lightgcn/0001", "failed")]
    assert [t.state.name for t in a.optimiser.trials] == ["COMPLETE", "FAIL"]
    assert [(t.state.name, t.value) for t in b.optimiser.trials] == [("COMPLETE", 0.4), ("FAIL", None)]
    assert "worker died" in a.done["a/lightgcn/0001"].reason
    assert [s.id for s in b.waiting] == ["b/lightgcn/0001"]
    assert not b.finished


def test_a_trial_that_tune_loses_is_run_again(tmp_path, monkeypatch):
    """An actor that cannot be used again ends its next trial, of which Tune tells the searcher nothing."""
    import symcere.distributed.sweep as module

    one = study(tmp_path)
    rounds = []

    def tune(studies, stopping, resources, ending, at_once, on_end, changed):
        rounds.append(0)
        while (spec := one.next()) is not None:
            if spec.number in (2, 4) and len(rounds) == 1:
                if spec.number == 4:  # ended, though nobody was told
                    write(one.folder / spec.id / "outcome.json", done(0.4))
                continue
            finish(one, spec, 0.1)
        return False

    monkeypatch.setattr(module, "_tune", tune)
    ended = []
    assert module.search([one], Stopping(), on_end=lambda spec, outcome: ended.append(spec.number)) == "finished"
    assert len(rounds) == 2
    assert ended == [4]
    assert sorted(s.number for s in one.specs.values()) == list(range(6))
    assert len(one.done) == 6
    assert one.best()[0].number == 4

    stuck = study(tmp_path, "stuck")
    monkeypatch.setattr(module, "_tune", lambda *_: False)
    with pytest.raises(UserError, match="ray status"):
        module.search([stuck], Stopping())


def test_a_trial_that_ray_kills_for_want_of_memory_is_run_again_and_fails_at_last(tmp_path, monkeypatch):
    """Ray's own killing ends Tune, and not the sweep."""
    import symcere.distributed.sweep as module

    one, tried = study(tmp_path), []

    class Tuner:
        """Trial 2 is too large: Ray kills its worker, at every attempt."""

        def __init__(self, *_, **__):
            pass

        def fit(self):
            while (spec := one.next()) is not None:
                if spec.number == 2:
                    tried.append(spec.id)
                    raise RuntimeError("Caught unexpected exception") from module.OutOfMemoryError("too much")
                finish(one, spec, 0.1)

    monkeypatch.setattr(module.tune, "Tuner", Tuner)
    ended = []
    assert module.search([one], Stopping(), on_end=lambda spec, outcome: ended.append(outcome)) == "finished"
    assert len(tried) == module.RESTARTS + 1
    assert len(set(tried)) == 1
    assert [o.status for o in ended] == ["failed"]
    assert "want of memory" in read_outcome(one.folder / tried[0]).reason
    assert len(one.done) == 6

    def broken(self):
        raise RuntimeError("an error of ours")

    monkeypatch.setattr(Tuner, "fit", broken)
    with pytest.raises(RuntimeError, match="of ours"):
        module.search([study(tmp_path, "other")], Stopping())


def reported(scheduler, dataset: str, name: str, epoch: int, value: float) -> str:
    spec = {"id": name, "dataset": dataset, "method": "lightgcn"}
    return scheduler.on_trial_result(None, SimpleNamespace(config={"spec": spec}), {"epoch": epoch, "value": value})


@pytest.mark.parametrize("kind", ["asha", "median"])
def test_an_easy_data_set_does_not_stop_the_trials_of_a_hard_one(tmp_path, kind):
    from symcere.distributed.sweep import Scheduler

    some = [study(tmp_path, "easy"), study(tmp_path, "hard")]
    scheduler = Scheduler(some, Stopping(kind=kind, grace=2, reduction=2))
    for n in range(6):
        assert reported(scheduler, "easy", f"easy/{n}", 2, 0.9 + n / 100) == "CONTINUE"
    for n in range(6):  # all far below the easy ones, each better than the one before
        assert reported(scheduler, "hard", f"hard/{n}", 2, 0.1 + n / 100) == "CONTINUE"
    assert reported(scheduler, "hard", "hard/bad", 2, 0.05) == "STOP"
    assert scheduler.decided("hard/bad")
    assert reported(scheduler, "easy", "easy/bad", 2, 0.5) == "STOP"  # would be the best of the hard ones


def test_epochs_that_are_searched_end_no_trial(tmp_path):
    """A setting with more epochs than the method's own runs on, beside those that are better at its rungs, too."""
    from symcere.distributed.sweep import Scheduler

    scheduler = Scheduler([study(tmp_path)], Stopping(kind="asha", grace=2, reduction=2))
    for epoch in (2, 4, 8, 16, 32, 64, 128):
        assert reported(scheduler, "hotels", "hotels/lightgcn/0000", epoch, epoch / 1000) == "CONTINUE"


def test_stopping_remembers_over_a_restart(tmp_path):
    from symcere.distributed.sweep import Scheduler

    one = study(tmp_path)
    for value in (0.5, 0.6, 0.7, 0.8):
        finish(one, one.next(), value)
    again = study(tmp_path)
    scheduler = Scheduler([again], Stopping(kind="asha", grace=2, reduction=2))
    assert reported(scheduler, "hotels", "hotels/lightgcn/0004", 2, 0.001) == "STOP"
    # told a second time, after a worker died, nothing is decided anew
    assert reported(scheduler, "hotels", "hotels/lightgcn/0005", 2, 0.5) == "CONTINUE"
    assert reported(scheduler, "hotels", "hotels/lightgcn/0005", 2, 0.001) == "CONTINUE"


# ---------------------------------------------------------------- one trial


def trial_of(folder: Path, corpus: Corpus, **settings) -> Spec:
    experiment = Experiment().replace({"data": corpus.settings, "model.features": "id", "model.dim": 8}, settings)
    return Spec("t", corpus.name, "m", 0, str(corpus.path), "", experiment.to_dict(), {}, [2, 6, 18])


def test_a_trial_reports_the_best_so_far_at_each_milestone(tmp_path, monkeypatch):
    monkeypatch.setattr("symcere.distributed.trial.REPORT_EVERY", 1e9)
    corpus = make_corpus(tmp_path / "corpus", "tiny", 0)
    told = []
    spec = trial_of(tmp_path, corpus, **{"train.epochs": 12, "train.lr": 0.05})
    outcome = trials.run(spec, tmp_path / "t", lambda epoch, value: told.append((epoch, value)))
    assert outcome == read_outcome(tmp_path / "t")
    assert outcome.status == "finished"
    values = [e["val_ndcg_at_10"] for e in outcome.history]
    assert told == [(2, max(values[:2])), (6, max(values[:6]))]
    assert outcome.value == max(values)
    assert not (tmp_path / "t" / "checkpoint.pt").exists()


def test_a_trial_goes_on_from_its_checkpoint_with_the_same_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr("symcere.distributed.trial.REPORT_EVERY", 0.0)
    monkeypatch.setattr(sys.modules["symcere.training.fit"], "CHECKPOINT_EVERY", 0.0)
    corpus = make_corpus(tmp_path / "corpus", "tiny", 0)
    spec = trial_of(tmp_path, corpus, **{"train.epochs": 10, "train.lr": 0.05})
    whole = trials.run(spec, tmp_path / "whole", lambda epoch, value: None)

    def stop(epoch, value):
        if epoch == 6:
            raise SystemExit  # as Tune ends a trial

    with pytest.raises(SystemExit):
        trials.run(spec, tmp_path / "cut", stop)
    left = read_outcome(tmp_path / "cut")
    assert left.status == "running"
    assert (left.epoch, left.value) == (6, whole.best_at(6))
    told = []
    rest = trials.run(spec, tmp_path / "cut", lambda epoch, value: told.append(epoch))
    numbers = [[{k: v for k, v in e.items() if k != "epoch_seconds"} for e in o.history] for o in (whole, rest)]
    assert numbers[0] == numbers[1]
    assert told == list(range(1, 11))  # also what was reached before, for a scheduler that may have forgotten


def test_a_failing_trial_says_why_and_raises_nothing(tmp_path):
    corpus = make_corpus(tmp_path / "corpus", "tiny", 0)
    spec = trial_of(tmp_path, corpus, **{"train.epochs": 3, "train.lr": 1e30, "model.normalise": "none"})
    outcome = trials.run(spec, tmp_path / "t", lambda epoch, value: None)
    assert outcome.status == "failed"
    assert "not a finite number" in outcome.reason
    assert "train.lr" in outcome.reason
    spec = trial_of(tmp_path, corpus)
    spec.corpus = str(tmp_path / "nowhere")
    assert trials.run(spec, tmp_path / "u", lambda epoch, value: None).status == "failed"


def test_a_full_disk_is_no_fault_of_the_trial(tmp_path, monkeypatch):
    import errno

    corpus = make_corpus(tmp_path / "corpus", "tiny", 0)
    spec = trial_of(tmp_path, corpus, **{"train.epochs": 3})

    def full(*_: object, **__: object) -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise UserError("Cannot write") from error

    monkeypatch.setattr("symcere.training.fit", full)
    with pytest.raises(UserError, match="Cannot write"):
        trials.run(spec, tmp_path / "t", lambda epoch, value: None)
    assert read_outcome(tmp_path / "t") is None  # it is still to be done


def test_a_closed_form_is_judged_on_validation(tmp_path):
    from symcere.evaluation import Evaluator

    corpus = make_corpus(tmp_path / "corpus", "tiny", 0)
    outcome = trials.run(
        trial_of(tmp_path, corpus, **{"closed_form.kind": "ease"}), tmp_path / "t", lambda epoch, value: None
    )
    scorer = fit(corpus, None, Experiment().replace({"closed_form.kind": "ease"})).scorer
    assert outcome.value == Evaluator(corpus, "val", ks=(10,))(scorer).metrics["ndcg_at_10"]
    assert outcome.status == "finished"


# ---------------------------------------------------------------- whole sweeps, over real Ray

SWEEP = """\
datasets: [one, two]
methods:
  popularity: {}
  lightgcn:
    settings: {model.dim: 8}
    space: {objective.reg: {loguniform: [1e-5, 0.5]}}
space:
  train.lr: {choice: [0.01, 0.03, 0.1], when: {closed_form.kind: none}}
settings: {train.epochs: EPOCHS, train.patience: 100000}
trials: TRIALS
seeds: 2
stopping: {grace: 3, reduction: 2}
"""

DRIVER = """
import json, sys
from symcere.steps import sweep
print(sweep(**json.loads(sys.argv[1]))["trials"])
"""


@pytest.fixture
def corpora(home) -> Path:
    for number, name in enumerate(("one", "two")):
        make_corpus(home / "corpora" / name, name, number)
    return home


@pytest.fixture(scope="module")
def ray_here():
    """One Ray for several sweeps: a start costs seconds."""
    from symcere.distributed.pool import pool

    with pool(cpus=2) as resources:
        yield resources


def write_sweep(home: Path, epochs: int = 12, trials: int = 4) -> Path:
    path = home / "tiny.yaml"
    path.write_text(SWEEP.replace("EPOCHS", str(epochs)).replace("TRIALS", str(trials)))
    return path


def runs_of(role: str) -> list:
    from symcere import tracking

    return [run for run in tracking.list_runs("tiny") if run.tags["symcere.role"] == role]


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


CHOICES = """\
datasets: [one]
methods:
  lightgcn: {settings: {model.dim: 8}}
space:
  train.lr: [0.03, 0.05, 0.1, 1.0e-8, 2.0e-8]
settings: {train.epochs: 24, train.patience: 100000}
trials: 3
seeds: 1
"""


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


def test_one_process_at_a_time_runs_a_sweep(tmp_path):
    from symcere.steps.sweeps.lock import Lock
    from symcere.tracking import process

    path = tmp_path / "mine" / "running.json"
    with Lock(path.parent):
        with pytest.raises(UserError, match=f"'mine' is running, in process {os.getpid()}"), Lock(path.parent):
            pass
        assert path.exists()
    assert not path.parent.exists()  # nothing had begun in it
    for held, age, runs in (
        ({"host": "other/1", "process": "7@8"}, 1, "in process 7 of other"),  # lives: it touched its lock just now
        ({"host": "other/1", "process": "7@8"}, 1000, ""),
        ({"host": process.host(), "process": "7@long ago"}, 1, ""),
        ("{", 1, "is running"),  # perhaps being written
        ("{", 1000, ""),
    ):
        path.parent.mkdir(exist_ok=True)
        path.write_text(held if isinstance(held, str) else json.dumps(held))
        os.utime(path, (time.time() - age,) * 2)
        if runs:
            with pytest.raises(UserError, match=runs), Lock(path.parent):
                pass
            path.unlink()
        else:
            with Lock(path.parent):
                assert json.loads(path.read_text())["process"] == process.identity()


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


@contextlib.contextmanager
def driver(home: Path, script: str = DRIVER, **words) -> Iterator[subprocess.Popen]:
    """A process that runs a sweep; with all that it started it is gone when the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, json.dumps(words)],
        env={**os.environ, "SYMCERE_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(condition, seconds: float = 180, pause: float = 0.05) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(pause)


def outcomes(home: Path) -> dict[str, dict]:
    found = {}
    for path in (home / "sweeps" / "tiny" / "trials").rglob("outcome.json"):
        found[str(path.parent)] = json.loads(path.read_text())
    return found


def ended(home: Path) -> dict[str, dict]:
    return {name: outcome for name, outcome in outcomes(home).items() if outcome["status"] != "running"}


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


def optuna_studies(home: Path) -> list:
    import optuna

    storage = open_storage("", home / "sweeps" / "tiny")
    return [
        optuna.load_study(storage=storage, study_name=s.study_name) for s in optuna.get_all_study_summaries(storage)
    ]


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


# ---------------------------------------------------------------- several workers, GPUs, nodes


@pytest.mark.slow
def test_trials_of_several_workers_never_wait_for_each_other(corpora):
    """Four trials of two workers each on three cores, two of them started at once: one has to go first."""
    file = corpora / "tiny.yaml"
    file.write_text(
        CHOICES.replace("[one]", "[one, two]").replace("24", "4").replace(", 1.0e-8, 2.0e-8]", "]")
        + "stopping: {kind: none}\nresources: {workers: 2}\n"
    )
    script = """
        import sys
        from symcere.distributed.pool import pool
        from symcere.steps import sweep as command
        from symcere.config.sweep import load
        from symcere.steps.sweeps import command as module, finals
        with pool(cpus=3):
            assert module.together(load(FILE), {"CPU": 3.0}) == 1
            module.together = finals.together = lambda *_: 2
            print(command(FILE, trials=2)["trials"])
    """
    script = "\n".join(line[8:] for line in script.splitlines()).replace("FILE", repr(str(file)))
    with driver(corpora, script) as process:
        printed, _ = process.communicate(timeout=500)
        assert process.returncode == 0, printed
        assert printed.splitlines()[-1] == "4"
    found = outcomes(corpora)
    assert [outcome["status"] for outcome in found.values()] == ["finished"] * 4
    assert all([e["epoch"] for e in outcome["history"]] == [1, 2, 3, 4] for outcome in found.values())
    assert sorted(run.status for run in runs_of("final")) == ["FINISHED"] * 2
    corpus = Corpus.open(corpora / "corpora" / "one")
    for name, outcome in found.items():  # and they found what one process finds
        spec = trials.read_spec(Path(name))
        if spec.dataset == "one":
            alone = trials.run(dataclasses.replace(spec, workers=1), corpora / "alone", lambda epoch, value: None)
            assert outcome["value"] == pytest.approx(alone.value, abs=0.05)
    assert corpus.name == "one"


@pytest.mark.slow
def test_a_trial_asks_for_its_share_of_a_gpu(corpora):
    """Of a GPU that Ray was told of; closed forms need none, so that this runs where there is none."""
    file = corpora / "tiny.yaml"
    text = (
        "datasets: [one]\nmethods: {ease: {space: {closed_form.reg: [10, 100]}}}\nseeds: 1\nresources: {gpu: SHARE}\n"
    )
    script = """
        import json, ray
        from symcere.steps import sweep
        ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
        before = set()
        for share in ("0.1", "auto"):
            path = FILE.replace("tiny", share.replace(".", ""))
            open(path, "w").write(open(FILE).read().replace("SHARE", share))
            sweep(path)
            groups = ray.util.placement_group_table()
            print(json.dumps([g["bundles"] for n, g in groups.items() if n not in before]))
            before = set(groups)
    """
    file.write_text(text)
    script = "\n".join(line[8:] for line in script.splitlines()).replace("FILE", repr(str(file)))
    with driver(corpora, script) as process:
        printed, _ = process.communicate(timeout=500)
        assert process.returncode == 0, printed
    given, estimated = (json.loads(line) for line in printed.splitlines() if line.startswith("["))
    for groups, share in ((given, 0.1), (estimated, 0.05)):  # auto: a twentieth holds so small a data set
        assert groups
        for bundles in groups:
            assert len(bundles) == 1
            (bundle,) = bundles.values()
            assert (bundle["CPU"], bundle["GPU"]) == (1, pytest.approx(share))
            assert bundle["memory"] > 5e8


@contextlib.contextmanager
def a_cluster(**head) -> Iterator:
    """A Ray cluster whose nodes are processes of this machine."""
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **head})
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.slow
def test_a_lost_node_costs_no_finished_trial(corpora):
    from concurrent.futures import ThreadPoolExecutor

    from symcere import tracking
    from symcere.steps import sweep

    file = write_sweep(corpora, epochs=4000, trials=3)
    file.write_text(file.read_text().replace("stopping: {grace: 3, reduction: 2}", "stopping: {kind: none}"))
    with a_cluster() as cluster:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        cluster.wait_for_nodes()

        def lose_one() -> tuple[dict, dict]:
            """A node, while it is busy; what had ended and what was under way then."""
            under_way: dict[str, dict] = {}

            def busy() -> bool:
                """Two have ended, and two are under way, which have told of themselves and are not about to end."""
                under_way.clear()
                for name, found in outcomes(corpora).items():
                    if found["status"] == "running" and len(found["history"]) < 0.7 * 4000:
                        under_way[name] = found
                return len(under_way) == 2 and len(ended(corpora)) >= 2

            wait_for(busy, seconds=400, pause=0.01)
            kept = ended(corpora)
            cluster.remove_node(nodes[0], allow_graceful=False)
            return kept, under_way

        with ThreadPoolExecutor() as beside:  # the sweep's own news come too seldom
            losing = beside.submit(lose_one)
            result = sweep(file, methods=["lightgcn"], seeds=1, address=cluster.address)
        kept, under_way = losing.result()
    assert len(kept) == 2
    assert result["trials"] == 6
    assert result["notes"] == []
    after = ended(corpora)
    assert all(after[name] == outcome for name, outcome in kept.items())  # not run again
    assert sum(after[name]["started"] != outcome["started"] for name, outcome in under_way.items()) == 1
    assert [outcome["status"] for outcome in after.values()] == ["finished"] * 6
    for outcome in after.values():
        assert [e["epoch"] for e in outcome["history"]] == list(range(1, 4001))
    runs = tracking.list_runs("tiny")
    assert {run.status for run in runs} == {"FINISHED"}
    assert len(runs) == 2 + 6 + 2
    states = [trial.state.name for found in optuna_studies(corpora) for trial in found.trials]
    assert states == ["COMPLETE"] * 6


@contextlib.contextmanager
def a_blind_node(address: str, home: Path) -> Iterator[None]:
    """A node of the cluster for which the home is an empty folder."""
    own = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c"]
    ray = f"{sys.executable} -m ray.scripts.scripts start --block --num-cpus=1 --address={address}"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT, "start_new_session": True}
    node = subprocess.Popen([*own, f"mount -t tmpfs none {home} && exec {ray}"], **quiet)
    try:
        yield
    finally:
        node.kill()
        node.wait()


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="another view of the disk needs root")
def test_a_node_that_does_not_share_the_home_is_named(corpora):
    import ray

    from symcere.steps import plan, sweep

    file = write_sweep(corpora, epochs=2000, trials=3)
    file.write_text(file.read_text().replace("stopping: {grace: 3, reduction: 2}", "stopping: {kind: none}"))
    with a_cluster() as cluster, contextlib.ExitStack() as nodes:
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        joined = []

        def join(records) -> None:
            if ended(corpora) and not joined:
                joined.append(nodes.enter_context(a_blind_node(cluster.address, corpora)))
                wait_for(lambda: sum(node["Alive"] for node in ray.nodes()) == 3)

        words = {"methods": ["lightgcn"], "seeds": 0, "address": cluster.address}
        with pytest.raises(UserError, match=r"does not see .*/sweeps/tiny/trials.*--resume"):
            sweep(file, **words, on_standing=join)
        kept = ended(corpora)
        assert kept
        with pytest.raises(UserError, match=r"has to be on a disk that all nodes share.*does not see it.*SYMCERE_HOME"):
            sweep(resume="tiny", address=cluster.address)
        assert any("all nodes share" in missing for missing in plan(file, **words)["missing"])
        nodes.close()
        with ray_client(cluster.address):
            wait_for(lambda: sum(node["Alive"] for node in ray.nodes()) == 2)
        assert sweep(resume="tiny", address=cluster.address)["trials"] == 6
    assert all(ended(corpora)[name] == outcome for name, outcome in kept.items())


@contextlib.contextmanager
def ray_client(address: str) -> Iterator[None]:
    from symcere.distributed.pool import pool

    with pool(address):
        yield


@pytest.mark.slow
def test_a_cluster_that_has_no_node_yet_is_waited_for():
    """As one that an autoscaler brings when it is asked."""
    from concurrent.futures import ThreadPoolExecutor

    from symcere.distributed.pool import pool, room

    with a_cluster() as cluster, pool(cluster.address), ThreadPoolExecutor() as beside:
        with pytest.raises(UserError, match="asks for 1 CPU, and Ray's nodes have: 0 CPU"):
            room([{"CPU": 1}], seconds=2)
        waiting = beside.submit(room, [{"CPU": 1}, {"CPU": 1, "GPU": 0}], seconds=120)
        time.sleep(2)
        assert not waiting.done()
        cluster.add_node(num_cpus=2)
        assert waiting.result()["CPU"] == 2
        with pytest.raises(UserError, match="2 workers of 2 CPU each"):
            room([{"CPU": 2}] * 2)
