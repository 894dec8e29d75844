"""What is known of this machine's processor and asked in more than one place."""

from functools import cache
from pathlib import Path


@cache
def made_by_amd() -> bool:
    """Whether its maker is AMD; not so where nobody says."""
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
