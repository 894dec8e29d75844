"""Memory of large tables on a CPU."""

import ctypes
from collections.abc import Callable
from typing import Any

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of malloc.h


def keep_freed_memory() -> bool:
    """Makes the C library keep freed memory for the next allocation; :func:`return_freed_memory` gives it back.

    glibc gives every freed block above 32 MB, and the free end of its heap, back to the system at once. A step of
    training makes and frees tables of that size a dozen times, and the system hands each page out again, zeroed, with
    a fault: up to two fifths of a step were measured, on a virtual machine. Has no effect on memory of GPUs.

    Returns:
        whether the C library took it; it knows nothing of it on macOS and Windows, or with musl.
    """
    mallopt = _of_c("mallopt")
    return bool(mallopt(_TRIM_THRESHOLD, -1)) and bool(mallopt(_MMAP_MAX, 0))


def return_freed_memory() -> bool:
    """Gives what is free back to the system: for the end of a training, in a process that lives on.

    Returns:
        whether there was any.
    """
    return bool(_of_c("malloc_trim")(0))


def _of_c(name: str) -> Callable[..., Any]:
    """A function of the C library; without one of that name, one that answers 0."""
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, TypeError, AttributeError):
        return lambda *_: 0
