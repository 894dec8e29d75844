"""The prepared data set: interactions as CSR, ids, titles, and review texts that stay on disk.

    NAME/
      manifest.json                     format version, fingerprint, sizes, settings, counts of each step
      users.arrow, items.arrow          id (and title), position = number
      train/ val/ test/                 indptr.npy indices.npy ratings.npy times.npy texts.arrow

The arrays of a split stand in one order, that of its CSR entries: by user, then by item. Entry k has rating k, time k
and text k. Everything is memory-mapped: opening costs milliseconds, and processes of one machine share the pages.
"""

import difflib
import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_array

from symcere.data.schema import as_text
from symcere.errors import UserError
from symcere.home import writing

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

T = TypeVar("T")
FORMAT = 1
PATIENCE = 10
"""Times that a corpus is opened again while another one takes its place."""
NO_TIME = np.iinfo(np.int64).min
"""Stands in times where a review has none: earlier than all others."""

SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class Entries:
    """The interactions of one split as :meth:`Corpus.write` takes them, sorted by user, then item, no pair twice."""

    users: np.ndarray
    """``[n]`` whole numbers below U."""
    items: np.ndarray
    """``[n]`` whole numbers below I."""
    texts: Iterable[str] | Iterable[pa.Array]
    """n cleaned texts, in the order of the entries; string arrays when they come in chunks, which may be lazy."""
    ratings: np.ndarray | None = None
    """float32 ``[n]``, NaN where there is none."""
    times: np.ndarray | None = None
    """int64 ``[n]``, Unix seconds, :data:`NO_TIME` where there is none."""


