"""InfoNCE, SupCon and SINCERE against slow loops in pure Python, and their properties."""

import math

import numpy as np
import pytest
import scipy.sparse
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from symcere.objective import (
    History,
    Known,
    Term,
    combine_logsumexp,
    contrastive,
    known_logits,
    locate,
    masked_logsumexp,
    pair_logits,
    symmetric,
)

KINDS = ["sincere", "infonce", "supcon"]
REDUCTIONS = ["pair", "anchor", "history"]

# Computed once from the definitions by slow loops; the single-view ones agree with the public SINCERE code.
VALUES = [
    "V1 sincere anchor 7.371134720087",
    "V1 sincere pair 8.424147952937",
    "V1 supcon anchor 7.374099409118",
    "V1 supcon pair 8.427536168972",
    "V1 infonce anchor 7.533026785684",
    "V2 sincere batch pair 1.764587099368 2.434386600713 2.099486850040",
    "V2 sincere batch anchor 1.692113788982 2.470857664682 2.081485726832",
    "V2 infonce batch pair 2.061766521605 2.651719106712 2.356742814159",
    "V2 infonce batch anchor 1.960310029441 2.655972656136 2.308141342789",
    "V2 sincere batch history 1.572476369467 2.502865898977 2.037671134222",
    "V2 supcon batch history 1.759039330245 2.698061971437 2.228550650841",
    "V2 sincere all pair 2.633581465454 2.593835181163 2.613708323309",
    "V2 sincere all anchor 2.600862711785 2.639934023043 2.620398367414",
    "V2 infonce all pair 2.780253850001 2.965320824669 2.872787337335",
    "V2 infonce all anchor 2.725514025200 2.937170485762 2.831342255481",
    "V2 sincere all history 2.570743864897 2.400437732164 2.485590798531",
    "V2 supcon all history 2.711537916711 2.657674833113 2.684606374912",
]

HISTORY = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 3), (2, 2), (2, 4), (3, 0), (3, 5), (4, 3), (5, 2), (5, 6)]
BATCH = [(0, 0), (0, 2), (1, 3), (2, 2), (3, 5), (4, 3)]


def rows(formula, n, d):
    x = torch.tensor([[formula(i, j) for j in range(d)] for i in range(n)], dtype=torch.float64)
    return F.normalize(x, dim=1)


def history_of(pairs, shape):
    train = scipy.sparse.csr_array(
        (np.ones(len(pairs), np.float32), ([u for u, _ in pairs], [i for _, i in pairs])), shape=shape
    )
    return History.of(train), History.of(train.T)


def one_side(anchor_z, other_z, history, nodes, others, *, kind, reduction, candidates=None, **options) -> Term:
    """The term as a training step would ask for it: ``candidates`` "batch", None for all, or ids."""
    ids, anchor_of = nodes.unique(return_inverse=True)
    if isinstance(candidates, str):
        candidates = others.unique()
    bias, inclusion = options.pop("bias", None), options.get("log_inclusion")
    positive_at = locate(others, candidates, len(other_z))
    return contrastive(
        anchor_z[ids],
        other_z[others],
        other_z if candidates is None else other_z[candidates],
        kind=kind,
        reduction=reduction,
        anchor_of=anchor_of,
        known=history.among(ids, candidates),
        positive_at=positive_at,
        positive_inclusion=None if inclusion is None else inclusion[positive_at.clamp_min(0)],
        bias=bias if bias is None or candidates is None else bias[candidates],
        positive_bias=None if bias is None else bias[others],
        **options,
    )


