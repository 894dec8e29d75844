"""Golden loss curves: the first 20 steps of every named method, in float64 on the CPU, to a relative 1e-6.

They pin down what the rest of the suite proves: a refactoring must not move them. Where a change of the numbers is
meant (another default, another order of random draws), make them anew, look at the difference, and say in the commit
why they moved:

    GOLDEN=write pytest tests/training/test_golden.py
    git diff --stat tests/training/golden

Each file of ``golden/`` has the method's settings and, for every step, the total and every weighted term; a closed
form, which takes no steps, has the scores of the first users. The corpus and its embeddings are drawn from a seed.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from symcere.config import Experiment, Ranking
from symcere.config.baselines import baseline, baselines
from symcere.config.fields import flatten
from symcere.objective.total import TotalLoss
from symcere.training import fit

GOLDEN = Path(__file__).parent / "golden"
STEPS, BATCH = 20, 32
SMALL = {
    "model": {"dim": 8, "hidden": 6},
    "train": {"batch_size": BATCH, "precision": "fp64", "lr": 0.01},
}
PARTS = ("model.", "objective.", "closed_form.", "train.")


def settings(method: str) -> Experiment:
    setup = baseline(method, SMALL)
    if setup.objective.ranking.sample < Ranking().sample:  # else all items of so small a corpus
        setup = setup.replace({"objective.ranking.sample": 8})
    return setup


def curve(method: str, corpus, embeddings) -> dict:
    """What the golden file of a method holds."""
    setup = settings(method)
    steps: list[dict[str, float]] = []
    forward = TotalLoss.forward

    def recorded(*args):
        terms = forward(*args)
        if len(steps) < STEPS:
            found = {name: value.item() for name, value in terms.items()}
            steps.append({"total": sum(found.values()), **found})
        return terms

    epochs = -(-STEPS * BATCH // corpus.train.nnz) + 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TotalLoss, "forward", recorded)
        fitted = fit(corpus, embeddings, setup.replace({"train.epochs": epochs, "train.eval_every": 100}))
    told = {"settings": {k: v for k, v in flatten(setup).items() if k.startswith(PARTS)}}
    if steps:
        return told | {"steps": {name: [step[name] for step in steps] for name in steps[0]}}
    return told | {"scores": fitted.scorer.scores(torch.arange(3)).double().tolist()}


@pytest.mark.parametrize("method", list(baselines()))
def test_the_first_steps_are_as_they_were(method, corpus, embeddings):
    file, found = GOLDEN / f"{method}.json", curve(method, corpus, embeddings)
    if os.environ.get("GOLDEN") == "write":
        GOLDEN.mkdir(exist_ok=True)
        file.write_text(json.dumps(found, indent=1) + "\n")
    golden = json.loads(file.read_text())
    assert json.loads(json.dumps(found["settings"])) == golden["settings"], "a default has changed: see the module"
    if "scores" in golden:
        np.testing.assert_allclose(found["scores"], golden["scores"], rtol=1e-6, atol=1e-9)
        return
    assert found["steps"].keys() == golden["steps"].keys()
    for name, values in golden["steps"].items():
        assert len(values) == STEPS
        # One that is 0 but for rounding has no relative error.
        np.testing.assert_allclose(found["steps"][name], values, rtol=1e-6, atol=1e-12, err_msg=name)
    assert golden["steps"]["total"][0] != golden["steps"]["total"][-1]


def test_there_is_no_golden_file_without_its_method():
    assert {file.stem for file in GOLDEN.glob("*.json")} == set(baselines())
