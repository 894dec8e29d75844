"""A stored service answers as the one that was stored, and refuses what was changed."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from symcere.config import Experiment
from symcere.errors import UserError
from symcere.serving import Request, Service, bundle, load, save
from symcere.training import fit

REQUESTS = [
    Request("ann-000", k=5, why=True),
    Request(review_text="a warm pool near the beach", k=5, why=True),
    Request(review_text="a warm pool", liked_items=("thing-000", "thing-003"), k=5),
    Request(liked_items=("thing-000", "thing-003"), k=5, popularity_weight=0.5),
    Request("nobody", k=3),
]
VARIANTS = {
    "linear": {},
    "both, gated, sign": {"model.features": "both", "model.fusion": "gate", "model.text_tower": "sign"},
    "mlp of items": {"model.text_tower": "mlp", "model.user_profile": "items"},
    "ids": {"model.features": "id", "model.popularity": "none"},
    "ease": {"closed_form.kind": "ease"},
    "itemknn": {"closed_form.kind": "itemknn"},
    "popularity": {"closed_form.kind": "popularity"},
}


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS.keys())
def test_a_stored_service_gives_the_same_answers(corpus, embeddings, tmp_path, settings):
    experiment = Experiment().replace({"text.encoders": "lsa", "model.dim": 8, "train.epochs": 2, **settings})
    texts = embeddings if experiment.needs_text else None
    before = Service.of(fit(corpus, texts, experiment), corpus, texts, "m")
    save(before, tmp_path / "m", experiment)
    after = load(tmp_path / "m")
    requests = REQUESTS
    if getattr(before.scorer, "bias", None) is None:
        requests = [dataclasses.replace(r, popularity_weight=None) for r in REQUESTS]
    for one, other in zip(before.recommend(requests), after.recommend(requests), strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-6)
        assert dataclasses.replace(one, scores=[]) == dataclasses.replace(other, scores=[])


@pytest.fixture
def stored(service, tmp_path):
    save(service, tmp_path / "m", Experiment(), {"corpus": {"name": "tiny"}})
    return tmp_path / "m"


def test_nothing_in_it_is_executed_when_it_is_read(stored):
    kinds = {f.suffix for f in stored.rglob("*") if f.is_file()}
    assert kinds == {".json", ".safetensors", ".parquet", ".npz"}
    with np.load(next(stored.rglob("*.npz")), allow_pickle=False) as arrays:
        assert {a.dtype.kind for a in arrays.values()} == {"f"}


def test_changed_lost_and_added_files_are_named(stored):
    weights = stored / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match=r"weights\.safetensors was changed, added or lost"):
        load(stored)
    weights.write_bytes(whole)
    load(stored)
    (stored / "encoder" / "more.json").write_text("{}")
    with pytest.raises(UserError, match=r"encoder/more\.json"):
        load(stored)
    (stored / "encoder" / "more.json").unlink()
    (stored / "users.parquet").unlink()
    with pytest.raises(UserError, match=r"users\.parquet"):
        load(stored)


def test_other_formats_and_other_folders_are_refused(stored, tmp_path):
    manifest = json.loads((stored / "manifest.json").read_text())
    (stored / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(UserError, match="format 99"):
        load(stored)
    with pytest.raises(UserError, match="holds no recommender"):
        load(tmp_path)


def test_small_transformers_are_carried_and_large_ones_named(stored, tmp_path, monkeypatch):
    """With a stand-in for the model's files: what is copied, and what is loaded later."""
    from symcere.config import Encoder
    from symcere.text import Joined

    files = tmp_path / "files"
    files.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors", "README.md"):
        (files / name).write_text(name)

    class Stand:
        width, sample, folder = 4, 0, files
        identity = {"kind": "stand"}  # noqa: RUF012

        def __init__(self, settings):
            self.settings = settings

        def save(self, folder):
            pass

        restore = save

    one = Joined([Encoder("some/model")], [Stand(Encoder("some/model"))])
    assert bundle._save_encoder(one, tmp_path / "e") == [{"name": "some/model", "place": "inside"}]
    assert sorted(f.name for f in (tmp_path / "e" / "model-0").iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    monkeypatch.setattr("symcere.text.make_encoder", Stand)
    assert bundle._load_encoder(tmp_path / "e").encoders[0].settings.name == str(tmp_path / "e" / "model-0")
    shutil.rmtree(tmp_path / "e")
    monkeypatch.setattr(bundle, "CARRIED", 5)
    assert bundle._save_encoder(one, tmp_path / "e") == [{"name": "some/model", "place": "some/model@main"}]
    assert bundle._load_encoder(tmp_path / "e").encoders[0].settings.name == "some/model"
