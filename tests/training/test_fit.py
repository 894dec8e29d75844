"""The training loop: the same numbers again, after a kill too, and never a look at what is to be predicted."""

import copy
import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch

from symcere.config import Encoder, Experiment, Ranking, Text
from symcere.config.baselines import baseline, baselines
from symcere.config.fields import leaves
from symcere.data.corpus import Corpus
from symcere.errors import UserError
from symcere.evaluation import Evaluator
from symcere.model import propagation
from symcere.objective.total import TotalLoss
from symcere.text import embed
from symcere.training import Checkpoint, build, fit, restore

# `symcere.training.fit` is the function; the module is what a test patches.
LOOP = sys.modules[fit.__module__]
SMALL = {
    "model": {"dim": 8, "hidden": 6},
    "train": {"batch_size": 64, "epochs": 4, "lr": 0.02},
    "text.encoders": "lsa",
}
TRAINED = [name for name, tree in baselines().items() if "closed_form" not in tree]
CLOSED = [name for name, tree in baselines().items() if "closed_form" in tree]


def experiment(method: str = "symcere", *layers) -> Experiment:
    setup = baseline(method, SMALL)
    if setup.objective.ranking.sample < Ranking().sample:  # else all items of so small a corpus
        setup = setup.replace({"objective.ranking.sample": 8})
    return setup.replace(*layers)


def same(left: dict, right: dict) -> bool:
    """Whether two mappings of tensors are the same to the bit."""
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def told(state: Checkpoint) -> list[dict]:
    """The history without what depends on the clock."""
    return [{k: v for k, v in row.items() if k != "epoch_seconds"} for row in state.history]


def state_of(path) -> Checkpoint:
    return Checkpoint.load(path)


def equal_runs(left: Checkpoint, right: Checkpoint) -> bool:
    moments = [
        [tensor for of in state.optimiser["state"].values() for tensor in of.values()] for state in (left, right)
    ]
    return (
        told(left) == told(right)
        and (left.best_epoch, left.best_value, left.epoch, left.finished)
        == (right.best_epoch, right.best_value, right.epoch, right.finished)
        and same(left.best, right.best)
        and same(left.last, right.last)
        and len(moments[0]) == len(moments[1]) > 0
        and all(torch.equal(a, b) for a, b in zip(*moments, strict=True))
    )


# ---------------------------------------------------------------- the same numbers


def test_a_seed_repeats_a_run_to_the_bit(corpus, embeddings, tmp_path):
    for method in ("symcere", "symcere-abstract", "xsimgcl", "sgl", "rlmrec-gen"):
        torch.manual_seed(1)
        fit(corpus, embeddings, experiment(method), path=tmp_path / f"{method}-1")
        torch.manual_seed(2)  # what others drew before does not matter
        np.random.seed(3)
        fit(corpus, embeddings, experiment(method), path=tmp_path / f"{method}-2")
        first, second = (state_of(tmp_path / f"{method}-{n}") for n in (1, 2))
        assert equal_runs(first, second), method
        other = fit(corpus, embeddings, experiment(method, {"train.seed": 1})).checkpoint
        assert told(other) != told(first)


def test_training_leaves_the_callers_random_numbers_alone(corpus, embeddings):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    fit(corpus, embeddings, experiment("sgl", {"train.epochs": 1}))
    assert torch.equal(torch.rand(3), expected)


class Killed(BaseException):
    """Nothing catches it, like a kill."""


def killed_after(steps: int, monkeypatch):
    """Training that ends in the middle of an epoch, after so many steps."""
    forward, left = TotalLoss.forward, [steps]

    def dying(*args):
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return forward(*args)

    monkeypatch.setattr(TotalLoss, "forward", dying)


