"""Batch scoring over Ray Data: rows of Parquet in, recommendations as Parquet out, in bounded memory.

Rows stream through a pool of processes, each of which holds the model once (its tables are mapped from the same files
on one machine); only a few blocks are in flight at a time, however many users there are.
"""

import dataclasses
import logging
import math
import os
from pathlib import Path
from typing import Any

from symcere.errors import UserError
from symcere.serving import Request

COLUMNS = ("user_id", "review_text", "liked_items")
"""What a row of the input may say; a further column is ignored."""
STORE = 1 << 30
"""Bytes of the object store where no cluster is up yet: rows in flight wait here, and no more of them are read."""


class Scorer:
    """One process of the pool.

    Args:
        folder: a stored service; its checksums were compared once, by the driver.
        asked: what holds for every row.
    """

    def __init__(self, folder: str, asked: Request):
        import torch

        from symcere.serving import load

        torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
        self.service, self.asked = load(Path(folder), check=False), asked

    def __call__(self, batch: Any) -> Any:
        """A table of requests → one of answers, row by row."""
        import pyarrow as pa

        columns = {name: batch[name].to_pylist() for name in COLUMNS if name in batch.column_names}
        requests = [
            dataclasses.replace(
                self.asked,
                user_id=None if (user := _of(columns, "user_id", n)) is None else str(user),
                review_text=_of(columns, "review_text", n),
                liked_items=tuple(map(str, _of(columns, "liked_items", n) or ())),
            )
            for n in range(len(batch))
        ]
        return pa.Table.from_pylist([vars(a) for a in self.service.recommend(requests)], schema=answer_schema())


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


def score(folder: Path, source: Path, out: Path, asked: Request, workers: int, batch_size: int) -> dict[str, Any]:
    """Answers for every row of ``source``, as Parquet files in ``out``.

    Args:
        folder: a stored service; on storage that all machines of the cluster see.
        source: a Parquet file, or a folder of them.
        asked: what holds for every row: k, filters, the popularity weight.
        workers: processes; 0: one for each two CPUs of the cluster.
        batch_size: rows answered at a time by one process.

    Returns:
        rows, files, seconds and rows a second.

    Raises:
        UserError: what :meth:`symcere.serving.Service.recommend` refuses, an input without a known column, or an
            output folder that holds something.
    """
    import time

    from symcere.serving import load

    load(folder).recommend([asked])  # refuses what is wrong before anything starts
    names, rows = _look(source)
    if not set(names) & set(COLUMNS):
        raise UserError(f"{source} has none of the columns {', '.join(COLUMNS)}; it has {', '.join(names[:8])}.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already: name a new folder, or empty this one.")

    import ray
    import ray.data

    started = not ray.is_initialized()
    if started:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, object_store_memory=STORE)
    begun = time.perf_counter()
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True  # rows without a user_id are told apart by their place alone
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        cpus = int(ray.cluster_resources().get("CPU", 1))
        # Reading and writing need a CPU too.
        workers = min(workers or max(1, cpus // 2), max(1, math.ceil(rows / batch_size)))
        wanted = [name for name in COLUMNS if name in names]
        data = ray.data.read_parquet(str(source.absolute()), columns=wanted)
        data = data.map_batches(
            Scorer,
            fn_constructor_args=(str(folder.absolute()), asked),
            batch_size=batch_size,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=1 if cpus > 1 else 0.5,
        )
        data.write_parquet(str(out.absolute()))
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, UserError):
            raise cause from None
        raise
    finally:
        if started:
            ray.shutdown()
    seconds = time.perf_counter() - begun
    return {
        "out": out,
        "rows": rows,
        "files": len(list(out.glob("*.parquet"))),
        "workers": workers,
        "seconds": round(seconds, 2),
        "rows_a_second": round(rows / seconds),
    }


def _look(source: Path) -> tuple[list[str], int]:
    """Columns and rows of Parquet files."""
    import pyarrow as pa
    import pyarrow.dataset as ds

    if not source.exists():
        raise UserError(f"There is no file or folder {source}.")
    try:
        found = ds.dataset(source, format="parquet")
        return found.schema.names, found.count_rows()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{source} cannot be read as Parquet: {error}") from None
