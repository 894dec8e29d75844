"""Versions, cards and promotion; the registered model in a process of its own, without the project, and over HTTP."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from symcere import steps, tracking
from symcere.errors import UserError
from symcere.tracking import registry

QUICK = {"text.encoders": "lsa", "model.dim": 8, "train.lr": 0.02, "train.batch_size": 64}
WEAK = {**QUICK, "model.features": "id", "model.popularity": "none", "train.epochs": 1, "train.lr": 1e-6}
ROOT = Path(__file__).resolve().parents[2]
MLFLOW = (sys.executable, "-m", "mlflow")


@pytest.fixture(scope="session")
def weak_run(served_home, stored_run):
    """A run that has hardly begun to learn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYMCERE_HOME", str(served_home))
        return steps.train("tiny", settings=WEAK, name="weak")


@pytest.fixture(scope="session")
def registered(served_home, stored_run):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYMCERE_HOME", str(served_home))
        return steps.register(stored_run.name, "shop")


def test_a_version_has_card_signature_example_requirements_and_lineage(registered, stored_run):
    assert (registered["version"], registered["aliases"]) == (1, ["challenger"])
    store = tracking.client()
    found = store.get_model_version("shop", "1")
    assert found.run_id == stored_run.id
    corpus = steps.open_corpus("tiny")
    assert found.tags["symcere.corpus"] == corpus.fingerprint
    card = found.description
    for part in (
        "# shop",
        corpus.fingerprint,
        stored_run.name,
        "95 % interval",
        "Gini",
        "Limits",
        "model:",
        "36 users",
    ):
        assert part in card, part
    ndcg = stored_run.metrics["test_ndcg_at_10"]
    assert f"| ndcg@10 | {ndcg:.4f} |" in card
    import mlflow

    folder = Path(found.source.removeprefix("file://"))
    model = mlflow.models.Model.load(folder)
    assert "user_id" in model.signature.inputs.input_names()
    assert {p.name for p in model.signature.params} >= {
        "k",
        "exclude_seen",
        "popularity_weight",
        "candidates",
        "exclude",
    }
    assert json.loads((folder / "input_example.json").read_text())["columns"] == [
        "user_id",
        "review_text",
        "liked_items",
    ]
    pinned = (folder / "requirements.txt").read_text().split()
    lock = (ROOT / "requirements.lock").read_text().casefold().split()
    assert [line for line in pinned if line.casefold() not in lock] == []
    assert {line.partition("==")[0] for line in pinned} >= {"mlflow", "torch", "safetensors"}
    assert not [f for f in folder.rglob("*") if f.suffix in (".pkl", ".pickle", ".pt", ".bin", ".pyc")]


CLEAN = """
import sys
here = {root!r}
sys.path[:] = [p for p in sys.path if p and (not p.startswith(here) or "lib/python" in p)]
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in getattr(f, "__module__", "")]
try:
    import symcere
    sys.exit("the project is still there")
except ImportError:
    pass
import json, mlflow, pandas as pd
model = mlflow.pyfunc.load_model({model!r})
rows = pd.DataFrame({{"user_id": ["ann-000", None], "review_text": [None, "warm pool"], "liked_items": [[], []]}})
answers = model.predict(rows, params={{"k": 4, "why": True, "exclude": ["thing-001"]}})
import symcere
assert not symcere.__file__.startswith(here + "/symcere"), symcere.__file__
print(json.dumps(answers.to_dict("records")))
"""


def test_it_loads_and_answers_where_the_project_is_not(registered, served_home, tmp_path):
    code = CLEAN.format(root=str(ROOT), model="models:/shop@challenger")
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "SYMCERE_HOME")}
    environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{served_home}/mlflow.db"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    known, new = json.loads(done.stdout.strip().splitlines()[-1])
    expected = steps.recommend(registered["run"], ["ann-000"], 4, exclude=["thing-001"])["recommendations"]
    assert known["items"] == [row["item"] for row in expected]
    # Which model number a phrase ends with makes no difference to the encoder.
    assert [w.partition(", model")[0] for w in known["why"]] == [r["why"].partition(", model")[0] for r in expected]
    assert known["titles"] == [row["title"] for row in expected]
    assert (known["basis"], new["basis"], new["user_id"]) == ("known", "text", None)
    assert "thing-001" not in new["items"]


@pytest.fixture(scope="module")
def model(registered, served_home):
    """The model in this process, as MLflow's own loader sees it."""
    import mlflow

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{served_home}/mlflow.db")
        mlflow.set_tracking_uri(f"sqlite:///{served_home}/mlflow.db")
        yield mlflow.pyfunc.load_model("models:/shop@challenger")
        mlflow.set_tracking_uri(None)


