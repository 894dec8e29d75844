"""The steps as a notebook calls them, on a small CSV of one's own: prepare, embed, train, evaluate, ls, rm."""

import csv
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from symcere import steps, tracking
from symcere.config import Experiment
from symcere.config.baselines import baseline
from symcere.errors import UserError
from symcere.evaluation import Evaluator
from symcere.objective.total import TotalLoss
from symcere.training import Checkpoint, fit

WORDS = (("gasket", "valve", "pump", "hose", "torque"), ("string", "fret", "amp", "pedal", "neck"))
FAST = {"model.dim": 8, "train": {"epochs": 4, "batch_size": 128, "lr": 0.02}}
LSA = {"text.encoders": [{"name": "lsa", "dim": 6}]}


def write_csv(path, seed: int = 0, users: int = 40, items: int = 24, mutate=lambda row: row):
    """Columns with names of their own; users of two kinds, who mostly buy what is theirs."""
    rng = np.random.default_rng(seed)
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["customer", "sku", "stars", "comment", "when"])
        for user in range(users):
            weights = np.where(np.arange(items) % 2 == user % 2, 5.0, 1.0)
            for n, item in enumerate(rng.choice(items, size=8, replace=False, p=weights / weights.sum())):
                text = " ".join([*rng.choice(WORDS[item % 2], 4), *rng.choice(["good", "bad", "fine"], 2)])
                row = [f"c{user:02}", f"s{item:02}", int(rng.integers(1, 6)), text, f"2020-01-{n + 1:02}"]
                out.writerow(mutate(row))
    return path


COLUMNS = {"user": "customer", "item": "sku", "rating": "stars", "text": "comment", "time": "when"}