@dataclass(frozen=True, eq=False, repr=False)
class Corpus:
    """One prepared data set of U users and I items. Made by :meth:`write`, found again by :meth:`open`."""

    path: Path
    name: str
    fingerprint: str
    """sha256 (hex) over ids, interactions, ratings, times and texts: the same content has the same fingerprint on
    every machine, whatever its name, its titles and the settings that led to it."""
    train: csr_array
    """float32 ``[U, I]`` of ones, int32 indices sorted in each row, like ``val`` and ``test``."""
    val: csr_array
    test: csr_array
    user_ids: pa.StringArray
    """``[U]``, raw ids; sorted as strings, unless given split files number them otherwise."""
    item_ids: pa.StringArray
    """``[I]``"""
    item_titles: pa.StringArray | None = None
    """``[I]``, null where unknown; None where no metadata was given."""
    settings: dict[str, Any] = field(default_factory=dict)
    """:class:`symcere.config.Data` as a mapping."""
    counts: list[tuple[str, int]] = field(default_factory=list)
    """What each step of preparing left, in order: rows at first, interactions at the end."""
    notes: list[str] = field(default_factory=list)
    """What a person should know about the data, a sentence each."""

    @property
    def num_users(self) -> int:
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        return len(self.item_ids)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{getattr(self, split).nnz:,} {split}" for split in SPLITS)
        return f"Corpus({self.name}: {self.num_users:,} users, {self.num_items:,} items, {sizes})"

    def __reduce__(self):  # other processes map the same files instead of receiving a copy
        return _opened, (self.path, self.fingerprint)

    def check(self, fingerprint: str = "") -> None:
        """That this is still what is stored here, or the corpus of a fingerprint.

        Raises:
            UserError: it was prepared anew.
        """
        here = fingerprint or _manifest(self.path)["fingerprint"]
        if here != self.fingerprint:
            raise UserError(
                f"'{self.name}' was prepared anew since it was opened, or since what belongs to it began: open it "
                "again, and start again what was under way; or prepare the data as they were."
            )

    @cached_property
    def item_popularity(self) -> np.ndarray:
        """Training interactions of each item, int64 ``[I]``."""
        return np.bincount(self.train.indices, minlength=self.num_items)

    @cached_property
    def user_activity(self) -> np.ndarray:
        """Training interactions of each user, int64 ``[U]``."""
        return np.diff(self.train.indptr).astype(np.int64)

    def user_index(self, user: str) -> int:
        """The number of a user's id.

        Raises:
            UserError: an unknown id, with the nearest ones.
        """
        return _index(self.user_ids, user, f"user of {self.name}")

    def item_index(self, item: str) -> int:
        """The number of an item's id.

        Raises:
            UserError: an unknown id, with the nearest ones.
        """
        return _index(self.item_ids, item, f"item of {self.name}")

    def texts(self, split: SplitName = "train") -> pa.ChunkedArray:
        """Cleaned review texts, strings ``[n]``: text k belongs to the k-th stored entry of the split's CSR.

        Memory-mapped. A text profile may use those of training alone.
        """
        return self._still(_map_table(self.path / split / "texts.arrow")["text"])

    def ratings(self, split: SplitName = "train") -> np.ndarray:
        """float32 ``[n]`` in the order of :meth:`texts`, NaN where there is none."""
        return self._still(np.load(self.path / split / "ratings.npy", mmap_mode="r"))

    def times(self, split: SplitName = "train") -> np.ndarray:
        """int64 ``[n]`` Unix seconds in the order of :meth:`texts`, :data:`NO_TIME` where there is none."""
        return self._still(np.load(self.path / split / "times.npy", mmap_mode="r"))

    def _still(self, mapped: T) -> T:
        """What was mapped just now, of this corpus and not of a later one at its place."""
        self.check()
        return mapped

    def to_pyg(self) -> "HeteroData":
        """The corpus for PyTorch Geometric, as its link-prediction transforms would leave it.

        Node types ``user`` and ``item``; edges ``(user, reviews, item)`` and ``(item, rev_reviews, user)`` are those
        of training, the first with ``rating`` and ``time``; ``val_edge_label_index`` and ``test_edge_label_index``
        (int64 ``[2, n]``) with labels of ones are what is to be predicted.
        """
        import torch
        from torch_geometric.data import HeteroData

        data = HeteroData()
        data["user"].num_nodes = self.num_users
        data["item"].num_nodes = self.num_items
        edges = data["user", "reviews", "item"]
        for split in SPLITS:
            index = torch.from_numpy(np.stack(getattr(self, split).tocoo().coords).astype(np.int64))
            if split == "train":
                edges.edge_index = index
                edges.rating = torch.tensor(self.ratings())
                edges.time = torch.tensor(self.times())
                data["item", "rev_reviews", "user"].edge_index = index.flip(0)
            else:
                edges[f"{split}_edge_label_index"] = index
                edges[f"{split}_edge_label"] = torch.ones(index.shape[1])
        return data

    @classmethod
    def open(cls, path: Path | str) -> "Corpus":
        """The corpus at ``path``. Its manifest and the size of every file are checked; :meth:`verify` checks contents.

        Raises:
            UserError: there is none, its format is unknown to this version, or files are missing or cut.
        """
        path = Path(path).absolute()
        for left in range(PATIENCE, -1, -1):
            try:
                manifest = _manifest(path)
                corpus = cls._open(path, manifest)
                if _manifest(path) == manifest:
                    return corpus
            except (UserError, FileNotFoundError):
                if not left or not any(path.parent.glob(f".{path.name}.*")):
                    raise
            time.sleep(0.05)  # another one takes its place just now
        raise UserError(f"The corpus at {path} is being replaced again and again: wait until that ends.")

    @classmethod
    def _open(cls, path: Path, manifest: dict[str, Any]) -> "Corpus":
        for name, size in manifest["files"].items():
            file = path / name
            if not file.is_file() or file.stat().st_size != size:
                raise UserError(f"The corpus at {path} is damaged: {name} is missing or cut. Prepare the data again.")
        users, items = (_map_table(path / f"{name}.arrow") for name in ("users", "items"))
        train, val, test = (_map_csr(path / split, (len(users), len(items))) for split in SPLITS)
        return cls(
            path=path,
            name=manifest["name"],
            fingerprint=manifest["fingerprint"],
            train=train,
            val=val,
            test=test,
            user_ids=_one_chunk(users["id"]),
            item_ids=_one_chunk(items["id"]),
            item_titles=_one_chunk(items["title"]) if "title" in items.column_names else None,
            settings=manifest["settings"],
            counts=[(step, left) for step, left in manifest["counts"]],
            notes=manifest["notes"],
        )

    def verify(self) -> None:
        """Reads everything once.

        Raises:
            UserError: the contents are not those of the fingerprint.
        """
        digest = _Fingerprint()
        digest.strings([self.user_ids])
        digest.strings([self.item_ids])
        for split in SPLITS:
            for name in ("indptr", "indices", "ratings", "times"):
                digest.array(np.load(self.path / split / f"{name}.npy", mmap_mode="r"))
            digest.strings(self.texts(split).chunks)
        if digest.hexdigest() != self.fingerprint:
            raise UserError(f"The corpus at {self.path} was changed after it was made. Prepare the data again.")

    @classmethod
    def write(
        cls,
        path: Path | str,
        *,
        name: str,
        user_ids: Sequence[str] | pa.Array,
        item_ids: Sequence[str] | pa.Array,
        train: Entries,
        val: Entries,
        test: Entries,
        item_titles: Sequence[str | None] | pa.Array | None = None,
        settings: Mapping[str, Any] | None = None,
        counts: Sequence[tuple[str, int]] = (),
        notes: Sequence[str] = (),
    ) -> "Corpus":
        """Stores a corpus at ``path``, whole or not at all, and opens it.

        Raises:
            UserError: the place cannot be written, the disk is full.
            ValueError: entries that are not sorted, or not as many texts as entries.
        """
        path = Path(path).absolute()
        users, items = _strings(user_ids), _strings(item_ids)
        titles = {} if item_titles is None else {"title": _strings(item_titles)}
        digest = _Fingerprint()
        with writing(path) as folder:
            folder.mkdir()
            digest.strings(_write_table(folder / "users.arrow", pa.table({"id": users})))
            digest.strings(_write_table(folder / "items.arrow", pa.table({"id": items, **titles})))
            for split, entries in zip(SPLITS, (train, val, test), strict=True):
                _write_entries(folder / split, entries, len(users), len(items), digest)
            manifest = {
                "kind": "corpus",
                "format": FORMAT,
                "name": name,
                "fingerprint": digest.hexdigest(),
                "users": len(users),
                "items": len(items),
                "interactions": {s: len(e.users) for s, e in zip(SPLITS, (train, val, test), strict=True)},
                "settings": dict(settings or {}),
                "counts": [list(step) for step in counts],
                "notes": list(notes),
                "files": {
                    file.relative_to(folder).as_posix(): file.stat().st_size
                    for file in sorted(folder.rglob("*"))
                    if file.is_file()
                },
            }
            (folder / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False), encoding="utf-8")
        return cls.open(path)


