"""Products by oneDNN and by torch's own choice, against NumPy in float64."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from symcere.model import product
from symcere.model.product import Linear, Packed, matmul, transposed_matmul


class Asked(TorchDispatchMode):
    """What oneDNN is asked to multiply."""

    def __enter__(self):
        self.products = []
        return super().__enter__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "_linear_pointwise" in str(func):
            self.products.append(args[:3])
        return func(*args, **(kwargs or {}))


def drawn(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32))


FORMS = {
    "rows": lambda x: x,
    "columns": lambda x: x.T.contiguous().T,
    "gaps": lambda x: torch.stack([x, x], dim=1)[:, 0],
    "steps": lambda x: torch.stack([x, x], dim=-1)[..., 0],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("biased", [None, "bias", "steps", "one value"])
def test_value_and_gradients(library, form, biased):
    a, b = (FORMS[form](x).detach().requires_grad_() for x in (drawn(37, 12), drawn(12, 23, seed=1)))
    bias = drawn(46, seed=2)
    bias = {None: None, "bias": bias[:23], "steps": bias[::2], "one value": bias[:1].expand(23)}[biased]
    bias = None if bias is None else bias.detach().requires_grad_()
    pull = drawn(37, 23, seed=3)
    with Asked() as asked:
        result = matmul(a, b, bias)
        (result * pull).sum().backward()
    assert len(asked.products) == (3 if library == "onednn" else 0)
    for x, weight, _ in asked.products:  # of others it takes a hundred times as long
        assert x.is_contiguous()
        assert weight.is_contiguous() or weight.T.is_contiguous()

    A, B, P = (x.detach().double().numpy() for x in (a, b, pull))
    expected = A @ B + (0 if bias is None else bias.detach().double().numpy())
    np.testing.assert_allclose(result.detach(), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(a.grad, P @ B.T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(b.grad, A.T @ P, rtol=1e-5, atol=1e-5)
    if bias is not None:
        np.testing.assert_allclose(bias.grad, P.sum(0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("frozen", ["a", "b"])
def test_only_what_is_asked_for_is_computed_and_kept(library, frozen):
    a, b = drawn(9, 5), drawn(5, 7)
    (b if frozen == "a" else a).requires_grad_()
    kept = []
    with Asked() as asked, torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        matmul(a, b).sum().backward()
    assert len(asked.products) == (2 if library == "onednn" else 0)
    assert [x.shape for x in kept] == [(a if frozen == "a" else b).shape]
    if frozen == "a":
        np.testing.assert_allclose(b.grad, a.sum(0)[:, None].expand(5, 7), rtol=1e-5, atol=1e-6)
    else:
        np.testing.assert_allclose(a.grad, b.sum(1).expand(9, 5), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("k", "n"), [(3, 11), (11, 3)])
def test_the_product_of_a_transposed_matrix(library, k, n):
    a, b = drawn(50, k), drawn(50, n, seed=1)
    np.testing.assert_allclose(transposed_matmul(a, b), a.double().numpy().T @ b.double().numpy(), rtol=1e-5, atol=1e-5)


def test_a_linear_layer_is_torchs_own(library):
    torch.manual_seed(0)
    ours, theirs = Linear(8, 5), torch.nn.Linear(8, 5)
    theirs.load_state_dict(ours.state_dict())
    x = drawn(20, 8)
    with Asked() as asked:
        ours(x)
    assert len(asked.products) == (library == "onednn")
    ours(x).square().sum().backward()
    theirs(x).square().sum().backward()
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours(x[0]), theirs(x[0]))
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("biased", [False, True])
def test_a_packed_matrix_takes_any_number_of_rows(monkeypatch, form, biased):
    monkeypatch.setattr(product, "LARGE", 1)
    matrix, bias = FORMS[form](drawn(41, 12)), drawn(82)[::2] if biased else None
    packed = Packed(matrix)
    for rows in (1, 3, 32, 33, 200):
        a = FORMS[form](drawn(rows, 12, seed=1))
        with Asked() as asked:
            found = packed.times(a, bias)
        assert [x.shape for x, *_ in asked.products] == [a.shape]
        assert asked.products[0][1].is_mkldnn  # not the matrix as it was
        expected = a.double().numpy() @ matrix.double().numpy().T + (0 if bias is None else bias.double().numpy())
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_packed_matrix_lets_gradients_pass():
    a, matrix = drawn(37, 12).requires_grad_(), drawn(23, 12, seed=1).requires_grad_()
    Packed(matrix).times(a).sum().backward()
    np.testing.assert_allclose(a.grad, matrix.detach().sum(0).expand(37, 12), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(matrix.grad, a.detach().sum(0).expand(23, 12), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:TF32")
@pytest.mark.parametrize("why", ["float64", "half", "small", "autocast", "switched off", "another bias"])
def test_other_products_are_left_to_torch(monkeypatch, why):
    monkeypatch.setattr(product, "_faster", lambda *_: True)
    monkeypatch.setattr(product, "LARGE", 1000 if why == "small" else 1)
    dtype = {"float64": torch.float64, "half": torch.bfloat16}.get(why, torch.float32)
    a, b = drawn(4, 8).to(dtype), drawn(8, 4).to(dtype)
    bias = drawn(4, 4).to(dtype) if why == "another bias" else None
    with (
        Asked() as asked,
        torch.autocast("cpu", torch.bfloat16, enabled=why == "autocast"),
        torch.backends.mkldnn.flags(enabled=why != "switched off"),
    ):
        results = matmul(a, b, bias), Packed(b.T).times(a, bias)
    assert not asked.products
    assert {result.dtype for result in results} == {torch.bfloat16 if why == "autocast" else dtype}
