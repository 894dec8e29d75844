"""One study: what it tries, and what a restart finds."""

import dataclasses
import os
import shutil
import time

import numpy as np
from sweeping import done, finish, search, study

from symcere.distributed.trial import read_spec, write


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