@pytest.mark.parametrize("method", TRAINED)
def test_resume_gives_the_numbers_of_an_uninterrupted_run(method, corpus, embeddings, tmp_path):
    """Every trained method, killed in mid-epoch: weights, moments, history and the best epoch, to the bit."""
    setup = experiment(method, {"objective.ranking.learn_temperature": method == "symcere"})
    fit(corpus, embeddings, setup, path=tmp_path / "whole")
    steps = -(-corpus.train.nnz // 64)
    with pytest.MonkeyPatch.context() as patch:
        killed_after(2 * steps + 1, patch)
        with pytest.raises(Killed):
            fit(corpus, embeddings, setup, path=tmp_path / "killed", checkpoint_every=0.0)
    assert state_of(tmp_path / "killed").epoch == 2
    fit(corpus, embeddings, setup, path=tmp_path / "killed", resume=True)
    assert equal_runs(state_of(tmp_path / "killed"), state_of(tmp_path / "whole"))


def test_resume_after_a_kill_at_any_epoch_and_through_early_stopping(corpus, tmp_path):
    """Patience, and epochs without an evaluation, are counted on; a run that is finished stays as it is."""
    setup = experiment("lightgcn", {"train": {"epochs": 30, "patience": 2, "eval_every": 2, "lr": 0.3}})
    whole = fit(corpus, None, setup, path=tmp_path / "whole").checkpoint
    assert whole.epoch < 30

    for last in range(1, whole.epoch + 1):

        def die(epoch, last=last):
            if epoch.number == last:
                raise Killed

        path = tmp_path / f"killed-{last}"
        with pytest.raises(Killed):
            fit(corpus, None, setup, path=path, on_epoch=die, checkpoint_every=0.0)
        assert path.exists() == (last > 1)
        fit(corpus, None, setup, path=path, resume=path.exists())
        assert equal_runs(state_of(path), state_of(tmp_path / "whole"))
    before = path.read_bytes()
    again = fit(corpus, None, setup, path=path, resume=True, on_epoch=pytest.fail)
    assert path.read_bytes() == before
    assert same(again.checkpoint.best, whole.best)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["symcere-abstract", "sgl"])
def test_a_killed_process_resumes_with_the_same_numbers(method, corpus, tmp_path, write_corpus, draw_reviews):
    """SIGKILL at moments of chance, several times in one run."""
    write_corpus(tmp_path / "corpus", draw_reviews())
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys
        import numpy as np
        from pathlib import Path
        from symcere.config.baselines import baseline
        from symcere.data.corpus import Corpus
        from symcere.text import Embeddings
        from symcere.training import fit
        corpus, path = Corpus.open(sys.argv[1]), Path(sys.argv[2])
        rows = np.random.default_rng(0).normal(size=(corpus.train.nnz, 6)).astype(np.float16)
        setup = baseline({method!r}, {SMALL!r}, {{"train": {{"epochs": 200, "patience": 200}}}})
        embeddings = Embeddings(corpus.path, rows, [("x", 6)], corpus.fingerprint)
        fit(corpus, embeddings, setup, path=path, resume=path.exists(), checkpoint_every=0.0)
        """)
    )

    def changed(name):
        path = tmp_path / name
        return path.stat().st_mtime_ns if path.exists() else 0

    def run(name, kill_after=None):
        before = changed(name)
        process = subprocess.Popen([sys.executable, str(script), str(tmp_path / "corpus"), str(tmp_path / name)])
        if kill_after is None:
            assert process.wait(timeout=300) == 0
            return
        while changed(name) == before:  # until this process has written
            assert process.poll() is None
            time.sleep(0.005)
        time.sleep(kill_after)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()

    run("whole")
    epochs = []
    for delay in (0.05, 0.21, 0.13):
        run("killed", delay)
        epochs.append(state_of(tmp_path / "killed").epoch)
    assert 0 < epochs[0] < epochs[1] < epochs[2] < 200
    run("killed")
    assert equal_runs(state_of(tmp_path / "killed"), state_of(tmp_path / "whole"))


# ---------------------------------------------------------------- nothing leaks


def lsa(corpus, folder, factory=None):
    text = Text((Encoder("lsa", dim=4),))
    return embed(corpus, text, folder) if factory is None else embed(corpus, text, folder, encoder_factory=factory)


def test_no_validation_or_test_review_reaches_an_encoder_or_a_profile(draw_reviews, write_corpus, tmp_path):
    """Encoders are fitted on and shown training reviews alone; the model's input is made of them alone."""
    splits = draw_reviews()
    marked = {
        split: dataclasses.replace(entries, texts=[f"{split}word {text}" if text else "" for text in entries.texts])
        for split, entries in splits.items()
    }
    corpus = write_corpus(tmp_path / "corpus", marked)
    shown: list[str] = []

    class Recording:
        sample, width = 10**6, 5
        identity = {"kind": "recording"}  # noqa: RUF012

        def fit(self, texts):
            shown.extend(texts)

        def encode(self, texts, advance=None):
            shown.extend(texts)
            return np.stack([np.random.default_rng(len(t)).normal(size=5) for t in texts]).astype(np.float32)

        def save(self, folder):
            pass

        restore = save

    found = lsa(corpus, tmp_path / "embeddings", lambda _: Recording())
    assert shown
    assert not any("valword" in text or "testword" in text for text in shown)
    assert {t for t in marked["train"].texts if t} == set(shown)

    model = build(corpus, found, experiment("text-only"))  # no propagation: a row is the node's own profile
    users, items = corpus.train.nonzero()
    reviews = np.asarray(found.reviews, np.float32)
    for node in range(corpus.num_users + corpus.num_items):
        own = reviews[((users == node) | (items + corpus.num_users == node)) & reviews.any(axis=1)]
        expected = own.mean(axis=0) if len(own) else np.zeros(5)
        np.testing.assert_allclose(model.text[node, :5], expected, atol=1e-6)


