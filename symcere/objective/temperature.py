"""Temperatures, fixed or learned."""

import math

import torch
from torch import Tensor, nn

from symcere.errors import UserError

FLOOR = 0.01
"""No learned temperature falls below; the inverse is CLIP's ceiling of 100 on the logit scale (arXiv 2103.00020)."""


class Temperature(nn.Module):
    """τ, as a constant or as a parameter with a floor.

    A learned τ is ``floor + exp ρ``: above its floor for every ρ and, unlike a clamp, with a gradient everywhere.

    Args:
        initial: τ at the start.
        learned: whether ρ is a parameter; otherwise τ stays ``initial``.
        floor: of a learned τ.

    Raises:
        UserError: τ is not positive, or a learned one starts at or below its floor.
    """

    def __init__(self, initial: float, learned: bool = False, floor: float = FLOOR):
        super().__init__()
        if not initial > 0:
            raise UserError(f"A temperature is above 0, not {initial}.")
        if learned and initial <= floor:
            raise UserError(
                f"A learned temperature starts above its floor of {floor}, not at {initial}: "
                "raise temperature, or fix it with learn_temperature false."
            )
        self.initial, self.floor = initial, floor
        self.rho = nn.Parameter(torch.tensor(math.log(initial - floor))) if learned else None

    def forward(self) -> Tensor | float:
        """τ, a scalar."""
        return self.initial if self.rho is None else self.floor + self.rho.exp()

    @property
    def scale(self) -> Tensor | float:
        """1/τ, a scalar: what the losses multiply inner products by."""
        return 1 / self()
