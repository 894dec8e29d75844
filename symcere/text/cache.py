"""The cache of one encoder's vectors of the distinct training reviews: float16 shards that any process may add.

    shards/minilm-3f2a…/
      manifest.json     format version, settings and identity of the encoder, digest of the texts, sizes
      index.npy         int32 [n_train]   distinct text of each training review, -1 where it is empty
      first.npy         int64 [m]         first training review with each distinct text, ascending
      encoder/          what a fitted encoder learned
      00000.npy …       float16 [8192, width], one row for each distinct text, the last shard shorter

A shard takes its name when it is whole, so what is there is good, a killed run goes on with what is missing, and
several processes or machines that share the folder can each write some of the shards. The folder's name is a hash of
the encoder's identity (settings, content of the model) and of the texts: other ones are another folder.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from symcere.config import Encoder
from symcere.config.fields import build, to_dict
from symcere.data.corpus import Corpus
from symcere.errors import UserError
from symcere.home import alone, writing
from symcere.text.encoder import Factory, TextEncoder, label, make_encoder, read_manifest, write_manifest

SHARD = 8192
"""Distinct texts of a shard: what a killed run loses at most, and enough for a tight sorting by length."""
KIND = "embedding cache"


def key_of(*parts: Any) -> str:
    """Sixteen hexadecimal digits that stand for JSON-able values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def folder_name(encoders: Sequence[Encoder], key: str) -> str:
    """A folder's name that a person can read, and a key that decides."""
    names = "+".join(re.sub(r"[^A-Za-z0-9._-]", "_", label(e)) for e in encoders)
    return f"{names[:80]}-{key}"


@dataclass(frozen=True)
class Distinct:
    """The distinct, non-empty texts of a column, in the order of their first occurrence.

    Attributes:
        texts: the column, n texts.
        index: int32 ``[n]``, position among the distinct ones, -1 where the text is empty.
        first: int64 ``[m]``, row of the first occurrence, ascending.
    """

    texts: pa.ChunkedArray
    index: np.ndarray
    first: np.ndarray
    digest: str = ""
    """sha256 over all texts and their order; empty where it is known by other means."""

    @classmethod
    def of(cls, texts: pa.ChunkedArray) -> "Distinct":
        """Reads the column once. Texts are compared by 128-bit digests, which bounds memory at 16 bytes a text."""
        digests = bytearray()
        empty = np.zeros(len(texts), bool)
        row = 0
        for chunk in _slices(texts):
            length = pc.binary_length(pc.utf8_trim_whitespace(chunk))
            empty[row : row + len(chunk)] = length.to_numpy(zero_copy_only=False) == 0
            row += len(chunk)
            digests += b"".join(
                hashlib.blake2b(t, digest_size=16).digest() for t in chunk.cast(pa.binary()).to_pylist()
            )
        column = pa.Array.from_buffers(pa.binary(16), len(texts), [None, pa.py_buffer(digests)])
        rows = np.flatnonzero(~empty)
        codes = column.take(pa.array(rows)).dictionary_encode().indices.to_numpy()
        index = np.full(len(texts), -1, np.int32)
        index[rows] = codes
        # A distinct text is new where the codes reach a new maximum: dictionary_encode numbers them as they come.
        first = rows[np.diff(np.maximum.accumulate(codes), prepend=-1) > 0].astype(np.int64)
        return cls(texts, index, first, hashlib.sha256(digests).hexdigest())

    def __len__(self) -> int:
        return len(self.first)

    def take(self, which: slice | np.ndarray) -> list[str]:
        """Some of the distinct texts, by ascending positions."""
        rows = self.first[which]
        if not len(rows):
            return []
        found: list[str] = []
        low = int(rows[0])
        for chunk in _slices(self.texts.slice(low, int(rows[-1]) + 1 - low)):
            inside = rows[np.searchsorted(rows, low) : np.searchsorted(rows, low + len(chunk))]
            found += chunk.take(pa.array(inside - low)).to_pylist()
            low += len(chunk)
        return found


def _slices(texts: pa.ChunkedArray, size: int = 2**16) -> Iterator[pa.StringArray]:
    for chunk in texts.chunks:
        for start in range(0, len(chunk), size):
            yield chunk.slice(start, size)