def reference(
    anchor_z, other_z, pairs, batch, candidates, tau, kind, reduction, bias=None, inclusion=None
) -> tuple[float, float]:
    """(sum, count), by the definitions, in Python floats."""
    A, Z = anchor_z.tolist(), other_z.tolist()
    b = bias.tolist() if bias is not None else [0.0] * len(Z)
    pi = dict(zip(candidates, inclusion, strict=True)) if inclusion is not None else {}
    known = set(pairs)

    def s(a, c):
        return math.fsum(x * y for x, y in zip(A[a], Z[c], strict=True)) / tau + b[c]

    def loss(a, p):
        below = []
        for c in candidates:
            if kind == "supcon" or (c != p and not (kind == "sincere" and (a, c) in known)):
                below.append(s(a, c) - math.log(pi.get(c, 1.0)))
        if kind != "supcon":
            below.append(s(a, p))
        top = max(below)
        return top + math.log(math.fsum(math.exp(x - top) for x in below)) - s(a, p)

    total, count = 0.0, 0.0
    for a in sorted({a for a, _ in batch}):
        of_batch = [p for x, p in batch if x == a]
        over_known = kind == "supcon" or reduction == "history"
        positives = [c for c in candidates if (a, c) in known] if over_known else of_batch
        if positives:
            weight = len(of_batch) if reduction == "pair" else 1
            total += weight * math.fsum(loss(a, p) for p in positives) / len(positives)
            count += weight
    return total, count


def both_sides(zu, zi, history, u, i, **options) -> Term:
    """The term from both sides, over the nodes of the batch."""
    (users, left_of), (items, right_of) = (nodes.unique(return_inverse=True) for nodes in (u, i))
    known = history.among(users, items)
    return symmetric(zu[users], zi[items], left_of=left_of, right_of=right_of, known=known, **options)


@pytest.mark.parametrize("line", VALUES)
def test_fixed_values(line):
    view, kind, *rest = line.split()
    if view == "V1":
        reduction, expected = rest[0], float(rest[1])
        e = rows(lambda i, j: math.sin(0.5 + 1.3 * i + 0.7 * j * (i + 1)), 8, 5)
        labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
        same = (labels[:, None] == labels) & ~torch.eye(8, dtype=torch.bool)
        anchor_of, positive = same.nonzero().T
        if kind == "infonce":
            first = torch.cat([torch.ones(1, dtype=torch.bool), anchor_of[1:] != anchor_of[:-1]])
            anchor_of, positive = anchor_of[first], positive[first]
        total = torch.zeros((), dtype=torch.float64)
        count = 0.0
        for a in range(8):  # one by one, since the anchor itself is none of its candidates
            others = torch.tensor([c for c in range(8) if c != a])
            mine = positive[anchor_of == a]
            at = locate(mine, others, 8)
            known = same[a, others].nonzero()[:, 0]
            term = contrastive(
                e[a : a + 1],
                e[mine],
                e[others],
                kind=kind,
                reduction=reduction,
                scale=1 / 0.07,
                anchor_of=torch.zeros(len(mine), dtype=torch.int64),
                known=Known(torch.zeros_like(known), known),
                positive_at=at,
            )
            total, count = total + term.sum, count + term.count
        assert total / count == pytest.approx(expected, abs=1e-9)
        return
    candidates, reduction, *expected = rest
    zu = rows(lambda u, j: math.sin(1 + 0.9 * u + 1.7 * j + 0.3 * u * j), 6, 4)
    zi = rows(lambda i, j: math.cos(2 + 1.1 * i + 0.8 * j - 0.2 * i * j), 8, 4)
    by_user, by_item = history_of(HISTORY, (6, 8))
    u, i = torch.tensor(BATCH).T
    options = {
        "kind": kind,
        "reduction": reduction,
        "scale": 5.0,
        "candidates": "batch" if candidates == "batch" else None,
    }
    forth = one_side(zu, zi, by_user, u, i, **options).value
    back = one_side(zi, zu, by_item, i, u, **options).value
    for got, value in zip((forth, back, (forth + back) / 2), expected, strict=True):
        assert got.item() == pytest.approx(float(value), abs=1e-9)
    if rest[:2] == ["batch", "pair"] and kind == "sincere":
        assert both_sides(zu, zi, by_user, u, i, scale=5.0).value.item() == pytest.approx(float(expected[2]), abs=1e-9)


