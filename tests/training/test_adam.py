"""The optimiser against torch's own, to the bit."""

import subprocess
import sys

import pytest
import torch

from symcere.training.adam import Adam


def parameters(dtype):
    torch.manual_seed(0)
    return [torch.randn(shape, dtype=dtype).requires_grad_() for shape in ((7, 5), (3,), ())]


def gradients(step):
    """Of the three parameters; the scalar has none in the first step, and the vector none in the third."""
    random = torch.Generator().manual_seed(step)
    drawn = [torch.randn(shape, generator=random, dtype=torch.float64) for shape in ((7, 5), (3,), ())]
    return [None if (n, step) in ((2, 0), (1, 2)) else g for n, g in enumerate(drawn)]


def run(optimiser, theirs, steps):
    for step in steps:
        optimiser.zero_grad()
        for p, g in zip(theirs, gradients(step), strict=True):
            p.grad = None if g is None else g.to(p)
        optimiser.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_bit_is_that_of_torch(dtype):
    ours, theirs = parameters(dtype), parameters(dtype)
    run(Adam(ours, 0.01), ours, range(6))
    run(torch.optim.Adam(theirs, lr=0.01, fused=True), theirs, range(6))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)


def test_goes_on_from_its_own_state_and_from_torchs():
    whole = parameters(torch.float32)
    run(Adam(whole, 0.01), whole, range(6))
    for first in (lambda p: Adam(p, 0.01), lambda p: torch.optim.Adam(p, lr=0.01, fused=True)):
        begun = parameters(torch.float32)
        optimiser = first(begun)
        run(optimiser, begun, range(3))
        state = optimiser.state_dict()
        resumed = [p.detach().clone().requires_grad_() for p in begun]
        after = Adam(resumed, 0.01)
        after.load_state_dict(state)
        run(optimiser, begun, range(3, 5))  # what it does meanwhile is no affair of the other's
        run(after, resumed, range(3, 6))
        for a, b in zip(resumed, whole, strict=True):
            assert torch.equal(a, b)


def test_a_step_leaves_torchs_compiler_alone():
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, torch; from symcere.training.adam import Adam\n"
            "p = torch.ones(3).requires_grad_(); p.sum().backward(); Adam([p], 0.1).step()\n"
            "assert float(p.detach()[0]) != 1.0\n"
            "print('torch._dynamo' in sys.modules, 'scipy.stats' in sys.modules)",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.split() == ["False", "False"]
