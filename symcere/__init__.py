"""symcere: find, prove and ship the best review-enhanced recommender.

The command is ``symcere``; the Python API a notebook uses is :mod:`symcere.steps`.
Nothing heavy is imported here, so that ``symcere --help`` answers at once.
"""

__version__ = "0.1.0"
