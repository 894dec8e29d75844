"""The columns of a review, whatever source it comes from."""

import math
from decimal import Decimal
from typing import Any

import pyarrow as pa

SCHEMA = pa.schema(
    [
        pa.field("user", pa.string(), nullable=False),
        pa.field("item", pa.string(), nullable=False),
        pa.field("rating", pa.float32(), nullable=False),  # NaN: absent or no number
        pa.field("time", pa.int64()),  # unix seconds
        pa.field("text", pa.string(), nullable=False),  # '' when absent
        pa.field("row", pa.int64(), nullable=False),  # position among all records of the sources
    ]
)


def as_text(value: Any) -> str | None:
    """An id or a text as it counts, whatever a file holds.

    >>> as_text(12.0), as_text(Decimal("12.000")), as_text(Decimal("12.50"))
    ('12', '12', '12.5')
    """
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # lone surrogates
    if isinstance(value, float):
        return None if math.isnan(value) else str(int(value)) if value.is_integer() else str(value)
    if isinstance(value, Decimal):
        whole, point, part = f"{value:f}".partition(".")
        return whole + (point + part).rstrip("0").rstrip(".")
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return " ".join(value)
    return None if value is None or isinstance(value, (dict, list)) else str(value)