def _opened(path: Path, fingerprint: str) -> Corpus:
    corpus = Corpus.open(path)
    corpus.check(fingerprint)
    return corpus


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        kind, version = manifest["kind"], manifest["format"]
    except FileNotFoundError:
        raise UserError(f"There is no prepared corpus at {path}. Make one with: symcere prepare DATASET") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a prepared corpus: its manifest.json is unreadable ({error!r}).") from None
    if kind != "corpus" or version != FORMAT:
        raise UserError(
            f"{path} holds {kind!r} of format {version!r}; this version of symcere reads 'corpus' of format "
            f"{FORMAT}. Prepare the data again, or use the version that wrote it."
        )
    return manifest


class _Fingerprint:
    """sha256 over a fixed order of arrays and string columns, independent of how the columns are chunked."""

    def __init__(self) -> None:
        self._whole = hashlib.sha256()

    def array(self, values: np.ndarray) -> None:
        little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
        self._whole.update(f"{little.dtype.str}{little.shape}".encode())
        self._whole.update(little.data)

    def strings(self, chunks: Iterable[pa.Array]) -> None:
        lengths, letters = hashlib.sha256(), hashlib.sha256()
        for chunk in chunks:
            offsets, data = _buffers(chunk)
            lengths.update(np.diff(offsets).astype("<i4").data)
            letters.update(data)
        self._whole.update(lengths.digest() + letters.digest())

    def hexdigest(self) -> str:
        return self._whole.hexdigest()


