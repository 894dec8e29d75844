"""Projection on the unit sphere, with a backward of three passes over the vectors instead of ten."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

SHORTEST = 1e-12
"""Shorter vectors are divided by this; one of zeros stays so. As in ``torch.nn.functional.normalize``."""


def unit(x: Tensor) -> Tensor:
    """``x / ‖x‖`` over the last dimension, in float32 or better also under autocast. Differentiable once.

    Args:
        x: float [..., d].
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if torch.compiler.is_compiling():  # the compiler joins passes itself
        return F.normalize(x, dim=-1, eps=SHORTEST)
    return _Unit.apply(x)


class _Unit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min_(SHORTEST)
        z = x / length
        ctx.save_for_backward(z, length)
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        z, length = ctx.saved_tensors
        along = (gradient * z).sum(-1, keepdim=True)
        return torch.addcmul(gradient, z, along, value=-1).div_(length)
