"""All-ranking top-k of a scorer, metrics, popularity bias, significance."""

from symcere.evaluation.evaluator import Evaluation, Evaluator, evaluate, trade_off
from symcere.evaluation.ranking import top_k

__all__ = ["Evaluation", "Evaluator", "evaluate", "top_k", "trade_off"]
