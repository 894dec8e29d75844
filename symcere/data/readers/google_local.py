"""Google Local 2021: reviews of places, one file a state; the text is often null."""

from symcere.data.readers.layout import Layout

LAYOUT = Layout(
    name="google-local",
    signature=frozenset({"user_id", "gmap_id", "rating"}),
    user="user_id",
    item="gmap_id",
    rating="rating",
    time="time",
    text="text",
)
