"""The ``symcere`` command: parses, calls one step, prints. No logic."""

from symcere.cli.commands import COMMANDS
from symcere.cli.frame import run


def main(argv: list[str] | None = None) -> int:
    """Runs one command line.

    Returns:
        the exit code: 0; 2 for what the user can mend; 130 after Ctrl-C; 1 for an error of symcere itself.
    """
    return run(COMMANDS, argv)
