"""Many studies side by side: whose turn it is, which trials are stopped, and what Tune loses."""

from types import SimpleNamespace

import numpy as np
import pytest
from sweeping import done, finish, search, study

from symcere.config.sweep import Stopping
from symcere.distributed.trial import read_outcome, write
from symcere.errors import UserError


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


# ---------------------------------------------------------------- stopping


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
