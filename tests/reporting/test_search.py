"""What the trials of a search show, on trials whose truth is planted."""

import numpy as np
import pytest

from symcere.reporting import search
from symcere.reporting.collect import SweepRun

TAU = "objective.ranking.temperature"


def trial(validation, status="FINISHED", **params):
    names = {"tau": TAU, "loss": "objective.ranking.loss", "normalise": "model.normalise", "lr": "train.lr"}
    named = {names.get(k, k): v for k, v in params.items()}
    defaults = {"objective.ranking.loss": "sincere", "model.normalise": "l2"}
    return SweepRun("", "", "d", "m", "trial", status, params=defaults | named, validation=validation)


def test_best_median_and_number_of_each_value():
    trials = [trial(v, tau=t) for t, v in ((0.2, 0.1), (0.1, 0.5), (0.2, 0.4), (0.2, 0.3))]
    trials += [trial(0.9, "FAILED", tau=0.1), trial(float("nan"), tau=0.1)]
    assert search.by_value(trials, TAU) == {0.1: search.Reached(0.5, 0.5, 1), 0.2: search.Reached(0.4, 0.3, 3)}
    assert list(search.by_value(trials, TAU)) == [0.1, 0.2]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, True),
        ({"loss": "directau"}, False),
        ({"loss": "bpr", "normalise": "none"}, False),
        ({"loss": "bpr", "normalise": "l2"}, True),
        ({"closed_form.kind": "ease"}, False),
    ],
)
def test_a_temperature_counts_only_where_it_acts(params, expected):
    assert search.acts(trial(0.1, tau=0.1, **params), TAU) is expected


def test_the_temperature_of_a_term_that_is_off_does_not_act():
    name = "objective.augment.temperature"
    on = {"objective.augment.kind": "simgcl", "objective.augment.weight": 0.1, name: 0.2}
    assert search.acts(trial(0.1, **on), name)
    assert not search.acts(trial(0.1, **(on | {"objective.augment.kind": "none"})), name)
    assert not search.acts(trial(0.1, **(on | {"objective.augment.weight": 0.0})), name)


def test_what_varied_leaves_out_data_and_seed():
    trials = [trial(0.1, tau=t, lr=0.1, **{"train.seed": n, "data.core": n}) for n, t in enumerate((0.1, 0.2))]
    assert search.varied(trials) == [TAU]
    assert search.varied([]) == []


def test_drawn_temperatures_are_gathered_in_ranges_of_equal_ratio():
    rng = np.random.default_rng(0)
    taus = np.exp(rng.uniform(np.log(0.05), np.log(0.8), 100))
    trials = [trial(1 - abs(np.log(t / 0.2)), tau=float(t)) for t in taus]
    bounds = search.grid(trials, TAU)
    np.testing.assert_allclose(bounds[1:] / bounds[:-1], (taus.max() / taus.min()) ** (1 / 8))
    points = search.curve(trials, TAU, bounds)
    assert sum(r.trials for r in points.values()) == 100
    for n, reached in enumerate(points.values()):
        inside = (taus >= bounds[n]) & ((taus < bounds[n + 1]) | (n == 7))
        assert reached.best == pytest.approx(max(t.validation for t, i in zip(trials, inside, strict=True) if i))
    best = max(points, key=lambda t: points[t].best)
    assert 0.14 < best < 0.28
    assert search.grid(trials[:12], TAU) is None
    assert search.curve(trials[:12], TAU) == search.by_value(trials[:12], TAU)


def test_a_value_between_two_ranges_counts_in_the_upper_one():
    trials = [trial(v, tau=t) for t, v in ((0.1, 0.3), (0.2, 0.9), (0.3, 0.5), (0.4, 0.7))]
    points = search.curve(trials, TAU, np.array([0.1, 0.2, 0.4]))  # middles .14 and .28; the last bound is of its range
    assert points == {0.14: search.Reached(0.3, 0.3, 1), 0.28: search.Reached(0.9, 0.7, 3)}


def test_importance_finds_the_setting_that_decides():
    rng = np.random.default_rng(1)
    trials = []
    for _ in range(60):
        lr, tau, loss = 10 ** rng.uniform(-4, -1), rng.uniform(0.1, 1), rng.choice(["sincere", "softmax"])
        trials.append(trial(np.log10(lr) ** 2 + 0.1 * tau, lr=float(lr), tau=float(tau), loss=str(loss)))
    shares = search.importance(trials)
    assert next(iter(shares)) == "lr"
    assert shares["lr"] > 0.9
    assert shares["ranking.loss"] < 0.05
    assert sum(shares.values()) == pytest.approx(1)


def test_settings_that_change_together_count_as_one():
    trials = [
        trial(
            0.1 * (n % 2) + 0.001 * n,
            normalise=("l2", "none")[n % 2],
            loss=("sincere", "bpr")[n % 2],
            lr=1e-3 * (n + 1),
        )
        for n in range(20)
    ]
    shares = search.importance(trials)
    assert set(shares) == {"ranking.loss + normalise", "lr"}
    assert shares["ranking.loss + normalise"] > 0.8


@pytest.mark.parametrize(
    ("trials", "reason"),
    [
        ([trial(0.1 * n, tau=n, lr=-n) for n in range(9)], "9 finished trials are too few"),
        ([trial(0.1 * n, tau=0.1 * n) for n in range(20)], "fewer than two settings varied"),
        ([trial(0.1, tau=n, lr=n % 3) for n in range(20)], "all trials reached the same value"),
    ],
)
def test_no_importance_without_grounds(trials, reason):
    assert reason in search.importance(trials)
