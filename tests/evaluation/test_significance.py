"""Significance against scipy, hand values and published tables, on null data and on known effects."""

import numpy as np
import pytest
from scipy import stats

from symcere.evaluation.significance import against, average_ranks, compare, correct, holm


def test_one_seed_is_the_paired_t_test():
    rng = np.random.default_rng(0)
    a, b = rng.random(80), rng.random(80)
    found, expected = compare(a, b), stats.ttest_rel(a, b)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-12)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=1e-12)
    assert (found.df, found.users, found.seeds) == (79, 80, 1)
    assert found.p_users == found.p
    assert found.effect == pytest.approx((a - b).mean() / (a - b).std(ddof=1))
    assert (found.a, found.b, found.relative) == pytest.approx((a.mean(), b.mean(), a.mean() / b.mean() - 1))


def test_users_and_seeds_by_hand():
    # D = [[1, 3], [2, 6]]: mean 3; users 1.5, 4.5; seeds 2, 4
    # MS_users = 2 (1.5² + 1.5²) / 1 = 9; MS_seeds = 2 (1² + 1²) / 1 = 4; residuals ±.5: MS_error = 4 · .25 / 1 = 1
    found = compare([[1, 3], [2, 6]], [[0, 0]])
    variance, df = (9 + 4 - 1) / 4, (9 + 4 - 1) ** 2 / (81 + 16 + 1)
    assert found.difference == 3
    assert found.df == pytest.approx(df)
    assert found.p == pytest.approx(2 * stats.t.sf(3 / np.sqrt(variance), df))
    assert found.high - found.low == pytest.approx(2 * stats.t.ppf(0.975, df) * np.sqrt(variance))


def test_a_constant_shift_between_seeds_is_nothing_to_paired_models():
    rng = np.random.default_rng(0)
    a, b = rng.random((3, 50)), rng.random((3, 50))
    shift = np.array([[5.0], [0], [-5]])
    assert compare(a + shift, b + shift).p == pytest.approx(compare(a, b).p)


def test_swapping_the_models_changes_the_sign_alone():
    rng = np.random.default_rng(1)
    a, b = rng.random((3, 50)), rng.random((3, 50)) + 0.1
    one, other = compare(a, b), compare(b, a)
    assert one.p == pytest.approx(other.p)
    assert (one.low, one.high, one.effect) == pytest.approx((-other.high, -other.low, -other.effect))


def sparse_differences(rng, users=300, seeds=3, seed_spread=0.0, shift=0.0):
    """Per-user NDCG differences as they are: mostly zero, with noise of training common to all users."""
    people = (rng.random(users) < 0.15) * rng.normal(0, 0.6, users)
    noise = (rng.random((seeds, users)) < 0.15) * rng.normal(0, 0.4, (seeds, users))
    return shift + people + noise + seed_spread * rng.standard_normal((seeds, 1))


@pytest.mark.parametrize("seed_spread", [0, 0.02])
def test_null_data_is_called_significant_as_often_as_stated(seed_spread):
    rng = np.random.default_rng(7)
    found = [compare(sparse_differences(rng, seed_spread=seed_spread), np.zeros((1, 300))) for _ in range(1500)]
    share = np.mean([c.p < 0.05 for c in found])
    assert 0.02 < share < 0.07  # standard error .006
    if seed_spread:  # a test over users alone is fooled by lucky seeds
        assert np.mean([c.p_users < 0.05 for c in found]) > share + 0.03


def test_a_known_effect_is_found_and_its_interval_holds_it():
    rng = np.random.default_rng(8)
    found = [compare(sparse_differences(rng, shift=0.06, seed_spread=0.01), np.zeros((1, 300))) for _ in range(500)]
    assert np.mean([c.p < 0.05 for c in found]) > 0.8
    assert 0.92 < np.mean([c.low < 0.06 < c.high for c in found]) < 0.985
    assert all(c.difference > 0 for c in found if c.p < 0.05)  # two-sided, but the sign is never mistaken


