"""Batch scoring: every row is answered as a single request would be."""

import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from symcere import steps
from symcere.distributed.score import Scorer, answer_schema, answers, read
from symcere.errors import UserError
from symcere.serving import Request, Service, save

ROWS = {
    "user_id": ["ann-000", None, "stranger", "ann-005", None],
    "review_text": [None, "warm pool near the beach", None, None, ""],
    "liked_items": [None, [], ["thing-001"], None, None],
    "else": [1, 2, 3, 4, 5],
}


@pytest.fixture
def folder(stored_run, tmp_path):
    restored = steps.restore(stored_run.name)
    service = Service.of(restored.fitted, restored.corpus, restored.embeddings, restored.name)
    save(service, tmp_path / "m", restored.fitted.checkpoint.experiment)
    return tmp_path / "m"


def test_a_batch_is_answered_row_by_row(folder):
    from symcere.serving import load

    asked = Request(k=3, candidates=("thing-001", "thing-002", "thing-004", "thing-007"), why=True)
    service = load(folder)
    table = answers(service, asked, pa.table(ROWS))
    assert table.schema == answer_schema()
    assert table["basis"].to_pylist() == ["known", "text", "liked", "known", "popularity"]
    for row, answer in zip(pa.table(ROWS).to_pylist(), table.to_pylist(), strict=True):
        request = Request(
            row["user_id"], row["review_text"], row["liked_items"] or (), 3, candidates=asked.candidates, why=True
        )
        alone = service.recommend([request])[0]
        assert (answer["user_id"], answer["items"]) == (row["user_id"], alone.items)
        assert answer["scores"] == pytest.approx(alone.scores, abs=1e-6)


def test_what_cannot_be_scored_is_said_before_anything_starts(folder, tmp_path):
    pq.write_table(pa.table(ROWS), tmp_path / "users.parquet")
    pq.write_table(pa.table({"customer": ["ann-000"]}), tmp_path / "other.parquet")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    pq.write_table(pa.table({"liked_items": ["thing-001"]}), tmp_path / "one.parquet")
    pq.write_table(pa.table({"user_id": [1], "review_text": [5]}), tmp_path / "number.parquet")
    category = pa.array(["a word", None]).dictionary_encode()
    pair = pa.array([["thing-001"], None], pa.list_(pa.string(), 1))
    pq.write_table(pa.table({"review_text": category, "liked_items": pair}), tmp_path / "fine.parquet")
    with pytest.raises(UserError, match="is there already"):  # the columns are
        steps.score(str(folder), tmp_path / "fine.parquet", tmp_path / "full")
    (tmp_path / "text.parquet").write_text("user_id\nann-000\n")
    for source, out, more, words in (
        ("nowhere.parquet", "out", {}, "There is no file or folder"),
        ("other.parquet", "out", {}, "none of the columns user_id, review_text, liked_items; it has customer"),
        ("text.parquet", "out", {}, "cannot be read as Parquet"),
        ("users.parquet", "full", {}, "is there already"),
        ("users.parquet", "out", {"k": 19}, "choose 1 to 18"),
        ("users.parquet", "out", {"candidates": ["nothing"]}, "No item is left"),
        ("one.parquet", "out", {}, "liked_items must be a list of item ids in each row, not string"),
        ("number.parquet", "out", {}, "review_text must be text in each row, not int64"),
    ):
        with pytest.raises(UserError, match=words):
            steps.score(str(folder), tmp_path / source, tmp_path / out, **more)
    with pytest.raises(UserError, match="no registered model"):
        steps.score("no-such-model", tmp_path / "users.parquet", tmp_path / "out")


@pytest.mark.parametrize("group", [1, 3, 10, 100])
def test_pieces_of_a_file_are_its_rows(tmp_path, group):
    pq.write_table(pa.table({"else": range(25), "user_id": range(25)}), tmp_path / "f.parquet", row_group_size=group)
    for first in range(26):
        for rows in range(26 - first):
            parts = [t["user_id"].to_pylist() for t in read(tmp_path / "f.parquet", first, rows, batch_size=4)]
            assert [row for part in parts for row in part] == list(range(first, first + rows))
            assert all(0 < len(part) <= 4 for part in parts)


