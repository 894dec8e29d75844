"""Under which keys a source keeps what a review is made of."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from symcere.data.readers.jsonl import Lines, rounded

ROLES = ("user", "item", "rating", "time", "text")
"""What a review is made of, in the order of the schema."""


_TYPES = {"$oid", "$date", "$numberLong", "$numberInt", "$numberDouble", "$numberDecimal"}


@dataclass(frozen=True)
class Layout:
    """Keys of one source. A dotted key reaches into a nested record; an empty one: the source has none."""

    name: str
    signature: frozenset[str]
    """Keys that, together, only this source has."""
    user: str = ""
    item: str = ""
    rating: str = ""
    time: str = ""
    text: str = ""
    wrapped: frozenset[str] = frozenset()
    """Roles whose values MongoDB's export wraps: ``{"$oid": "5f1a"}``."""

    def recognises(self, keys: Collection[str]) -> bool:
        return self.signature <= set(keys)

    def complete(self, keys: Collection[str], roles: Collection[str]) -> bool:
        """Whether the keys of ``roles`` are among ``keys`` (those of the outermost record)."""
        return all((key := getattr(self, role)) and {key, key.partition(".")[0]} & set(keys) for role in roles)

    def completed(self, keys: Collection[str], other: "Layout") -> "Layout":
        """This layout with the keys of another for the roles whose own are not among ``keys``: a file may have been
        made from a source's, with other names for some columns."""
        absent = [role for role in ROLES if not self.complete(keys, (role,))]
        return self.named({role: key for role in absent if (key := getattr(other, role))})

    def named(self, columns: Mapping[str, str]) -> "Layout":
        """This layout with some of its keys replaced: ``{"text": "summary"}``."""
        return replace(self, **columns)  # type: ignore[arg-type]

    def seen(self, sample: list[dict[str, Any]]) -> "Layout":
        """This layout, knowing from the first records which roles are wrapped."""
        columns = zip(ROLES, replace(self, wrapped=frozenset()).pick(sample), strict=True)
        wrapped = frozenset(role for role, column in columns if any(unwrapped(v) is not v for v in column))
        return replace(self, wrapped=wrapped)

    def pick(self, records: list[dict[str, Any]]) -> list[list[Any]]:
        """One list for each of :data:`ROLES`, in the order of the records; None where a record has no such key."""
        columns = [_column(records, getattr(self, role)) for role in ROLES]
        if isinstance(records, Lines) and any(map(rounded, columns[:2])):
            return self.pick(records.exact())
        for place, role in enumerate(ROLES):
            if role in self.wrapped:
                columns[place] = list(map(unwrapped, columns[place]))
        return columns


def unwrapped(value: Any) -> Any:
    """What a typed value of MongoDB's export holds, anything else as it is.

    >>> unwrapped({"$date": {"$numberLong": "1577836800000"}}), unwrapped({"id": 7})
    ('1577836800000', {'id': 7})
    """
    while isinstance(value, dict) and len(value) == 1 and (inner := value.keys() & _TYPES):
        value = value[inner.pop()]
    return value


def _column(records: list[dict[str, Any]], key: str) -> list[Any]:
    if not key:
        return [None] * len(records)
    if "." in key and not any(key in record for record in records[:100]):
        reach = _reach(key)
        return [reach(record) for record in records]
    return [record.get(key) for record in records]


def _reach(key: str) -> Callable[[Any], Any]:
    path = key.split(".")

    def reach(record: Any) -> Any:
        for part in path:
            if not isinstance(record, dict):
                return None
            record = record.get(part)
        return record

    return reach
