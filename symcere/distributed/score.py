"""Batch scoring over Ray Data: rows of Parquet in, recommendations as Parquet out, in bounded memory.

The rows are cut into pieces; a pool of processes, each of which holds the model once (its tables are mapped from the
same files on one machine), reads a piece some rows at a time and writes a file of answers for it.
"""

import dataclasses
import math
import os
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from symcere.distributed.actors import Actor, in_pieces
from symcere.distributed.pool import GROWTH, check, pool, ray_address, room
from symcere.errors import UserError
from symcere.home import writing
from symcere.serving import Request, Service, raw_id

COLUMNS = ("user_id", "review_text", "liked_items")
"""What a row of the input may say; a further column is ignored."""
PIECE = 1 << 17
"""Rows of a piece, at most, and so of a file of answers."""
STORE = 100 << 20
"""Bytes of the object store where no cluster is up yet: no rows pass through it."""


class Scorer(Actor):
    """One process of the pool.

    Args:
        folder: a stored service; its checksums were compared once, by the driver.
        asked: what holds for every row.
        out: folder for the files of answers.
        batch_size: rows answered at a time.
    """

    def __init__(self, folder: Path, asked: Request, out: Path, batch_size: int):
        self.folder, self.asked, self.out, self.batch_size = folder, asked, out, batch_size

    @cached_property
    def service(self) -> Service:
        import torch

        from symcere.serving import load

        if not (self.folder.is_dir() and self.out.is_dir()):
            raise UserError(
                f"A node does not see {self.folder} and {self.out.parent}: set SYMCERE_HOME to a folder that all nodes "
                "share, and write to one."
            )
        torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
        return load(self.folder, check=False)

    def do(self, number: int, source: str, first: int, rows: int) -> int:  # type: ignore[override]
        """Answers some rows of a file of requests, in a file of its own."""
        import pyarrow.parquet as pq

        service, schema = self.service, answer_schema()
        with writing(self.out / f"{number:06}.parquet") as unfinished, pq.ParquetWriter(unfinished, schema) as file:
            for batch in read(Path(source), first, rows, self.batch_size):
                file.write_table(answers(service, self.asked, batch))
        return rows


def answers(service: Service, asked: Request, requests: Any) -> Any:
    """A table of requests → one of answers, row by row."""
    import pyarrow as pa

    columns = {name: requests[name].to_pylist() for name in COLUMNS if name in requests.column_names}
    rows = [
        dataclasses.replace(
            asked,
            user_id=raw_id(_of(columns, "user_id", n)),
            review_text=_of(columns, "review_text", n),
            liked_items=tuple(item for raw in _of(columns, "liked_items", n) or () if (item := raw_id(raw))),
        )
        for n in range(len(requests))
    ]
    return pa.Table.from_pylist([vars(a) for a in service.recommend(rows)], schema=answer_schema())