def prepare(path, name="shop", **settings):
    return steps.prepare(name, [path], columns=COLUMNS, settings={"core": 3, **settings})


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A home with one corpus and two runs in it."""
    folder = tmp_path_factory.mktemp("steps")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYMCERE_HOME", str(folder / "home"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        corpus = prepare(write_csv(folder / "reviews.csv"))
        lightgcn = steps.train("shop", method="lightgcn", settings=FAST)
        symcere = steps.train("shop", settings={**FAST, **LSA})
        found = {"home": folder / "home", "store": tracking.tracking_uri(), "csv": folder, "corpus": corpus}
        yield {**found, "lightgcn": lightgcn, "symcere": symcere}


# ---------------------------------------------------------------- the way through


def test_prepare(shop):
    corpus = shop["corpus"]
    assert (corpus.num_users, corpus.num_items) == (40, 24)
    assert corpus.train.nnz + corpus.val.nnz + corpus.test.nnz == 320
    assert corpus.path == shop["home"] / "corpora" / "shop"
    assert steps.open_corpus("shop").fingerprint == corpus.fingerprint
    assert "shop" in {listed.name for listed in steps.datasets()}


def test_embed_is_made_once_and_reused_by_training(shop):
    found = steps.embed("shop", LSA)
    before = found.path.stat().st_mtime_ns
    assert found.reviews.shape == (shop["corpus"].train.nnz, 6)
    assert steps.embed("shop", LSA).path == found.path
    assert found.path.stat().st_mtime_ns == before
    assert [p.name for p in (shop["home"] / "embeddings" / "shop").iterdir()] == [found.path.name]


@pytest.mark.parametrize("method", ["lightgcn", "symcere"])
def test_train_is_fit_and_judged_by_the_test_split_once(method, shop):
    """What a run tells is what the loop and the evaluator give, called by hand."""
    run, corpus = shop[method], shop["corpus"]
    state = Checkpoint.load(run.path)
    assert run.path == shop["home"] / "runs" / run.name / "checkpoint.pt"
    assert (run.epochs, run.best_epoch, run.reused) == (4, state.best_epoch, False)
    embeddings = steps.embed("shop", LSA) if method == "symcere" else None
    fitted = fit(corpus, embeddings, state.experiment)
    expected = Evaluator(corpus, "test", (5, 10, 20))(fitted.scorer).metrics
    assert {k.removeprefix("test_"): v for k, v in run.metrics.items() if k.startswith("test_")} == expected
    assert run.metrics["val_ndcg_at_10"] == fitted.checkpoint.best_value
    assert any("k = 50 left out" in note for note in run.notes)


def test_what_the_store_knows_of_a_run(shop):
    """Settings, figures by epoch, the identity of corpus and experiment, and the files that reports read."""
    run = tracking.find_run(shop["symcere"].name)
    state = Checkpoint.load(shop["symcere"].path)
    assert run.id == shop["symcere"].id
    assert run.status == "FINISHED"
    assert run.params["model.dim"] == "8"
    assert run.tags["symcere.corpus"] == shop["corpus"].fingerprint
    assert run.metrics["test_ndcg_at_10"] == shop["symcere"].metrics["test_ndcg_at_10"]
    history = tracking.client().get_metric_history(run.id, "val_ndcg_at_10")
    epochs = {(row["epoch"], row["val_ndcg_at_10"]) for row in state.history}
    assert {(m.step, m.value) for m in history} == epochs | {(4, state.best_value)}
    assert run.artifact("experiment.yaml").read_text() == state.experiment.to_yaml()
    assert Experiment.load(run.artifact("experiment.yaml")) == state.experiment
    assert Experiment.load(shop["symcere"].path.parent / "experiment.yaml") == state.experiment
    assert run.artifact("figures/training_curve.png").read_bytes()[:4] == b"\x89PNG"
    users = pq.read_table(run.artifact("per_user.parquet"))
    assert np.mean(users["ndcg_at_10"].to_numpy()) == pytest.approx(shop["symcere"].metrics["test_ndcg_at_10"])
    assert users["user"].to_pylist() == shop["corpus"].user_ids.to_pylist()
    items = pq.read_table(run.artifact("items.parquet"))
    assert items["popularity"].to_pylist() == shop["corpus"].item_popularity.tolist()
    assert torch.tensor(items["norm"].to_numpy()).allclose(torch.ones(24), atol=1e-5)  # l2


@pytest.mark.parametrize("by", ["name", "id", "path", "folder"])
def test_evaluate_finds_a_run_by_name_id_and_path(by, shop):
    run = shop["symcere"]
    asked = {"name": run.name, "id": run.id, "path": run.path, "folder": run.path.parent}[by]
    told = steps.evaluate(asked)
    assert {f"test_{k}": v for k, v in told["metrics"].items()}.items() <= run.metrics.items()
    of, low, high = told["interval_95"].values()
    assert of == "ndcg_at_10"
    assert low < told["metrics"]["ndcg_at_10"] < high
    assert told["users"] == 40


def test_evaluate_on_validation_and_with_other_cut_offs(shop):
    run = shop["symcere"]
    assert steps.evaluate(run.name, split="val")["metrics"]["ndcg_at_10"] == run.metrics["val_ndcg_at_10"]
    told = steps.evaluate(run.name, settings={"evaluate.ks": "1,3"})
    assert {k.rpartition("_at_")[2][0] for k in told["metrics"]} == {"1", "3"}
    for settings in ({"evaluate.ks": "10,25"}, {"evaluate": {"ks": [25]}}):
        with pytest.raises(UserError, match="k = 25, but there are only 24 items"):
            steps.evaluate(run.name, settings=settings)


def test_popularity_weights_trade_accuracy_against_popularity(shop):
    run = shop["symcere"]
    out = shop["csv"] / "new" / "folder"
    told = steps.evaluate(run.name, popularity_weights=(0.0, 1.0, 50.0), out=out)
    assert told["figure"].parent == out
    rows = told["popularity_weights"]
    assert [row["weight"] for row in rows] == [0.0, 1.0, 50.0]
    assert rows[1]["ndcg_at_10"] == run.metrics["test_ndcg_at_10"]
    assert rows[0]["arp_at_10"] < rows[1]["arp_at_10"] < rows[2]["arp_at_10"]
    assert told["figure"].read_bytes()[:4] == b"\x89PNG"
    assert any("--split val" in note for note in told["notes"])  # a weight is not chosen by test
    weighed = steps.evaluate(run.name, settings={"evaluate.popularity_weight": 50.0})
    assert weighed["metrics"]["ndcg_at_10"] == rows[2]["ndcg_at_10"]
    with pytest.raises(UserError, match="no popularity term"):
        steps.evaluate(shop["lightgcn"].name, popularity_weights=(0.0,))


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_popularity_weight_that_is_none(shop, weight):
    with pytest.raises(UserError, match="A popularity weight is a number of at least 0"):
        steps.evaluate(shop["symcere"].name, popularity_weights=[weight])


@pytest.mark.parametrize("method", ["popularity", "ease"])
def test_closed_forms_are_runs_like_others(method, shop):
    run = steps.train("shop", method=method)
    told = steps.evaluate(run.name)
    assert told["metrics"]["ndcg_at_10"] == run.metrics["test_ndcg_at_10"]
    assert "val_ndcg_at_10" in run.metrics


def test_a_finished_run_is_reused_where_asked(shop):
    again = steps.train("shop", settings={**FAST, **LSA}, reuse=True, on_epoch=pytest.fail)
    assert (again.name, again.reused) == (shop["symcere"].name, True)
    assert shop["symcere"].metrics.items() <= again.metrics.items()
    other = steps.train("shop", settings={**FAST, **LSA, "train.seed": 1}, reuse=True)
    assert not other.reused
    # What a sweep counts as its own has to say so: a run that lies in the same experiment is none of its models.
    final = steps.train(
        "shop", settings={**FAST, **LSA}, reuse=True, tags={"symcere.sweep": "s", "symcere.role": "final"}
    )
    assert not final.reused


def test_an_experiment_repeats_a_run(shop):
    state = Checkpoint.load(shop["symcere"].path)
    again = steps.train("shop", experiment=state.experiment)
    assert again.metrics == shop["symcere"].metrics
    assert again.name != shop["symcere"].name


def test_the_experiment_beside_a_run_is_of_its_method(shop):
    from symcere.steps.runs import method_of

    beside = shop["symcere"].path.parent / "experiment.yaml"
    changed = Experiment().replace({"objective.reg": 0.123})
    assert method_of(beside, changed) == "symcere"
    assert method_of(shop["csv"] / "my search.yaml", changed) == "my-search"
    assert method_of(shop["csv"] / "my search.yaml", Experiment()) == "symcere"


def test_training_without_the_test_split(shop):
    run = steps.train("shop", method="lightgcn", settings=FAST, test=False)
    assert not any(k.startswith("test_") for k in run.metrics)
    assert run.metrics["val_ndcg_at_10"] == shop["lightgcn"].metrics["val_ndcg_at_10"]


# ---------------------------------------------------------------- interrupted, failed


def test_an_interrupted_run_resumes_with_the_same_numbers(shop, monkeypatch):
    """Ctrl-C in the third epoch; the resumed run ends like the one that was left alone."""
    monkeypatch.setitem(fit.__kwdefaults__, "checkpoint_every", 0.0)

    def interrupt(epoch):
        if epoch.number == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"symcere train --resume stopped-.* goes on with it"):
        steps.train("shop", settings={**FAST, **LSA}, name="stopped", on_epoch=interrupt)
    stopped = next(run for run in tracking.list_runs("shop") if run.name.startswith("stopped"))
    assert stopped.status == "KILLED"
    assert Checkpoint.load(shop["home"] / "runs" / stopped.name / "checkpoint.pt").epoch == 2
    seen = []
    run = steps.train(resume=stopped.name, on_epoch=lambda epoch: seen.append(epoch.number) or False)
    assert seen == [3, 4]
    assert run.metrics == shop["symcere"].metrics
    assert same(Checkpoint.load(run.path).last, Checkpoint.load(shop["symcere"].path).last)
    curve = tracking.client().get_metric_history(run.id, "loss")
    assert sorted(point.step for point in curve) == [1, 2, 3, 4]  # with the epochs before the interruption
    with pytest.raises(UserError, match=f"Run {run.name} is finished: nothing is left"):
        steps.train(resume=run.name)
    with pytest.raises(UserError, match=r"did not come to its end \(killed\), .* --resume stopped-"):
        steps.register(stopped.name)
    with pytest.raises(UserError, match=r"began with train\.lr 0\.02 and cannot go on with 0\.5"):
        steps.train("shop", resume=stopped.name, settings={"train.lr": 0.5})


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_a_failed_run_ends_as_failed_with_its_error(shop, monkeypatch):
    forward = TotalLoss.forward
    monkeypatch.setattr(TotalLoss, "forward", lambda *args: {k: v * float("nan") for k, v in forward(*args).items()})
    with pytest.raises(UserError, match="term 'ranking', epoch 1, step 1"):
        steps.train("shop", method="lightgcn", settings=FAST, name="broken")
    run = next(run for run in tracking.list_runs("shop") if run.name.startswith("broken"))
    assert run.status == "FAILED"
    assert "not finite" in run.tags["symcere.error"]
    with pytest.raises(UserError, match=r"ended before its model was stored \(failed\)"):
        steps.evaluate(run.name)


# ---------------------------------------------------------------- errors before anything is done


def test_what_is_asked_wrongly_starts_nothing(shop):
    before = len(tracking.list_runs("shop"))
    wrong = {
        r"Unknown baseline 'lightgnc'.*lightgcn": {"method": "lightgnc"},
        r"Unknown setting 'model\.dims'.*dim": {"settings": {"model.dims": 3}},
        r"data\.core is 3 in the prepared corpus 'shop'.*symcere prepare shop … --data\.core 9": {
            "settings": {"data.core": 9}
        },
        r"k = 99, but there are only 24 items": {"settings": {"evaluate.ks": "10,99"}},
        r"temperature' is -1": {"settings": {"objective.ranking.temperature": -1}},
        r"align a graph view": {"settings": {"objective.cross.loss": "symcere"}},
    }
    for message, arguments in wrong.items():
        with pytest.raises(UserError, match=message):
            steps.train("shop", **arguments)
    assert len(tracking.list_runs("shop")) == before


def test_unknown_names(shop):
    with pytest.raises(UserError, match="amazon-2014-musical-instruments"):
        steps.open_corpus("amazon-2014-musical-instrument")
    with pytest.raises(UserError, match=r"not prepared.*symcere prepare yelp"):
        steps.train("yelp")
    with pytest.raises(UserError, match=shop["symcere"].name):
        steps.evaluate(shop["symcere"].name[:-1])
    with pytest.raises(UserError, match="no-such-file"):
        steps.prepare("other", [shop["csv"] / "no-such-file.csv"])
    with pytest.raises(UserError, match="dataset"):
        steps.prepare("nameless")
    with pytest.raises(UserError, match=r"'shop' was prepared from files of your own.*--source"):
        steps.prepare("shop")


def test_ones_own_files_take_no_card_by_accident(shop):
    """`fashion` is the end of one card's name, and `synthetic` reads nothing."""
    with pytest.raises(UserError, match="of the card 'amazon-2018-fashion'"):
        prepare(shop["csv"] / "reviews.csv", "fashion")
    with pytest.raises(UserError, match="reads no file"):
        prepare(shop["csv"] / "reviews.csv", "synthetic")


