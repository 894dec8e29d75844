"""The chunked masked log-sum-exp against the plain form, forward and backward."""

import subprocess
import sys
import textwrap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from symcere.objective import Known, combine_logsumexp, logsumexp, logsumexp_both, masked_logsumexp


def plain(anchors, candidates, scale, bias, mask):
    logits = scale * anchors @ candidates.T
    if bias is not None:
        logits = logits + bias
    empty = mask.all(1)
    total = logits.masked_fill(mask & ~empty[:, None], -torch.inf).logsumexp(1)
    return total.masked_fill(empty, -torch.inf)


def problem(A, C, d, share, bias, seed, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    leaves = [torch.randn(n, d, generator=g, dtype=dtype).requires_grad_() for n in (A, C)]
    leaves.append(torch.tensor(3.0, dtype=dtype, requires_grad=True))
    if bias:
        leaves.append(torch.randn(C, generator=g, dtype=dtype).requires_grad_())
    mask = torch.rand(A, C, generator=g) < share
    if A > 1:
        mask[A // 2] = True  # an anchor without a negative
    return leaves, mask, torch.randn(A, generator=g, dtype=dtype)


def check(leaves, mask, weight, chunk, tolerance=1e-10):
    """Equal to 1e-10 in value and in every gradient, and no NaN from rows in which nothing is left.

    The plain form is always in float64.
    """
    doubles = [x.detach().double().requires_grad_() for x in leaves]
    row, col = mask.nonzero(as_tuple=True)
    a, c, scale, *rest = leaves
    got = masked_logsumexp(a, c, scale, rest[0] if rest else None, Known(row, col), chunk)
    a, c, scale, *rest = doubles
    want = plain(a, c, scale, rest[0] if rest else None, mask)
    close = {"rtol": tolerance, "atol": tolerance, "check_dtype": False}
    torch.testing.assert_close(got, want, **close)
    finite = want > -torch.inf
    slopes = [
        torch.autograd.grad((torch.where(finite, x, 0) * weight).sum(), of, allow_unused=True)
        for x, of in ((got, leaves), (want, doubles))
    ]
    for x, y in zip(*slopes, strict=True):
        torch.testing.assert_close(x, torch.zeros_like(x) if y is None else y, **close)


@pytest.mark.parametrize("chunk", [1, 3, 7, 12, 13, 99, None])
@pytest.mark.parametrize("bias", [False, True])
def test_equals_plain_form_with_uneven_last_chunk(chunk, bias):
    check(*problem(13, 17, 5, 0.3, bias, seed=0), chunk)


@settings(max_examples=60)
@given(
    st.integers(1, 20), st.integers(1, 20), st.integers(1, 8), st.sampled_from([0.0, 0.2, 0.9, 1.0]), st.booleans(),
    st.integers(0, 999), st.sampled_from([None, 1, 2, 5]),
)  # fmt: skip
def test_equals_plain_form_for_any_shape(A, C, d, share, bias, seed, chunk):
    check(*problem(A, C, d, share, bias, seed), chunk)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("chunk", [None, 32], ids=["kept", "again"])
@pytest.mark.parametrize(("A", "C"), [(45, 70), (64, 96), (1, 1)])
def test_float32_by_either_library(library, A, C, chunk, bias):
    leaves, mask, weight = problem(A, C, 16, 0.1, bias, seed=4, dtype=torch.float32)
    leaves[2] = torch.tensor(0.7, requires_grad=True)
    check(leaves, mask, weight, chunk, tolerance=1e-5)


@pytest.mark.parametrize("scale", [1.0, 300.0], ids=["small", "large"])
@pytest.mark.parametrize("chunk", [None, 7], ids=["kept", "again"])
def test_float32_logits_with_and_without_a_maximum_taken(monkeypatch, scale, chunk):
    """At 300 powers of two overflow unless a maximum is taken; small logits must do without."""
    leaves, mask, weight = problem(45, 70, 16, 0.1, True, seed=5, dtype=torch.float32)
    leaves[2] = torch.tensor(scale, requires_grad=True)
    maxima, amax = [], torch.Tensor.amax
    monkeypatch.setattr(torch.Tensor, "amax", lambda x, *of: maxima.append(x.shape) or amax(x, *of))
    check(leaves, mask, weight, chunk, tolerance=1e-4)
    assert any(len(shape) == 2 for shape in maxima) == (scale == 300)  # of logits, not of lengths


def check_both(A, C, d, share, seed, chunk=None, scale=4.0, dtype=torch.float64, tolerance=1e-10):
    """Both sums and their gradients against the plain form of each, in float64."""
    leaves, mask, weight = problem(A, C, d, share, False, seed, dtype)
    leaves = [torch.nn.functional.normalize(x.detach(), dim=1).requires_grad_() for x in leaves[:2]]
    if C > 2:
        mask[:, C // 2] = True  # a column in which nothing is left
    weight = torch.cat([weight, torch.linspace(-1, 1, C, dtype=dtype)])
    got = torch.cat(logsumexp_both(*leaves, scale, Known(*mask.nonzero(as_tuple=True)), chunk))
    a, c = doubles = [x.detach().double().requires_grad_() for x in leaves]
    want = torch.cat([plain(a, c, scale, None, mask), plain(c, a, scale, None, mask.T)])
    close = {"rtol": tolerance, "atol": tolerance, "check_dtype": False}
    torch.testing.assert_close(got, want, **close)
    slopes = [
        torch.autograd.grad((torch.where(want > -torch.inf, x, 0) * weight).sum(), of)
        for x, of in ((got, leaves), (want, doubles))
    ]
    for x, y in zip(*slopes, strict=True):
        torch.testing.assert_close(x, y, **close)


@settings(max_examples=60)
@given(
    st.integers(1, 20), st.integers(1, 20), st.integers(1, 8), st.sampled_from([0.0, 0.2, 0.9, 1.0]),
    st.integers(0, 999), st.sampled_from([None, 1, 2, 5]), st.sampled_from([0.5, 20.0, 200.0]),
)  # fmt: skip
def test_both_sums_equal_plain_forms_for_any_shape(A, C, d, share, seed, chunk, scale):
    check_both(A, C, d, share, seed, chunk, scale)


@pytest.mark.parametrize("scale", [5.0, 100.0], ids=["together", "apart"])
@pytest.mark.parametrize("chunk", [None, 32], ids=["kept", "again"])
@pytest.mark.parametrize(("A", "C"), [(45, 70), (64, 96), (1, 1)])
def test_both_sums_in_float32_by_either_library(library, A, C, chunk, scale):
    check_both(A, C, 16, 0.1, 6, chunk, scale, torch.float32, tolerance=1e-4)


def test_both_sums_have_one_matrix_of_logits(monkeypatch):
    """Unless they could leave float32: then each takes its own maximum."""
    asked = []
    logits = logsumexp._Logits.__call__
    monkeypatch.setattr(logsumexp._Logits, "__call__", lambda self, *of: asked.append(of) or logits(self, *of))
    rows = torch.eye(4)
    logsumexp_both(rows, rows, 50.0)
    assert len(asked) == 1
    of_rows, of_columns = logsumexp_both(rows, rows, 500.0)
    assert len(asked) == 3
    torch.testing.assert_close(of_rows, torch.full((4,), 500.0))
    torch.testing.assert_close(of_columns, torch.full((4,), 500.0))


@pytest.mark.parametrize("keep", [True, False], ids=["kept", "again"])
def test_several_chunks(monkeypatch, keep):
    """Of a size that is chosen by itself."""
    monkeypatch.setitem(logsumexp.CHUNK_BYTES, "cpu", 0)
    monkeypatch.setattr(logsumexp, "MIN_CHUNK_BYTES", 0)
    monkeypatch.setattr(logsumexp, "KEEP_BYTES", logsumexp.KEEP_BYTES if keep else 0)
    sizes = []
    spans = logsumexp._spans
    monkeypatch.setattr(logsumexp, "_spans", lambda *args: sizes.append(len(spans(*args))) or spans(*args))
    check(*problem(150, 40, 5, 0.3, True, seed=3), None)
    check_both(150, 40, 5, 0.3, seed=3)
    assert sizes == [3, 3]


def test_large_problems_are_computed_again_in_chunks(monkeypatch):
    """Beyond its budget the default form must not keep the exponentials; the values stay."""
    leaves, mask, weight = problem(150, 40, 5, 0.3, True, seed=1)
    monkeypatch.setattr(logsumexp, "KEEP_BYTES", 0)
    monkeypatch.setitem(logsumexp.CHUNK_BYTES, "cpu", 0)
    monkeypatch.setattr(logsumexp, "MIN_CHUNK_BYTES", 0)  # three chunks of the least size
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x):
        masked_logsumexp(*leaves[:2], leaves[2], leaves[3])
    assert max(saved) < 150 * 40
    check(leaves, mask, weight, None)


def test_backward_twice_gives_the_same():
    leaves, _, _ = problem(9, 11, 4, 0.0, True, seed=2)
    left, right = (torch.nn.functional.normalize(x) for x in leaves[:2])
    of_one, of_both = masked_logsumexp(*leaves).sum(), torch.cat(logsumexp_both(left, right, 3.0)).sum()
    for total, of in ((of_one, leaves), (of_both, leaves[:2])):
        first = torch.autograd.grad(total, of, retain_graph=True)
        for x, y in zip(first, torch.autograd.grad(total, of), strict=True):
            assert torch.equal(x, y)


def test_only_what_needs_a_gradient_gets_one():
    leaves, _, _ = problem(9, 11, 4, 0.0, True, seed=2)
    for k in range(4):
        alone = [x.detach() for x in leaves]
        alone[k].requires_grad_()
        want = torch.autograd.grad(masked_logsumexp(*leaves).sum(), leaves[k])[0]
        torch.testing.assert_close(torch.autograd.grad(masked_logsumexp(*alone).sum(), alone[k])[0], want)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_do_not_overflow(dtype):
    """exp(100) is inf in half precision; the log-sum-exp at τ = 0.01 is not."""
    x = torch.eye(4, dtype=dtype).requires_grad_()
    total = masked_logsumexp(x, x, 100.0)
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, torch.full((4,), 100.0))
    (slope,) = torch.autograd.grad(total.sum(), x)
    assert slope.dtype == dtype
    assert slope.isfinite().all()


def test_logits_of_any_size():
    z = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    total = masked_logsumexp(z, torch.tensor([[1.0], [0.5]]))
    torch.testing.assert_close(total, torch.tensor([1e4, -5e3]))
    assert torch.autograd.grad(total.sum(), z)[0].isfinite().all()


def test_no_anchors_and_no_candidates():
    z, none = torch.randn(3, 2, requires_grad=True), torch.empty(0, 2, requires_grad=True)
    nobody = torch.empty(0, dtype=torch.int64)
    total = masked_logsumexp(z, none, 2.0, torch.empty(0), Known(nobody, nobody))
    assert (total == -torch.inf).all()
    for slope in torch.autograd.grad(total.sum(), (z, none)):
        assert not slope.any()
    for chunk in (None, 2):
        assert masked_logsumexp(none, z, 2.0, None, Known(nobody, nobody), chunk).shape == (0,)
        (slope,) = torch.autograd.grad(masked_logsumexp(none, z, chunk=chunk).sum(), z)
        assert not slope.any()


def test_shards_combine_to_the_whole():
    leaves, mask, weight = problem(13, 17, 5, 0.3, True, seed=4)
    a, c, scale, bias = leaves
    parts = []
    for cut in (slice(0, 6), slice(6, 7), slice(7, 17)):
        row, col = mask[:, cut].nonzero().T
        parts.append(masked_logsumexp(a, c[cut], scale, bias[cut], Known(row, col), chunk=4))
    got, want = combine_logsumexp(torch.stack(parts)), plain(a, c, scale, bias, mask)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    finite = want > -torch.inf
    assert not finite.all()
    slopes = [torch.autograd.grad((torch.where(finite, x, 0) * weight).sum(), leaves) for x in (got, want)]
    for x, y in zip(*slopes, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-10)


MEMORY = """
    import resource, torch
    from symcere.objective import masked_logsumexp
    torch.set_num_threads(1)
    anchors, candidates = (torch.randn(8192, 16).requires_grad_() for _ in range(2))
    masked_logsumexp(anchors[:64], candidates[:64]).sum().backward()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    masked_logsumexp(anchors, candidates, 0.1).sum().backward()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read as Linux counts it")
def test_memory_is_far_below_one_logit_matrix():
    """8,192 × 8,192 float32 logits are 256 MiB; the plain form holds several."""
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(MEMORY)], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 64
