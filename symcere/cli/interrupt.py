"""Ctrl-C at any moment, that of an import included.

An interrupt that comes while a module loads half-loads it, is lost in a library's bare ``except``, or reaches C++ that
cannot take an exception and aborts. So it waits until no import is under way.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

IMPORTING = "<frozen importlib._bootstrap>"
AGAIN = 0.05
"""Seconds until the next try of an interrupt that met an import."""


@contextmanager
def interrupts_between_imports() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, but not within an import; nothing changes where another handler is set."""
    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if ours:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        if ours and signal.getsignal(signal.SIGINT) is _interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_code.co_filename == IMPORTING:
            main = threading.main_thread().ident
            assert main is not None
            # A signal and not a flag, so that it ends a wait, too.
            again = threading.Timer(AGAIN, signal.pthread_kill, (main, number))
            again.daemon = True
            again.start()
            return
        frame = frame.f_back
    raise KeyboardInterrupt
