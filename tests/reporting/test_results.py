"""What is compared with what, against the plain functions of the evaluation room."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from symcere.errors import UserError
from symcere.evaluation.significance import average_ranks, compare, holm
from symcere.reporting.collect import Sweep, SweepRun
from symcere.reporting.document import Text
from symcere.reporting.results import Results
from symcere.reporting.sections.accuracy import accuracy, average_rank


@dataclass(frozen=True)
class Run(SweepRun):
    """A run whose files are at hand."""

    files: dict = field(default_factory=dict)

    def table(self, name):
        return self.files.get(name)


def final(dataset, method, seed, ndcg, validation=float("nan"), users=None, **params):
    """A final model with these users' NDCG@10."""
    users = np.array([f"u{n}" for n in range(len(ndcg))]) if users is None else users
    return Run(
        f"{dataset}{method}{seed}", "", dataset, method, "final", "FINISHED",
        params={"train.seed": seed, **params},
        metrics={"test_ndcg_at_10": float(np.mean(ndcg)), "test_recall_at_10": float(np.mean(ndcg))},
        validation=validation,
        files={"per_user.parquet": {"user": users, "ndcg_at_10": np.asarray(ndcg), "recall_at_10": np.asarray(ndcg)}},
    )  # fmt: skip


def results(*finals, trials=(), focus=""):
    return Results(Sweep("s", "s", tuple(trials), tuple(finals)), focus)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def three(rng):
    """lightgcn wins on validation, mf-bpr on test; symcere is better than both. Two data sets, three seeds."""
    runs = []
    for dataset in ("a", "b"):
        hard = rng.random(80)
        for method, validation, gain in (("mf-bpr", 0.2, 0.1), ("lightgcn", 0.3, 0.05), ("symcere", 0.4, 0.2)):
            for seed in range(3):
                runs.append(final(dataset, method, seed, hard * (0.3 + gain) + 0.01 * rng.random(80), validation))
    return runs


def per_user(runs, dataset, method):
    return np.stack(
        [r.files["per_user.parquet"]["ndcg_at_10"] for r in runs if (r.dataset, r.method) == (dataset, method)]
    )


def test_the_strongest_baseline_is_the_best_on_validation(three):
    found = results(*three)
    assert found.focus == "symcere"
    assert found.methods == ["mf-bpr", "lightgcn", "symcere"]
    assert found.strongest("a") == "lightgcn"
    assert found.best("a", "ndcg_at_10") == ["symcere"]
    assert found.best("a", "ndcg_at_10", place=2) == ["mf-bpr"]  # the better one on test is not the one to beat
    assert found.best("a", "ndcg_at_10", found.rivals) == ["mf-bpr"]


def test_equals_share_a_place(three):
    twin = [replace(r, method="twin") for r in three if r.method == "symcere"]
    found = results(*three, *twin)
    assert sorted(found.best("a", "ndcg_at_10")) == ["symcere", "twin"]
    assert found.best("a", "ndcg_at_10", place=2) == ["mf-bpr"]
    told = " ".join(b.text for b in accuracy(found) if isinstance(b, Text))
    assert "does not have the best mean" not in told


def test_what_a_method_starts_from_makes_it_a_baseline_or_a_variant(three):
    """Not its name, where the store tells."""
    names = {"symcere-lgn": "lightgcn", "mine": "symcere"}
    more = [
        replace(r, method=name, tags={"symcere.baseline": start})
        for name, start in names.items()
        for r in three
        if r.method == "mf-bpr"
    ]
    assert results(*three, *more).rivals == ["mf-bpr", "lightgcn", "symcere-lgn"]
    assert results(*three, *(replace(r, tags={}) for r in more)).rivals == ["mf-bpr", "lightgcn", "mine"]


