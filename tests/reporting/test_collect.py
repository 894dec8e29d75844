"""Reading a sweep back from the store."""

import math

import pytest

from symcere import tracking
from symcere.errors import UserError
from symcere.reporting import collect
from symcere.reporting.collect import _number, _pages


def test_trials_and_finals_are_told_apart_and_counted(losses):
    sweep = collect("losses")
    assert sweep.datasets == ["hotels", "instruments", "magazines"]
    assert sweep.experiment == "losses"
    # 1 of popularity, 10 of lightgcn, 10 and a failed one of symcere; 1, 2 and 2 final models
    assert len(sweep.trials) == 3 * (1 + 10 + 10 + 1)
    assert len(sweep.finals) == 3 * (1 + 2 + 2)
    assert [t.status for t in sweep.trials].count("FAILED") == 3
    assert not sweep.unfinished
    assert not sweep.notes


def test_validation_is_the_best_epoch_not_the_last(losses):
    sweep = collect("losses")
    store = tracking.client()
    for run in [t for t in sweep.trials if t.finished][:5]:
        history = [m.value for m in store.get_metric_history(run.id, "val_ndcg_at_10")]
        assert run.validation == max(history)
        assert run.metrics["val_ndcg_at_10"] == history[-1] < max(history)  # what the store itself calls the metric
        seconds = [m.value for m in store.get_metric_history(run.id, "epoch_seconds")]
        assert run.seconds == pytest.approx(sum(seconds))
        assert run.wall == pytest.approx(120, abs=2)


def test_a_best_value_that_the_search_stored_is_believed(home):
    with tracking.start_run(
        "s", "a", {}, {"symcere.sweep": "s", "symcere.role": "trial", "symcere.ended": "stopped"}
    ) as run:
        run.log_metrics({"val_ndcg_at_10": 0.1, "best_val_ndcg_at_10": 0.3, "trial_seconds": 7.0, "epoch_seconds": 1.0})
    (trial,) = collect("s").trials
    assert (trial.validation, trial.seconds, trial.stopped) == (0.3, 7.0, True)


def test_parameters_are_numbers_again(losses):
    params = collect("losses").finals[0].params
    assert params["train.seed"] in (0, 1)
    assert isinstance(params["train.lr"], float)
    assert params["model.normalise"] in ("none", "l2")
    assert [_number(t) for t in ("3", "1e-3", "none", "True")] == [3, 1e-3, "none", "True"]


def test_an_unknown_sweep_names_the_nearest(losses):
    with pytest.raises(UserError, match=r"no sweep 'loses' in sqlite.* Did you mean losses\?"):
        collect("loses")
    with pytest.raises(UserError, match="no sweep"):
        collect("""'; "drop`""")


def test_an_empty_store_says_how_a_sweep_is_made(home):
    with pytest.raises(UserError, match="holds no sweep yet: `symcere sweep FILE`"):
        collect("losses")


def test_a_server_that_nobody_runs_is_named(home, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:hunter2@127.0.0.1:9")
    with pytest.raises(UserError, match=r"http://\*\*\*@127.0.0.1:9: nobody answers"):
        collect("losses")


def test_a_sweep_that_has_only_begun_has_nothing_to_report(home):
    with tracking.start_run("s", "parent", {}, {"symcere.sweep": "s", "symcere.role": "dataset"}):
        pass
    with pytest.raises(UserError, match=r"no trial yet.*--resume s"):
        collect("s")


def _final(seed, *, corpus="one", test=0.1, status=None, trial="d/m/0000"):
    tags = {"symcere.sweep": "s", "symcere.role": "final", "symcere.dataset": "d", "symcere.method": "m"}
    tags["symcere.trial"] = trial
    try:
        with tracking.start_run("s", "d-m", {"train.seed": seed}, tags | {"symcere.corpus": corpus}) as run:
            if status:
                raise RuntimeError(status)
            run.log_metrics({"test_ndcg_at_10": test})
    except RuntimeError:
        pass


def test_another_corpus_of_the_same_name_is_left_out_and_said(home):
    _final(0, corpus="old", test=0.9)
    _final(0, corpus="new", test=0.1)
    _final(1, corpus="new", test=0.2)
    sweep = collect("s")
    assert sorted(r.metrics["test_ndcg_at_10"] for r in sweep.finals) == [0.1, 0.2]
    assert "1 runs on d belong to another version of its corpus than the newest one (new)" in sweep.notes[0]


def test_of_two_final_models_with_one_seed_the_later_counts(home):
    _final(0, test=0.1)
    _final(0, test=0.2)
    sweep = collect("s")
    assert [r.metrics["test_ndcg_at_10"] for r in sweep.finals] == [0.2]
    assert "1 final models were trained again" in sweep.notes[0]


def test_final_models_of_a_setting_that_was_replaced_do_not_count(home):
    """More trials found a better one, which was tested with fewer seeds."""
    for seed in (1, 2, 3):
        _final(seed, test=0.2)
    _final(1, test=0.4, trial="d/m/0007")
    sweep = collect("s")
    assert [(r.seed, r.metrics["test_ndcg_at_10"]) for r in sweep.finals] == [(1, 0.4)]
    assert sweep.unfinished == ()
    assert sweep.notes[0].startswith("3 final models have a setting that a better one has replaced (m on d)")


def test_a_failed_final_model_is_a_gap_unless_it_succeeded_later(home):
    _final(0, status="out of memory")
    _final(0, test=0.2)
    _final(1, status="out of memory")
    sweep = collect("s")
    assert [r.seed for r in sweep.finals] == [0]
    assert [(r.seed, r.status, r.error) for r in sweep.unfinished] == [(1, "FAILED", "RuntimeError: out of memory")]
    assert math.isnan(sweep.finals[0].validation)


def test_every_page_of_a_long_answer_is_read():
    class Page(list):
        token = None

    def search(token):
        start = int(token or 0)
        page = Page(range(start, min(start + 3, 8)))
        page.token = str(start + 3) if start + 3 < 8 else None
        return page

    assert list(_pages(search)) == list(range(8))