@pytest.mark.parametrize("method", ["symcere", "symcere-abstract", "alpharec", "lightgcn"])
def test_a_mutated_test_set_leaves_training_as_it_was(method, draw_reviews, write_corpus, tmp_path):
    """Other test interactions, other words in test *and* validation reviews: every bit of training is the same."""
    splits = draw_reviews()
    changed = dict(splits)
    changed["val"] = dataclasses.replace(splits["val"], texts=["gasket " * 9] * len(splits["val"].users))
    keep = splits["test"].users % 3 > 0
    items = (splits["test"].items[keep] + 1) % 20
    known = set(zip(splits["train"].users, splits["train"].items, strict=True))
    known |= set(zip(splits["val"].users, splits["val"].items, strict=True))
    fresh = [n for n, pair in enumerate(zip(splits["test"].users[keep], items, strict=True)) if pair not in known]
    changed["test"] = dataclasses.replace(
        splits["test"], users=splits["test"].users[keep][fresh], items=items[fresh], texts=["amp"] * len(fresh)
    )
    setup = experiment(method)
    states = []
    for name, reviews in (("one", splits), ("other", changed)):
        corpus = write_corpus(tmp_path / name, reviews, name=name)
        fit(corpus, lsa(corpus, tmp_path / f"embeddings-{name}"), setup, path=tmp_path / f"{name}.pt")
        states.append(state_of(tmp_path / f"{name}.pt"))
    assert states[0].corpus["fingerprint"] != states[1].corpus["fingerprint"]
    assert equal_runs(*states)


def test_mutated_validation_pairs_change_what_is_chosen_and_nothing_else(draw_reviews, write_corpus, tmp_path):
    splits = draw_reviews()
    changed = {**splits, "val": splits["test"], "test": splits["val"]}
    setup, states = experiment("lightgcn", {"train.epochs": 6}), []
    for name, reviews in (("one", splits), ("other", changed)):
        corpus = write_corpus(tmp_path / name, reviews)
        fit(corpus, None, setup, path=tmp_path / f"{name}.pt")
        states.append(state_of(tmp_path / f"{name}.pt"))
    assert same(states[0].last, states[1].last)
    assert [e["loss"] for e in states[0].history] == [e["loss"] for e in states[1].history]
    assert [e["val_ndcg_at_10"] for e in states[0].history] != [e["val_ndcg_at_10"] for e in states[1].history]