@dataclass(frozen=True)
class Cache:
    """One encoder's vectors of the distinct texts of a corpus, complete or not.

    A worker on another machine does ``Cache.open(path, corpus)``, then for its share of :meth:`missing`
    ``cache.put(shard, encoder.encode(cache.texts(shard)))``. Whoever made them, :meth:`gather` gives the same vectors.
    """

    path: Path
    settings: Encoder
    distinct: Distinct
    width: int
    size: int = SHARD
    """Rows of a shard."""

    @classmethod
    def make(cls, directory: Path, settings: Encoder, encoder: TextEncoder, distinct: Distinct) -> "Cache":
        """The cache for these texts and this encoder, found or begun. The encoder is fitted, or restored, on return."""
        key = key_of(encoder.identity, distinct.digest, SHARD)
        path = directory / "shards" / folder_name([settings], key)
        with alone(path):
            if path.exists():  # of an earlier run, or just begun by another process
                encoder.restore(path / "encoder")
                return cls._read(path, distinct)
            if encoder.sample:
                # Evenly spaced, so that every part of the corpus has its say.
                evenly = np.linspace(0, len(distinct) - 1, min(encoder.sample, len(distinct))).astype(np.int64)
                encoder.fit(distinct.take(evenly))
            with writing(path) as folder:
                (folder / "encoder").mkdir(parents=True)
                encoder.save(folder / "encoder")
                np.save(folder / "index.npy", distinct.index)
                np.save(folder / "first.npy", distinct.first)
                write_manifest(
                    folder,
                    KIND,
                    encoder=to_dict(settings),
                    identity=encoder.identity,
                    texts=distinct.digest,
                    distinct=len(distinct),
                    width=encoder.width,
                    shard=SHARD,
                )
        return cls(path, settings, distinct, encoder.width, SHARD)

    @classmethod
    def open(cls, path: Path, corpus: Corpus) -> "Cache":
        """A cache that was begun elsewhere, without reading the corpus' texts.

        Raises:
            UserError: there is none, or it is of other texts than the corpus'.
        """
        index, first = (np.load(path / f"{name}.npy", mmap_mode="r") for name in ("index", "first"))
        if len(index) != corpus.train.nnz:
            raise UserError(f"{path} was made from {len(index):,} reviews; '{corpus.name}' has {corpus.train.nnz:,}.")
        return cls._read(path, Distinct(corpus.texts("train"), index, first))

    @classmethod
    def _read(cls, path: Path, distinct: Distinct) -> "Cache":
        manifest = read_manifest(path, KIND)
        return cls(path, build(Encoder, manifest["encoder"]), distinct, manifest["width"], manifest["shard"])

    def load_encoder(self, factory: Factory = make_encoder) -> TextEncoder:
        """The encoder of this cache, as fitted."""
        encoder = factory(self.settings)
        encoder.restore(self.path / "encoder")
        return encoder

    @property
    def shards(self) -> int:
        return -(-len(self.distinct) // self.size)

    def rows(self, shard: int) -> int:
        """Distinct texts of a shard."""
        return min(self.size, len(self.distinct) - shard * self.size)

    def texts(self, shard: int) -> list[str]:
        return self.distinct.take(slice(shard * self.size, shard * self.size + self.rows(shard)))

    def missing(self) -> list[int]:
        """Shards that nobody has written yet."""
        return [shard for shard in range(self.shards) if not self.has(shard)]

    def has(self, shard: int) -> bool:
        return self._file(shard).exists()

    def put(self, shard: int, vectors: np.ndarray) -> None:
        """Stores a shard, whole or not at all.

        Raises:
            UserError: a vector is not finite, or the disk is full.
        """
        if vectors.shape != (self.rows(shard), self.width):
            raise ValueError(f"Shard {shard} is {vectors.shape}, not {(self.rows(shard), self.width)}.")
        broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(broken):
            text = self.texts(shard)[broken[0]]
            raise UserError(
                f"Encoder '{self.settings.name}' gives a vector that is not finite for a review ({text[:60]!r}…). "
                "Its weights may be damaged, or need another precision; try another encoder."
            )
        with writing(self._file(shard)) as part, part.open("wb") as file:
            np.save(file, vectors.astype(np.float16))

    def gather(self, rows: slice, out: np.ndarray) -> None:
        """Writes the vectors of training reviews ``rows`` to ``out`` ``[len(rows), width]``, zeros for empty texts."""
        index = self.distinct.index[rows]
        out[index < 0] = 0
        for shard in np.unique(index[index >= 0] // self.size):
            inside = np.flatnonzero(index // self.size == shard)
            out[inside] = self._open_shard(int(shard))[index[inside] - shard * self.size]

    def _open_shard(self, shard: int) -> np.ndarray:
        if shard not in self._open:
            if len(self._open) >= 64:  # each holds a file descriptor
                self._open.pop(next(iter(self._open)))
            self._open[shard] = np.load(self._file(shard), mmap_mode="r")
        return self._open[shard]

    @cached_property
    def _open(self) -> dict[int, np.ndarray]:
        return {}

    def _file(self, shard: int) -> Path:
        return self.path / f"{shard:05d}.npy"
