"""Memory of large tables on a CPU."""

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of malloc.h


def keep_freed_memory() -> bool:
    """Makes the C library keep freed memory for the next allocation, for the rest of this process.

    glibc gives every freed block above 32 MB, and the free end of its heap, back to the system at once. A step of
    training makes and frees tables of that size a dozen times, and the system hands each page out again, zeroed, with
    a fault: up to two fifths of the step's time. Has no effect on memory of GPUs.

    Returns:
        whether the C library took it; it knows nothing of it on macOS and Windows, or with musl.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):
        return False
    return bool(mallopt(_TRIM_THRESHOLD, -1)) and bool(mallopt(_MMAP_MAX, 0))
