"""Encoding on several workers gives what one process gives, and goes on from what is there."""

import numpy as np
import pytest

from symcere.config import Encoder, Text
from symcere.data.corpus import Corpus, Entries
from symcere.distributed.encode import embed
from symcere.text import embed as embed_here

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