@st.composite
def problems(draw):
    """A random history, a batch of it, candidates, and vectors."""
    seed = draw(st.integers(0, 2**16))
    g = np.random.default_rng(seed)
    U, N, d = draw(st.integers(1, 7)), draw(st.integers(1, 9)), draw(st.integers(1, 5))
    dense = g.random((U, N)) < draw(st.sampled_from([0.1, 0.5, 1.0]))
    dense[g.integers(U), g.integers(N)] = True
    pairs = [(int(a), int(b)) for a, b in zip(*dense.nonzero(), strict=True)]
    batch = [pairs[k] for k in g.permutation(len(pairs))[: draw(st.integers(1, 6))]]
    candidates = draw(st.sampled_from(["batch", "all", "sampled"]))
    if candidates == "batch":
        ids = sorted({b for _, b in batch})
    elif candidates == "all":
        ids = list(range(N))
    else:
        ids = sorted(g.permutation(N)[: draw(st.integers(1, N))].tolist())
    zu, zi = (torch.from_numpy(g.normal(size=(n, d))) for n in (U, N))
    bias = torch.from_numpy(g.normal(size=N)) if draw(st.booleans()) else None
    inclusion = g.uniform(0.05, 1, len(ids)) if draw(st.booleans()) else None
    return zu, zi, pairs, batch, ids, bias, inclusion, draw(st.sampled_from([None, 1, 2, 3]))


@settings(max_examples=120)
@given(problems(), st.sampled_from(KINDS), st.sampled_from(REDUCTIONS), st.sampled_from([0.1, 1.0]))
def test_equals_slow_loop(problem, kind, reduction, tau):
    zu, zi, pairs, batch, ids, bias, inclusion, chunk = problem
    by_user, _ = history_of(pairs, (len(zu), len(zi)))
    u, i = torch.tensor(batch).T
    leaves = [x.clone().requires_grad_() for x in (zu, zi)] + [
        torch.tensor(1 / tau, dtype=torch.float64, requires_grad=True)
    ]
    term = one_side(
        leaves[0],
        leaves[1],
        by_user,
        u,
        i,
        candidates=torch.tensor(ids),
        kind=kind,
        reduction=reduction,
        scale=leaves[2],
        bias=bias,
        log_inclusion=None if inclusion is None else torch.from_numpy(np.log(inclusion)),
        chunk=chunk,
    )
    total, count = reference(zu, zi, pairs, batch, ids, tau, kind, reduction, bias, inclusion)
    assert term.sum.item() == pytest.approx(total, abs=1e-9, rel=1e-9)
    assert term.count.item() == count
    term.value.backward()
    assert all(x.grad.isfinite().all() for x in leaves)
    single = one_side(  # float32 follows
        zu.float(),
        zi.float(),
        by_user,
        u,
        i,
        candidates=torch.tensor(ids),
        kind=kind,
        reduction=reduction,
        scale=1 / tau,
        bias=None if bias is None else bias.float(),
        log_inclusion=None if inclusion is None else torch.from_numpy(np.log(inclusion)).float(),
    )
    assert single.sum.dtype == torch.float32
    assert single.sum.item() == pytest.approx(total, abs=1e-3, rel=1e-3)


@pytest.fixture
def example():
    g = torch.Generator().manual_seed(3)
    U, N, d = 30, 40, 6
    dense = torch.rand(U, N, generator=g) < 0.2
    pairs = [tuple(p) for p in dense.nonzero().tolist()]
    zu, zi = (F.normalize(torch.randn(n, d, generator=g, dtype=torch.float64), dim=1) for n in (U, N))
    batch = torch.tensor(pairs)[torch.randperm(len(pairs), generator=g)[:64]]
    return zu, zi, *history_of(pairs, (U, N)), batch[:, 0], batch[:, 1]


def gradients(term, *leaves):
    return torch.autograd.grad(term.value, leaves)


