"""Two things at a time: making the next items while the last ones are being used."""

import queue
import threading
from collections.abc import Generator, Iterable
from typing import Any, TypeVar

T = TypeVar("T")

_END = object()


def ahead(source: Iterable[T], depth: int = 2) -> Generator[T, None, None]:
    """The items of ``source`` in their order, made by a thread that is at most ``depth`` items ahead.

    It pays where either side spends its time outside the interpreter (decompression, Arrow, hashing, the disk). An
    exception of the source is raised here; leaving early stops the thread and waits for the item it is making.
    """
    items: queue.Queue[Any] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: Any) -> None:
        while not stopped.is_set():
            try:
                return items.put(item, timeout=0.1)
            except queue.Full:
                pass

    def work() -> None:
        try:
            for item in source:
                put((item, None))
                if stopped.is_set():
                    return
            put((_END, None))
        except BaseException as error:
            put((_END, error))

    thread = threading.Thread(target=work, name="ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = items.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        stopped.set()
        thread.join()
