"""The commands, by subject. Each ``run`` calls one step; :mod:`symcere.steps` is imported only then."""

from symcere.cli.commands import clusters, data, lists, models, stored, sweeps, words
from symcere.cli.commands.arguments import EVERY_PART

COMMANDS = tuple(c for part in (data, models, sweeps, lists, words, stored, clusters) for c in part.COMMANDS)

__all__ = ["COMMANDS", "EVERY_PART"]
