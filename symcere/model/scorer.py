"""What evaluation, serving and export need of a model: scores."""

from typing import Protocol

from torch import Tensor

from symcere.model.product import Packed


class Scorer(Protocol):
    """Anything that ranks items for users."""

    num_users: int
    num_items: int

    def scores(self, users: Tensor) -> Tensor:
        """Scores of all items.

        Args:
            users: int64 [B].

        Returns:
            float [B, I]; higher is better.
        """
        ...


class FactorScorer:
    """Scores that are inner products plus an item bias: ``score(u, i) = <Z_u, Z_i> + b_i``.

    Args:
        users: float [U, d].
        items: float [I, d].
        bias: float [I], or None for no bias.
    """

    def __init__(self, users: Tensor, items: Tensor, bias: Tensor | None = None):
        self.users, self.items, self.bias = users, items, bias
        self.num_users, self.num_items = len(users), len(items)
        self._packed = Packed(items)

    def of(self, users: Tensor, bias: Tensor | None) -> "FactorScorer":
        """Scores of the same items for other users [U', d], with another bias."""
        scorer = FactorScorer(users, self.items, bias)
        scorer._packed = self._packed
        return scorer

    def scores(self, users: Tensor) -> Tensor:
        rows = self.users.index_select(0, users.to(self.users.device))
        return self._packed.times(rows, self.bias)
