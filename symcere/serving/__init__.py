"""Recommendations from a trained model: filters, fallbacks for unknown users, reasons; no corpus needed.

The command line, batch scoring and the MLflow model all call :class:`Service`.
"""

from symcere.serving.bundle import load, save
from symcere.serving.newcomers import Newcomers
from symcere.serving.reasons import sentences
from symcere.serving.service import Answer, Request, Service, raw_id, read

__all__ = ["Answer", "Newcomers", "Request", "Service", "load", "raw_id", "read", "save", "sentences"]
