"""Anybody's own table: columns found by their common names."""

import re
from collections.abc import Collection

from symcere.data.readers.layout import Layout

NAMES: dict[str, tuple[str, ...]] = {
    "user": ("user_id", "user", "uid", "reviewer_id", "reviewer", "customer_id", "customer", "author_id", "author",
             "member_id", "user_name"),
    "item": ("item_id", "item", "iid", "parent_asin", "asin", "product_id", "product", "business_id", "gmap_id",
             "hotel_id", "hotel_url", "place_id", "movie_id", "book_id"),
    "rating": ("rating", "stars", "star_rating", "overall", "score", "overall_rating", "review_rating",
               "review_score"),
    "time": ("timestamp", "time", "unix_review_time", "date", "review_date", "review_time", "datetime", "created_at"),
    "text": ("text", "review_text", "review_body", "review", "content", "comment", "body", "description"),
}  # fmt: skip
"""For each role the names looked for, best first; case, spaces, ``_`` and ``-`` do not matter."""

VAGUE = {"content", "comment", "body", "description"}
"""Of these, columns that may hold another text than a review's."""


def layout(keys: Collection[str]) -> Layout:
    """The layout that common names suggest; a role for which there is none stays empty."""
    first: dict[str, str] = {}
    for key in keys:
        first.setdefault(plain(key), key)
    found = {
        role: next((first[plain(name)] for name in names if plain(name) in first), "") for role, names in NAMES.items()
    }
    return Layout(name="generic", signature=frozenset()).named(found)


def plain(name: str) -> str:
    """A column's name without case and separators."""
    return re.sub(r"[\W_]+", "", name).lower()
