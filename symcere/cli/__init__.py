"""The ``symcere`` command: parses, calls one step, prints. No logic."""

import gc
import signal

from symcere.interrupt import interrupts_between_imports


def main(argv: list[str] | None = None) -> int:
    """Runs one command line.

    Returns:
        the exit code: 0; 2 for what the user can mend; 130 after Ctrl-C; 1 for an error of symcere itself.
    """
    # torch and MLflow load a hundred thousand objects and more, none of them garbage: looking for some among them
    # meanwhile costs a quarter of their time.
    gc.set_threshold(100_000, 20, 100)
    with interrupts_between_imports():
        from symcere.cli.commands import COMMANDS
        from symcere.cli.frame import run

        code = run(COMMANDS, argv)
    if argv is None and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # What comes now is Python's own end, in which an interrupt would be a traceback of its innards.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    return code