def test_a_node_that_does_not_see_the_folders_says_so(folder, tmp_path):
    piece = {"number": 0, "source": "f", "first": 0, "rows": 1}
    for model, out in ((tmp_path / "elsewhere", tmp_path), (folder, tmp_path / "elsewhere" / "out")):
        told = Scorer(model, Request(), out, 9)({name: np.array([value]) for name, value in piece.items()})
        assert told["rows"] == [0]
        assert "elsewhere" in told["trouble"][0]
        assert "set SYMCERE_HOME to a folder that all nodes share" in told["trouble"][0]


def many(service, tmp_path) -> tuple[list[str], dict[str, tuple[str, ...]]]:
    """Users of 3,000 rows in a file, and what each gets."""
    users = [f"ann-{n % 36:03}" for n in range(3000)]
    pq.write_table(pa.table({"user_id": users}), tmp_path / "users.parquet", row_group_size=500)
    return users, {u: service.recommend([Request(u, k=4)])[0].items for u in set(users)}


@pytest.mark.slow
def test_a_file_of_users_is_scored_over_ray_in_its_order(folder, tmp_path):
    from symcere.serving import load

    users, expected = many(load(folder), tmp_path)
    heard = []
    told = steps.score(
        str(folder),
        tmp_path / "users.parquet",
        tmp_path / "out",
        k=4,
        workers=1,
        batch_size=256,
        progress=lambda *said: heard.append(said),
    )
    table = pq.read_table(tmp_path / "out")
    assert (told["rows"], len(table)) == (3000, 3000)
    assert (len(heard), heard[-1]) == (told["files"], (3000, 3000))
    assert table["user_id"].to_pylist() == users
    assert all(row["items"] == expected[row["user_id"]] for row in table.to_pylist())


@pytest.mark.slow
def test_a_cluster_scores_a_run_or_leaves_nothing(stored_run, folder, tmp_path, monkeypatch):
    """As in a job there, whose address the environment tells. Then a worker fails."""
    from clusters import a_cluster  # not for the workers, who load this file, too

    from symcere.home import home
    from symcere.serving import load

    users, expected = many(load(folder), tmp_path)
    with a_cluster(num_cpus=1) as cluster:
        cluster.add_node(num_cpus=2)
        cluster.wait_for_nodes()
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        told = steps.score(stored_run.name, tmp_path / "users.parquet", tmp_path / "out", k=4, workers=2, batch_size=64)
        assert (told["rows"], told["workers"]) == (3000, 2)
        assert told["files"] > 2
        table = pq.read_table(tmp_path / "out")
        assert table["user_id"].to_pylist() == users
        assert all(row["items"] == expected[row["user_id"]] for row in table.to_pylist())
        assert not list(home().glob(".service-*"))

        monkeypatch.setattr("symcere.distributed.score.Scorer", Failing)
        with pytest.raises(UserError, match=r"^Scoring failed on a worker: .*there is no word$"):
            steps.score(str(folder), tmp_path / "users.parquet", tmp_path / "other", workers=1)
        assert not list(tmp_path.glob("*other*"))


@pytest.mark.slow
def test_a_cluster_that_has_no_node_yet_is_used_whole(folder, tmp_path):
    """As one that an autoscaler brings when it is asked."""
    from concurrent.futures import ThreadPoolExecutor

    from clusters import a_cluster

    from symcere.distributed.pool import pool
    from symcere.serving import load

    many(load(folder), tmp_path)
    with a_cluster() as cluster, pool(cluster.address), ThreadPoolExecutor() as beside:
        scoring = beside.submit(
            steps.score,
            str(folder),
            tmp_path / "users.parquet",
            tmp_path / "out",
            batch_size=64,
            address=cluster.address,
        )
        time.sleep(5)
        assert not scoring.done()
        cluster.add_node(num_cpus=2)
        assert [scoring.result(300)[key] for key in ("rows", "workers")] == [3000, 2]


class Failing(Scorer):
    def do(self, **piece):
        raise LookupError("there is no word")