class Blind:
    """A corpus that fails where somebody looks at what is to be predicted."""

    def __init__(self, corpus: Corpus):
        self._corpus = corpus

    def __getattr__(self, name):
        if name in ("test", "texts", "ratings", "times"):
            raise AssertionError(f"training read corpus.{name}")
        return getattr(self._corpus, name)


@pytest.mark.parametrize("method", [*TRAINED, *CLOSED])
def test_training_never_opens_the_test_split(method, corpus, embeddings):
    """Nor any text: what it needs of them is in the embeddings of training reviews."""
    fitted = fit(Blind(corpus), embeddings, experiment(method, {"train.epochs": 1}))
    assert torch.isfinite(fitted.scorer.scores(torch.arange(corpus.num_users))).all()


# ---------------------------------------------------------------- selection and stopping


def test_the_best_validation_epoch_is_what_comes_out(corpus, embeddings):
    setup = experiment("symcere", {"train": {"epochs": 12, "patience": 12, "lr": 0.2}})
    seen = []
    fitted = fit(corpus, embeddings, setup, on_epoch=seen.append)
    values = [epoch.metrics["ndcg_at_10"] for epoch in seen]
    state = fitted.checkpoint
    assert state.best_epoch == 1 + int(np.argmax(values)) < 12
    assert state.best_value == max(values)
    assert [epoch.best for epoch in seen] == [v > max([-1.0, *values[:n]]) for n, v in enumerate(values)]
    again = Evaluator(corpus, "val", (10,))(fitted.scorer).metrics["ndcg_at_10"]
    assert again == state.best_value
    assert state.history[3]["loss"] == seen[3].losses["total"]


@pytest.mark.parametrize(("patience", "every", "stop"), [(1, 1, 4), (2, 1, 7), (2, 3, 12), (9, 1, 15)])
def test_patience_counts_evaluations(patience, every, stop, corpus, monkeypatch):
    """A scripted validation curve; the clock of patience starts anew at every better value, not at an equal one."""
    script = iter({1: [1, 2, 3, 3, 4, 4, 2, 5, 1, 1, 1, 1, 1, 1, 1], 3: [1, 2, 1, 2, 9]}[every])

    class Scripted(Evaluator):
        def join(self, parts):
            found = super().join(parts)
            return dataclasses.replace(found, metrics={**found.metrics, "ndcg_at_10": float(next(script))})

    monkeypatch.setattr(LOOP, "Evaluator", Scripted)
    setup = experiment("mf-bpr", {"train": {"epochs": 15, "patience": patience, "eval_every": every}})
    state = fit(corpus, None, setup).checkpoint
    assert state.epoch == stop
    assert [("val_ndcg_at_10" in row) for row in state.history] == [n % every == 0 for n in range(1, stop + 1)]


def test_the_last_epoch_is_judged_although_it_is_not_its_turn(corpus):
    state = fit(corpus, None, experiment("mf-bpr", {"train": {"epochs": 4, "eval_every": 3}})).checkpoint
    assert [row["epoch"] for row in state.history if "val_ndcg_at_10" in row] == [3, 4]


def test_a_callback_ends_training(corpus, tmp_path):
    state = fit(corpus, None, experiment("mf-bpr"), path=tmp_path / "c", on_epoch=lambda e: e.number == 2).checkpoint
    assert (state.epoch, state.finished) == (2, True)
    assert state_of(tmp_path / "c").epoch == 2


def test_a_run_that_stops_before_its_first_evaluation_can_be_used(corpus, tmp_path):
    setup = experiment("mf-bpr", {"train": {"epochs": 9, "eval_every": 5}})
    fitted = fit(corpus, None, setup, path=tmp_path / "c", on_epoch=lambda epoch: epoch.number == 2)
    assert (fitted.checkpoint.epoch, fitted.checkpoint.best_epoch) == (2, 0)
    again = restore(corpus, None, state_of(tmp_path / "c"))
    users = torch.arange(corpus.num_users)
    assert torch.equal(again.scorer.scores(users), fitted.scorer.scores(users))