def test_rows_and_parameters_say_the_same(model):
    import pandas as pd

    by_params = model.predict(pd.DataFrame({"user_id": ["ann-003"]}), params={"k": 2, "popularity_weight": 0.0})
    by_row = model.predict(pd.DataFrame({"user_id": ["ann-003"], "k": [2], "popularity_weight": [0.0]}))
    assert by_params.to_dict("records") == by_row.to_dict("records")
    rows = pd.DataFrame({"user_id": ["ann-003", "ann-003"], "candidates": [["thing-001", "thing-002"], None]})
    assert [len(items) for items in model.predict(rows, params={"exclude_seen": False})["items"]] == [2, 10]
    rows = pd.DataFrame({"user_id": pd.array(["ann-003", pd.NA], dtype="string")})
    assert model.predict(rows)["basis"].tolist() == ["known", "popularity"]


def test_a_row_may_leave_out_what_another_says(model):
    """Also numbers, which pandas then turns into floats: of ids and counts."""
    import pandas as pd

    rows = pd.DataFrame([{"user_id": 7, "k": 2}, {"liked_items": ["thing-001"]}, {"user_id": None, "k": 3.0}])
    answers = model.predict(rows, params={"k": 4})
    assert answers["user_id"].tolist() == ["7", None, None]
    assert [len(items) for items in answers["items"]] == [2, 4, 3]


def test_bad_input_is_refused_with_the_servers_code_for_it(model):
    import pandas as pd
    from mlflow.exceptions import MlflowException

    one = {"user_id": ["ann-000"]}
    for rows, params, words in (
        (one, {"k": 19}, "choose 1 to 18"),
        (one, {"k": 0}, "choose 1 to 18"),
        (one, {"candidates": ["thing-x"]}, "Did you mean thing-0"),
        (one, {"popularity_weight": -1.0}, "from 0 to 1e"),
        ({"customer": ["ann-000"]}, {}, "No column of the input is known"),
        ({"user_id": ["ann-000"], "liked_items": ["thing-001"]}, {}, "must be a list of item ids"),
        ({"user_id": ["ann-000"], "candidates": [[]]}, {}, "no candidate is given"),  # nothing is in stock
        ({"user_id": ["ann-000"], "exclude_seen": ["false"]}, {}, "must be true or false"),
        ({"user_id": ["ann-000"], "k": [True]}, {}, "k must be a number"),
        ({"user_id": ["ann-000"], "k": ["3"]}, {}, "k must be a number"),
        ({"user_id": ["ann-000"], "k": [1.5]}, {}, "whole number"),
        ({"user_id": [1e17]}, {}, "last digits are lost"),
    ):
        with pytest.raises(MlflowException, match=words) as caught:
            model.predict(pd.DataFrame(rows), params=params)
        assert caught.value.get_http_status_code() == 400


def test_a_challenger_is_promoted_only_if_the_test_says_better(registered, weak_run, stored_run, served_home):
    steps.register(weak_run.name, "race")
    told = steps.promote("race")
    assert (told["promoted"], told["why"]) == (True, "there was no champion")
    assert registry.version("race").aliases == ("champion",)
    with pytest.raises(UserError, match="has no 'challenger'"):
        steps.promote("race")
    steps.register(stored_run.name, "race")
    told = steps.promote("race")
    # The reference: the paired t-test of SciPy on the stored per-user figures.
    import pyarrow.parquet as pq
    from scipy import stats

    a, b = (
        np.array(pq.read_table(tracking.find_run(run.name).artifact("per_user.parquet"))["ndcg_at_10"])
        for run in (stored_run, weak_run)
    )
    assert told["test"]["p"] == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-6)
    assert told["promoted"] == bool(a.mean() > b.mean() and told["test"]["p"] < 0.05)
    assert told["promoted"], told
    assert "better than version 1" in tracking.client().get_model_version("race", "2").tags["symcere.promoted"]
    steps.register(weak_run.name, "race")
    for metric in ("user", "arp_at_10"):
        with pytest.raises(UserError, match=f"no accuracy of each user called '{metric}'"):
            steps.promote("race", metric=metric)
    # A worse one is kept out, unless somebody insists.
    steps.register(weak_run.name, "race")
    told = steps.promote("race")
    assert (told["promoted"], registry.version("race").version) == (False, 2)
    assert "worse than version 2" in told["why"]
    told = steps.promote("race", force=True)
    assert (told["promoted"], registry.version("race").version) == (True, 4)
    assert tracking.client().get_model_version("race", "4").tags["symcere.promoted"].startswith("yes: forced; worse")


def test_models_of_different_corpora_are_not_compared(registered, stored_run):
    steps.register(stored_run.name, "apart")
    steps.promote("apart")
    steps.register(stored_run.name, "apart")
    tracking.client().set_model_version_tag("apart", "1", "symcere.corpus", "another")
    with pytest.raises(UserError, match="cannot be compared"):
        steps.promote("apart")
    assert steps.promote("apart", force=True)["promoted"]