def test_scores_are_means_and_deviations_over_seeds(three):
    found = results(*three)
    values = [r.metrics["test_ndcg_at_10"] for r in three if (r.dataset, r.method) == ("a", "symcere")]
    score = found.score("a", "symcere", "ndcg_at_10")
    assert score.mean == pytest.approx(np.mean(values))
    assert score.sd == pytest.approx(np.std(values, ddof=1))
    assert np.isnan(results(three[0]).score("a", "mf-bpr", "ndcg_at_10").sd)


def test_the_headline_is_the_paired_test_with_holm_over_data_sets(three):
    gains = results(*three).headline("ndcg_at_10")
    plain = [compare(per_user(three, d, "symcere"), per_user(three, d, "lightgcn")) for d in ("a", "b")]
    corrected = holm([c.p for c in plain])
    for dataset, c, p in zip(("a", "b"), plain, corrected, strict=True):
        gain = gains[dataset]
        assert (gain.comparison.difference, gain.comparison.p, gain.comparison.low) == (c.difference, c.p, c.low)
        assert gain.comparison.p_holm == pytest.approx(p)
        assert gain.relative == pytest.approx(c.a / c.b - 1)
        assert (gain.comparison.seeds, gain.comparison.users) == (3, 80)


def test_every_comparison_is_corrected_for_all_of_them(three):
    everyone = results(*three).everyone("ndcg_at_10")
    assert len(everyone) == 4
    assert [g.comparison.p_holm for g in everyone] == pytest.approx(holm([g.comparison.p for g in everyone]))


def test_users_are_paired_by_name_whatever_their_order(three, rng):
    shuffled = []
    for run in three:
        table, order = run.files["per_user.parquet"], rng.permutation(80)
        shuffled.append(replace(run, files={"per_user.parquet": {k: v[order] for k, v in table.items()}}))
    one, two = (results(*runs).headline("ndcg_at_10")["a"].comparison for runs in (three, shuffled))
    assert (one.p, one.difference) == pytest.approx((two.p, two.difference))


def test_seeds_are_paired_by_number_and_missing_ones_left_out(three):
    runs = [r for r in three if r.seed != 1 or r.method != "lightgcn"]
    comparison = results(*reversed(runs)).headline("ndcg_at_10")["a"].comparison
    ours, theirs = per_user(three, "a", "symcere")[[0, 2]], per_user(three, "a", "lightgcn")[[0, 2]]
    assert comparison.p == compare(ours, theirs).p
    assert comparison.seeds == 2
    # The gain is told of the same seeds as its stars, whatever the others would say.
    high = [replace(r, metrics={**r.metrics, "test_ndcg_at_10": 0.9}) if r.method == "symcere" else r for r in runs]
    gain = results(*high).headline("ndcg_at_10")["a"]
    assert gain.ours - gain.theirs == pytest.approx(comparison.difference)
    assert gain.relative == pytest.approx(comparison.difference / theirs.mean())


def test_a_model_without_randomness_stands_against_every_seed(three, rng):
    closed = [final(d, "ease", 0, rng.random(80) / 4, 0.35, **{"closed_form.kind": "ease"}) for d in ("a", "b")]
    found = results(*three, *closed)
    assert found.strongest("a") == "ease"
    expected = compare(per_user(three, "a", "symcere"), per_user(closed, "a", "ease"))
    comparison = found.headline("ndcg_at_10")["a"].comparison
    assert (comparison.p, comparison.seeds) == (expected.p, 3)
    # the same figures of a method that has a seed speak of that seed alone
    seeded = [replace(r, params={"train.seed": 0}) for r in closed]
    assert results(*three, *seeded).headline("ndcg_at_10")["a"].comparison.seeds == 1