def test_a_damaged_corpus_is_listed_as_one(fresh):
    (fresh / "corpora" / "yelp").mkdir(parents=True)
    assert [one.prepared for one in steps.datasets() if one.name == "yelp"] == ["damaged"]


def test_a_name_is_no_path(shop, tmp_path, monkeypatch):
    """Whatever is at a path would have been replaced by a corpus."""
    monkeypatch.setenv("SYMCERE_HOME", str(tmp_path / "home"))
    mine = write_csv(tmp_path / "reviews.csv")
    for name in (str(tmp_path), "../runs", "a/b", "my shop", ".hidden"):
        with pytest.raises(UserError, match="cannot name a data set"):
            prepare(mine, name)
        with pytest.raises(UserError, match="cannot name a data set"):
            steps.prepare("shop", [mine], columns=COLUMNS, settings={"core": 3}, name=name)
        with pytest.raises(UserError, match="cannot name a run"):
            steps.train("shop", name=name)
    assert [path.name for path in tmp_path.iterdir()] == ["reviews.csv"]


def test_a_file_where_a_folder_should_be_written(shop):
    with pytest.raises(UserError, match=r"reviews\.csv is a file: name a folder"):
        steps.evaluate(shop["symcere"].name, popularity_weights=[0, 1], out=shop["csv"] / "reviews.csv")


