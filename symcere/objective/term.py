"""What a loss returns."""

from typing import NamedTuple

import torch
from torch import Tensor


class Term(NamedTuple):
    """A mean, kept as its sum and its count, so that the mean over several workers is exact: Σ sum / Σ count."""

    sum: Tensor
    """Scalar; carries the gradient."""
    count: Tensor  # type: ignore[assignment]  # a tuple has a method of this name
    """Scalar, how many losses (or how much weight) the sum holds; 0 where nothing could be compared."""

    @property
    def value(self) -> Tensor:
        """The mean, 0 (with a zero gradient) where there is nothing to average."""
        return self.sum / torch.where(self.count > 0, self.count, 1)
