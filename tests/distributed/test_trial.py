"""One trial: what it reports, how it goes on, and how it fails."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from sweeping import make_corpus

from symcere.config import Experiment
from symcere.data.corpus import Corpus
from symcere.distributed import trial as trials
from symcere.distributed.trial import Spec, read_outcome
from symcere.errors import UserError
from symcere.training import fit


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


def test_a_trial_is_of_the_corpus_that_its_sweep_began_on(tmp_path):
    corpus = make_corpus(tmp_path / "corpus", "tiny", 0)
    spec = trial_of(tmp_path, corpus, **{"train.epochs": 1})
    assert trials.run(replace(spec, fingerprint=corpus.fingerprint), tmp_path / "t", lambda *_: None).value is not None
    outcome = trials.run(replace(spec, fingerprint="another"), tmp_path / "u", lambda *_: None)
    assert outcome.status == "failed"
    assert "'tiny' was prepared anew" in outcome.reason
