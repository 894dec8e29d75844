"""Matrix products in float32, at the rate of the core.

On a CPU torch multiplies float32 by MKL, which gives AVX-512 to Intel's processors alone: a core of AMD's Zen 5 does
105 GFLOP/s of the 250 that it can. oneDNN, which is in torch as well and multiplies bfloat16 there, has no such
preference; its results are those of MKL up to the order of summation. It also adds a bias to what it has at hand,
where ``torch.addmm`` first fills the result with it: a third of the time, also on Intel's processors. And it can keep
a matrix in the order that it multiplies in (:class:`Packed`), which makes the difference on any of them.
"""

from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from symcere.processor import made_by_amd

LARGE = 1 << 24
"""Multiplications from which oneDNN is asked: for every new shape it first writes its machine code, in 0.3 ms."""

SHORT = 128
"""Summands of an entry up to which MKL is slow on AMD's processors with AVX2: logits at 20 GFLOP/s, by oneDNN at 45."""

STEP = 32
"""Rows to which a product of many lengths is best filled up: then few shapes are new."""


def matmul(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """``a @ b + bias``, differentiable.

    Args:
        a: float [m, k].
        b: float [k, n]; in rows, or in columns as the transpose of such a matrix: else it is copied.
        bias: float [n].
    """
    if not by_onednn(a, b, bias):
        return a @ b if bias is None else torch.addmm(bias, a, b)
    # Of matrices with gaps between their rows oneDNN takes a hundred times as long, and a bias it reads as dense.
    if not (b.is_contiguous() or b.T.is_contiguous()):
        b = b.contiguous()
    return _Product.apply(a.contiguous(), b, None if bias is None else bias.contiguous())


def transposed_matmul(a: Tensor, b: Tensor) -> Tensor:
    """``aᵀ @ b`` [k, n] of a [m, k] and b [m, n]. By oneDNN the narrower one is copied."""
    return matmul(b.T, a).T if a.shape[1] > b.shape[1] else matmul(a.T, b)


def add_transposed_matmul(out: Tensor, a: Tensor, b: Tensor) -> None:
    """``out += aᵀ @ b`` of a [m, k] and b [m, n], without a gradient."""
    if by_onednn(a.T, b):
        out += transposed_matmul(a, b)
    else:
        out.addmm_(a.T, b)


def by_onednn(a: Tensor, b: Tensor, bias: Tensor | None = None) -> bool:
    """Whether oneDNN makes this product."""
    return _possible(a, b, bias) and _faster(bias is not None, a.shape[1] <= SHORT)


def _possible(a: Tensor, b: Tensor, bias: Tensor | None) -> bool:
    """Whether oneDNN can make this product, and it is large enough."""
    return (
        not torch.compiler.is_compiling()  # the compiler chooses itself
        and a.dtype == b.dtype == torch.float32
        and a.device.type == b.device.type == "cpu"
        and (bias is None or (bias.dtype == torch.float32 and bias.shape == b.shape[1:]))
        and a.shape[0] * a.shape[1] * b.shape[1] >= LARGE
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
    )


class Linear(nn.Linear):
    """``torch.nn.Linear``, of many rows by :func:`matmul`."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 2:
            return super().forward(x)
        return matmul(x, self.weight.T, self.bias)


class Packed:
    """A matrix that many others are multiplied with, a few rows at a time.

    Whoever multiplies first brings it into an order of his own, which costs as much as 60 rows of the other matrix.
    oneDNN can keep that: a second copy of the matrix, made at the first product that is large enough.

    Args:
        matrix: float [n, k]. It must not change afterwards.
    """

    def __init__(self, matrix: Tensor):
        self.matrix = matrix
        self._ordered: Tensor | None = None

    def times(self, a: Tensor, bias: Tensor | None = None) -> Tensor:
        """``a @ matrix.T + bias`` [m, n] of a [m, k] and bias [n]."""
        b = self.matrix.T
        if a.requires_grad or b.requires_grad or not _possible(a, b, bias):
            return matmul(a, b, bias)
        if self._ordered is None:
            self._ordered = torch.ops.mkldnn._reorder_linear_weight(self.matrix.contiguous(), STEP)
        bias = None if bias is None else bias.contiguous()
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise(a.contiguous(), self._ordered, bias, "none", [], ""))


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
        of_a, of_b, _ = ctx.needs_input_grad
        ctx.save_for_backward(a if of_b else None, b if of_a else None)
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise(a, b.T, bias, "none", [], ""))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        a, b = ctx.saved_tensors
        of_a, of_b, of_bias = ctx.needs_input_grad
        return (
            matmul(gradient, b.T) if of_a else None,
            transposed_matmul(a, gradient) if of_b else None,
            gradient.sum(0) if of_bias else None,
        )


@cache
def _faster(with_bias: bool, short: bool) -> bool:
    """Whether oneDNN is faster than MKL.

    With AVX-512 on AMD's processors, and on Intel's where a bias is added; without it on AMD's, where sums are short.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    if capability == "AVX512":
        return with_bias or made_by_amd()
    return short and capability == "AVX2" and made_by_amd()
