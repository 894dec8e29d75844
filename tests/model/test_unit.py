"""Against ``torch.nn.functional.normalize``."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from symcere.model.unit import unit


def drawn(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(7, 5), (3, 4, 2), (1, 1), (0, 3)])
def test_value_and_gradient_are_those_of_the_library(shape):
    ours, theirs = (drawn(*shape).requires_grad_() for _ in range(2))
    slope = drawn(*shape).flip(0)
    z, expected = unit(ours), F.normalize(theirs, dim=-1)
    torch.testing.assert_close(z, expected, rtol=1e-14, atol=1e-14)
    z.backward(slope)
    expected.backward(slope)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)
    assert gradcheck(unit, drawn(*shape).requires_grad_())


def test_a_row_of_zeros_stays_so():
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    z = unit(x)
    torch.testing.assert_close(z, torch.tensor([[0.0, 0.0], [0.6, 0.8]]))
    z.sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_raised(dtype):
    x = drawn(6, 4).to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        z = unit(x)
    assert z.dtype == torch.float32
    torch.testing.assert_close(z, F.normalize(x.float(), dim=-1))
    z.sum().backward()
    assert x.grad.dtype == dtype
