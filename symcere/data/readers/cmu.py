"""CMU TripAdvisor 2013 (``review.txt``, JSON lines); anonymous authors have an empty id."""

from symcere.data.readers.layout import Layout

LAYOUT = Layout(
    name="tripadvisor-cmu",
    signature=frozenset({"offering_id", "author", "ratings"}),
    user="author.id",
    item="offering_id",
    rating="ratings.overall",
    time="date",
    text="text",
)
