"""Ctrl-C and SIGTERM at any moment, that of an import included.

What is open is closed, and what is half-written removed, whatever the command was. An interrupt that comes while a
module loads half-loads it, is lost in a library's bare ``except``, or reaches C++ that cannot take an exception and
aborts. So it waits until no import is under way.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from symcere.errors import Terminated

IMPORTING = "<frozen importlib._bootstrap>"
AGAIN = 0.05
"""Seconds until the next try of an interrupt that met an import."""


DEFAULTS = {
    getattr(signal, name): handler
    for name, handler in (
        ("SIGINT", signal.default_int_handler),
        ("SIGTERM", signal.SIG_DFL),
        ("SIGHUP", signal.SIG_DFL),
    )
    if hasattr(signal, name)
}


@contextmanager
def interrupts_between_imports(*names: str) -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, SIGTERM and SIGHUP :class:`Terminated`, but not within an import; nothing
    changes where another handler is set.

    Args:
        names: of those of them that are meant; by default all.
    """
    here = threading.current_thread() is threading.main_thread()
    meant = [number for number in DEFAULTS if here and (not names or number.name in names)]
    ours = [number for number in meant if signal.getsignal(number) is DEFAULTS[number]]
    for number in ours:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number in ours:
            if signal.getsignal(number) is _interrupt:
                signal.signal(number, DEFAULTS[number])


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
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated(128 + number)