def test_the_best_run_of_a_sweep_is_found(registered, stored_run, weak_run):
    for run in (stored_run, weak_run):
        for tag, value in {"symcere.sweep": "nightly", "symcere.role": "final"}.items():
            tracking.client().set_tag(run.id, tag, value)
    better = max((stored_run, weak_run), key=lambda run: run.metrics["val_ndcg_at_10"])
    assert steps.register(name="of-sweep", best_of="nightly")["run"] == better.name
    tracking.client().set_tag(weak_run.id, "symcere.dataset", "other")
    with pytest.raises(UserError, match="final models of other, tiny: name one with --dataset"):
        steps.register(name="of-sweep", best_of="nightly")
    assert steps.register(name="of-sweep", best_of="nightly", dataset="other")["run"] == weak_run.name
    with pytest.raises(UserError, match="no sweep 'no-such-sweep'"):
        steps.register(name="of-sweep", best_of="no-such-sweep")


def test_a_registered_model_whose_files_were_changed_does_not_load(stored_run):
    import mlflow

    steps.register(stored_run.name, "touched")
    found = registry.version("touched")
    folder = Path(found.source.removeprefix("file://"))
    items = folder / "artifacts" / "recommender" / "items.parquet"
    items.write_bytes(items.read_bytes()[:-1] + b"!")
    with pytest.raises(UserError, match=r"items\.parquet was changed"):
        mlflow.pyfunc.load_model(str(folder))


def test_unknown_models_versions_and_names_are_told_apart(registered):
    with pytest.raises(UserError, match="Did you mean shop"):
        registry.version("shp")
    with pytest.raises(UserError, match=r"has no '9'. Aliases: challenger = version 1"):
        registry.version("shop/9")
    with pytest.raises(UserError, match="cannot name a model"):
        steps.register(registered["run"], "my/shop")
    with pytest.raises(UserError, match="--best-of"):
        steps.register()


def test_a_store_without_a_registry_is_named(registered, monkeypatch):
    from mlflow.exceptions import MlflowException

    class Without:
        def __getattr__(self, name):
            def refuse(*_, **__):
                raise MlflowException("Model Registry functionality is unavailable", error_code=5)

            return refuse

    monkeypatch.setattr(registry, "client", lambda uri=None: Without())
    for call in (registry.version, registry.promote):
        with pytest.raises(UserError, match="needs an MLflow store with a registry"):
            call("shop")


@pytest.mark.slow
def test_mlflow_serves_it_over_http(registered, served_home, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{served_home}/mlflow.db"}
    server = subprocess.Popen(
        [*MLFLOW, "models", "serve", "-m", "models:/shop@challenger", "--env-manager", "local", "--port", str(port)],
        cwd=tmp_path,
        env={**environment, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def ask(body):
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                return reply.status, json.loads(reply.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=2).close()
                break
            except OSError:
                time.sleep(0.5)
        status, told = ask({"dataframe_records": [{"user_id": "ann-000"}], "params": {"k": 3}})
        assert status == 200
        expected = steps.recommend(registered["run"], ["ann-000"], 3)["recommendations"]
        assert told["predictions"][0]["items"] == [row["item"] for row in expected]
        status, told = ask(
            {
                "dataframe_records": [
                    {"review_text": "warm pool near the beach", "liked_items": ["thing-001"]},
                    {"user_id": "stranger", "liked_items": ["thing-001"]},
                    {"user_id": "stranger"},
                ],
                "params": {"k": 3, "why": True, "candidates": ["thing-004", "thing-007", "thing-002"]},
            }
        )
        assert status == 200
        assert [row["basis"] for row in told["predictions"]] == ["text", "liked", "popularity"]
        assert told["predictions"][0]["user_id"] is None
        status, mixed = ask({"dataframe_records": [{"user_id": 7, "k": 2}, {"liked_items": ["thing-001"]}]})
        assert status == 200
        assert [(row["user_id"], len(row["items"])) for row in mixed["predictions"]] == [("7", 2), (None, 10)]
        for wrong in ({"exclude_seen": "false"}, {"k": 1.5}, {"k": True}, {"candidates": []}):
            assert ask({"dataframe_records": [{"user_id": "ann-000", **wrong}]})[0] == 400, wrong
        assert all(set(row["items"]) == {"thing-004", "thing-007", "thing-002"} for row in told["predictions"])
        for body, words in (
            ({"dataframe_records": [{"user_id": "ann-000"}], "params": {"k": 1000}}, "choose 1 to 18"),
            ({"dataframe_records": [{"customer": "ann-000"}]}, "No column of the input is known"),
            ({"dataframe_records": [{"user_id": "ann-000"}], "params": {"candidates": ["zzz"]}}, "No item is left"),
            ({"dataframe_records": [{"user_id": "ann-000"}], "params": {"k": "many"}}, "k"),
            ({"rows": []}, "dataframe_records"),
        ):
            status, told = ask(body)
            assert (status, words in json.dumps(told)) == (400, True), (body, status, told)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)
