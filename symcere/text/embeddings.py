"""From the training reviews of a corpus to one memory-mapped matrix, resumable, in the order of training.

home/embeddings/
  shards/minilm-3f2a…/               cache of each encoder, see :mod:`symcere.text.cache`
  NAME/minilm+lsa-77c0…/             the encoders joined, for one corpus
    manifest.json                    format version, fingerprint of the corpus, blocks
    reviews.npy                      float16 [n_train, t], row k is training review k
    encoder/                         what encodes a new text into the same space
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from symcere.config import Text
from symcere.config.fields import to_dict
from symcere.data.corpus import Corpus
from symcere.errors import UserError
from symcere.home import alone, writing
from symcere.text.cache import Cache, Distinct, folder_name, key_of
from symcere.text.encoder import Factory, Joined, Progress, TextEncoder, make_encoder, read_manifest, write_manifest

KIND = "embeddings"
BLOCK = 2**15
"""Reviews written at a time."""


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Vectors of the training reviews of one corpus, in n_train rows of t columns.

    Every block of a row has length one (to float16), or is zero: where the text is empty, and where LSA knows none of
    its words.
    """

    path: Path
    reviews: np.ndarray
    """float16 ``[n_train, t]``, memory-mapped; row k is of training review k, the k-th entry of ``corpus.train``."""
    blocks: list[tuple[str, int]]
    """Name and width of each encoder's columns."""
    corpus_fingerprint: str
    fingerprint: str = ""
    """Sixteen hexadecimal digits over corpus and encoders."""
    factory: Factory = field(default=make_encoder, repr=False)

    @classmethod
    def open(cls, directory: Path, corpus: Corpus, encoder_factory: Factory = make_encoder) -> "Embeddings":
        """Finished embeddings at :attr:`path`. No model is loaded before :meth:`encode` needs it.

        Raises:
            UserError: there are none, or the corpus is not the one that they were made from.
        """
        directory = Path(directory)
        manifest = read_manifest(directory, KIND)
        if manifest["corpus"] != corpus.fingerprint:
            raise UserError(
                f"The embeddings at {directory} were made from another state of '{corpus.name}': the corpus has "
                f"changed since. Run `symcere embed {corpus.name}` again."
            )
        try:
            reviews = np.load(directory / "reviews.npy", mmap_mode="r")
        except (OSError, ValueError) as error:
            raise UserError(
                f"The embeddings at {directory} are damaged ({error}). Remove the folder and embed again."
            ) from None
        blocks = [(name, width) for name, width in manifest["blocks"]]
        return cls(directory, reviews, blocks, manifest["corpus"], manifest["fingerprint"], encoder_factory)

    def __reduce__(self) -> tuple[Any, ...]:  # other processes map the same file instead of receiving a copy
        return _reopen, (self.path, self.blocks, self.corpus_fingerprint, self.fingerprint, self.factory)

    @property
    def width(self) -> int:
        """t"""
        return self.reviews.shape[1]

    @cached_property
    def encoder(self) -> Joined:
        """What made these embeddings; ``encoder.save(folder)`` lets a model carry it."""
        return Joined.load(self.path / "encoder", self.factory)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """New texts in the space of the reviews: float32 ``[n, t]``, zero rows for empty texts.

        Raises:
            UserError: the model is not the one that made the embeddings, or is found no more.
        """
        return self.encoder.encode(texts)


def _reopen(path: Path, *fields: Any) -> Embeddings:
    return Embeddings(path, np.load(path / "reviews.npy", mmap_mode="r"), *fields)


