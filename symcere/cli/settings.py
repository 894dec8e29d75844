"""The experiment's settings as flags: ``--objective.ranking.temperature 0.2``, from the declaration itself."""

import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from symcere.config import Experiment
from symcere.config.fields import Leaf, leaves, read_settings, to_dict
from symcere.errors import UserError, nearest

ALIASES = {"seed": "train.seed"}
NAME = "data.dataset"  # no flag: it is DATASET, the first argument


def settings_of(parts: Sequence[str]) -> dict[str, Leaf]:
    """Every setting of these parts of the experiment by its dotted name."""
    return {
        leaf.name: leaf for leaf in leaves(Experiment) if leaf.name.partition(".")[0] in parts and leaf.name != NAME
    }


def take(argv: Sequence[str], parts: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Settings given on a command line, and what else stands there.

    ``--name value``, ``--name=value``; a switch may stand alone; ``-`` and ``_`` are the same in names.

    Raises:
        UserError: an unknown setting (with the nearest ones), or one without its value.
    """
    known = settings_of(parts)
    names = {**{name: name for name in known}, **{a: name for a, name in ALIASES.items() if name in known}}
    settings: dict[str, str] = {}
    rest: list[str] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        if word == "--":
            return settings, [*rest, word, *words]
        flag, equals, value = word.partition("=")
        name = flag[2:].replace("-", "_")
        if not flag.startswith("--") or (name not in names and "." not in name and name != "split_files"):
            rest.append(word)
            continue
        if name == "split_files" and "data.split.files" in known:
            settings["data.split.kind"], name = "files", "data.split.files"
        elif name not in names:
            raise unknown(flag, [f"--{n}" for n in known])
        leaf = known[names.get(name, name)]
        if not equals:
            if isinstance(leaf.default, bool) and (not words or words[0].lower() not in ("true", "false")):
                value = "true"
            elif not words or words[0].startswith("--"):
                raise UserError(f"{flag} needs a value: {leaf.doc}.")
            else:
                value = words.pop(0)
        settings[leaf.name] = value
    return {name: _structured(value) for name, value in settings.items()}, rest


def _structured(value: str) -> Any:
    """A list or mapping in YAML's brackets (several encoders with their options) as such; anything else as text."""
    if value[:1] not in ("[", "{"):
        return value
    import yaml

    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"{value!r} is not a valid list or mapping: {' '.join(str(error).split())}") from None


def unknown(flag: str, known: Iterable[str]) -> UserError:
    """The error for an unknown flag; ``--temperature`` is nearest to every flag that ends so."""
    known = list(known)
    tail = [k for k in known if k.rpartition(".")[2] == flag.lstrip("-").replace("-", "_")]
    return UserError(
        f"Unknown option '{flag}'. {'Did you mean ' + ' or '.join(tail) + '?' if tail else nearest(flag, known)}"
    )


def from_file(path: str) -> dict[str, Any]:
    """What an experiment file says, by dotted names; what it does not say is not there.

    Raises:
        UserError: the file is no experiment.
    """
    return dict(_leaves(read_settings(Experiment, path)))


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + str(key), value


def help_text(parts: Sequence[str]) -> str:
    """The settings with meaning, default and choices, as ``--help`` shows them."""
    width = max(60, min(shutil.get_terminal_size().columns, 120)) - 1
    lines = [
        "settings of the experiment (also in a file: --config FILE). A card, a prepared corpus, a run and --baseline",
        "bring their own where they have one; else the default is:",
    ]
    aliases = {name: alias for alias, name in ALIASES.items()}
    for leaf in settings_of(parts).values():
        flag = f"--{leaf.name}" + (f", --{aliases[leaf.name]}" if leaf.name in aliases else "")
        lines.append(f"  {flag} {_placeholder(leaf)}")
        choices = f" One of {', '.join(map(str, leaf.choices))}." if leaf.choices else ""
        text = f"{leaf.doc}.{choices} Default: {_shown(leaf.default)}"
        lines += textwrap.wrap(text, width, initial_indent=" " * 8, subsequent_indent=" " * 8)
    if "data" in parts:
        lines += ["  --split-files DIR", " " * 8 + "the same as --data.split.kind files --data.split.files DIR"]
    return "\n".join(lines)


def _placeholder(leaf: Leaf) -> str:
    if isinstance(leaf.default, bool):
        return "[true|false]"
    return {int: "N", float: "X", tuple: "A,B,…"}.get(type(leaf.default), "VALUE")


def _shown(default: Any) -> str:
    if isinstance(default, tuple):
        return ",".join(str(getattr(d, "name", d)) for d in default)
    return str(to_dict(default)).lower() if isinstance(default, bool) else (str(default) or "empty")
