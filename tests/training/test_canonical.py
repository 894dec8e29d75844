"""Settings that are said to have no effect have none: the same numbers come out of training."""

import pytest

from symcere.config import Experiment
from symcere.config.canonical import canonical, same_model
from symcere.training import fit

BASE = {
    "text.encoders": "lsa",
    "model.dim": 8,
    "model.hidden": 8,
    "model.features": "both",
    "train.batch_size": 64,
    "train.epochs": 2,
    "train.precision": "fp64",
    "train.lr": 0.05,
}
BPR = {"objective.ranking.loss": "bpr"}
IDS = {"model.features": "id"}
PLAIN = {"model.normalise": "none"}
SAME = {"objective.same.weight": 0.5}
CASES = [
    ({**IDS, **BPR, **PLAIN}, {"objective.ranking.temperature": 0.7}),
    ({**IDS, **BPR, **PLAIN, "model.popularity": "learned"}, {"objective.ranking.learn_temperature": True}),
    ({**BPR}, {"objective.ranking.candidates": "batch", "objective.ranking.reduction": "history"}),
    ({**BPR}, {"objective.ranking.uniformity": 3.0, "objective.ranking.sample": 7}),
    (
        {"objective.ranking.loss": "softmax", "objective.ranking.candidates": "all"},
        {"objective.ranking.sample": 7, "objective.ranking.sampling": "popularity", "objective.ranking.logq": False},
    ),
    (
        {"objective.ranking.loss": "supcon", "objective.ranking.reduction": "anchor"},
        {"objective.ranking.reduction": "history"},
    ),
    ({"model.drop_own": "both"}, {"objective.ranking.reduction": "anchor"}),
    ({"model.features": "text"}, {"model.layers": 0, "model.skip_input": True}),
    ({"objective.ranking.loss": "directau"}, {"objective.ranking.learn_temperature": True}),
    ({"objective.ranking.loss": "directau", "model.popularity": "none"}, {"objective.ranking.temperature": 0.9}),
    ({"model.features": "text"}, {"model.layers": 1, "model.fusion": "sum", "model.fusion_weight": 2.0}),
    ({"model.fusion": "gate"}, {"model.fusion_weight": 2.0}),
    ({"model.text_tower": "linear"}, {"model.hidden": 16}),
    ({"model.text_tower": "mlp", "model.text_layers": 0}, {"model.text_tower": "sign"}),
    ({"model.text_tower": "mlp", "model.text_layers": 0}, {"model.text_tower": "post-mlp"}),
    ({**IDS}, {"model.text_tower": "mlp", "model.text_layers": 1, "model.user_profile": "items"}),
    ({**SAME, "objective.same.loss": "sincere"}, {"objective.same.loss": "infonce", "objective.same.mask": 0.4}),
    ({**SAME, "objective.same.loss": "supcon"}, {"objective.same.loss": "sincere"}),
    ({"objective.cross.weight": 0, "objective.cross.loss": "symcere"}, {"objective.cross.temperature": 0.9}),
    ({"objective.augment.kind": "simgcl"}, {"objective.augment.drop": 0.4, "objective.augment.layer": 2}),
    ({"objective.augment.kind": "sgl"}, {"objective.augment.eps": 0.4}),
]


def history(corpus, embeddings, experiment):
    state = fit(corpus, embeddings, experiment).checkpoint
    return [{k: v for k, v in epoch.items() if k != "epoch_seconds"} for epoch in state.history]


@pytest.mark.parametrize(("settings", "without_effect"), CASES)
def test_a_setting_without_effect_has_none(corpus, embeddings, settings, without_effect):
    one = Experiment().replace(BASE, settings)
    other = one.replace(without_effect)
    assert same_model(one) == same_model(other)
    first = history(corpus, embeddings, one)
    for same in (other, canonical(one)):
        for ours, theirs in zip(first, history(corpus, embeddings, same), strict=True):
            assert ours == pytest.approx(theirs, rel=1e-9)  # the order of a sum may differ


@pytest.mark.parametrize(
    ("settings", "with_effect"),
    [
        ({**BPR}, {"objective.ranking.temperature": 0.9}),
        ({**IDS, **PLAIN}, {"objective.ranking.temperature": 0.9}),
        (
            {"objective.ranking.loss": "supcon", "objective.ranking.reduction": "pair"},
            {"objective.ranking.reduction": "anchor"},
        ),
        ({**SAME, "objective.same.loss": "sincere"}, {"objective.same.loss": "symcere"}),
        # a user has several positives: these three are one loss between views of a node alone
        *(
            ({f"objective.{term}.weight": 0.5, f"objective.{term}.loss": one}, {f"objective.{term}.loss": other})
            for term in ("cross", "intra")
            for one, other in (("infonce", "supcon"), ("supcon", "sincere"), ("sincere", "symcere"))
        ),
        ({**BPR}, {"objective.ranking.negatives": 3}),
        ({}, {"objective.ranking.sample": 5}),
    ],
)
def test_and_one_with_an_effect_is_another_model(corpus, embeddings, settings, with_effect):
    one = Experiment().replace(BASE, settings)
    other = one.replace(with_effect)
    assert same_model(one) != same_model(other)
    assert history(corpus, embeddings, one) != history(corpus, embeddings, other)
