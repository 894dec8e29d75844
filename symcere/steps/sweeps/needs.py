"""What a trial needs of a machine: memory, and its share of a GPU."""

from collections.abc import Mapping

from symcere.config import Experiment
from symcere.data.corpus import Corpus

PROCESS = 600e6
"""Bytes of a worker that has loaded PyTorch and symcere."""


def memory_of(corpus: Corpus, experiment: Experiment, width: int) -> float:
    """Bytes of a trial, roughly: process, parameters with Adam's state, frozen texts, logits of a batch."""
    nodes, d = corpus.num_users + corpus.num_items, experiment.model.dim
    if experiment.closed_form.kind != "none":
        return PROCESS + (12.0 * corpus.num_items**2 if experiment.closed_form.kind == "ease" else 100e6)
    parameters = nodes * d if experiment.model.features != "text" else 0
    texts = nodes * width if experiment.needs_text else 0
    if experiment.model.text_tower == "sign":
        texts *= experiment.model.text_layers + 1
    parameters += 2 * width * d
    views = nodes * d * (experiment.model.layers + 2)
    ranking = experiment.objective.ranking
    candidates = min(corpus.num_items, ranking.sample if ranking.candidates == "sampled" else corpus.num_items)
    logits = min(experiment.train.batch_size * candidates, 2**27)
    return PROCESS + 4.0 * (5 * parameters + 2 * texts + 2 * views + 3 * logits) + 16.0 * corpus.train.nnz


def gpu_share(wanted: str, needed: float, resources: Mapping[str, float]) -> float:
    """The share of a GPU that a trial reserves: as given, or so that its memory holds all that share it."""
    if wanted != "auto":
        return float(wanted)
    if not resources.get("GPU"):
        return 0.0
    whole = 16e9
    try:
        import torch

        if torch.cuda.is_available():
            whole = float(torch.cuda.get_device_properties(0).total_memory)
    except Exception:  # the driver's machine need not have one
        pass
    context = 0.5e9  # of CUDA itself, in each process
    share = (max(needed - PROCESS, 0.0) + context) / (0.9 * whole)
    return min(1.0, max(0.05, -(-share // 0.05) * 0.05))


def one_size(memory: Mapping[str, float], resources: Mapping[str, float], cpu: float) -> dict[str, float]:
    """What trials reserve: what the largest of them needs, where as many as there are cores for can have that.

    A trial goes on in the process of the last one only if it reserves the same; a new process loads torch again.

    Args:
        memory: bytes that a trial of each data set needs.
    """
    largest = max(memory.values(), default=0.0)
    fits = largest * (resources.get("CPU", 0) // cpu) <= 0.8 * resources.get("memory", float("inf"))
    return dict.fromkeys(memory, largest) if fits else dict(memory)
