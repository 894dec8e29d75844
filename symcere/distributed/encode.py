"""Encoding reviews on several workers: Ray Data hands shards of the cache to actors that each hold the encoders.

The cache is the one of :mod:`symcere.text.cache`, in a folder that all nodes see. Shards are what a lost actor or a
killed run costs at most, and who made one does not show in it.
"""

from pathlib import Path

from symcere.config import Text
from symcere.data.corpus import Corpus
from symcere.distributed.actors import Actor, in_pieces
from symcere.distributed.pool import check, cores, pool
from symcere.errors import UserError
from symcere.text import Embeddings
from symcere.text import embed as embed_here
from symcere.text.cache import Cache
from symcere.text.embeddings import begin, finished
from symcere.text.encoder import Factory, Progress, TextEncoder, make_encoder


def embed(
    corpus: Corpus,
    text: Text,
    directory: Path,
    progress: Progress | None = None,
    encoder_factory: Factory = make_encoder,
    *,
    workers: int,
    gpus_per_worker: float = 0,
    address: str = "",
) -> Embeddings:
    """:func:`symcere.text.embed` by several workers, with the same result.

    Args:
        workers: actors that encode side by side.
        gpus_per_worker: GPUs that each one holds, or a part of one; 0 encodes on CPUs.
        address: of a running cluster, all nodes of which see corpus and ``directory``; by default this machine.

    Raises:
        UserError: what :func:`symcere.text.embed` raises, or a node that does not see the folders.
    """
    if (made := finished(corpus, text, directory, encoder_factory)) is not None:
        return made
    caches = begin(corpus, text, directory, encoder_factory)
    missing = [{"cache": n, "shard": shard} for n, cache in enumerate(caches) for shard in cache.missing()]
    if missing:
        total = sum(len(cache.distinct) for cache in caches)
        done = total - sum(caches[m["cache"]].rows(m["shard"]) for m in missing)
        workers = min(workers, len(missing))
        if not gpus_per_worker:
            cores(workers, address)
        with pool(address, 0 if gpus_per_worker else workers) as there:
            check(there, {"CPU": workers, "GPU": workers * gpus_per_worker}, address)
            what = corpus.path, [cache.path for cache in caches], encoder_factory
            for texts in in_pieces(missing, _Encode, what, workers=workers, gpus=gpus_per_worker, doing="Encoding"):
                done += texts
                if progress:
                    progress("embed reviews", done, total)
    return embed_here(corpus, text, directory, progress, encoder_factory)


class _Encode(Actor):
    """Shards in, of the caches at ``caches``; holds the encoders that it met."""

    def __init__(self, corpus: Path, caches: list[Path], factory: Factory):
        self.corpus, self.paths, self.factory = corpus, caches, factory
        self.open: dict[int, tuple[Cache, TextEncoder]] = {}

    def do(self, cache: int, shard: int) -> int:  # type: ignore[override]
        if cache not in self.open:
            path = self.paths[cache]
            if not (path.is_dir() and self.corpus.is_dir()):
                raise UserError(
                    f"A node does not see {path} and {self.corpus}: set SYMCERE_HOME to a folder that all nodes share."
                )
            opened = Cache.open(path, Corpus.open(self.corpus))
            self.open[cache] = opened, opened.load_encoder(self.factory)
        opened, encoder = self.open[cache]
        if not opened.has(shard):  # a lost actor may have been about to say so
            opened.put(shard, encoder.encode(opened.texts(shard)))
        return opened.rows(shard)
