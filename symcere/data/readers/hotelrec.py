"""HotelRec (Antognini and Faltings, LREC 2020): one JSON array, or lines."""

import re

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


def title(hotel_url: str) -> str:
    """The hotel's name and place, which its address spells out; '' where it does not.

    >>> title("Hotel_Review-g194775-d1121769-Reviews-Hotel_Baltic-Giulianova_Province_of_Teramo_Abruzzo.html")
    'Hotel Baltic, Giulianova Province of Teramo Abruzzo'
    """
    found = re.search(r"-Reviews-(.+?)(\.html)?$", hotel_url)
    return found[1].replace("-", ", ").replace("_", " ") if found else ""