def embed(
    corpus: Corpus,
    text: Text,
    directory: Path,
    progress: Progress | None = None,
    encoder_factory: Factory = make_encoder,
) -> Embeddings:
    """Embeds the training reviews of a corpus; validation and test reviews are not read.

    What is there already is used: all of it where corpus and encoders are the same, the shards of a killed run, and the
    shards of an encoder that another combination or another corpus of the same training reviews made.

    Args:
        text: the encoders, whose blocks are joined.
        directory: the folder of all embeddings (``home/embeddings``).
        progress: called with (what, done, total) in distinct texts of all encoders.

    Raises:
        UserError: a model is found nowhere, no review has any text, or the disk is full.
    """
    encoders = [encoder_factory(settings) for settings in text.encoders]
    key, path = _place(corpus, text, directory, encoders)
    if path.exists():
        return Embeddings.open(path, corpus, encoder_factory)

    caches = _begin(corpus, text, directory, encoders)
    missing = [cache.missing() for cache in caches]
    total = sum(len(cache.distinct) for cache in caches)
    done = total - sum(cache.rows(shard) for cache, shards in zip(caches, missing, strict=True) for shard in shards)

    def advance(texts: int) -> None:
        nonlocal done
        done += texts
        if progress:
            progress("embed reviews", done, total)

    advance(0)
    for cache, encoder, shards in zip(caches, encoders, missing, strict=True):
        for shard in shards:
            if cache.has(shard):  # another process was faster
                advance(cache.rows(shard))
                continue
            cache.put(shard, encoder.encode(cache.texts(shard), advance))
    join(caches, Joined(text.encoders, encoders), path, corpus, key)
    return Embeddings.open(path, corpus, encoder_factory)


def finished(corpus: Corpus, text: Text, directory: Path, encoder_factory: Factory = make_encoder) -> Embeddings | None:
    """What :func:`embed` would find finished; None if it had to encode."""
    _, path = _place(corpus, text, directory, [encoder_factory(settings) for settings in text.encoders])
    return Embeddings.open(path, corpus, encoder_factory) if path.exists() else None


def _place(corpus: Corpus, text: Text, directory: Path, encoders: Sequence[TextEncoder]) -> tuple[str, Path]:
    """Fingerprint and folder of the embeddings."""
    key = key_of(corpus.fingerprint, [e.identity for e in encoders])
    return key, Path(directory) / corpus.name / folder_name(text.encoders, key)


def begin(corpus: Corpus, text: Text, directory: Path, encoder_factory: Factory = make_encoder) -> list[Cache]:
    """The cache of each encoder, found or begun; fitted encoders are fitted on return.

    For those who let several workers fill them (:class:`Cache` says how); :func:`embed` then joins what is there.

    Raises:
        UserError: as :func:`embed`.
    """
    return _begin(corpus, text, directory, [encoder_factory(settings) for settings in text.encoders])


def _begin(corpus: Corpus, text: Text, directory: Path, encoders: Sequence[TextEncoder]) -> list[Cache]:
    distinct = Distinct.of(corpus.texts("train"))
    if not len(distinct):
        raise UserError(
            f"No training review of '{corpus.name}' has any text. Train without it (--model.features id), or prepare "
            "the data again and name the column that holds the reviews."
        )
    return [
        Cache.make(Path(directory), settings, encoder, distinct)
        for settings, encoder in zip(text.encoders, encoders, strict=True)
    ]


def join(caches: Sequence[Cache], joined: Joined, path: Path, corpus: Corpus, fingerprint: str) -> None:
    """Writes the vectors of complete caches side by side, in the order of training, to the folder ``path``.

    Raises:
        UserError: the corpus was prepared anew meanwhile, so that some texts may be of another state.
    """
    corpus.check()
    with alone(path):
        if path.exists():  # another process was faster
            return
        _write(caches, joined, path, corpus, fingerprint)


def _write(caches: Sequence[Cache], joined: Joined, path: Path, corpus: Corpus, fingerprint: str) -> None:
    n = corpus.train.nnz
    with writing(path) as folder:
        folder.mkdir()
        reviews = np.lib.format.open_memmap(folder / "reviews.npy", "w+", np.float16, (n, joined.width))
        for start in range(0, n, BLOCK):
            rows = slice(start, min(start + BLOCK, n))
            for cache, columns in zip(caches, joined.slices, strict=True):
                cache.gather(rows, reviews[rows, columns])
        reviews.flush()
        del reviews
        joined.save(folder / "encoder")
        write_manifest(
            folder,
            KIND,
            corpus=corpus.fingerprint,
            fingerprint=fingerprint,
            blocks=joined.blocks,
            encoders=[to_dict(settings) for settings in joined.settings],
        )