def _buffers(strings: pa.StringArray) -> tuple[np.ndarray, memoryview]:
    """Offsets ``[n + 1]`` and the UTF-8 bytes between the first and the last of them, without a copy."""
    _, offsets_buffer, data = strings.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int32, len(strings) + 1, strings.offset * 4)
    return offsets, memoryview(data if data is not None else b"")[offsets[0] : offsets[-1]]


def _write_entries(folder: Path, entries: Entries, num_users: int, num_items: int, digest: _Fingerprint) -> None:
    users, items, n = np.asarray(entries.users, np.int64), np.asarray(entries.items, np.int64), len(entries.users)
    for values, most in ((users, num_users), (items, num_items)):
        if len(values) != n or (n and not 0 <= values.min() <= values.max() < most):
            raise ValueError(
                f"{folder.name}: users below {num_users} and as many items below {num_items} are expected."
            )
    if (np.diff(users * num_items + items) <= 0).any():
        raise ValueError(f"{folder.name}: entries must be sorted by user, then item, without a repeated pair.")
    folder.mkdir()
    indptr = np.zeros(num_users + 1, np.int32 if n <= np.iinfo(np.int32).max else np.int64)
    np.cumsum(np.bincount(users, minlength=num_users), out=indptr[1:])
    columns = {
        "indptr": indptr,
        "indices": items.astype(indptr.dtype),
        "ratings": np.full(n, np.nan, np.float32) if entries.ratings is None else entries.ratings.astype(np.float32),
        "times": np.full(n, NO_TIME, np.int64) if entries.times is None else entries.times.astype(np.int64),
    }
    for name, column in columns.items():
        if name in ("ratings", "times") and len(column) != n:
            raise ValueError(f"{folder.name}: {len(column)} {name} for {n} entries.")
        np.save(folder / f"{name}.npy", column)
        digest.array(column)
    seen = 0

    def stored() -> Iterator[pa.Array]:
        nonlocal seen
        schema = pa.schema({"text": pa.string()})
        with pa.OSFile(str(folder / "texts.arrow"), "wb") as sink, pa.ipc.new_file(sink, schema) as file:
            for chunk in _chunks(entries.texts):
                file.write_batch(pa.record_batch([chunk], schema))
                seen += len(chunk)
                yield chunk

    digest.strings(stored())
    if seen != n:
        raise ValueError(f"{folder.name}: {seen} texts for {n} entries.")


def _strings(values: Sequence[str | None] | pa.Array) -> pa.StringArray:
    return values if isinstance(values, pa.Array) else pa.array(values, pa.string())


def _chunks(texts: Iterable[str] | Iterable[pa.Array]) -> Iterator[pa.Array]:
    plain: list[str] = []
    for text in texts:
        if isinstance(text, str):
            plain.append(text)
        elif len(text):
            yield text
    if plain:
        yield pa.array(plain, pa.string())


def _write_table(path: Path, table: pa.Table) -> list[pa.Array]:
    """Writes it and returns the chunks of its ids."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as file:
        file.write_table(table.combine_chunks())
    return table["id"].chunks


def _map_table(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def _one_chunk(column: pa.ChunkedArray) -> pa.StringArray:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _map_csr(folder: Path, shape: tuple[int, int]) -> csr_array:
    indptr, indices = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("indptr", "indices"))
    matrix = csr_array((np.ones(len(indices), np.float32), indices, indptr), shape=shape, copy=False)
    # Known, not tested: the test would read every page, and sorting would write to them.
    matrix.has_sorted_indices = matrix.has_canonical_format = True
    return matrix


def _index(ids: pa.StringArray, id: str, what: str) -> int:
    name = as_text(id) or ""
    position = pc.index(ids, name).as_py()
    if position >= 0:
        return position
    # Comparing with every id would take minutes on millions: those with the longest common beginning are enough.
    for length in range(min(len(name), 8), -1, -1):
        near = ids.filter(pc.starts_with(ids, name[:length])).slice(0, 2000).to_pylist()
        close = difflib.get_close_matches(name, near, n=3, cutoff=0.5)
        if close:
            raise UserError(f"There is no {what} with the id {name!r}. Did you mean {' or '.join(close)}?")
    raise UserError(f"There is no {what} with the id {name!r}. Ids look like {', '.join(ids[:3].to_pylist())}.")
