"""What is stored comes back, and what is damaged, strange or half-written is refused."""

import errno
import os
import pickle

import pytest
import torch

from symcere.config.baselines import baseline
from symcere.errors import UserError
from symcere.training import Checkpoint, fit


@pytest.fixture
def setup():
    return baseline("lightgcn", {"model.dim": 4, "train": {"epochs": 2, "batch_size": 64}})


@pytest.fixture
def state(setup):
    weights = {"embedding": torch.randn(3, 2), "temperature": torch.ones((), dtype=torch.float64)}
    moments = {"state": {0: {"step": torch.tensor(4.0), "exp_avg": torch.randn(3, 2)}}, "param_groups": [{"lr": 0.1}]}
    history = [{"epoch": 1, "loss": 0.7, "val_ndcg_at_10": 0.25}]
    where = {"name": "tiny", "fingerprint": "ab" * 32}
    return Checkpoint(setup, where, 1, "val_ndcg_at_10", 0.25, 1, history, weights, weights, moments)


def test_everything_comes_back(state, tmp_path):
    state.save(tmp_path / "run" / "c.pt")
    again = Checkpoint.load(tmp_path / "run" / "c.pt")
    assert again.experiment == state.experiment
    for name in ("corpus", "epoch", "metric", "best_value", "best_epoch", "history", "finished"):
        assert getattr(again, name) == getattr(state, name), name
    for name in ("best", "last"):
        for key, value in getattr(state, name).items():
            found = getattr(again, name)[key]
            assert torch.equal(found, value)
            assert found.dtype == value.dtype
    assert torch.equal(again.optimiser["state"][0]["exp_avg"], state.optimiser["state"][0]["exp_avg"])
    assert again.optimiser["param_groups"] == [{"lr": 0.1}]


def test_what_is_stored_does_not_depend_on_the_clock_alone(corpus, setup, tmp_path):
    """Two runs of one experiment store the same weights; an unfinished one says so."""
    fit(corpus, None, setup, path=tmp_path / "one")
    fit(corpus, None, setup, path=tmp_path / "two", on_epoch=lambda e: None, checkpoint_every=0.0)
    one, two = Checkpoint.load(tmp_path / "one"), Checkpoint.load(tmp_path / "two")
    assert all(torch.equal(one.last[k], two.last[k]) for k in one.last)
    assert one.finished
    assert two.finished


def test_there_is_none(tmp_path):
    with pytest.raises(UserError, match=r"no checkpoint at .*c\.pt.*symcere ls"):
        Checkpoint.load(tmp_path / "c.pt")


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_an_unknown_format_is_refused_by_name(version, state, tmp_path):
    path = tmp_path / "c.pt"
    state.save(path)
    tree = torch.load(path, weights_only=True)
    torch.save(tree | {"format": version}, path)
    with pytest.raises(UserError, match=f"format {version}; this version of symcere reads 1"):
        Checkpoint.load(path)


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.98])
def test_a_cut_file_is_refused(kept, state, tmp_path):
    path = tmp_path / "c.pt"
    state.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    with pytest.raises(UserError, match="damaged"):
        Checkpoint.load(path)


def test_a_changed_byte_is_refused_or_harmless(state, tmp_path):
    """The archive's checks find a byte that has turned, wherever it matters."""
    path = tmp_path / "c.pt"
    state.save(path)
    whole = path.read_bytes()
    refused = 0
    for place in range(0, len(whole), len(whole) // 40):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            Checkpoint.load(path)
        except UserError as error:
            refused += "damaged" in str(error)
    assert refused > 5


@pytest.mark.parametrize(
    "content", [b"not a checkpoint", b"PK\x03\x04 nor this", b"version https://git-lfs.github.com"]
)
def test_a_strange_file_is_refused(content, tmp_path):
    (tmp_path / "c.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"no checkpoint of symcere, or is damaged"):
        Checkpoint.load(tmp_path / "c.pt")


def test_other_peoples_weights_are_refused(tmp_path):
    torch.save({"weight": torch.ones(2)}, tmp_path / "c.pt")
    with pytest.raises(UserError, match="no checkpoint of symcere"):
        Checkpoint.load(tmp_path / "c.pt")
    torch.save(torch.ones(2), tmp_path / "c.pt")
    with pytest.raises(UserError, match="no checkpoint of symcere"):
        Checkpoint.load(tmp_path / "c.pt")


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_in_a_file_is_not_run(tmp_path):
    for n, write in enumerate((torch.save, lambda tree, path: path.write_bytes(pickle.dumps(tree, protocol=2)))):
        path, mark = tmp_path / f"{n}.pt", tmp_path / f"mark-{n}"
        write({"format": 1, "best": Evil(mark)}, path)
        with pytest.raises(UserError, match="no checkpoint of symcere"):
            Checkpoint.load(path)
        assert not mark.exists()


def test_a_setting_that_is_no_more_is_named(state, tmp_path):
    path = tmp_path / "c.pt"
    state.save(path)
    tree = torch.load(path, weights_only=True)
    tree["experiment"]["model"]["wings"] = 2
    torch.save(tree, path)
    with pytest.raises(UserError, match=r"Unknown setting 'model\.wings'"):
        Checkpoint.load(path)


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_save_that_fails_leaves_the_one_before(failure, state, tmp_path, monkeypatch):
    path = tmp_path / "c.pt"
    state.save(path)
    before = path.read_bytes()

    def failing(tree, file):
        file.write_bytes(b"half") if hasattr(file, "write_bytes") else file.write(b"half")
        raise failure

    monkeypatch.setattr(torch, "save", failing)
    state.epoch = 2
    expected = UserError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected, match="No space left" if expected is UserError else None):
        state.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]


def test_the_corpus_is_checked_by_its_fingerprint(state):
    state.check_corpus("renamed", "ab" * 32)
    with pytest.raises(UserError, match=r"trained on corpus 'tiny' \(abababababab\), but 'tiny' is now cdcdcdcdcdcd"):
        state.check_corpus("tiny", "cd" * 32)
