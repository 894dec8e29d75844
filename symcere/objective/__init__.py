"""The losses: pure functions of vectors, each a :class:`Term`, and who is compared with whom."""

from symcere.objective.candidates import AndBatch, Candidates, InBatch, Negatives, Uniform, Weighted
from symcere.objective.contrastive import contrastive, known_logits, pair_logits, symmetric
from symcere.objective.history import History, Known, locate
from symcere.objective.logsumexp import combine_logsumexp, logsumexp_both, masked_logsumexp
from symcere.objective.pairwise import alignment, bpr, uniformity
from symcere.objective.temperature import Temperature
from symcere.objective.term import Term

__all__ = [
    "AndBatch",
    "Candidates",
    "History",
    "InBatch",
    "Known",
    "Negatives",
    "Temperature",
    "Term",
    "Uniform",
    "Weighted",
    "alignment",
    "bpr",
    "combine_logsumexp",
    "contrastive",
    "known_logits",
    "locate",
    "logsumexp_both",
    "masked_logsumexp",
    "pair_logits",
    "symmetric",
    "uniformity",
]
