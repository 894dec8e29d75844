"""A store that cannot be used says so at once, and no secret gets out."""

import http.server
import threading
import time

import pytest

from symcere import tracking
from symcere.errors import UserError


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://ann:hunter2@db:5432/mlflow", "postgresql://***@db:5432/mlflow"),
        ("postgresql+psycopg2://ann@db/mlflow", "postgresql+psycopg2://***@db/mlflow"),
        ("https://host/x?access_token=abc&y=1", "https://host/x?access_token=***&y=1"),
        ("https://b/x?X-Amz-Signature=9f&X-Amz-Date=2", "https://b/x?X-Amz-Signature=***&X-Amz-Date=2"),
        ("https://b/x?sv=1&sig=9f", "https://b/x?sv=1&sig=***"),
        ("from s3://k:s@b/x to gs://u:p@c/y", "from s3://***@b/x to gs://***@c/y"),
        ("sqlite:////home/ann/mlflow.db", "sqlite:////home/ann/mlflow.db"),
        ("mail ann@example.org, design=flat", "mail ann@example.org, design=flat"),
    ],
)
def test_mask(text, shown):
    assert tracking.mask(text) == shown


def test_a_server_that_does_not_answer_is_named_at_once():
    with pytest.raises(UserError, match=r"http://\*\*\*@127\.0\.0\.1:9.*nobody answers.*MLFLOW_TRACKING_URI"):
        tracking.client("http://ann:secret@127.0.0.1:9")


@pytest.mark.parametrize("name", ["a%20b", "what?"])
def test_a_home_that_no_address_can_carry_is_named(tmp_path, monkeypatch, name):
    monkeypatch.setenv("SYMCERE_HOME", str(tmp_path / name))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match=r"has a '%' or '\?' in its path.*SYMCERE_HOME"):
        tracking.client()
    assert list(tmp_path.iterdir()) == []


def test_a_home_with_spaces_and_letters_of_all_kinds(tmp_path, monkeypatch):
    name = "h \u00fc #1"
    monkeypatch.setenv("SYMCERE_HOME", str(tmp_path / name))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with tracking.start_run("e", "run") as run:
        run.log_text("x", "file.txt")
    assert tracking.find_run(run.name).artifact("file.txt").read_text() == "x"
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert sorted(path.name for path in (tmp_path / name).iterdir()) == ["artifacts", "mlflow.db"]


def test_a_relative_database_is_the_same_for_every_process(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for given, found in (
        ("sqlite:///runs/m.db", f"sqlite:///{tmp_path}/runs/m.db"),
        (f"sqlite:///{tmp_path}/m.db", f"sqlite:///{tmp_path}/m.db"),
        ("http://server:5000", "http://server:5000"),
        ("postgresql://ann@db/sqlite:///x", "postgresql://ann@db/sqlite:///x"),
    ):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
        assert tracking.tracking_uri() == found


def test_patience_outlasts_a_server_that_is_away():
    class Store(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(b"OK")

        def do_POST(self) -> None:
            self.answer(b'{"experiments": []}')

        def answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Store, bind_and_activate=False)
    server.server_bind()  # the port is ours, but nobody listens yet
    uri = f"http://127.0.0.1:{server.server_address[1]}"
    with pytest.raises(UserError, match="nobody answers"):
        tracking.client(uri)

    def come_back() -> None:
        time.sleep(1.5)
        server.server_activate()
        server.serve_forever()

    threading.Thread(target=come_back, daemon=True).start()
    try:
        start = time.monotonic()
        tracking.client(uri, patience=60)
        assert 1 < time.monotonic() - start < 30
    finally:
        server.shutdown()
        server.server_close()


def test_a_broken_database_is_named(tmp_path):
    (tmp_path / "mlflow.db").write_text("this is no database, though it is long enough to look like one" * 100)
    with pytest.raises(UserError, match=r"Cannot use the MLflow store sqlite:///.*mlflow\.db"):
        tracking.client(f"sqlite:///{tmp_path}/mlflow.db")


def test_a_store_whose_making_is_interrupted_is_made_anew(tmp_path, monkeypatch):
    """MLflow makes a file and then table after table in it; Ctrl-C between two of them leaves nothing behind."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"

    def interrupted(self, **_):
        assert list(tmp_path.glob(".mlflow.db.*/mlflow.db"))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mlflow.MlflowClient.search_experiments", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tracking.client(uri)
    assert list(tmp_path.iterdir()) == []
    assert tracking.client(uri).get_experiment_by_name("Default") is not None


def test_a_kind_that_mlflow_dropped_is_named(tmp_path):
    with pytest.raises(UserError, match="Cannot use the MLflow store"):
        tracking.client(f"nonsense://{tmp_path}")


def test_a_store_that_was_removed_meanwhile_is_named(tmp_path):
    """MLflow keeps its connection to the file that is gone: whatever is asked of it fails with pages of SQL."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert tracking.client(uri) is tracking.client(uri)
    (tmp_path / "mlflow.db").unlink()
    with pytest.raises(UserError, match=r"was removed or replaced while this process had it open.*start Python again"):
        tracking.client(uri)