def test_what_cannot_be_paired_says_why(rng):
    ours = [final("a", "symcere", s, rng.random(9), 0.3) for s in (0, 1)]
    others = [final("a", "lightgcn", s, rng.random(9), 0.2) for s in (7, 8)]
    gain = results(*ours, *others).headline("ndcg_at_10")["a"]
    assert (gain.comparison, gain.missing) == (None, "the two methods have no seed in common")
    strangers = [final("a", "lightgcn", s, rng.random(9), 0.2, users=np.array(list("abcdefghi"))) for s in (0, 1)]
    assert results(*ours, *strangers).headline("ndcg_at_10")["a"].missing == "the two were judged on different users"
    bare = [replace(r, files={}) for r in others]
    found = results(*ours, *bare)
    assert found.headline("ndcg_at_10")["a"].missing == "no per-user metrics were stored"
    assert found.headline("ndcg_at_10")["a"].relative == pytest.approx(
        np.mean([r.metrics["test_ndcg_at_10"] for r in ours]) / np.mean([r.metrics["test_ndcg_at_10"] for r in bare])
        - 1
    )


def test_a_baseline_without_validation_is_never_chosen_and_is_named(three):
    blind = [replace(r, validation=float("nan")) if r.method == "lightgcn" else r for r in three]
    found = results(*blind)
    assert found.strongest("a") == "mf-bpr"
    assert set(found.without_validation()) == {"lightgcn"}
    trial = SweepRun("t", "", "a", "lightgcn", "trial", "FINISHED", validation=0.33)
    assert results(*blind, trials=[trial]).strongest("a") == "lightgcn"  # its best trial speaks for it


def test_variants_of_the_method_are_no_baselines_unless_there_is_nothing_else(three):
    variant = [replace(r, method="symcere-no-text", validation=0.39) for r in three if r.method == "symcere"]
    found = results(*three, *variant)
    assert found.rivals == ["mf-bpr", "lightgcn"]
    assert found.methods == ["mf-bpr", "lightgcn", "symcere-no-text", "symcere"]
    alone = results(*variant, *(r for r in three if r.method == "symcere"))
    assert (alone.rivals, alone.against_variants) == (["symcere-no-text"], True)


def test_the_focus_is_asked_for_or_the_best_on_validation(three):
    baselines = [r for r in three if r.method != "symcere"]
    assert (results(*baselines).focus, results(*baselines).elected) == ("lightgcn", True)
    assert not results(*three).elected
    asked = results(*three, focus="mf-bpr")
    assert (asked.focus, asked.rivals) == ("mf-bpr", ["lightgcn", "symcere"])
    with pytest.raises(UserError, match=r"no final model of a method 'lightgnc'. Did you mean lightgcn\?"):
        results(*three, focus="lightgnc")


def test_ranks_hold_the_methods_that_have_every_data_set(three):
    extra = final("a", "ease", 0, np.ones(80), 0.5)
    ranks, datasets, left = results(*three, extra).ranks()
    assert (datasets, left) == (["a", "b"], ["ease"])
    found = results(*three)
    scores = {m: [found.score(d, m, "ndcg_at_10").mean for d in ("a", "b")] for m in found.methods}
    expected = average_ranks(scores)
    assert ranks.methods == expected.methods
    np.testing.assert_allclose(ranks.ranks, expected.ranks)
    assert ranks.critical_difference == expected.critical_difference
    assert results(three[0]).ranks()[0] is None


def test_a_data_set_without_the_metric_does_not_take_the_ranks_of_the_others(three):
    tiny = [replace(r, dataset="tiny", metrics={"test_ndcg_at_5": 1.0}) for r in three if r.dataset == "a"]
    ranks, datasets, left = results(*three, *tiny).ranks()
    expected, _, _ = results(*three).ranks()
    assert (datasets, left) == (["a", "b"], [])
    assert (ranks.methods, ranks.critical_difference) == (expected.methods, expected.critical_difference)
    np.testing.assert_array_equal(ranks.ranks, expected.ranks)
    told = " ".join(b.text for b in average_rank(results(*three, *tiny)) if isinstance(b, Text))
    assert "Without tiny, where no method has test NDCG@10" in told
