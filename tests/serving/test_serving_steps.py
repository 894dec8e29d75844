"""`recommend` and `export` on a stored run."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from symcere import steps
from symcere.cli import main
from symcere.errors import UserError


def test_recommend_lists_titles_scores_and_reasons(stored_run):
    told = steps.recommend(stored_run.name, ["ann-000", "ann-001"], k=4)
    rows = told["recommendations"]
    assert [(row["user"], row["rank"]) for row in rows] == [(u, r) for u in ("ann-000", "ann-001") for r in range(1, 5)]
    for row in rows:
        number = int(row["item"].removeprefix("thing-"))
        assert row["title"] == (f"Thing number {number}" if number else None)
        assert len(row["why"].split()) >= 4
    assert [row["score"] for row in rows[:4]] == sorted((row["score"] for row in rows[:4]), reverse=True)


def test_recommend_obeys_files_of_ids_from_the_command_line(stored_run, tmp_path, capsys):
    (tmp_path / "stock").write_text("thing-001\nthing-004\nthing-007\nnot-ours\n")
    (tmp_path / "barred").write_text("thing-004\n")
    files = ["--candidates", str(tmp_path / "stock"), "--exclude", str(tmp_path / "barred")]
    assert main(["recommend", stored_run.name, "--user", "ann-000", "-k", "3", "--no-why", "--json", *files]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {row["item"] for row in told["recommendations"]} == {"thing-001", "thing-007"}
    assert "why" not in told["recommendations"][0]
    assert any("1 of 4 candidates" in note for note in told["notes"])


def test_recommend_refuses_what_it_does_not_know(stored_run):
    with pytest.raises(UserError, match="Did you mean ann-0"):
        steps.recommend(stored_run.name, ["ann-9"])
    with pytest.raises(UserError, match="choose 1 to 18"):
        steps.recommend(stored_run.name, ["ann-001"], k=19)


def test_exported_vectors_give_the_models_scores_and_lists(stored_run, tmp_path):
    told = steps.export(stored_run.name, tmp_path / "out", k=12)
    users, items, lists = (pq.read_table(tmp_path / "out" / f"{n}.parquet") for n in ("users", "items", "top_k"))
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    restored = steps.restore(stored_run.name)
    corpus, scorer = restored.corpus, restored.fitted.scorer
    z_u, z_i = (np.stack(table["vector"].to_numpy()) for table in (users, items))
    scores = z_u @ z_i.T + items["bias"].to_numpy()
    np.testing.assert_allclose(scores, scorer.scores(torch.arange(corpus.num_users)), atol=1e-5)
    assert users["id"].to_pylist() == corpus.user_ids.to_pylist()
    assert items["title"].to_pylist() == corpus.item_titles.to_pylist()
    assert meta["corpus"]["fingerprint"] == corpus.fingerprint
    assert (meta["dim"], meta["k"], told["k"]) == (8, 12, 12)
    # The lists, by sorting whole rows.
    seen = (corpus.train + corpus.val).toarray() > 0
    for user in range(corpus.num_users):
        mine = lists.filter(np.array(lists["user"].to_pylist()) == corpus.user_ids[user].as_py())
        order = np.argsort(-np.where(seen[user], -np.inf, scores[user]), kind="stable")[: min(12, (~seen[user]).sum())]
        assert mine["rank"].to_pylist() == list(range(1, len(order) + 1))
        np.testing.assert_allclose(mine["score"].to_numpy(), scores[user][order], atol=1e-5)
        assert set(mine["item"].to_pylist()) == set(corpus.item_ids.take(order).to_pylist())


def test_export_refuses_a_k_beyond_the_catalogue_and_leaves_nothing(stored_run, tmp_path):
    with pytest.raises(UserError, match="choose 1 to 18"):
        steps.export(stored_run.name, tmp_path / "out", k=19)
    assert not (tmp_path / "out").exists()


def test_exported_lists_are_no_longer_than_the_catalogue_unless_asked(stored_run, tmp_path):
    assert main(["export", stored_run.name, "--out", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "meta.json").read_text())["k"] == 18


def test_export_replaces_an_export_and_nothing_else(stored_run, tmp_path):
    for k in (3, 4):
        steps.export(stored_run.name, tmp_path / "out", k=k)
    assert json.loads((tmp_path / "out" / "meta.json").read_text())["k"] == 4
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(UserError, match="mine is a folder that holds something else"):
        steps.export(stored_run.name, tmp_path / "mine", k=3)
    (tmp_path / "mine" / "meta.json").write_text("{}")  # of their own
    with pytest.raises(UserError, match="mine is a folder that holds something else"):
        steps.export(stored_run.name, tmp_path / "mine", k=3)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"


def test_recommend_takes_ids_as_notebooks_have_them(stored_run):
    """A text, a generator, an array; one string is no list."""
    import pyarrow as pa

    users, items = ["ann-000", "ann-001"], ["thing-000", "thing-003", "thing-004"]
    plain = steps.recommend(stored_run.name, users, k=2, candidates=items, exclude=["thing-003"], why=False)
    for kind in (np.array, pa.array, lambda ids: (id for id in ids)):
        told = steps.recommend(
            stored_run.name, kind(users), k=2, candidates=kind(items), exclude=kind(["thing-003"]), why=False
        )
        assert told == plain
    assert {row["user"] for row in steps.recommend(stored_run.name, "ann-000", k=1)["recommendations"]} == {"ann-000"}
    with pytest.raises(UserError, match="exclude is a list of item ids, not 'thing-003'"):
        steps.recommend(stored_run.name, users, exclude="thing-003")
    with pytest.raises(UserError, match="k is a whole number"):
        steps.recommend(stored_run.name, users, k=2.5)
