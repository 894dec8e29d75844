"""Adam (Kingma & Ba, arXiv 1412.6980) by the fused kernel of torch, bit for bit what ``torch.optim.Adam`` computes.

``torch.optim`` loads torch's compiler when an optimiser is made: a second or more before the first step, which is
all that a run on a small corpus takes.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

BETAS, EPS = (0.9, 0.999), 1e-8


class Adam:
    """Without weight decay.

    Args:
        parameters: all on one device and of one type.
        lr: learning rate.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float):
        self.parameters, self.lr = list(parameters), lr
        self.state: dict[int, dict[str, Tensor]] = {}
        """By a parameter's number: ``step`` (its count of steps) and the moments ``exp_avg`` and ``exp_avg_sq``."""

    def zero_grad(self) -> None:
        for p in self.parameters:
            p.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """One step of every parameter that has a gradient."""
        active = [(n, p, p.grad) for n, p in enumerate(self.parameters) if p.grad is not None]
        for n, p, _ in active:
            if n not in self.state:
                self.state[n] = {
                    "step": torch.zeros((), dtype=torch.float32, device=p.device),
                    "exp_avg": torch.zeros_like(p, memory_format=torch.preserve_format),
                    "exp_avg_sq": torch.zeros_like(p, memory_format=torch.preserve_format),
                }
        if not active:
            return
        first, second, steps = ([self.state[n][k] for n, *_ in active] for k in ("exp_avg", "exp_avg_sq", "step"))
        torch._foreach_add_(steps, 1)
        torch._fused_adam_(
            [p for _, p, _ in active],
            [gradient for *_, gradient in active],
            first,
            second,
            [],
            steps,
            lr=self.lr,
            beta1=BETAS[0],
            beta2=BETAS[1],
            weight_decay=0.0,
            eps=EPS,
            amsgrad=False,
            maximize=False,
        )

    def state_dict(self) -> dict[str, Any]:
        """In the form of ``torch.optim``."""
        return {"state": {n: dict(kept) for n, kept in self.state.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = {}
        for n, kept in state["state"].items():
            p = self.parameters[n]
            moments = {k: kept[k].to(device=p.device, dtype=p.dtype, copy=True) for k in ("exp_avg", "exp_avg_sq")}
            count = torch.as_tensor(kept["step"]).to(device=p.device, dtype=torch.float32, copy=True)
            self.state[n] = {"step": count, **moments}
