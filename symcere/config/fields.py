"""Typed settings: dataclasses built from YAML, Python mappings and dotted command-line flags.

A declaration (an experiment, a data set's card, a sweep) is a tree of frozen dataclasses whose fields are
made by :func:`setting`. This module turns mappings into such trees and back, and says exactly which key
is wrong. It knows nothing about what the settings mean.
"""

import dataclasses
import functools
import math
import os
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import yaml

from symcere.errors import UserError, naming, nearest

T = TypeVar("T")


def setting(
    default: Any, doc: str, *, low: float | None = None, high: float | None = None, above: float | None = None
) -> Any:
    """A field with its meaning (unit included) and its range.

    Args:
        default: an immutable value, a dataclass type (its own defaults), or ``dataclasses.MISSING`` for a required key.
        doc: one line; ``--help`` and the JSON schema show it.
        low, high: inclusive bounds of a number, or of each number of a tuple.
        above: exclusive lower bound.
    """
    metadata = {"doc": doc, "low": low, "high": high, "above": above}
    if isinstance(default, type) and dataclasses.is_dataclass(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@functools.cache
def _types(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def build(cls: type[T], tree: Mapping[str, Any] | None, where: str = "") -> T:
    """A ``cls`` from nested mappings, each value checked.

    Args:
        where: dotted place of ``tree`` in its file, for messages.

    Raises:
        UserError: an unknown key (with the nearest valid one), a value of the wrong type or out of range,
            or a combination that the class itself rejects.
    """
    if tree is None:
        tree = {}
    if not isinstance(tree, Mapping):
        raise UserError(f"{where or cls.__name__} must be a mapping of settings, not {tree!r}.")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = _types(cls)  # type: ignore[arg-type]
    values = {}
    for key, value in tree.items():
        place = f"{where}.{key}" if where else str(key)
        if key not in fields:
            raise UserError(f"Unknown setting '{place}'. {nearest(str(key), fields)}")
        values[key] = _value(hints[key], value, place, fields[key].metadata)
    missing = [n for n, f in fields.items() if n not in values and _required(f)]
    if missing:
        raise UserError(f"{where or cls.__name__} lacks the required setting '{missing[0]}'.")
    try:
        return cls(**values)
    except ValueError as error:
        raise UserError(f"{where + ': ' if where else ''}{error}") from None


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _value(hint: Any, value: Any, place: str, metadata: Mapping[str, Any]) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        return _value(next(a for a in args if a is not type(None)), value, place, metadata)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, str) and hasattr(hint, "from_name"):
            return hint.from_name(value)
        return value if isinstance(value, hint) else build(hint, value, place)  # type: ignore[arg-type]
    if origin is Literal:
        if value is None and "none" in args:  # YAML reads a bare `null` or `~`
            value = "none"
        if value not in args:
            raise UserError(f"'{place}' cannot be {value!r}. It is one of {', '.join(map(str, args))}.")
        return value
    if origin is tuple:
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        return tuple(
            _value(args[0], v, f"{place}[{n}]", metadata)
            for n, v in enumerate([None] if value is None else listed(value))
        )
    if origin is dict or hint is dict:
        if not isinstance(value, Mapping):
            raise UserError(f"'{place}' must be a mapping, not {value!r}.")
        return dict(value)
    return _scalar(hint, value, place, metadata)


def convert(cls: type, name: str, value: Any) -> Any:
    """``value`` as the setting ``name`` (dotted) of ``cls`` takes it; whether it suits other settings is not asked.

    Raises:
        UserError: an unknown name, or a value of the wrong type or out of range.
    """
    head, _, rest = name.partition(".")
    field = next((f for f in dataclasses.fields(cls) if f.name == head), None)
    hint = _types(cls).get(head)
    if field is None or bool(rest) != dataclasses.is_dataclass(hint):
        names = [leaf.name for leaf in leaves(cls)]
        raise UserError(f"Unknown setting '{name}'. {nearest(name, names)}")
    if rest:
        return convert(hint, rest, value)  # type: ignore[arg-type]
    return to_dict(_value(hint, value, name, field.metadata))


def _scalar(hint: type, value: Any, place: str, metadata: Mapping[str, Any]) -> Any:
    converted: Any
    try:
        if hint is bool:
            converted = {"true": True, "false": False}[str(value).lower()]
        elif hint is int:
            converted = int(value) if isinstance(value, str) else value
            if isinstance(converted, bool) or int(converted) != converted:
                raise ValueError
            converted = int(converted)
        elif hint is float:
            if isinstance(value, bool):
                raise ValueError
            converted = float(value)  # YAML 1.1 reads 1e-3 as text
            if not math.isfinite(converted):
                raise ValueError
        else:
            if isinstance(value, (Mapping, list, tuple)) or value is None:
                raise ValueError
            return str(value)
    except (ValueError, TypeError, KeyError, OverflowError):
        kind = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}.get(hint, hint.__name__)
        raise UserError(f"'{place}' must be {kind}, not {value!r}.") from None
    low, high, above = (metadata.get(k) for k in ("low", "high", "above"))
    if (
        (low is not None and converted < low)
        or (high is not None and converted > high)
        or (above is not None and converted <= above)
    ):
        bounds = [
            text
            for bound, text in ((above, f"above {above}"), (low, f"at least {low}"), (high, f"at most {high}"))
            if bound is not None
        ]
        raise UserError(f"'{place}' is {value}, but must be {' and '.join(bounds)}.")
    return converted


