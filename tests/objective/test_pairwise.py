"""BPR, DirectAU, temperatures and terms."""

import math

import pytest
import torch
import torch.nn.functional as F

from symcere.errors import UserError
from symcere.objective import Temperature, Term, alignment, bpr, pair_logits, uniformity


def test_bpr_against_its_formula():
    g = torch.Generator().manual_seed(0)
    positive, negative = torch.randn(5, generator=g).double(), torch.randn(5, 3, generator=g).double()
    want = [-math.log(1 / (1 + math.exp(-(p - n)))) for p, row in zip(positive, negative, strict=True) for n in row]
    term = bpr(positive, negative)
    assert term.value.item() == pytest.approx(sum(want) / 15, abs=1e-12)
    assert term.count == 15
    assert bpr(positive, negative[:, 0]).sum.item() == pytest.approx(sum(want[::3]), abs=1e-12)
    assert bpr(torch.tensor([-300.0]), torch.tensor([300.0])).value == 600


def test_bpr_leaves_out_what_is_not_valid():
    positive = torch.zeros(2, requires_grad=True)
    negative = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    term = bpr(positive, negative, torch.tensor([[True, False], [False, False]]))
    assert term.count == 1
    assert term.value.item() == pytest.approx(math.log1p(math.e))
    term.value.backward()
    assert positive.grad[1] == 0
    assert bpr(positive, negative, torch.zeros(2, 2, dtype=torch.bool)).value == 0


def test_pair_logits_broadcast():
    left, right = torch.randn(4, 1, 3), torch.randn(4, 2, 3)
    torch.testing.assert_close(pair_logits(left, right, 2.0), 2 * torch.einsum("kid,knd->kn", left, right))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = pair_logits(left, right, 2.0)
    torch.testing.assert_close(mixed, pair_logits(left, right, 2.0), rtol=0, atol=0)
    assert pair_logits(left.bfloat16(), right.bfloat16()).dtype == torch.float32


def test_alignment_and_uniformity_against_slow_loops():
    g = torch.Generator().manual_seed(0)
    x, y = (F.normalize(torch.randn(7, 4, generator=g, dtype=torch.float64), dim=1) for _ in range(2))

    def distance(v, w):
        return math.fsum((a - b) ** 2 for a, b in zip(v.tolist(), w.tolist(), strict=True))

    assert alignment(x, y).value.item() == pytest.approx(sum(map(distance, x, y)) / 7, abs=1e-12)
    for nodes in (x, 3 * y):  # normalised or not
        pairs = [math.exp(-2 * distance(nodes[i], nodes[j])) for i in range(7) for j in range(i)]
        assert uniformity(nodes).value.item() == pytest.approx(math.log(sum(pairs) / len(pairs)), abs=1e-12)


def test_uniformity_equals_the_authors_form_in_gradient():
    """``torch.pdist(x).pow(2).mul(-2).exp().mean().log()`` is how DirectAU's code says it."""
    x = F.normalize(torch.randn(30, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), dim=1)
    x.requires_grad_()
    want = torch.pdist(x).pow(2).mul(-2).exp().mean().log()
    for chunk in (None, 7):
        got = uniformity(x, chunk).value
        assert got.item() == pytest.approx(want.item(), abs=1e-12)
        slopes = [torch.autograd.grad(v, x, retain_graph=True)[0] for v in (got, want)]
        torch.testing.assert_close(*slopes, rtol=1e-10, atol=1e-12)


def test_uniformity_of_one_node_is_nothing():
    x = torch.ones(1, 3, requires_grad=True)
    term = uniformity(x)
    assert (term.value.item(), term.count.item()) == (0, 0)
    term.value.backward()
    assert not x.grad.any()


def test_fixed_temperature_is_exact():
    fixed = Temperature(0.2)
    assert (fixed(), fixed.scale) == (0.2, 5.0)
    assert not list(fixed.parameters())
    assert Temperature(0.001)() == 0.001  # the floor is of learned ones


def test_learned_temperature_stays_above_its_floor_and_comes_back():
    learned = Temperature(0.2, learned=True)
    assert learned().item() == pytest.approx(0.2)

    def push(sign):
        optimiser = torch.optim.Adam(learned.parameters(), lr=0.5)
        for _ in range(60):
            optimiser.zero_grad()
            (sign * learned()).backward()
            optimiser.step()
        return learned().item()

    assert 0.01 <= push(+1) < 0.011
    assert push(-1) > 1


@pytest.mark.parametrize(("initial", "learned"), [(0.0, False), (-1.0, True), (0.01, True)])
def test_impossible_temperatures_are_refused(initial, learned):
    with pytest.raises(UserError, match="temperature"):
        Temperature(initial, learned)


def test_a_term_of_nothing_is_zero():
    x = torch.zeros((), requires_grad=True)
    term = Term(x * 0, torch.zeros(()))
    assert term.value == 0
    term.value.backward()
    assert x.grad == 0
    assert Term(torch.tensor(6.0), torch.tensor(4.0)).value == 1.5