@pytest.mark.parametrize(("asked", "before", "calls"), [(0, 0, []), (0, 1, []), (1, 0, [True, False]), (1, 1, [])])
def test_repeating_to_the_bit_is_for_one_run(asked, before, calls, corpus, monkeypatch):
    """PyTorch is not even asked where nothing is to change: its first answer loads its compiler, for seconds."""
    made = []
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: bool(before))
    monkeypatch.setattr(torch, "use_deterministic_algorithms", made.append)
    fit(corpus, None, experiment("lightgcn", {"train.epochs": 1, "train.deterministic": bool(asked)}))
    assert made == calls


def test_no_epoch_at_all(corpus, embeddings, tmp_path):
    """An untrained model, stored and brought back."""
    fitted = fit(corpus, embeddings, experiment("symcere", {"train.epochs": 0}), path=tmp_path / "c")
    assert (fitted.checkpoint.best_epoch, fitted.checkpoint.history) == (0, [])
    users = torch.arange(corpus.num_users)
    again = restore(corpus, embeddings, state_of(tmp_path / "c"))
    assert torch.equal(again.scorer.scores(users), fitted.scorer.scores(users))
    assert float(fitted.model.temperature) == pytest.approx(0.4)


def test_a_catalogue_of_fewer_than_ten_items(draw_reviews, write_corpus, tmp_path):
    """Selection is by NDCG at the size of the catalogue, and says so."""
    splits = draw_reviews(users=12, items=16)
    few = {}
    for split, entries in splits.items():
        inside = entries.items < 8
        texts = [text for text, keep in zip(entries.texts, inside, strict=True) if keep]
        few[split] = dataclasses.replace(entries, users=entries.users[inside], items=entries.items[inside], texts=texts)
    corpus = write_corpus(tmp_path / "few", few, users=12, items=8)
    state = fit(corpus, None, experiment("lightgcn")).checkpoint
    assert state.metric == "val_ndcg_at_8"
    assert state.best_value == max(row["val_ndcg_at_8"] for row in state.history)


# ---------------------------------------------------------------- what goes wrong