def listed(value: Any) -> list[Any]:
    """What may be one thing or several, as a list: a text, a path, a number and a mapping are one; None is nothing.

    >>> listed("hotels"), listed(name for name in ("a", "b")), listed(None)
    (['hotels'], ['a', 'b'], [])
    """
    if value is None:
        return []
    if isinstance(value, (str, os.PathLike, Mapping)) or not isinstance(value, Iterable):
        return [value]
    plain = value.tolist() if hasattr(value, "tolist") else list(value)  # of NumPy, pandas and Arrow
    return plain if isinstance(plain, list) else [plain]


def to_dict(tree: Any) -> Any:
    """The plain mapping of a dataclass tree: the inverse of :func:`build`; tuples become lists."""
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        return {f.name: to_dict(getattr(tree, f.name)) for f in dataclasses.fields(tree)}
    if isinstance(tree, tuple):
        return [to_dict(v) for v in tree]
    return tree


def flatten(tree: Any) -> dict[str, Any]:
    """Leaves of a dataclass tree by dotted name, as MLflow's parameters and sweep spaces name them."""
    flat: dict[str, Any] = {}

    def walk(node: Any, prefix: str) -> None:
        for field in dataclasses.fields(node):
            value, name = getattr(node, field.name), prefix + field.name
            if dataclasses.is_dataclass(value):
                walk(value, name + ".")
            else:
                flat[name] = to_dict(value)

    walk(tree, "")
    return flat


def merge(base: Mapping[str, Any], *layers: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings laid over each other; a key may be dotted (``{"train.lr": 0.1}``). Later ones win.

    A part may be a dataclass, which says all of it.

    Raises:
        UserError: a layer is no mapping.
    """
    merged: dict[str, Any] = {}
    for layer in (base, *layers):
        if not isinstance(layer, Mapping):
            raise UserError(f"Settings are a mapping of names and values, {{'train.lr': 0.1}}, not {layer!r}.")
        for key, value in layer.items():
            value = to_dict(value)
            head, _, rest = str(key).partition(".")
            if rest:
                value = {rest: value}
            if isinstance(value, Mapping):
                below = merged.get(head)
                merged[head] = merge(below if isinstance(below, Mapping) else {}, value)
            else:
                merged[head] = value
    return merged


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One setting as a command line shows it."""

    name: str
    """Dotted name, ``objective.ranking.temperature``."""
    doc: str
    default: Any
    choices: tuple[Any, ...]


def leaves(cls: type, prefix: str = "") -> list[Leaf]:
    """Every setting below a dataclass, in the order of declaration."""
    found: list[Leaf] = []
    for field in dataclasses.fields(cls):
        hint = _types(cls)[field.name]
        if dataclasses.is_dataclass(hint):
            found += leaves(hint, f"{prefix}{field.name}.")  # type: ignore[arg-type]
            continue
        default = field.default if field.default is not dataclasses.MISSING else None
        choices = get_args(hint) if get_origin(hint) is Literal else ()
        found.append(Leaf(prefix + field.name, field.metadata.get("doc", ""), default, choices))
    return found


class _Loader(yaml.SafeLoader):
    """YAML without silent losses: of a key that stands twice, PyYAML would keep the last value only."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key '{key.value}' stands twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path | str) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UserError: the file is missing, unreadable, no YAML (with the line), or holds no mapping.
    """
    try:
        tree = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text, so it cannot be a YAML file.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise UserError(f"{path} must hold a mapping of settings (key: value), not {type(tree).__name__}.")
    return tree


def read_settings(cls: type, path: Path | str) -> dict[str, Any]:
    """What a YAML file says of a ``cls``, dotted keys unfolded; what it does not say is not there.

    Raises:
        UserError: the file is no ``cls`` by itself, with its path.
    """
    tree = merge(read_yaml(path))
    with naming(path):
        build(cls, tree)
    return tree


def to_yaml(tree: Any) -> str:
    """A dataclass tree, or a mapping, as YAML in the order of declaration."""
    text = yaml.safe_dump(to_dict(tree), sort_keys=False, allow_unicode=True, width=120)
    if any(mark in text for mark in "\x85\u2028\u2029"):  # line breaks to YAML's reader, which its writer leaves bare
        text = yaml.safe_dump(to_dict(tree), sort_keys=False, allow_unicode=False, width=120)
    return text


def json_schema(cls: type) -> dict[str, Any]:
    """The JSON schema (2020-12) of a declaration, for editors and for tests."""

    def of(hint: Any, metadata: Mapping[str, Any]) -> dict[str, Any]:
        origin, args = get_origin(hint), get_args(hint)
        if origin in (Union, types.UnionType):
            return of(next(a for a in args if a is not type(None)), metadata)
        if dataclasses.is_dataclass(hint):
            schema = node(hint)  # type: ignore[arg-type]
            return {"anyOf": [{"type": "string"}, schema]} if hasattr(hint, "from_name") else schema
        if origin is Literal:
            return {"enum": list(args)}
        if origin is tuple:
            return {"type": "array", "items": of(args[0], metadata)}
        if origin is dict or hint is dict:
            return {"type": "object"}
        schema = {"type": {bool: "boolean", int: "integer", float: "number"}.get(hint, "string")}
        for key, name in (("low", "minimum"), ("high", "maximum"), ("above", "exclusiveMinimum")):
            if metadata.get(key) is not None:
                schema[name] = metadata[key]
        return schema

    def node(cls: type) -> dict[str, Any]:
        properties, required = {}, []
        for field in dataclasses.fields(cls):
            schema = of(_types(cls)[field.name], field.metadata)
            if field.metadata.get("doc"):
                schema["description"] = field.metadata["doc"]
            if _required(field):
                required.append(field.name)
            properties[field.name] = schema
        schema = {"type": "object", "properties": properties, "additionalProperties": False}
        return schema | ({"required": required} if required else {})

    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": cls.__name__} | node(cls)
