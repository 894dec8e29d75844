"""HotelRec (Antognini and Faltings, LREC 2020): one JSON array, or lines."""

from symcere.data.readers.layout import Layout

LAYOUT = Layout(
    name="hotelrec",
    signature=frozenset({"hotel_url", "author", "rating"}),
    user="author",
    item="hotel_url",
    rating="rating",
    time="date",
    text="text",
)