# ---------------------------------------------------------------- what is stored, and freeing it


@pytest.fixture
def fresh(shop, home, monkeypatch):
    """An empty home, with the MLflow store that is there already: making one takes seconds."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", shop["store"])
    return home


@pytest.fixture
def small(fresh, tmp_path):
    """A home of its own, with a corpus and two untrained runs."""
    prepare(write_csv(tmp_path / "reviews.csv"))
    steps.embed("shop", LSA)
    return [steps.train("shop", settings={**FAST, **LSA, "train.epochs": 0, "train.seed": n}) for n in (0, 1)]


def test_ls_and_rm(small, fresh):
    listed = {stored.name: stored for stored in steps.ls()}
    runs = [f"runs/{run.name}" for run in small]
    assert set(listed) == {"corpora/shop", "embeddings/shop", "embeddings/shards", *runs}
    assert sorted(listed["corpora/shop"].used_by) == sorted(["embeddings/shop", *runs])
    assert sorted(listed["embeddings/shop"].used_by) == sorted(runs)
    assert listed[runs[0]].used_by == []
    for stored in listed.values():
        assert stored.size == sum(p.stat().st_size for p in stored.path.rglob("*") if p.is_file()) > 0

    with pytest.raises(UserError, match=r"corpora/shop is used by .*Remove those too, or use --force"):
        steps.rm(["corpora/shop"])
    with pytest.raises(UserError, match=r"'shop' is several things: corpora/shop, embeddings/shop"):
        steps.rm(["shop"])
    with pytest.raises(UserError, match=r"Nothing stored is called 'runs/nobody'"):
        steps.rm([small[0].name, "runs/nobody"])
    assert {stored.name for stored in steps.ls()} == set(listed)  # nothing went

    (fresh / "sweeps" / "quick").mkdir(parents=True)
    (fresh / "sweeps" / "quick" / "plan.json").write_text('{"corpora": {"shop": "f"}}')
    ids = steps.train("shop", method="mf-bpr", settings={**FAST, "train.epochs": 0})
    listed = {stored.name: stored for stored in steps.ls()}
    assert {"sweeps/quick", f"runs/{ids.name}"} < set(listed["corpora/shop"].used_by)
    assert sorted(listed["embeddings/shop"].used_by) == sorted(runs)
    steps.rm(["quick", ids.name])
    (fresh / "corpora" / "shop").rename(fresh.parent / "other-disk")
    (fresh / "corpora" / "shop").symlink_to(fresh.parent / "other-disk")
    steps.rm(["corpora/shop"], force=True)
    assert (fresh.parent / "other-disk" / "manifest.json").exists()
    (fresh.parent / "other-disk").rename(fresh / "corpora" / "shop")

    freed = steps.rm([small[0].name])
    assert freed == {"removed": [runs[0]], "bytes": listed[runs[0]].size}
    assert not small[0].path.parent.exists()
    steps.rm(["corpora/shop", "embeddings/shop", runs[1]])
    assert {stored.name for stored in steps.ls()} == {"embeddings/shards"}
    assert list((fresh / "corpora").iterdir()) == []


def test_a_corpus_that_has_changed_is_refused_by_what_was_made_from_it(small, tmp_path):
    before = steps.open_corpus("shop").fingerprint
    prepare(write_csv(tmp_path / "other.csv", seed=1))
    assert steps.open_corpus("shop").fingerprint != before
    with pytest.raises(UserError, match=r"trained on corpus 'shop'.*Prepare the corpus as it was, or train again"):
        steps.evaluate(small[0].name)
    prepare(tmp_path / "reviews.csv")
    assert steps.open_corpus("shop").fingerprint == before
    assert steps.evaluate(small[0].name)["metrics"]["ndcg_at_10"] == small[0].metrics["test_ndcg_at_10"]


def test_reviews_of_validation_and_test_leave_no_trace_in_training(fresh, tmp_path):
    """The whole way from the file: other ratings and words in held-out reviews, every bit of training the same."""
    corpus = prepare(write_csv(tmp_path / "reviews.csv"), name="one")
    held = {
        (corpus.user_ids[int(u)].as_py(), corpus.item_ids[int(i)].as_py())
        for split in (corpus.val, corpus.test)
        for u, i in zip(*split.nonzero(), strict=True)
    }

    def mutate(row):
        return [*row[:2], 1, "sesame secret leak gasket", row[4]] if (row[0], row[1]) in held else row

    other = prepare(write_csv(tmp_path / "other.csv", mutate=mutate), name="other")
    assert other.fingerprint != corpus.fingerprint
    assert (other.test != corpus.test).nnz == 0
    runs = [steps.train(name, settings={**FAST, **LSA}) for name in ("one", "other")]
    states = [Checkpoint.load(run.path) for run in runs]
    assert same(states[0].last, states[1].last)
    assert same(states[0].best, states[1].best)
    assert runs[0].metrics == runs[1].metrics
    leaked = [p for p in (fresh / "embeddings").rglob("*") if p.is_file() and b"sesame" in p.read_bytes()]
    assert leaked == []


def test_a_catalogue_of_fewer_than_ten_items(fresh, tmp_path):
    corpus = prepare(write_csv(tmp_path / "few.csv", items=9, users=30), name="few")
    assert corpus.num_items == 9
    run = steps.train("few", settings={**FAST, **LSA})
    assert {k for k in run.metrics if k.startswith("val_")} == {"val_ndcg_at_9"}
    assert "test_ndcg_at_5" in run.metrics
    assert "test_ndcg_at_10" not in run.metrics
    assert steps.evaluate(run.name)["metrics"]["ndcg_at_5"] == run.metrics["test_ndcg_at_5"]
    json.dumps(run.metrics)


def test_trials_of_all_data_sets_reserve_the_same_memory_where_it_fits():
    from symcere.steps.sweeps.needs import one_size

    needs = {"small": 1e9, "large": 3e9}
    assert one_size(needs, {"CPU": 4, "memory": 16e9}, 1) == {"small": 3e9, "large": 3e9}
    assert one_size(needs, {"CPU": 8, "memory": 16e9}, 1) == needs  # eight times 3 GB is more than there is
    assert one_size(needs, {"CPU": 8, "memory": 16e9}, 2) == {"small": 3e9, "large": 3e9}
    assert one_size({}, {"CPU": 2}, 1) == {}


# ---------------------------------------------------------------- from a notebook


def test_a_split_that_is_none_is_not_the_test_split(shop):
    for split in ("validation", "train", "Val"):
        with pytest.raises(UserError, match="split is 'val' or 'test'"):
            steps.evaluate(shop["symcere"], split=split)
        with pytest.raises(UserError, match="split is 'val' or 'test'"):
            Evaluator(shop["corpus"], split)


def test_settings_that_an_evaluation_cannot_have_are_refused(shop):
    with pytest.raises(UserError, match=r"of its own part alone .* not of 'model'"):
        steps.evaluate(shop["symcere"].name, settings={"model.layers": 0})


def test_the_named_methods_are_the_callers_own():
    mine = steps.baselines()
    mine["lightgcn"]["train"] = {"lr": 0.5}
    assert steps.baselines()["lightgcn"] != mine["lightgcn"]
    assert baseline("lightgcn").train.lr != 0.5


def test_a_reused_run_says_what_it_said(shop):
    again = steps.train(shop["corpus"], settings={**FAST, **LSA}, reuse=True)
    first = shop["symcere"]
    assert again.reused
    for told in ("dataset", "method", "metrics", "best_epoch", "epochs"):
        assert getattr(again, told) == getattr(first, told), told
    assert again.seconds > 0
    assert again.next[0] == f"symcere evaluate {again.name}"
    untested = steps.train("shop", settings={**FAST, **LSA, "train.seed": 5}, test=False)
    tested = steps.train("shop", settings={**FAST, **LSA, "train.seed": 5}, reuse=True)
    assert not tested.reused
    assert "test_ndcg_at_10" in tested.metrics.keys() - untested.metrics.keys()


def test_a_precision_that_others_set_changes_nothing(shop):
    torch.set_default_dtype(torch.float64)
    try:
        run = steps.train("shop", settings={**FAST, **LSA, "train.seed": 6})
        steps.recommend(run, shop["corpus"].user_ids[:1], k=1)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    again = steps.train("shop", settings={**FAST, **LSA, "train.seed": 6})
    assert run.metrics == again.metrics


def test_slips_in_python_are_named(shop):
    for call, message in (
        (lambda: steps.train(), "Which data set"),
        (lambda: steps.train("shop", workers=0), "at least 1"),
        (lambda: steps.train("shop", experiment={"train.lr": 1}), "Experiment.load"),
        (lambda: steps.prepare("t", shop["csv"] / "reviews.csv", columns={"user": 0}), "column of the user is a name"),
        (lambda: steps.rm("nothing"), "Nothing stored is called 'nothing'"),
        (lambda: steps.explain(shop["symcere"], "a", "b", side="items"), "side is 'user' or 'item'"),
        (lambda: steps.explain(shop["symcere"], split="validation"), "split is one of"),
    ):
        with pytest.raises(UserError, match=message):
            call()
