"""Encoding reviews on several workers: Ray Data hands shards of the cache to actors that each hold the encoders.

The cache is the one of :mod:`symcere.text.cache`, in a folder that all nodes see. Shards are what a lost actor or a
killed run costs at most, and who made one does not show in it.
"""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from symcere.config import Text
from symcere.data.corpus import Corpus
from symcere.distributed.pool import check, cores, pool
from symcere.errors import UserError
from symcere.text import Embeddings
from symcere.text import embed as embed_here
from symcere.text.cache import Cache
from symcere.text.embeddings import begin
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
    caches = begin(corpus, text, directory, encoder_factory)
    missing = [{"cache": n, "shard": shard} for n, cache in enumerate(caches) for shard in cache.missing()]
    if missing:
        total = sum(len(cache.distinct) for cache in caches)
        done = total - sum(caches[m["cache"]].rows(m["shard"]) for m in missing)
        workers = min(workers, len(missing))
        if not gpus_per_worker:
            cores(workers, address)
        with pool(address, 0 if gpus_per_worker else workers) as there, _quiet_data():
            check(there, {"CPU": workers, "GPU": workers * gpus_per_worker}, address)
            for made in _encoded(missing, corpus, caches, encoder_factory, workers, gpus_per_worker):
                done += made
                if progress:
                    progress("embed reviews", done, total)
    return embed_here(corpus, text, directory, progress, encoder_factory)


def _encoded(
    missing: list[dict[str, int]],
    corpus: Corpus,
    caches: list[Cache],
    factory: Factory,
    workers: int,
    gpus: float,
) -> Iterator[int]:
    """Texts of each shard that was made, as they come."""
    import ray
    import ray.data

    shards = ray.data.from_items(missing, override_num_blocks=len(missing)).map_batches(
        _Encode,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
        fn_constructor_args=(corpus.path, [cache.path for cache in caches], factory),
        num_cpus=1,
        num_gpus=gpus or None,
    )
    try:
        for row in shards.iter_rows():
            if row["trouble"]:
                raise UserError(row["trouble"])
            yield int(row["texts"])
    except ray.exceptions.RayError as error:
        last = [line for line in str(error).splitlines() if line.strip()][-1]
        raise UserError(f"Encoding failed on a worker: {last.strip()[:500]}") from error


class _Encode:
    """An actor: shards in, their sizes out."""

    def __init__(self, corpus: Path, caches: list[Path], factory: Factory):
        self.corpus, self.paths, self.factory = corpus, caches, factory
        self.open: dict[int, tuple[Cache, TextEncoder]] = {}

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        (number,), (shard,) = batch["cache"].tolist(), batch["shard"].tolist()
        try:
            texts, trouble = self._make(number, shard), ""
        except UserError as error:  # said once, not tried again
            texts, trouble = 0, str(error)
        return {"texts": np.array([texts]), "trouble": np.array([trouble])}

    def _make(self, number: int, shard: int) -> int:
        if number not in self.open:
            path = self.paths[number]
            if not (path.is_dir() and self.corpus.is_dir()):
                raise UserError(
                    f"A node does not see {path} and {self.corpus}: set SYMCERE_HOME to a folder that all nodes share."
                )
            cache = Cache.open(path, Corpus.open(self.corpus))
            self.open[number] = cache, cache.load_encoder(self.factory)
        cache, encoder = self.open[number]
        if not cache.has(shard):  # a lost actor may have been about to say so
            cache.put(shard, encoder.encode(cache.texts(shard)))
        return cache.rows(shard)


@contextlib.contextmanager
def _quiet_data() -> Iterator[None]:
    """Ray Data's bars and logs stay out of the terminal."""
    import ray.data

    context = ray.data.DataContext.get_current()
    bars, log = context.enable_progress_bars, logging.getLogger("ray.data")
    level = log.level
    context.enable_progress_bars = False
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        context.enable_progress_bars = bars
        log.setLevel(level)
