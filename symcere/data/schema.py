"""The columns of a review, whatever source it comes from."""

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
