"""Baselines that are fitted in one step: popularity, ItemKNN, RP3beta and EASE^R.

The last three are item-to-item models: the score of an item is the sum, over the items of a user's training history,
of their weights towards it, ``scores = R W``. They differ in W.
"""

import os
from collections.abc import Callable, Iterator

import numpy as np
import scipy.linalg
import scipy.sparse as sp
import torch
from torch import Tensor

from symcere.config import ClosedForm
from symcere.errors import UserError
from symcere.model.scorer import Scorer

CHUNK = 2048
"""Items whose rows of W are computed at once."""


class Popularity:
    """The same order for everyone: training interactions of an item.

    Args:
        counts: float [I].
    """

    def __init__(self, counts: Tensor, num_users: int):
        self.counts = counts
        self.num_users, self.num_items = num_users, len(counts)

    def scores(self, users: Tensor) -> Tensor:
        return self.counts.repeat(len(users), 1)

    def state(self) -> dict[str, Tensor]:
        return {"counts": self.counts, "num_users": torch.tensor(self.num_users)}


class ItemToItem:
    """``scores = R W``.

    Args:
        history: R, the training interactions [U, I].
        weights: W, float32 [I, I], sparse or dense; row i is what item i of a history gives to all items.
        counts: training interactions of each item, float32 [I], to rank the items that no weight reaches (score 0):
            below all others, by popularity. Without it they tie.
    """

    def __init__(self, history: sp.csr_array, weights: sp.csr_array | np.ndarray, counts: np.ndarray | None = None):
        self.history, self.weights, self.counts = history, weights, counts
        self.num_users, self.num_items = (int(n) for n in history.shape)

    def scores(self, users: Tensor) -> Tensor:
        product = self.history[users.cpu().numpy()] @ self.weights
        scores = product.toarray() if sp.issparse(product) else product
        if self.counts is not None:
            scores = np.where(scores == 0, self.counts / (self.counts.max() + 1) - 1, scores)
        return torch.from_numpy(scores)

    def state(self) -> dict[str, Tensor]:
        arrays = _csr_state("history", self.history)
        if isinstance(self.weights, np.ndarray):
            arrays["weights"] = self.weights
        else:
            arrays |= _csr_state("weights", self.weights)
        if self.counts is not None:
            arrays["counts"] = self.counts
        # Those of the corpus are mapped from its files, read-only, which a tensor cannot be.
        return {name: torch.from_numpy(np.require(array, requirements=["C", "W"])) for name, array in arrays.items()}


def closed_form(settings: ClosedForm, train: sp.csr_array) -> Popularity | ItemToItem:
    """Fit a closed-form baseline.

    Args:
        train: training interactions [U, I], ones.

    Raises:
        UserError: the kind is ``none``, or the item-to-item weights do not fit into memory.
    """
    R = sp.csr_array(train, dtype=np.float32)
    if settings.kind == "popularity":
        return Popularity(torch.from_numpy(_counts(R).astype(np.float32)), R.shape[0])
    if settings.kind == "itemknn":
        return _itemknn(R, settings.shrink, settings.neighbours)
    if settings.kind == "rp3beta":
        return _rp3beta(R, settings.alpha, settings.beta, settings.neighbours)
    if settings.kind == "ease":
        return _ease(R, settings.reg)
    raise UserError("closed_form.kind is 'none': choose popularity, itemknn, rp3beta or ease.")


def from_state(state: dict[str, Tensor]) -> Scorer:
    """The scorer whose :meth:`state` this is."""
    if "num_users" in state:
        return Popularity(state["counts"], int(state["num_users"]))
    arrays = {name: tensor.cpu().numpy() for name, tensor in state.items()}
    weights = arrays["weights"] if "weights" in arrays else _csr_from(arrays, "weights")
    return ItemToItem(_csr_from(arrays, "history"), weights, arrays.get("counts"))


# ---------------------------------------------------------------- fits


def _itemknn(R: sp.csr_array, shrink: float, neighbours: int) -> ItemToItem:
    """Cosine of co-occurrence, ``c_ij / (sqrt(c_i c_j) + shrink)``, the k nearest of each item of the history.

    Deshpande & Karypis, Item-based top-N recommendation algorithms (2004); shrinkage as in Bell & Koren (2007).
    """
    counts = _counts(R)

    def similarity(rows: np.ndarray, block: sp.coo_array) -> np.ndarray:
        norms = np.sqrt(counts[rows] * counts[block.col])
        return np.where(rows == block.col, 0, block.data / (norms + shrink))

    return ItemToItem(R, _weights(R.T.tocsr(), R, similarity, neighbours))