def test_a_loss_that_is_not_finite_names_term_and_step(corpus, embeddings, tmp_path, monkeypatch):
    forward, steps = TotalLoss.forward, -(-corpus.train.nnz // 64)
    calls = iter(range(1, 10**6))

    def broken(*args):
        terms = forward(*args)
        if next(calls) == steps + 2:
            terms["cross"] = terms["cross"] * float("nan")
        return terms

    monkeypatch.setattr(TotalLoss, "forward", broken)
    with pytest.raises(UserError, match=r"term 'cross', epoch 2, step 2\b"):
        fit(corpus, embeddings, experiment("symcere-abstract"), path=tmp_path / "c", checkpoint_every=0.0)
    left = state_of(tmp_path / "c")
    assert left.epoch == 1
    assert all(torch.isfinite(v).all() for v in left.last.values())


def test_a_learning_rate_out_of_all_measure_ends_as_an_error(corpus):
    with pytest.raises(UserError, match=r"not finite: term '\w+', epoch \d+, step \d+\. Lower train\.lr"):
        fit(corpus, None, experiment("mf-bpr", {"train.lr": 1e30, "train.epochs": 20}))


def test_text_without_embeddings_is_an_error(corpus):
    with pytest.raises(UserError, match="symcere embed"):
        fit(corpus, None, experiment("symcere"))
    with pytest.raises(UserError, match="symcere embed"):
        fit(corpus, None, experiment("rlmrec-con"))


def test_embeddings_of_another_corpus_are_refused(embeddings, draw_reviews, write_corpus, tmp_path):
    other = write_corpus(tmp_path / "other", draw_reviews(seed=1))
    with pytest.raises(UserError, match="embed"):
        fit(other, embeddings, experiment("symcere"))


def test_another_corpus_is_not_gone_on_with(corpus, draw_reviews, write_corpus, tmp_path):
    fit(corpus, None, experiment("lightgcn"), path=tmp_path / "c", on_epoch=lambda e: e.number == 1)
    other = write_corpus(tmp_path / "other", draw_reviews(seed=1), name="other")
    with pytest.raises(UserError, match=r"trained on corpus 'tiny'.*but 'other' is now"):
        fit(other, None, experiment("lightgcn"), path=tmp_path / "c", resume=True)
    with pytest.raises(UserError, match=r"trained on corpus 'tiny'"):
        restore(other, None, state_of(tmp_path / "c"))


def test_another_experiment_is_not_gone_on_with(corpus, tmp_path):
    fit(corpus, None, experiment("lightgcn"), path=tmp_path / "c", on_epoch=lambda e: e.number == 1)
    before = (tmp_path / "c").read_bytes()
    for name, value in (("train.lr", 0.1), ("model.dim", 4), ("objective.reg", 0.3), ("train.seed", 9)):
        with pytest.raises(UserError, match=f"began with {name} .* cannot go on with {value}"):
            fit(corpus, None, experiment("lightgcn", {name: value}), path=tmp_path / "c", resume=True)
    assert (tmp_path / "c").read_bytes() == before


def test_a_finished_run_may_go_on_for_longer(corpus, tmp_path):
    """With the numbers of a run that was meant to be as long from the start."""
    longer = {"train": {"epochs": 7, "patience": 7}}
    fit(corpus, None, experiment("lightgcn", longer), path=tmp_path / "whole")
    fit(corpus, None, experiment("lightgcn"), path=tmp_path / "c")
    assert state_of(tmp_path / "c").finished
    fit(corpus, None, experiment("lightgcn", longer), path=tmp_path / "c", resume=True)
    assert equal_runs(state_of(tmp_path / "c"), state_of(tmp_path / "whole"))
    assert state_of(tmp_path / "c").experiment == experiment("lightgcn", longer)


# ---------------------------------------------------------------- precision, temperature, closed forms


def test_precision(corpus, embeddings):
    """Double precision agrees with single; bfloat16 roughly, with parameters kept in float32."""
    found = {}
    for precision in ("fp32", "bf16", "fp64"):
        fitted = fit(corpus, embeddings, experiment("symcere-abstract", {"train.precision": precision}))
        found[precision] = np.array([row["loss"] for row in fitted.checkpoint.history])
        wanted = torch.float64 if precision == "fp64" else torch.float32
        assert {p.dtype for p in fitted.model.parameters()} == {wanted}
        assert fitted.scorer.users.dtype == wanted
    np.testing.assert_allclose(found["fp32"], found["fp64"], rtol=1e-5)
    assert (found["fp32"] != found["fp64"]).any()
    np.testing.assert_allclose(found["bf16"], found["fp32"], rtol=3e-2)
    assert abs(found["bf16"] - found["fp32"]).max() > 1e-5


def test_half_precision_before_a_large_graph(corpus, embeddings, monkeypatch):
    """A tower's output is bfloat16 then, which the products of a graph are not made in."""
    monkeypatch.setattr(propagation, "SMALL", 0)
    losses = {}
    for precision in ("fp32", "bf16"):
        setup = experiment("alpharec", {"train.precision": precision, "objective.ranking.candidates": "batch"})
        losses[precision] = [row["loss"] for row in fit(corpus, embeddings, setup).checkpoint.history]
    np.testing.assert_allclose(losses["bf16"], losses["fp32"], rtol=3e-2)


def test_a_learned_temperature_is_trained_stored_and_scored_with(corpus, embeddings, tmp_path):
    setup = experiment(
        "symcere", {"objective.ranking.learn_temperature": True, "train.epochs": 8, "train.eval_every": 8}
    )
    fitted = fit(corpus, embeddings, setup, path=tmp_path / "c")
    assert fitted.checkpoint.best_epoch == 8
    tau = float(fitted.model.temperature)
    assert tau > 0.01
    # that of the end, not that of the last step's beginning
    assert tau == pytest.approx(0.01 + float(state_of(tmp_path / "c").last["loss.temperature.rho"].exp()), rel=1e-6)
    assert abs(tau - 0.4) > 0.01
    again = restore(corpus, embeddings, state_of(tmp_path / "c"))
    assert float(again.model.temperature) == tau
    users = torch.arange(corpus.num_users)
    assert torch.equal(again.scorer.scores(users), fitted.scorer.scores(users))
    bare = again.model.scorer(0.0).scores(users)
    torch.testing.assert_close(fitted.scorer.scores(users) - bare, (tau * again.model.bias.detach()).expand_as(bare))


@pytest.mark.parametrize("method", [*TRAINED, *CLOSED])
def test_what_is_restored_is_what_was_fitted(method, corpus, embeddings, tmp_path):
    fitted = fit(corpus, embeddings, experiment(method, {"train.epochs": 2}), path=tmp_path / "c")
    state = state_of(tmp_path / "c")
    assert state.finished
    assert state.experiment == experiment(method, {"train.epochs": 2})
    again = restore(corpus, embeddings, state)
    users = torch.arange(corpus.num_users)
    assert torch.equal(again.scorer.scores(users), fitted.scorer.scores(users))
    assert (again.model is None) == (method in CLOSED)


def test_closed_forms_are_those_of_their_formulas(corpus):
    """EASE by its normal equations, popularity by counting: the loop hands over the right matrix."""
    R = corpus.train.toarray().astype(float)
    users = torch.arange(corpus.num_users)
    P = np.linalg.inv(R.T @ R + 500 * np.eye(R.shape[1]))
    B = -P / np.diag(P)
    np.fill_diagonal(B, 0)
    np.testing.assert_allclose(fit(corpus, None, experiment("ease")).scorer.scores(users), R @ B, atol=1e-6)
    popular = fit(corpus, None, experiment("popularity")).scorer.scores(users)
    np.testing.assert_array_equal(popular, np.tile(R.sum(0), (len(users), 1)))


@pytest.mark.slow
def test_a_compiled_step_is_the_same_step(corpus, embeddings):
    plain, compiled = (
        fit(corpus, embeddings, experiment("symcere", {"train.compile": on, "train.epochs": 3})).checkpoint
        for on in (False, True)
    )
    np.testing.assert_allclose(
        [row["loss"] for row in compiled.history], [row["loss"] for row in plain.history], rtol=1e-5
    )


# ---------------------------------------------------------------- every setting has an effect

WITHOUT = {
    "train.compile": "a matter of speed",
    "train.deterministic": "the CPU repeats to the bit without it",
    "evaluate.ks": "judges a finished model",
}
"""Settings that change no number of a run here."""
ELSEWHERE = ("data.", "text.")
"""Parts whose effect is proven where corpora and embeddings are made."""

ID = {"model.features": "id"}
SAME = {"model.features": "both", "objective.same.loss": "infonce"}
SAMPLED = {"objective.ranking.sample": 8}
SGL = {**ID, "objective.augment.kind": "sgl"}
XSIMGCL = {**ID, "objective.augment.kind": "xsimgcl"}
ALIGN = {"loss": "sincere", "weight": 0.5}
EFFECTS: dict[str, tuple[dict, object]] = {
    "model.dim": ({}, 4),
    "model.layers": (ID, 1),
    "model.skip_input": (ID, True),
    "model.features": ({}, "both"),
    "model.text_tower": ({}, "mlp"),
    "model.text_layers": ({}, 1),
    "model.user_profile": ({}, "items"),
    "model.hidden": ({"model.text_tower": "mlp"}, 4),
    "model.fusion": ({"model.features": "both"}, "sum"),
    "model.fusion_weight": ({"model.features": "both"}, 0.1),
    "model.drop_own": ({}, "both"),
    "model.normalise": ({}, "l2-user"),
    "model.normalise_scores": ({}, "none"),
    "model.popularity": ({}, "none"),
    "objective.ranking.loss": ({}, "softmax"),
    "objective.ranking.temperature": ({}, 0.1),
    "objective.ranking.learn_temperature": ({}, True),
    "objective.ranking.candidates": ({}, "batch"),
    "objective.ranking.sample": ({}, 5),
    "objective.ranking.negatives": ({"objective.ranking.loss": "bpr"}, 3),
    "objective.ranking.sampling": (SAMPLED, "popularity"),
    "objective.ranking.logq": ({"objective.ranking.candidates": "batch"}, False),
    "objective.ranking.reduction": ({}, "anchor"),
    "objective.ranking.uniformity": ({"objective.ranking.loss": "directau"}, 0.3),
    "objective.same.loss": ({"model.features": "both"}, "symcere"),
    "objective.same.weight": (SAME, 1.0),
    "objective.same.temperature": (SAME, 0.7),
    "objective.same.mask": ({"model.features": "id", "objective.same.loss": "reconstruct"}, 0.6),
    "objective.cross.loss": ({"model.features": "both"}, "sincere"),
    "objective.cross.weight": ({"model.features": "both", "objective.cross": ALIGN}, 1.0),
    "objective.cross.temperature": ({"model.features": "both", "objective.cross": ALIGN}, 0.7),
    "objective.intra.loss": ({}, "sincere"),
    "objective.intra.weight": ({"objective.intra": ALIGN}, 1.0),
    "objective.intra.temperature": ({"objective.intra": ALIGN}, 0.7),
    "objective.augment.kind": (ID, "simgcl"),
    "objective.augment.weight": (SGL, 1.0),
    "objective.augment.temperature": (SGL, 0.7),
    "objective.augment.eps": (XSIMGCL, 0.5),
    "objective.augment.drop": (SGL, 0.5),
    "objective.augment.layer": (XSIMGCL, 2),
    "objective.reg": ({}, 0.5),
    "train.lr": ({}, 0.001),
    "train.batch_size": ({}, 32),
    "train.epochs": ({}, 3),
    "train.patience": ({"train": {"lr": 0.5, "epochs": 12}}, 1),
    "train.eval_every": ({}, 2),
    "train.seed": ({}, 1),
    "train.precision": ({}, "fp64"),
    "train.compile": None,
    "train.deterministic": ({}, True),
    "evaluate.ks": ({}, (3,)),
    "evaluate.popularity_weight": ({}, 0.5),
    "closed_form.kind": ({}, "ease"),
    "closed_form.reg": ({"closed_form.kind": "ease"}, 5.0),
    "closed_form.shrink": ({"closed_form.kind": "itemknn"}, 1.0),
    "closed_form.neighbours": ({"closed_form.kind": "itemknn"}, 2),
    "closed_form.alpha": ({"closed_form.kind": "rp3beta"}, 1.0),
    "closed_form.beta": ({"closed_form.kind": "rp3beta"}, 0.5),
}


@pytest.mark.parametrize("name", [leaf.name for leaf in leaves(Experiment) if not leaf.name.startswith(ELSEWHERE)])
def test_every_setting_has_an_effect(name, corpus, embeddings):
    """On the losses of the first epochs or on the scores; what has none stands above, with the reason."""
    if EFFECTS[name] is None:
        assert name in WITHOUT  # and a test of its own
        return
    context, value = EFFECTS[name]
    base = experiment("symcere", {"train.epochs": 2}, context)
    changed = base.replace({name: value})
    assert changed != base
    found = []
    for setup in (base, changed):
        fitted = fit(corpus, embeddings, setup)
        found.append((told(fitted.checkpoint), fitted.scorer.scores(torch.arange(corpus.num_users))))
    (losses, scores), (other_losses, other_scores) = found
    alike = losses == other_losses and torch.equal(scores, other_scores)
    assert alike == (name in WITHOUT)


def test_an_experiment_is_not_changed_by_training(corpus, embeddings):
    setup = experiment("symcere")
    before = copy.deepcopy(setup)
    fit(corpus, embeddings, setup)
    assert setup == before