def test_identical_models_and_constant_differences():
    a = np.random.default_rng(0).random((3, 20))
    same = compare(a, a)
    assert (same.p, same.difference, same.effect, same.low, same.high) == (1, 0, 0, 0, 0)
    assert compare(np.ones((1, 9)), np.zeros((1, 9))).p == 0


def test_users_without_a_value_are_left_out_of_both():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 30)), rng.random((2, 30))
    holes = a.copy()
    holes[1, :5] = np.nan
    assert compare(holes, b) == compare(a[:, 5:], b[:, 5:])


@pytest.mark.parametrize(("a", "b"), [((3, 10), (2, 10)), ((3, 10), (3, 9)), ((1, 1), (1, 1))])
def test_what_cannot_be_paired_is_refused(a, b):
    with pytest.raises(ValueError, match=r"paired|too few"):
        compare(np.ones(a), np.ones(b))


def test_holm_by_hand_and_in_the_order_given():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == pytest.approx([1, 1])
    assert len(holm([])) == 0


def test_holm_keeps_the_family_at_its_level():
    p = np.random.default_rng(0).random((4000, 6))
    assert np.mean([(holm(row) < 0.05).any() for row in p]) == pytest.approx(0.05, abs=0.012)


def test_against_corrects_for_the_number_of_rivals():
    rng = np.random.default_rng(0)
    base = rng.random((3, 400))
    found = against(
        base + 0.03, {"near": base + rng.normal(0, 0.3, base.shape), "far": base * 0.5, "same": base + 0.03}
    )
    raw = {name: c.p for name, c in found.items()}
    assert {name: c.p_holm for name, c in found.items()} == dict(zip(raw, holm(list(raw.values())), strict=True))
    assert (found["far"].marks, found["same"].marks) == ("***", "")
    assert correct({}) == {}


def test_friedman_and_ranks_against_scipy_and_demsar():
    rng = np.random.default_rng(3)
    table = rng.random((4, 15)) + np.array([[0.3], [0.1], [0], [0]])
    found = average_ranks(dict(zip("abcd", table, strict=True)))
    chi2 = stats.friedmanchisquare(*table).statistic
    f = 14 * chi2 / (15 * 3 - chi2)  # Iman & Davenport
    assert found.p == pytest.approx(stats.f.sf(f, 3, 42), rel=1e-9)
    assert found.ranks.sum() == pytest.approx(10)
    assert found.ranks.argmin() == 0
    # Demšar (2006), table 5: q_.05 for 2, 4, 10 methods
    for methods, q in ((2, 1.960), (4, 2.569), (10, 3.164)):
        width = average_ranks({str(m): rng.random(15) for m in range(methods)}).critical_difference
        assert width == pytest.approx(q * np.sqrt(methods * (methods + 1) / 90), rel=5e-4)


def test_ties_share_ranks_and_a_perfect_order_is_as_certain_as_its_data_sets_are_many():
    found = average_ranks({"a": [3, 3, 3], "b": [2, 2, 2], "c": [2, 2, 2]})
    assert found.ranks.tolist() == [1, 2.5, 2.5]
    assert found.p == pytest.approx(1 / 9)  # each of the other two agrees with the first by chance in one of 3 orders
    assert average_ranks({"a": [3, 3], "b": [2, 2]}).p == 0.5
    assert average_ranks({"a": [1, 1], "b": [1, 1]}).p == 1
    assert np.isnan(average_ranks({"a": [1], "b": [2]}).critical_difference)
    with pytest.raises(ValueError, match="two methods"):
        average_ranks({"a": [1, 2], "b": [1, float("nan")]})


def test_friedman_on_null_data():
    rng = np.random.default_rng(0)
    share = np.mean([average_ranks(dict(enumerate(rng.random((3, 15))))).p < 0.05 for _ in range(300)])
    assert 0.02 < share < 0.09
