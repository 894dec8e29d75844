"""Encoding on several workers gives what one process gives, and goes on from what is there."""

import contextlib
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from symcere.config import Encoder, Text
from symcere.data.corpus import Corpus, Entries
from symcere.distributed.encode import embed
from symcere.distributed.pool import check
from symcere.errors import UserError
from symcere.text import embed as embed_here
from symcere.text.encoder import make_encoder

LSA = Text((Encoder(name="lsa", dim=4),))


@pytest.fixture
def corpus(tmp_path) -> Corpus:
    rng = np.random.default_rng(1)
    words = ["gasket", "pool", "string", "amp", "late", "bus", "neck", "wall"]

    def entries(pairs: np.ndarray) -> Entries:
        pairs = np.sort(pairs)
        texts = [" ".join(rng.choice(words, rng.integers(0, 9))) for _ in pairs]
        return Entries(pairs // 20, pairs % 20, texts)

    train, val, test = np.split(rng.permutation(30 * 20)[:200], [150, 175])
    return Corpus.write(
        tmp_path / "corpus",
        name="tiny",
        user_ids=[f"u{n:04}" for n in range(30)],
        item_ids=[f"i{n:04}" for n in range(20)],
        train=entries(train),
        val=entries(val),
        test=entries(test),
    )


def test_two_workers_fill_the_cache_that_one_process_fills(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("symcere.text.cache.SHARD", 32)
    alone = embed_here(corpus, LSA, tmp_path / "alone")
    heard = []
    # One shard is there already, as after a kill: it is used as it is.
    whole = embed_here(corpus, LSA, tmp_path / "many")
    (folder,) = (tmp_path / "many" / "shards").iterdir()
    shards = sorted(folder.glob("0*.npy"))
    assert len(shards) > 2
    kept = shards[0].stat().st_mtime_ns
    for shard in shards[1:]:
        shard.unlink()
    for file in sorted(whole.path.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    whole.path.rmdir()

    made = embed(corpus, LSA, tmp_path / "many", lambda *said: heard.append(said), workers=2)
    assert np.array_equal(made.reviews, alone.reviews)
    assert np.abs(np.asarray(alone.reviews, dtype=float)).sum() > 1
    assert made.fingerprint == alone.fingerprint
    assert [p.name for p in sorted(folder.glob("0*.npy"))] == [p.name for p in shards]
    assert shards[0].stat().st_mtime_ns == kept
    done = [said[1] for said in heard]
    assert done == sorted(done)
    assert heard[-1][1] == heard[-1][2]
    # What is finished is found, without its shards and without Ray.
    shutil.rmtree(folder)
    monkeypatch.setattr("symcere.distributed.encode.pool", None)
    assert embed(corpus, LSA, tmp_path / "many", workers=2).fingerprint == made.fingerprint


def actors() -> list[int]:
    """Processes of this test's encoding actors."""
    found, parents = [], {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if b"_Encode" in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))

    def ours(pid: int) -> bool:
        while pid in parents and pid != os.getpid():
            pid = parents[pid]
        return pid == os.getpid()

    return [pid for pid in found if ours(pid)]


@pytest.mark.slow
def test_a_killed_actor_is_replaced_and_the_result_is_the_same(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("symcere.text.cache.SHARD", 4)
    alone = embed_here(corpus, LSA, tmp_path / "alone")

    def slowly(settings):
        encoder = make_encoder(settings)
        encode = encoder.encode
        encoder.encode = lambda texts, advance=None: (time.sleep(0.3), encode(texts, advance))[1]
        return encoder

    killed, after = [], []

    def kill_one(_, done, total):
        if killed:
            after.append(done)
        elif done < total / 2 and (found := actors()):
            killed.append(found[0])
            os.kill(found[0], signal.SIGKILL)

    made = embed(corpus, LSA, tmp_path / "many", kill_one, slowly, workers=2)
    assert killed
    assert len(set(after)) > 5, "most shards were made after the loss"
    assert not Path(f"/proc/{killed[0]}").exists()
    assert np.array_equal(made.reviews, alone.reviews)
    assert made.fingerprint == alone.fingerprint
    assert [p for p in (tmp_path / "many").rglob("*") if p.name.endswith(".part")] == []


@pytest.mark.slow
def test_gpus_that_are_not_there(corpus, tmp_path, monkeypatch):
    """Ray would wait for them for ever."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match=r"1 GPUs are asked for, and this machine has 0: use fewer, or --address"):
        embed(corpus, LSA, tmp_path / "many", workers=2, gpus_per_worker=1)


def test_a_job_of_a_cluster_waits_for_gpus(monkeypatch, caplog):
    """Its command is given no address: Ray sets one in the environment."""
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    check({"CPU": 8.0}, {"CPU": 2, "GPU": 2}, "")
    assert "Waiting for 2 GPUs, of which the cluster has 0 now" in caplog.text


@pytest.mark.slow
def test_more_workers_than_cores_are_said_to_be_slow(corpus, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("symcere.text.cache.SHARD", 32)
    workers = len(os.sched_getaffinity(0)) + 1
    made = embed(corpus, LSA, tmp_path / "many", workers=workers)
    assert f"{workers} workers share the {workers - 1} cores of this machine" in caplog.text
    assert np.array_equal(made.reviews, embed_here(corpus, LSA, tmp_path / "alone").reviews)
