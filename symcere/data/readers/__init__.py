"""Readers: how records are carried (lines, tables, blocks) and how each source names their columns.

A *carrier* turns one member of a source into blocks of records (mappings). A *layout* says under which keys a
source keeps user, item, rating, time and text. Any layout may come in any carrier.
"""

from symcere.data.readers import amazon, cmu, google_local, hotelrec, lara, yelp
from symcere.data.readers.layout import ROLES, Layout

LAYOUTS: tuple[Layout, ...] = (
    amazon.LAYOUT,
    amazon.LAYOUT_2023,
    yelp.LAYOUT,
    google_local.LAYOUT,
    hotelrec.LAYOUT,
    lara.LAYOUT,
    cmu.LAYOUT,
)
"""Known sources, each recognised by its keys."""

CARRIERS = ("jsonl", "csv", "parquet")
"""Formats without a source of their own: columns are found by common names, or named."""

FORMATS = (*(layout.name for layout in LAYOUTS), *CARRIERS, "synthetic")
"""Every name a card's ``format`` may have; an empty one: by the file's content."""

__all__ = ["CARRIERS", "FORMATS", "LAYOUTS", "ROLES", "Layout"]
