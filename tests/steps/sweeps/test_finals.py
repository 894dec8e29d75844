"""Final models."""

import pytest

from symcere.config import Experiment
from symcere.errors import UserError
from symcere.steps.sweeps.finals import final


def test_two_methods_with_one_setting_have_models_of_their_own(corpora):
    from symcere import tracking

    (corpora / "sweeps" / "twins").mkdir(parents=True)
    (corpora / "sweeps" / "twins" / "plan.json").write_text("{}")
    experiment = Experiment().replace({"model.features": "id", "train.epochs": 1}).to_dict()
    one = {"sweep": "twins", "dataset": "one", "experiment": experiment, "seed": 1, "workers": 1, "gpus": 0}
    one |= {"parent": "", "tags": {}, "environment": {}}
    figures = [final({**one, "method": method})["test_ndcg_at_10"] for method in ("plain", "layered", "plain")]
    assert figures[0] == figures[1] == figures[2] > 0
    assert sorted(run.tags["symcere.method"] for run in tracking.list_runs("twins")) == ["layered", "plain"]


def test_a_final_model_is_of_the_corpus_that_chose_it(corpora):
    (corpora / "sweeps" / "anew").mkdir(parents=True)
    (corpora / "sweeps" / "anew" / "plan.json").write_text('{"corpora": {"one": "another"}}')
    experiment = Experiment().replace({"model.features": "id", "train.epochs": 1}).to_dict()
    one = {"sweep": "anew", "dataset": "one", "method": "m", "experiment": experiment, "seed": 1, "workers": 1}
    with pytest.raises(UserError, match="'one' was prepared anew"):
        final({**one, "gpus": 0, "parent": "", "tags": {}, "environment": {}})
