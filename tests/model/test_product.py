"""Products by oneDNN and by torch's own choice, against NumPy in float64."""

import numpy as np
import pytest
import torch

from symcere.model import product
from symcere.model.product import Linear, matmul, transposed_matmul
from symcere.objective.history import Known
from symcere.objective.logsumexp import masked_logsumexp


@pytest.fixture(params=["onednn", "torch"])
def library(request, monkeypatch):
    monkeypatch.setattr(product, "LARGE", 0)
    monkeypatch.setattr(product, "_mkl_holds_back", lambda: request.param == "onednn")
    return request.param


def drawn(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32))


@pytest.mark.parametrize("columns", [False, True], ids=["rows", "columns"])
@pytest.mark.parametrize("biased", [False, True], ids=["plain", "bias"])
def test_value_and_gradients(library, columns, biased):
    a = drawn(37, 12).requires_grad_()
    held = drawn(23, 12, seed=1).T if columns else drawn(12, 23, seed=1)
    b = held.requires_grad_()
    bias = drawn(23, seed=2).requires_grad_() if biased else None
    pull = drawn(37, 23, seed=3)
    result = matmul(a, b, bias)
    assert (type(result.grad_fn).__name__ == "_ProductBackward") == (library == "onednn")
    (result * pull).sum().backward()

    A, B, P = (x.detach().double().numpy() for x in (a, b, pull))
    expected = A @ B + (0 if bias is None else bias.detach().double().numpy())
    np.testing.assert_allclose(result.detach(), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(a.grad, P @ B.T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(b.grad, A.T @ P, rtol=1e-5, atol=1e-5)
    if bias is not None:
        np.testing.assert_allclose(bias.grad, P.sum(0), rtol=1e-5, atol=1e-5)


def test_only_what_is_asked_for_gets_a_gradient(library):
    a, b = drawn(9, 5), drawn(5, 7).requires_grad_()
    matmul(a, b).sum().backward()
    assert a.grad is None
    np.testing.assert_allclose(b.grad, a.sum(0)[:, None].expand(5, 7), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("k", "n"), [(3, 11), (11, 3)])
def test_the_product_of_a_transposed_matrix(library, k, n):
    a, b = drawn(50, k), drawn(50, n, seed=1)
    np.testing.assert_allclose(transposed_matmul(a, b), a.double().numpy().T @ b.double().numpy(), rtol=1e-5, atol=1e-5)


def test_a_linear_layer_is_torchs_own(library):
    torch.manual_seed(0)
    ours, theirs = Linear(8, 5), torch.nn.Linear(8, 5)
    theirs.load_state_dict(ours.state_dict())
    x = drawn(20, 8)
    ours(x).square().sum().backward()
    theirs(x).square().sum().backward()
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours(x[0]), theirs(x[0]))
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_a_loss_is_the_same_by_either_library(library):
    anchors, candidates = drawn(45, 16).requires_grad_(), drawn(70, 16, seed=1).requires_grad_()
    known = Known(torch.tensor([0, 0, 3, 44]), torch.tensor([1, 69, 5, 0]))
    masked_logsumexp(anchors, candidates, 0.7, known=known, chunk=32).sum().backward()
    a, c = anchors.detach().double().requires_grad_(), candidates.detach().double().requires_grad_()
    logits = 0.7 * (a @ c.T)
    logits[known.row, known.col] = -torch.inf
    logits.logsumexp(1).sum().backward()
    np.testing.assert_allclose(anchors.grad, a.grad, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(candidates.grad, c.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("why", ["float64", "small", "autocast", "half and float"])
def test_other_products_are_left_to_torch(monkeypatch, why):
    monkeypatch.setattr(product, "_mkl_holds_back", lambda: True)
    monkeypatch.setattr(product, "LARGE", 1000 if why == "small" else 0)
    a, b = drawn(4, 8).requires_grad_(), drawn(8, 4)
    if why == "float64":
        a, b = a.double(), b.double()
    with torch.autocast("cpu", torch.bfloat16, enabled=why in ("autocast", "half and float")):
        result = matmul(a.bfloat16() if why == "half and float" else a, b)
    assert "_Product" not in type(result.grad_fn).__name__
    assert result.dtype == {"float64": torch.float64, "small": torch.float32}.get(why, torch.bfloat16)
