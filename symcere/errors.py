"""The one exception that means "the user can mend this", and the help it gives; and the one that ends a process."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path


class UserError(Exception):
    """Something the user can act on. The text says what was wrong, where, and what to do.

    The command line prints it as one paragraph and exits with code 2, without a traceback.
    """


class Terminated(SystemExit):
    """SIGTERM or SIGHUP, as an exception: files are closed, the run is ended, the process exits with 128 + signal."""


@contextlib.contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Puts the path of a file before what is wrong in it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


MOST = 30
"""Known names that an error lists."""


def nearest(name: str, known: Iterable[str], most: int = 3) -> str:
    """The help that follows an unknown name, for the end of an error's text.

    >>> nearest("temprature", ["temperature", "weight"])
    'Did you mean temperature?'
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=most, cutoff=0.5)
    if close:
        return f"Did you mean {' or '.join(close)}?"
    more = f", and {len(known) - MOST} more" if len(known) > MOST else ""
    return f"Known: {', '.join(known[:MOST])}{more}." if known else ""
