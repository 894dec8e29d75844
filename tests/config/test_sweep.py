"""Sweep files: what they may say, where an error is, and when two settings are one model."""

import json
import math
import random
from itertools import islice
from pathlib import Path

import jsonschema
import pytest
import yaml

from symcere.config import Experiment
from symcere.config.canonical import canonical, same_model
from symcere.config.space import Misplaced, Parameter, at_random, check_when, read_space
from symcere.config.sweep import Stopping, load, schema
from symcere.errors import UserError

TUNE = Path(__file__).resolve().parents[2] / "tune"
FILES = sorted(TUNE.glob("*.yaml"))

GOOD = """\
datasets: [here, there]
methods:
  symcere:
    space:
      model.popularity: [none, learned]
      ranking:
        choice:
          bpr: {objective.ranking.loss: bpr, objective.reg: {loguniform: [1e-5, 0.5]}}
          sincere:
            objective.ranking.loss: sincere
            objective.ranking.temperature: {loguniform: [0.05, 1]}
  lightgcn:
    space:
      model.layers: {int: [1, 4]}
      model.skip_input: [true, false]
space:
  train.lr: {loguniform: [1e-4, 1e-2]}
"""


def write(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


# ---------------------------------------------------------------- what a space means


def test_parameters_exist_only_beside_what_they_are_for(tmp_path):
    symcere, _ = load(write(tmp_path, GOOD)).searches

    def draw(label):
        return symcere.space.draw(symcere.flat, lambda p: label if p.name == "ranking" else (p.labels or [p.low])[0])

    settings, values = draw("bpr")
    assert settings["objective.ranking.loss"] == "bpr"
    assert settings["objective.reg"] == 1e-5
    assert "objective.ranking.temperature" not in settings
    assert set(values) == {"train.lr", "model.popularity", "ranking", "ranking=bpr/objective.reg"}
    settings, _ = draw("sincere")
    assert settings["objective.ranking.temperature"] == 0.05
    assert "objective.reg" not in settings


def test_a_condition_looks_at_settings_chosen_before_and_at_fixed_ones():
    space = read_space(
        {
            "objective.ranking.candidates": ["all", "sampled"],
            "objective.ranking.sample": {"choice": [8, 16], "when": {"objective.ranking.candidates": "sampled"}},
            "model.layers": {"int": [1, 3], "when": {"model.features": ["id", "both"]}},
        },
        (),
    )
    flat = Experiment().flat()
    found = [settings for settings, _ in space.points(flat, Parameter.grid)]
    assert [f.get("objective.ranking.sample") for f in found] == [None, 8, 16]
    assert all("model.layers" not in f for f in found)
    ids = Experiment().replace({"model.features": "id"}).flat()
    assert len(list(space.points(ids, Parameter.grid))) == 9


@pytest.mark.parametrize("turned", [False, True])
def test_a_condition_waits_for_what_it_looks_at(tmp_path, turned):
    """Wherever it stands: above it, below it, in the sweep's own space beside the method's."""
    weight = "model.fusion_weight: {uniform: [0.1, 2], when: {model.features: both}}"
    features = "model.features: [text, both]"
    text = f"datasets: [a]\nmethods:\n  symcere:\n    space: {{{features}}}\nspace: {{{weight}}}\n"
    if turned:
        text = f"datasets: [a]\nmethods:\n  symcere:\n    space:\n      {weight}\n      {features}\n"
    (search,) = load(write(tmp_path, text)).searches
    rng = random.Random(0)
    drawn = [search.space.draw(search.flat, at_random(rng))[0] for _ in range(50)]
    assert {s["model.features"] for s in drawn} == {"text", "both"}
    for settings in drawn:
        assert ("model.fusion_weight" in settings) == (settings["model.features"] == "both")


def test_conditions_that_wait_for_each_other_are_refused(tmp_path):
    text = """datasets: [a]
space:
  model.layers: {int: [1, 2], when: {model.dim: 8}}
  model.dim: {choice: [8, 16], when: {model.layers: 1}}
"""
    with pytest.raises(
        UserError, match=r"line 3: Conditions wait for each other in a circle, among .model.layers., .model.dim."
    ):
        load(write(tmp_path, text))


def test_a_point_that_leaves_out_what_its_values_need_is_refused(tmp_path):
    text = """datasets: [a]
methods: {symcere: {}, popularity: {}}
points:
  - {model.fusion_weight: 1.5, train.lr: 0.01}
space:
  train.lr: {loguniform: [1e-4, 1e-1], when: {closed_form.kind: none}}
  model.features: {choice: [text, both], when: {closed_form.kind: none}}
  model.fusion_weight: {uniform: [0.1, 2], when: {model.features: both}}
"""
    with pytest.raises(UserError, match=r"line 4: 'model\.fusion_weight' does not exist beside the other values"):
        load(write(tmp_path, text))
    whole = text.replace("{model.fusion_weight: 1.5,", "{model.features: both, model.fusion_weight: 1.5,")
    symcere, popularity = load(write(tmp_path, whole)).searches
    assert popularity.points == [{}]
    assert symcere.points[1] == {"train.lr": 0.01, "model.features": "both", "model.fusion_weight": 1.5}
    only = text.replace("model.fusion_weight: 1.5, ", "")
    _, popularity = load(write(tmp_path, only)).searches  # a closed form has no learning rate, whatever the point says
    assert popularity.points == [{}]


def test_the_grid_is_the_product_of_all_values_without_repetition():
    space = read_space({"model.layers": {"int": [0, 2]}, "train.lr": {"loguniform": [1e-4, 1e-2], "steps": 3}}, ())
    found = [(s["model.layers"], s["train.lr"]) for s, _ in space.points({}, Parameter.grid)]
    assert len(found) == len(set(found)) == 9
    assert [lr for layers, lr in found if layers == 1] == pytest.approx([1e-4, 1e-3, 1e-2])


def test_grids_skip_what_is_the_same_model(tmp_path):
    text = """\
datasets: [here]
methods:
  mine:
    space:
      objective.ranking.loss: [bpr, softmax]
      objective.ranking.candidates: [all, batch]
sampler: {kind: grid}
"""
    (search,) = load(write(tmp_path, text)).searches
    assert search.trials == 3  # candidates mean nothing to bpr
    assert [tuple(p.values()) for p in search.points] == [("bpr", "all"), ("softmax", "all"), ("softmax", "batch")]


def test_a_small_space_has_fewer_trials_than_were_asked_for(tmp_path):
    text = "datasets: [a]\ntrials: 20\nmethods:\n  popularity: {}\n  symcere: {space: {model.normalise: [none, l2]}}\n"
    few = load(write(tmp_path, text)).searches
    assert [(s.trials, s.most) for s in few] == [(20, 1), (20, 2)]
    (many,) = load(write(tmp_path, "datasets: [a]\nspace: {train.lr: {loguniform: [1e-4, 1e-1]}}\n")).searches
    assert many.most == many.trials == 20


def test_a_name_of_ones_own_starts_from_symcere_and_a_baseline_says_itself(tmp_path):
    methods = "bpr: {}, symcere-2: {}, lightgcn: {}, mine: {baseline: ease}, lightgcm: {baseline: symcere}"
    found = load(write(tmp_path, f"datasets: [a]\nmethods: {{{methods}}}\n")).searches
    assert [s.baseline for s in found] == ["symcere", "symcere", "lightgcn", "ease", "symcere"]


def test_combinations_are_made_once(tmp_path, monkeypatch):
    """A wide space has thousands, which data sets and studies all ask for."""
    from symcere.config.sweep import Search

    search, _ = load(write(tmp_path, GOOD)).searches
    made = []
    experiment = Search.experiment
    monkeypatch.setattr(
        Search, "experiment", lambda self, settings: made.append(settings) or experiment(self, settings)
    )
    for _ in range(3):
        assert search.texts == [Experiment().text]
        assert len(search.experiments) == len(made) + 1 > 8


def test_the_published_setting_comes_first_and_a_point_of_the_file_next(tmp_path):
    text = GOOD.replace("space:\n  train.lr", "points: [{train.lr: 2e-3, ranking: bpr}]\nspace:\n  train.lr")
    symcere, lightgcn = load(write(tmp_path, text.replace("points: [{train.lr: 2e-3, ranking: bpr}]\n", ""))).searches
    base = Experiment()
    assert symcere.points == [
        {
            "train.lr": base.train.lr,
            "model.popularity": base.model.popularity,
            "ranking": "sincere",
            "ranking=sincere/objective.ranking.temperature": base.objective.ranking.temperature,
        }
    ]
    assert lightgcn.points == [{"train.lr": 1e-3, "model.layers": 3, "model.skip_input": False}]
    with pytest.raises(UserError, match="line 16: The space has no parameter 'ranking'"):
        load(write(tmp_path, text))  # lightgcn has no such choice
    only = text.replace(
        "  lightgcn:\n    space:\n      model.layers: {int: [1, 4]}\n      model.skip_input: [true, false]\n", ""
    )
    (symcere,) = load(write(tmp_path, only)).searches
    assert symcere.points[1] == {"train.lr": 2e-3, "ranking": "bpr"}


def test_the_parameter_of_a_method_stands_in_place_of_the_sweeps(tmp_path):
    text = GOOD.replace(
        "      model.layers: {int: [1, 4]}", "      train.lr: {loguniform: [1e-3, 1e-2]}\n      model.layers: [1]"
    )
    symcere, lightgcn = load(write(tmp_path, text)).searches
    assert [p.low for s in (symcere, lightgcn) for p in s.space.everything() if p.name == "train.lr"] == [1e-4, 1e-3]


# ---------------------------------------------------------------- what is refused, and where

WRONG = {
    "an unknown key": ("datasets: [here, there]", "datasets: [here]\nmethod: x", 2, "Unknown setting 'method'"),
    "an unknown setting": ("model.layers:", "model.layer:", 14, "Did you mean objective.augment.layer"),
    "a nested unknown": ("  train.lr: {log", "  train:\n    lrr: {log", 18, "Unknown setting 'train.lrr'"),
    "a range upside down": ("int: [1, 4]", "int: [4, 1]", 14, "is not below"),
    "a range out of the setting's": ("int: [1, 4]", "int: [1, 40]", 14, "at most 8"),
    "a log scale from 0": ("loguniform: [1e-5, 0.5]", "loguniform: [0, 0.5]", 8, "start above 0"),
    "a fraction of a count": ("int: [1, 4]", "int: [1, 2.5]", 14, "whole number"),
    "a value that is none": ("[none, learned]", "[none, learnt]", 5, "none, learned, log-count"),
    "a value twice": ("[none, learned]", "[none, learned, none]", 5, "twice"),
    "nothing to choose": ("[true, false]", "true", 15, "one value only"),
    "two kinds": ("{int: [1, 4]}", "{int: [1, 4], choice: [1]}", 14, "both"),
    "an unknown word": ("{int: [1, 4]}", "{int: [1, 4], step: 2}", 14, "Did you mean steps"),
    "a condition on nothing": ("{int: [1, 4]}", "{int: [1, 4], when: {rankin: bpr}}", 14, "called 'rankin'"),
    "what a search must not choose": ("model.layers: {int: [1, 4]}", "train.seed: [1, 2]", 14, "seeds"),
    "data": ("model.layers: {int: [1, 4]}", "data.core: [1, 2]", 14, "prepare"),
    "an impossible combination": ("int: [1, 4]", "int: [0, 4]", 15, "skip_input leaves nothing"),
    "a fixed impossible one": (
        "  lightgcn:\n",
        "  lightgcn:\n    settings: {model.drop_own: text}\n",
        13,
        "drop_own needs text",
    ),
    "an unknown baseline": ("  lightgcn:\n", "  other:\n    baseline: lightgnc\n", 13, "Did you mean lightgcn"),
    "a named method with a slip": ("  lightgcn:\n", "  LightGNC:\n", 12, "Did you mean lightgcn"),
    "no place for NDCG@10": ("datasets: [here, there]", "datasets: [here]\nsettings: {evaluate.ks: [5, 20]}", 2, "10"),
    "a wrong part of a method": ("  lightgcn:\n    space:", "  lightgcn:\n    spaces:", 13, "methods.lightgcn.spaces"),
    "a wrong number": ("datasets: [here, there]", "trials: -1\ndatasets: [here]", 1, "at least 1"),
    "a wrong sampler": ("datasets: [here, there]", "datasets: [here]\nsampler:\n  kind: tpee", 3, "sampler.kind"),
    "a method that leaves its folder": ("  lightgcn:\n", "  ../../evil:\n", 12, "a name begins with"),
    "a name that is no folder": ("datasets: [here, there]", "datasets: [here]\nname: ..", 2, "a name begins with"),
    "more than one GPU": ("datasets: [here, there]", "datasets: [here]\nresources: {gpu: 2}", 2, "at most 1"),
    "no number of GPUs": ("datasets: [here, there]", "datasets: [here]\nresources: {gpu: .inf}", 2, "resources.gpu"),
    "a grid of a range": ("datasets: [here, there]", "datasets: [here]\nsampler: {kind: grid}", 18, "steps"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_an_error_with_its_line(tmp_path, case):
    old, new, line, told = WRONG[case]
    assert old in GOOD
    path = write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(UserError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}, line {line}: "), caught.value
    assert told in str(caught.value)


def test_a_combination_that_only_a_condition_makes_possible_is_allowed(tmp_path):
    allowed = GOOD.replace("int: [1, 4]", "int: [0, 4]").replace(
        "[true, false]", "{choice: [true, false], when: {model.layers: [1, 2, 3, 4]}}"
    )
    assert len(load(write(tmp_path, allowed)).searches) == 2


def test_a_condition_that_can_never_hold_is_refused():
    space = read_space(
        {"kind": {"choice": {"a": {}, "b": {}}}, "train.lr": {"uniform": [0.1, 1], "when": {"kind": "c"}}}, ()
    )
    with pytest.raises(Misplaced, match="never 'c'"):
        check_when(space)


def test_an_unknown_sweep_names_the_nearest():
    with pytest.raises(UserError, match="Did you mean quick"):
        load("quik")
    assert load("quick").path == TUNE / "quick.yaml"
    assert load("tune/quick.yaml").name == "quick"


# ---------------------------------------------------------------- the sweeps that come with symcere


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_file_is_valid_and_keeps_to_the_schema(path):
    declared = load(path)
    assert declared.sweep.about
    jsonschema.validate(yaml.safe_load(path.read_text()), json.loads((TUNE / "schema.json").read_text()))


def test_the_schema_is_the_one_of_the_class():
    stored = json.loads((TUNE / "schema.json").read_text())
    assert stored == json.loads(json.dumps(schema())), "write it anew from symcere.config.sweep.schema()"


def test_there_is_a_sweep_for_every_question():
    names = {path.stem for path in FILES}
    assert names >= {"quick", "temperature", "normalisation", "losses", "paper", "baselines", "ablation"}


def test_every_baseline_has_the_same_budget_and_starts_from_its_published_setting():
    from symcere.config.baselines import baselines

    declared = load(TUNE / "baselines.yaml")
    assert {s.method for s in declared.searches} == {*baselines(), "alpharec-joined"}
    assert len({s.trials for s in declared.searches}) == 1
    for search in declared.searches:
        settings, values = search.space.draw(search.flat, lambda p, s=search: s.points[0][p.key])
        assert search.experiment(settings) == search.base, search.method
        assert not set(values) - set(search.points[0])


def test_baselines_are_searched_as_wide_as_the_measurements_ask_for():
    for search in load(TUNE / "baselines.yaml").searches:
        for parameter in search.space.everything():
            if parameter.name == "objective.reg":
                assert parameter.low <= 1e-5
                assert parameter.high >= 0.5
            if parameter.name.endswith(".weight"):
                assert parameter.low <= 1e-3
                assert parameter.high >= 1


def test_the_paper_has_fifteen_data_sets_with_cards():
    from symcere.data.cards import find

    datasets = load(TUNE / "paper.yaml").sweep.datasets
    assert len(datasets) == 15
    assert {find(name).platform for name in datasets} == {"e-commerce", "local", "travel"}


# ---------------------------------------------------------------- stopping


def test_milestones_are_those_of_the_scheduler():
    from ray.tune.schedulers.async_hyperband import _Bracket

    for grace, reduction, epochs in ((10, 3, 200), (5, 2, 41), (8, 3, 60), (1, 4, 100)):
        ours = Stopping(grace=grace, reduction=reduction).milestones(epochs)
        rungs = sorted(int(at) for at, _ in _Bracket(grace, epochs + 1, reduction, 0)._rungs)
        assert ours == [r for r in rungs if r < epochs]
    assert Stopping(kind="none").milestones(100) == []
    assert Stopping(kind="median", grace=20).milestones(100) == [20, 40, 60, 80]


# ---------------------------------------------------------------- one model, or two

SAME = [
    ("closed_form.kind: ease", "train.lr", 0.5),
    ("closed_form.kind: ease", "closed_form.shrink", 3),
    ("model.features: id", "text.encoders", "lsa"),
    ("model.features: id", "model.hidden", 8),
    ("model.features: text", "model.layers", 1),
    ("model.text_tower: linear", "model.hidden", 8),
    ("model.normalise_scores: same", "model.normalise_scores", "l2"),
    ("objective.ranking.candidates: all", "objective.ranking.sample", 64),
    ("text.encoders: lsa,minilm", "text.encoders", "minilm,lsa"),
]
DIFFERENT = [
    ("closed_form.kind: ease", "closed_form.reg", 3),
    ("model.text_tower: mlp", "model.hidden", 8),
    ("objective.ranking.loss: bpr", "objective.ranking.temperature", 0.7),
    ("objective.ranking.candidates: sampled", "objective.ranking.sample", 64),
    ("model.normalise: none", "objective.ranking.temperature", 0.7),
    ("text.encoders: lsa", "text.encoders", "minilm"),
]


def experiment(line: str) -> Experiment:
    name, _, value = line.partition(": ")
    return Experiment().replace({name: value})


@pytest.mark.parametrize(("base", "name", "value"), SAME)
def test_a_setting_without_effect_makes_no_other_model(base, name, value):
    one = experiment(base)
    other = one.replace({name: value})
    assert one != other
    assert same_model(one) == same_model(other)


@pytest.mark.parametrize(("base", "name", "value"), DIFFERENT)
def test_a_setting_with_an_effect_does(base, name, value):
    one = experiment(base)
    assert same_model(one) != same_model(one.replace({name: value}))


def test_what_is_canonical_stays_so():
    for search in (s for path in FILES for s in load(path).searches):
        for settings, _ in islice(search.space.points(search.flat, lambda p: p.labels or [p.low]), 20):
            once = canonical(search.experiment(settings))
            assert canonical(once) == once
            assert math.isfinite(once.train.lr)
