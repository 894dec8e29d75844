"""Reviews in, a corpus out: cards, readers, cleaning, splits, and synthetic reviews with planted truth."""