def read(source: Path, first: int, rows: int, batch_size: int) -> Iterator[Any]:
    """Some rows of a Parquet file, from ``first`` on, as tables of at most ``batch_size`` rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(source) as file:
        sizes = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
        ends = np.cumsum(sizes, dtype=int)
        group, last = np.searchsorted(ends, [first, first + rows], side="right")  # other groups are not even read
        skip = first - int(ends[group - 1] if group else 0)
        groups = list(range(group, min(last + 1, len(sizes))))
        for batch in file.iter_batches(batch_size, row_groups=groups, columns=list(COLUMNS)):
            part = batch.slice(min(skip, len(batch)), rows)
            skip, rows = max(0, skip - len(batch)), rows - len(part)
            if len(part):
                yield pa.Table.from_batches([part])


def _of(columns: dict[str, list[Any]], name: str, row: int) -> Any:
    return columns[name][row] if name in columns else None


def answer_schema() -> Any:
    """The columns of the output: those of :class:`symcere.serving.Answer`."""
    import pyarrow as pa

    text = pa.string()
    return pa.schema(
        {
            "user_id": text,
            "basis": text,
            "items": pa.list_(text),
            "scores": pa.list_(pa.float32()),
            "titles": pa.list_(text),
            "why": pa.list_(text),
            "notes": pa.list_(text),
        }
    )


def score(
    folder: Path,
    source: Path,
    out: Path,
    asked: Request,
    workers: int,
    batch_size: int,
    address: str = "",
    progress: Callable[..., Any] | None = None,
) -> dict[str, Any]:
    """Answers for every row of ``source``, as Parquet files in ``out``, which is there whole or not at all.

    Args:
        folder: a stored service.
        source: a Parquet file, or a folder of them.
        asked: what holds for every row: k, filters, the popularity weight.
        workers: processes; 0: one for each CPU there is, once there is a node.
        batch_size: rows answered at a time by one process.
        address: of a running cluster, all nodes of which see ``folder``, ``source`` and ``out``; by default this
            machine.
        progress: told ("score", rows done, rows in all).

    Returns:
        rows, files, seconds and rows a second.

    Raises:
        UserError: what :meth:`symcere.serving.Service.recommend` refuses, an input without a known column, an output
            folder that holds something, or a node that does not see the folders.
    """
    import time

    from symcere.serving import load

    load(folder).recommend([asked])  # refuses what is wrong before anything starts
    folder, source, out = folder.absolute(), source.absolute(), out.absolute()
    sizes = _look(source)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already: name a new folder, or empty this one.")
    rows, done = sum(sizes.values()), 0
    with pool(address, workers, STORE) as there, writing(out) as unfinished:
        unfinished.mkdir()
        if not workers:  # a cluster may begin without a node, and its first one tells how many cores one has
            wait = GROWTH if ray_address(address) else 0.0
            workers = int(room([{"CPU": 1}], wait, asks="Scoring", remedy="`ray status` tells why no node came")["CPU"])
        pieces = _pieces(sizes, min(PIECE, max(batch_size, math.ceil(rows / workers / 4))))
        workers = min(workers, len(pieces))
        check(there, {"CPU": workers}, address)
        begun = time.perf_counter()
        for made in in_pieces(
            pieces, Scorer, (folder, asked, unfinished, batch_size), workers=workers, doing="Scoring"
        ):
            done += made
            if progress:
                progress("score", done, rows)
        if (arrived := sum(_look(unfinished).values())) != rows:
            raise UserError(
                f"{arrived} of {rows} rows arrived in {out}: name a folder that all nodes of the cluster share."
            )
        seconds = time.perf_counter() - begun
    return {
        "out": out,
        "rows": rows,
        "files": len(pieces),
        "workers": workers,
        "seconds": round(seconds, 2),
        "rows_a_second": round(rows / seconds),
    }


def _pieces(sizes: dict[Path, int], most: int) -> list[dict[str, Any]]:
    """Arguments of :meth:`Scorer.do`: all rows of files of some sizes, ``most`` at a time."""
    spans = [(file, n, min(most, rows - n)) for file, rows in sizes.items() for n in range(0, max(rows, 1), most)]
    return [
        {"number": number, "source": str(file), "first": first, "rows": rows}
        for number, (file, first, rows) in enumerate(spans)
    ]


def _look(source: Path) -> dict[Path, int]:
    """Rows of each Parquet file, by its path.

    Raises:
        UserError: none is there or can be read, or one tells nothing that can be asked with.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not source.exists():
        raise UserError(f"There is no file or folder {source}.")
    files = sorted(f for f in source.rglob("*") if f.is_file() and not f.name.startswith((".", "_")))
    sizes = {}
    for file in files if source.is_dir() else [source]:
        try:
            found = pq.read_metadata(file)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{file} cannot be read as Parquet: {error}") from None
        schema = found.schema.to_arrow_schema()
        names = schema.names
        if not set(names) & set(COLUMNS):
            raise UserError(f"{file} has none of the columns {', '.join(COLUMNS)}; it has {', '.join(names[:8])}.")
        of = pa.types
        for name, fits, must in (
            ("review_text", (of.is_string, of.is_large_string), "text"),
            ("liked_items", (of.is_list, of.is_large_list, of.is_fixed_size_list), "a list of item ids"),
        ):
            kind = schema.field(name).type if name in names else pa.null()
            plain = kind.value_type if of.is_dictionary(kind) else kind
            if not any(fit(plain) for fit in (*fits, of.is_null)):
                raise UserError(f"{file}: {name} must be {must} in each row, not {kind}.")
        sizes[file] = found.num_rows
    if not sizes:
        raise UserError(f"There is no Parquet file in {source}.")
    return sizes
