"""How a command line becomes one call of a step: declaration of commands, help, errors, exit codes."""

import argparse
import contextlib
import errno
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import symcere
from symcere import console
from symcere.cli import settings
from symcere.errors import UserError, nearest


@dataclass(frozen=True)
class Argument:
    """One argument of a command, in :mod:`argparse`'s words."""

    names: tuple[str, ...]
    options: dict[str, Any]


def argument(*names: str, **options: Any) -> Argument:
    return Argument(names, options)


@dataclass(frozen=True)
class Command:
    """One command of ``symcere``.

    Attributes:
        about: one line for ``symcere --help``.
        run: calls one step with the parsed arguments; what it returns is printed. An ``exit_code`` that the result
            has becomes the process's.
        arguments: its own arguments, beside ``--json`` and ``--debug``.
        parts: the parts of the experiment whose settings are flags (``data, text``); ``args.settings`` holds those
            given, by dotted name, and ``args.config`` the experiment file or None.
        show: prints the result for a person; with ``--json`` :func:`symcere.console.plain` of it is printed.
        example: a command line that does something useful.
        passes_on: what it does not know itself, and all after ``--``, is another command's line: ``args.words``.
    """

    name: str
    about: str
    run: Callable[[argparse.Namespace], Any]
    arguments: Sequence[Argument] = ()
    parts: Sequence[str] = ()
    show: Callable[[Any], None] = console.show
    example: str = ""
    passes_on: bool = False


COMMON = (
    argument("--json", action="store_true", help="print one JSON object to stdout, everything else to stderr"),
    argument("--debug", action="store_true", help="show the traceback of an error"),
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message[0].upper()}{message[1:]}. `{self.prog} --help` shows how it is used.")


def _parser(command: Command, helping: bool) -> _Parser:
    parser = _Parser(
        prog=f"symcere {command.name}",
        description=command.about + (f"\n\nexample: {command.example}" if command.example else ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for given in (*command.arguments, *COMMON):
        parser.add_argument(*given.names, **given.options)
    if command.parts:
        parser.add_argument("--config", metavar="FILE", help="experiment file (YAML); flags are laid over it")
        parser.epilog = settings.help_text(command.parts) if helping else None
    return parser


def parse(command: Command, argv: Sequence[str]) -> argparse.Namespace:
    """The arguments of a command, its settings in ``.settings``.

    Raises:
        UserError: what argparse would exit for; an unknown option comes with the nearest known ones.
    """
    if command.passes_on:
        end = argv.index("--") if "--" in argv else len(argv)
        args, words = _parser(command, helping=False).parse_known_args(argv[:end])
        args.words = [*words, *argv[end + 1 :]]
        return args
    given, rest = settings.take(argv, command.parts) if command.parts else ({}, list(argv))
    options = rest[: rest.index("--")] if "--" in rest else rest
    parser = _parser(command, helping=bool({"-h", "--help"} & set(options)))
    for word in options:
        flag = word.partition("=")[0]
        if flag.startswith("--") and flag not in parser._option_string_actions:
            known = [o for o in parser._option_string_actions if o.startswith("--")]
            raise settings.unknown(flag, [*known, *(f"--{n}" for n in settings.settings_of(command.parts))])
    args = parser.parse_args(rest)
    args.settings = given
    return args


def overview(commands: Sequence[Command]) -> str:
    """What ``symcere --help`` prints."""
    width = max(len(c.name) for c in commands)
    lines = [
        "symcere: find, prove and ship the best review-enhanced recommender.",
        "",
        "usage: symcere COMMAND [ARGUMENTS]     symcere COMMAND --help shows a command's arguments and settings",
        "",
        *(f"  {c.name:<{width}}  {c.about}" for c in commands),
        "",
        *(f"  {' '.join(a.names):<{width}}  {a.options['help']}" for a in COMMON),
        f"  {'--version':<{width}}  print the version",
        "",
        "Everything made is stored under SYMCERE_HOME (by default .symcere in the current directory).",
    ]
    return "\n".join(lines)


def _call(commands: Sequence[Command], argv: Sequence[str]) -> int:
    try:
        return _dispatch(commands, argv)
    except SystemExit as end:  # argparse after --help; a signal that ended a run
        return end.code if isinstance(end.code, int) else 0


def _dispatch(commands: Sequence[Command], argv: Sequence[str]) -> int:
    words = [w for w in argv if w not in ("--json", "--debug")]
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview(commands))
        return 0
    if words[0] == "--version":
        print(symcere.__version__)
        return 0
    known = {c.name: c for c in commands}
    if words[0] not in known:
        kind = "option" if words[0].startswith("-") else "command"
        raise UserError(f"Unknown {kind} '{words[0]}'. {nearest(words[0], known)} `symcere --help` lists the commands.")
    command = known[words[0]]
    rest = list(argv)
    rest.remove(command.name)
    args = parse(command, rest)
    # With --json, what libraries print goes where it does not disturb.
    with contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext():
        result = command.run(args)
    if args.json:
        found = console.plain(result)
        print(json.dumps(found if isinstance(found, dict) else {command.name: found}, ensure_ascii=False))
    else:
        command.show(result)
    return int(getattr(result, "exit_code", 0))


def run(commands: Sequence[Command], argv: Sequence[str] | None = None) -> int:
    """Runs a command line of these commands, prints its result or its error.

    Returns:
        the exit code.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a title that the terminal cannot write is no reason to fail
    try:
        code = _call(commands, argv)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt as stop:
        print(f"\n{stop}" if str(stop) else "\nInterrupted; nothing half-written was kept.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader (`head`) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if "--debug" in argv:
            import traceback

            traceback.print_exc()
        code, text = explain(error)
        console.warn(f"error: {text}")
        return code


def explain(error: Exception) -> tuple[int, str]:
    """Exit code and paragraph for an exception."""
    if isinstance(error, UserError):
        return 2, " ".join(str(error).split())
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or "database or disk is full" in str(error):  # SQLite's words, through MLflow
        file = getattr(error, "filename", None)
        place = f" while writing {file}" if file else ""
        return 2, f"The disk is full{place}. Free some space (`symcere ls`, `symcere rm`) or set SYMCERE_HOME."
    if isinstance(error, MemoryError):
        return 2, f"Not enough memory. {error} A smaller train.batch_size or evaluation chunk needs less.".strip()
    return 1, f"{type(error).__name__}: {error} (This is an error of symcere itself; --debug shows where it arose.)"
