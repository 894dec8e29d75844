"""Batch scoring: every row is answered as a single request would be."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from symcere import steps
from symcere.distributed.score import Scorer, answer_schema
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
    table = Scorer(str(folder), asked)(pa.table(ROWS))
    assert table.schema == answer_schema()
    assert table["basis"].to_pylist() == ["known", "text", "liked", "known", "popularity"]
    service = load(folder)
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
    (tmp_path / "text.parquet").write_text("user_id\nann-000\n")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    for source, out, more, words in (
        ("nowhere.parquet", "out", {}, "There is no file or folder"),
        ("other.parquet", "out", {}, "none of the columns user_id, review_text, liked_items; it has customer"),
        ("text.parquet", "out", {}, "cannot be read as Parquet"),
        ("users.parquet", "full", {}, "is there already"),
        ("users.parquet", "out", {"k": 19}, "choose 1 to 18"),
        ("users.parquet", "out", {"candidates": ["nothing"]}, "No item is left"),
    ):
        with pytest.raises(UserError, match=words):
            steps.score(str(folder), tmp_path / source, tmp_path / out, **more)
    with pytest.raises(UserError, match="no registered model"):
        steps.score("no-such-model", tmp_path / "users.parquet", tmp_path / "out")


@pytest.mark.slow
def test_a_file_of_users_is_scored_over_ray_in_its_order(folder, tmp_path):
    users = [f"ann-{n % 36:03}" for n in range(3000)]
    pq.write_table(pa.table({"user_id": users}), tmp_path / "users.parquet", row_group_size=500)
    told = steps.score(str(folder), tmp_path / "users.parquet", tmp_path / "out", k=4, workers=1, batch_size=256)
    table = pq.read_table(tmp_path / "out")
    assert (told["rows"], len(table)) == (3000, 3000)
    assert table["user_id"].to_pylist() == users
    from symcere.serving import load

    service = load(folder)
    expected = {u: service.recommend([Request(u, k=4)])[0].items for u in set(users)}
    assert all(row["items"] == expected[row["user_id"]] for row in table.to_pylist())
