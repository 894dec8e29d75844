"""Amazon reviews (J. McAuley's group): 2014 and 2018 share their keys, 2023 has its own.

The text is the review's body; 2018 leaves it out of a few rows. ``vote`` and ``helpful`` are not used.
"""

from symcere.data.readers.layout import Layout

LAYOUT = Layout(
    name="amazon",
    signature=frozenset({"reviewerID", "asin", "overall"}),
    user="reviewerID",
    item="asin",
    rating="overall",
    time="unixReviewTime",
    text="reviewText",
)

LAYOUT_2023 = Layout(
    name="amazon-2023",
    signature=frozenset({"user_id", "parent_asin", "rating", "timestamp"}),
    user="user_id",
    item="parent_asin",  # variants of a product (colour, size) share it, and the metadata is keyed by it
    rating="rating",
    time="timestamp",
    text="text",
)