@pytest.mark.parametrize("candidates", ["batch", None])
def test_sincere_is_infonce_without_false_negatives(candidates):
    """Each user knows one item alone, and cross entropy over all items is the independent reference."""
    g = torch.Generator().manual_seed(0)
    z = torch.randn(2, 12, 5, generator=g, dtype=torch.float64)
    zu, zi = z[0].requires_grad_(), z[1].requires_grad_()
    by_user, _ = history_of([(k, (5 * k) % 12) for k in range(12)], (12, 12))
    u = torch.arange(12)
    i = (5 * u) % 12
    sincere, infonce = (
        one_side(zu, zi, by_user, u, i, kind=kind, reduction="pair", candidates=candidates, scale=2.0)
        for kind in ("sincere", "infonce")
    )
    plain = F.cross_entropy(2 * zu @ zi.T, i)
    assert sincere.value.item() == pytest.approx(plain.item(), abs=1e-12)
    assert infonce.value.item() == pytest.approx(plain.item(), abs=1e-12)
    for got, want in zip(gradients(sincere, zu, zi), torch.autograd.grad(plain, (zu, zi)), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


def test_sincere_never_pushes_positives_apart_and_supcon_does():
    """Sign of the gradient by the similarity of every known (anchor, candidate) pair.

    With one-hot items the gradient by a user's vector is the gradient by its logits."""
    items = torch.eye(5, dtype=torch.float64)
    users = torch.zeros(2, 5, dtype=torch.float64)
    users[0, 0] = 4.0  # user 0 knows items 0, 1, 2 and is already close to 0: SupCon pushes it away again
    pairs = [(0, 0), (0, 1), (0, 2), (1, 3)]
    by_user, _ = history_of(pairs, (2, 5))
    users.requires_grad_()
    u, i = torch.tensor(pairs).T
    worst = {}
    for kind in KINDS:
        for reduction in REDUCTIONS:
            term = one_side(users, items, by_user, u, i, kind=kind, reduction=reduction)
            (slope,) = gradients(term, users)
            worst[kind, reduction] = max(slope[a, p].item() for a, p in pairs)
    assert all(worst["sincere", reduction] <= 0 for reduction in REDUCTIONS)
    assert all(worst["supcon", reduction] > 0.1 for reduction in REDUCTIONS)


@settings(max_examples=40)
@given(problems(), st.sampled_from(REDUCTIONS))
def test_sincere_gradient_on_positives_is_never_positive(problem, reduction):
    zu, _, pairs, batch, ids, *_ = problem
    N = max(max(i for _, i in pairs), max(ids)) + 1
    by_user, _ = history_of(pairs, (len(zu), N))
    logits = torch.randn(len(zu), N, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    logits.requires_grad_()
    u, i = torch.tensor(batch).T
    term = one_side(
        logits, torch.eye(N, dtype=torch.float64), by_user, u, i, candidates=torch.tensor(ids), kind="sincere",
        reduction=reduction,
    )  # fmt: skip
    (slope,) = gradients(term, logits)
    assert all(slope[a, p] <= 0 for a, p in pairs)


@pytest.mark.parametrize("kind", KINDS)
def test_symmetric_form_does_not_know_its_sides(example, kind):
    zu, zi, by_user, by_item, u, i = example

    def symmetric(left, right, history, back, x, y):
        return sum(
            one_side(*side, kind=kind, reduction="pair", candidates="batch", scale=5.0).value
            for side in ((left, right, history, x, y), (right, left, back, y, x))
        )

    forth = symmetric(zu, zi, by_user, by_item, u, i)
    assert forth == symmetric(zi, zu, by_item, by_user, i, u)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_order_of_the_batch_does_not_matter(example, kind, reduction):
    zu, zi, by_user, _, u, i = example
    shuffle = torch.randperm(len(u), generator=torch.Generator().manual_seed(5))
    candidates = i.unique()[torch.randperm(len(i.unique()), generator=torch.Generator().manual_seed(6))]
    first = one_side(zu, zi, by_user, u, i, kind=kind, reduction=reduction, candidates="batch")
    other = one_side(zu, zi, by_user, u[shuffle], i[shuffle], kind=kind, reduction=reduction, candidates=candidates)
    assert first.value.item() == pytest.approx(other.value.item(), rel=1e-13)
    # repeating an anchor instead of naming it once changes nothing in the mean over pairs
    if reduction == "pair":
        repeated = contrastive(
            zu[u], zi[i], zi[candidates], kind=kind, known=by_user.among(u, candidates),
            positive_at=locate(i, candidates, len(zi)),
        )  # fmt: skip
        assert first.value.item() == pytest.approx(repeated.value.item(), rel=1e-13)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_sums_and_counts_add_up_over_parts_of_the_batch(example, kind, reduction):
    """Means over workers are Σ sum / Σ count; workers hold different anchors."""
    zu, zi, by_user, _, u, i = example
    whole = one_side(zu, zi, by_user, u, i, kind=kind, reduction=reduction)
    parts = [
        one_side(zu, zi, by_user, u[mine], i[mine], kind=kind, reduction=reduction)
        for mine in (u % 3 == r for r in range(3))
    ]
    assert sum(t.sum for t in parts).item() == pytest.approx(whole.sum.item(), rel=1e-13)
    assert sum(t.count for t in parts).item() == whole.count.item()


def test_with_one_positive_each_the_three_losses_are_one():
    """Two views of the same nodes: in value and in gradient, whatever the temperature."""
    left, right = (torch.randn(7, 5, dtype=torch.float64) for _ in range(2))
    itself = torch.arange(7)
    found = {}
    for kind in KINDS:
        inputs = [F.normalize(x, dim=1).requires_grad_() for x in (left, right)]
        term = contrastive(inputs[0], inputs[1], inputs[1], kind=kind, scale=1 / 0.1, known=Known(itself, itself))
        found[kind] = (term.value, *torch.autograd.grad(term.value, inputs))
    for kind in ("infonce", "supcon"):
        for ours, theirs in zip(found["sincere"], found[kind], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_same_node_alignment_is_symmetric_cross_entropy():
    g = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 9, 4, generator=g, dtype=torch.float64)
    forth, back = (contrastive(a, b, b, kind="infonce", scale=3.0).value for a, b in ((left, right), (right, left)))
    target = torch.arange(9)
    assert forth.item() == pytest.approx(F.cross_entropy(3 * left @ right.T, target).item(), abs=1e-12)
    assert back.item() == pytest.approx(F.cross_entropy(3 * right @ left.T, target).item(), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_finite_at_low_temperature(example, kind, reduction, dtype):
    zu, zi, by_user, _, u, i = example
    leaves = [x.to(dtype).requires_grad_() for x in (zu, zi)]
    term = one_side(*leaves, by_user, u, i, kind=kind, reduction=reduction, scale=100.0, candidates="batch")
    batch, ids = list(zip(u.tolist(), i.tolist(), strict=True)), i.unique().tolist()
    want, _ = reference(zu, zi, _pairs(by_user), batch, ids, 0.01, kind, reduction)
    assert term.sum.item() == pytest.approx(want, rel=1e-5)
    assert all(x.isfinite().all() for x in gradients(term, *leaves))


def _pairs(history):
    row = torch.arange(history.num_nodes).repeat_interleave(history.degree)
    return list(zip(row.tolist(), history.col.tolist(), strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_batch_of_one(kind, reduction):
    """One pair, in-batch candidates: nothing to be told from, so loss 0 and no gradient."""
    z = torch.randn(2, 1, 3, dtype=torch.float64).requires_grad_()
    by_user, _ = history_of([(0, 0)], (1, 1))
    zero = torch.tensor([0])
    term = one_side(z[0], z[1], by_user, zero, zero, kind=kind, reduction=reduction, candidates="batch", scale=10.0)
    assert term.value.item() == pytest.approx(0, abs=1e-12)
    assert term.count == 1
    (slope,) = gradients(term, z)
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-12)


def test_anchor_without_a_negative_has_loss_zero(example):
    zu, zi, by_user, _, u, i = example
    zi = zi.clone().requires_grad_()
    mine = by_user.col[by_user.crow[u[0]] : by_user.crow[u[0] + 1]]
    term = one_side(zu, zi, by_user, u[:1], i[:1], kind="sincere", reduction="pair", candidates=mine)
    assert term == (0, 1)
    (slope,) = gradients(term, zi)
    assert not slope.any()


@pytest.mark.parametrize("kind", ["sincere", "supcon"])
def test_anchor_without_a_positive_is_not_counted(example, kind):
    """No candidate is known to any anchor: there is nothing to average, and no NaN."""
    zu, zi, by_user, _, u, i = example
    zu = zu.clone().requires_grad_()
    mine = by_user.col[by_user.crow[u[0]] : by_user.crow[u[0] + 1]]
    unknown = torch.tensor([c for c in range(len(zi)) if c not in mine])
    term = one_side(zu, zi, by_user, u[:1], i[:1], kind=kind, reduction="history", candidates=unknown)
    assert (term.sum.item(), term.count.item(), term.value.item()) == (0, 0, 0)
    (slope,) = gradients(term, zu)
    assert not slope.any()


@pytest.mark.parametrize("scale", [5.0, 100.0])
@pytest.mark.parametrize("chunk", [None, 7])
def test_both_sides_at_once_are_the_mean_of_each(example, scale, chunk):
    zu, zi, by_user, by_item, u, i = example
    zu, zi = zu.clone().requires_grad_(), zi.clone().requires_grad_()
    options = {"kind": "sincere", "reduction": "pair", "candidates": "batch", "scale": scale}
    forth = one_side(zu, zi, by_user, u, i, **options)
    back = one_side(zi, zu, by_item, i, u, **options)
    both = both_sides(zu, zi, by_user, u, i, scale=scale, chunk=chunk)
    assert both.count == forth.count == len(u)
    want = Term((forth.sum + back.sum) / 2, forth.count)
    assert both.value.item() == pytest.approx(want.value.item(), rel=1e-12)
    for got, expected in zip(gradients(both, zu, zi), gradients(want, zu, zi), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


def test_both_sides_at_once_of_two_nodes_that_know_each_other(example):
    """Nothing is left to compare with: the loss is zero, and so is its gradient."""
    zu, zi, by_user, _, u, i = example
    zu, zi = zu.clone().requires_grad_(), zi.clone().requires_grad_()
    term = both_sides(zu, zi, by_user, u[:1], i[:1], scale=5.0)
    assert (term.value.item(), term.count.item()) == (0, 1)
    assert not any(slope.any() for slope in gradients(term, zu, zi))


@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize("kind", ["sincere", "infonce"])
def test_shards_of_the_candidates_combine(example, kind, drawn):
    """Each worker sums over its own candidates; the combination is the whole, in value and gradient."""
    zu, zi, by_user, _, u, i = example
    zu, zi = zu.clone().requires_grad_(), zi.clone().requires_grad_()
    ids, anchor_of = u.unique(return_inverse=True)
    log_pi = torch.linspace(0.1, 1, 40).log()[torch.randperm(40)] if drawn else torch.zeros(40)
    whole = one_side(zu, zi, by_user, u, i, kind=kind, reduction="pair", scale=5.0, log_inclusion=log_pi)
    shards = [torch.arange(0, 17), torch.arange(17, 40)]

    def rest(partial):
        masked = by_user.among(ids, shards[1]) if kind == "sincere" else None
        other = masked_logsumexp(zu[ids], zi[shards[1]], 5.0, -log_pi[shards[1]], masked)
        return combine_logsumexp(torch.stack([partial, other]))

    sharded = contrastive(
        zu[ids], zi[i], zi[shards[0]], kind=kind, scale=5.0, anchor_of=anchor_of,
        known=by_user.among(ids, shards[0]), across=rest,
        log_inclusion=log_pi[shards[0]], positive_inclusion=log_pi[i],
    )  # fmt: skip
    assert sharded.value.item() == pytest.approx(whole.value.item(), rel=1e-13)
    for got, want in zip(gradients(sharded, zu, zi), gradients(whole, zu, zi), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_logits_stay_float32_under_autocast(example, kind, reduction):
    zu, zi, by_user, _, u, i = example
    leaves = [x.float().requires_grad_() for x in (zu, zi)]
    options = {"kind": kind, "reduction": reduction, "scale": 100.0}
    plain = one_side(*leaves, by_user, u, i, **options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = one_side(*leaves, by_user, u, i, **options)
        slopes = gradients(mixed, *leaves)
    assert mixed.sum.dtype == torch.float32
    assert mixed.sum == plain.sum
    for got, want in zip(slopes, gradients(plain, *leaves), strict=True):
        assert torch.equal(got, want)
    halves = [x.to(torch.bfloat16) for x in leaves]
    rounded = one_side(*halves, by_user, u, i, **options)
    upcast = one_side(*(x.float() for x in halves), by_user, u, i, **options)
    assert rounded.sum.dtype == torch.float32
    assert rounded.sum == upcast.sum


def test_log_inclusion_of_certain_candidates_changes_nothing(example):
    zu, zi, by_user, _, u, i = example
    for kind in KINDS:
        plain = one_side(zu, zi, by_user, u, i, kind=kind, reduction="pair")
        certain = one_side(
            zu, zi, by_user, u, i, kind=kind, reduction="pair", log_inclusion=torch.zeros(len(zi), dtype=torch.float64)
        )
        assert certain.value.item() == pytest.approx(plain.value.item(), rel=1e-14)


def test_infonce_with_log_inclusion_where_the_positive_is_all():
    """In float32 the positive outweighs everything else: the corrected loss must be tiny, not negative or NaN."""
    items = torch.eye(3)
    users = (60.0 * items[:1]).requires_grad_()
    term = contrastive(
        users, items[:1], items, kind="infonce", log_inclusion=torch.tensor([1e-3, 0.5, 1.0]).log(),
        positive_inclusion=torch.tensor([1e-3]).log(), positive_at=torch.tensor([0]),
    )  # fmt: skip
    assert 0 <= abs(term.value.item()) < 1e-4
    assert gradients(term, users)[0].isfinite().all()


def test_known_logits_equal_the_gathered_form():
    g = torch.Generator().manual_seed(0)
    a, c = (torch.randn(n, 5, generator=g, dtype=torch.float64).requires_grad_() for n in (7, 11))
    bias = torch.randn(11, generator=g, dtype=torch.float64).requires_grad_()
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    row, col = (torch.rand(7, 11, generator=g) < 0.4).nonzero().T
    got = known_logits(a, c, Known(row, col), scale, bias)
    want = pair_logits(a[row], c[col], scale, bias[col])
    torch.testing.assert_close(got, want, rtol=1e-13, atol=1e-13)
    weight = torch.randn(len(row), generator=g, dtype=torch.float64)
    leaves = (a, c, bias, scale)
    for x, y in zip(
        torch.autograd.grad((got * weight).sum(), leaves),
        torch.autograd.grad((want * weight).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)
    nothing = torch.empty(0, dtype=torch.int64)
    (slope,) = torch.autograd.grad(known_logits(a, c, Known(nothing, nothing)).sum(), a)
    assert not slope.any()


def test_what_is_missing_is_said(example):
    zu, zi, *_ = example
    with pytest.raises(ValueError, match="known"):
        contrastive(zu, zi[:30], zi, kind="sincere")
    with pytest.raises(ValueError, match="known"):
        contrastive(zu, zi[:30], zi, kind="infonce", reduction="history")
    with pytest.raises(ValueError, match="together"):
        contrastive(zu, zi[:30], zi, kind="infonce", bias=zi[:, 0])
    with pytest.raises(ValueError, match="log_inclusion and positive_inclusion"):
        contrastive(zu, zi[:30], zi, kind="infonce", log_inclusion=zi[:, 0])