def _rp3beta(R: sp.csr_array, alpha: float, beta: float, neighbours: int) -> ItemToItem:
    """Random walks of three steps, user → item → user → item, each transition to the power α.

    ``W_ij = Σ_u p(u|i)^α p(j|u)^α / c_j^β``: Paudel et al., Updatable, accurate, diverse and scalable recommendations
    for interactive applications (2017), eq. 5. The first step has the same factor for all items of a user and is left
    out. A negative β favours popular items. Items that no walk reaches are ranked by popularity.
    """
    counts = _counts(R)
    of_item = np.maximum(counts, 1).astype(np.float64)
    of_user = np.maximum(np.diff(R.indptr), 1).astype(np.float64)
    back = sp.csr_array(sp.diags_array(of_item**-alpha) @ R.T)
    there = sp.csr_array(sp.diags_array(of_user**-alpha) @ R)

    def discounted(rows: np.ndarray, block: sp.coo_array) -> np.ndarray:
        return np.where(rows == block.col, 0, block.data * of_item[block.col] ** -beta)

    return ItemToItem(R, _weights(back, there, discounted, neighbours), counts.astype(np.float32))


def _ease(R: sp.csr_array, reg: float) -> ItemToItem:
    """``W = I − P diag(1 / diag P)`` with ``P = (RᵀR + λI)⁻¹``: Steck, EASE^R (arXiv 1905.03375), eq. 8.

    The inverse is taken in float64, in place: one I × I matrix of it and one of W in float32.
    """
    items = R.shape[1]
    _require(12 * items**2, f"EASE^R of {items:,} items", "choose closed_form.kind itemknn or rp3beta")
    gram = np.empty((items, items), order="F")
    for start, block in _rows(R.T.tocsr(), R):
        gram[start : start + block.shape[0]] = block.toarray()
    gram[np.diag_indices(items)] += reg
    factor, failed = scipy.linalg.lapack.dpotrf(gram, lower=1, overwrite_a=1)
    inverse, singular = scipy.linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)
    if failed or singular:
        raise UserError(f"EASE^R cannot invert its matrix with closed_form.reg {reg:g}: raise it.")
    diagonal = np.diag(inverse).copy()
    weights = np.empty((items, items), dtype=np.float32)
    for start in range(0, items, CHUNK):  # LAPACK fills the lower triangle alone: rows up to the diagonal, then columns
        rows = slice(start, start + CHUNK)
        strip = inverse[start:, rows]
        weights[start:, rows] = -strip / diagonal[rows]
        weights[rows, start:] = (-strip / diagonal[start:, None]).T
        square = np.tril(inverse[rows, rows])
        weights[rows, rows] = -(square + np.tril(square, -1).T) / diagonal[rows]
    np.fill_diagonal(weights, 0)
    return ItemToItem(R, weights)


# ---------------------------------------------------------------- help


def _counts(R: sp.csr_array) -> np.ndarray:
    return np.bincount(R.indices, minlength=R.shape[1])


def _rows(left: sp.csr_array, right: sp.csr_array) -> Iterator[tuple[int, sp.csr_array]]:
    """``left @ right``, some rows at a time."""
    for start in range(0, left.shape[0], CHUNK):
        yield start, sp.csr_array(left[start : start + CHUNK] @ right)


def _weights(
    left: sp.csr_array,
    right: sp.csr_array,
    value: Callable[[np.ndarray, sp.coo_array], np.ndarray],
    neighbours: int,
) -> sp.csr_array:
    """Rows of ``left @ right``, each entry made a weight by ``value(row numbers, block)``, the largest kept."""
    chunks, entries = [], 0
    for start, block in _rows(left, right):
        block = block.tocoo()
        data = value(block.row + start, block).astype(np.float32)
        keep = _largest(block, data, neighbours)
        chunk = sp.csr_array((data[keep], (block.row[keep], block.col[keep])), shape=block.shape)
        entries += chunk.nnz
        _require(8 * entries, "The item-to-item weights", "lower closed_form.neighbours")
        chunks.append(chunk)
    return sp.csr_array(sp.vstack(chunks, format="csr"))


def _largest(block: sp.coo_array, data: np.ndarray, k: int) -> np.ndarray:
    """Places of the k largest positive entries of each row (0: of all); of equal ones the first columns."""
    places = np.flatnonzero(data > 0)
    if k == 0:
        return places
    rows = block.row[places]
    order = np.lexsort((block.col[places], -data[places], rows))
    sizes = np.bincount(rows, minlength=block.shape[0])
    rank = np.arange(len(places)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return places[order[rank < k]]


def _require(size: int, what: str, instead: str) -> None:
    """
    Raises:
        UserError: ``size`` bytes are more than the memory that is free.
    """
    free = _free_memory()
    if size > free:
        raise UserError(
            f"{what} need {size / 2**30:.1f} GiB, but {free / 2**30:.1f} GiB of memory are free: {instead}."
        )


def _free_memory() -> int:
    """Bytes a program can still take; all of the machine's where the system does not say."""
    try:
        with open("/proc/meminfo") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _csr_state(name: str, matrix: sp.csr_array) -> dict[str, np.ndarray]:
    parts = {"indptr": matrix.indptr, "indices": matrix.indices, "data": matrix.data, "shape": np.array(matrix.shape)}
    return {f"{name}.{part}": array for part, array in parts.items()}


def _csr_from(arrays: dict[str, np.ndarray], name: str) -> sp.csr_array:
    data, indices, indptr, shape = (arrays[f"{name}.{part}"] for part in ("data", "indices", "indptr", "shape"))
    return sp.csr_array((data, indices, indptr), shape=tuple(shape.tolist()))
