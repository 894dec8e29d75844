"""Yelp Open Dataset: ``yelp_academic_dataset_review.json``, usually inside a tar inside a zip."""

from symcere.data.readers.layout import Layout

LAYOUT = Layout(
    name="yelp",
    signature=frozenset({"review_id", "user_id", "business_id", "stars"}),
    user="user_id",
    item="business_id",
    rating="stars",
    time="date",
    text="text",
)
