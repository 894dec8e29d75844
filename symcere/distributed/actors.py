"""Work in pieces, for actors of Ray Data that each hold what they need and do one piece at a time.

Whoever does a piece writes it to its own place on storage that all see, and only says how large it was. So nothing
large passes through Ray, and a piece that is done again, after its actor was lost, is the same.
"""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from symcere.errors import UserError


class Actor:
    """One process of a pool, made anew on its machine; it loads what it needs with its first piece."""

    def do(self, **piece: Any) -> int:
        """Does a piece and returns how many rows it has.

        Raises:
            UserError: it cannot be done; nobody tries again.
        """
        raise NotImplementedError

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        piece = {name: column.tolist()[0] for name, column in batch.items()}
        try:
            rows, trouble = self.do(**piece), ""
        except UserError as error:  # an exception would be tried again
            rows, trouble = 0, str(error)
        return {"rows": np.array([rows]), "trouble": np.array([trouble])}


def in_pieces(
    pieces: Sequence[dict[str, Any]],
    actor: type[Actor],
    arguments: Sequence[Any],
    *,
    workers: int,
    gpus: float = 0,
    doing: str,
) -> Iterator[int]:
    """Rows of each piece that was done, as they come, in the Ray that is running.

    Args:
        pieces: arguments of :meth:`Actor.do`, of each.
        arguments: of ``actor``.
        workers: actors side by side, at most; each holds one CPU.
        gpus: that each holds.
        doing: what it is, for an error: ``Encoding``.

    Raises:
        UserError: what an actor raised; or something else went wrong there.
    """
    import ray
    import ray.data

    with _quiet():
        done = ray.data.from_items(list(pieces), override_num_blocks=len(pieces)).map_batches(
            actor,
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(pieces)), max_tasks_in_flight_per_actor=2),
            fn_constructor_args=tuple(arguments),
            num_cpus=1,
            num_gpus=gpus or None,
        )
        try:
            for row in done.iter_rows():
                if row["trouble"]:
                    raise UserError(row["trouble"])
                yield int(row["rows"])
        except ray.exceptions.RayError as error:
            raise UserError(f"{doing} failed on a worker: {_cause(error)}") from error


def _cause(error: Exception) -> str:
    """What went wrong there: the end of the first traceback in an error of Ray; what follows is about Ray itself."""
    first = str(error).split("\n\nThe above exception was the direct cause")[0]
    return [line for line in first.splitlines() if line.strip()][-1].strip()[:500]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
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
