"""The experiment as a value: stored, read, changed, refused."""

import subprocess
import sys

import pytest

from symcere.config import Encoder, Experiment
from symcere.config.baselines import baseline, baselines, named
from symcere.config.fields import build, json_schema, leaves, to_dict
from symcere.errors import UserError

OTHER = {
    "data.split.seed": 7,
    "text.encoders": [{"name": "minilm", "max_tokens": 128}, "lsa"],
    "model.features": "both",
    "objective.ranking.temperature": 0.4,
    "objective.cross.loss": "symcere",
    "train.lr": 3e-4,
    "evaluate.ks": [10],
}


def test_a_stored_experiment_is_the_same_again(tmp_path):
    experiment = Experiment().replace(OTHER)
    file = tmp_path / "experiment.yaml"
    file.write_text(experiment.to_yaml())
    assert Experiment.load(file) == experiment
    assert Experiment.load(file, {"train.seed": 3}) == experiment.replace({"train": {"seed": 3}})


def test_what_is_wrong_in_a_file_is_told_with_its_path(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("train: {lr: fast}\n")
    with pytest.raises(UserError, match=r"mine\.yaml: .*'train\.lr'"):
        Experiment.load(file, {"train.lr": 0.1})
    file.write_text("train: {lr: 0.01}\n")
    with pytest.raises(UserError, match=r"^'train\.lr' is -1"):
        Experiment.load(file, {"train.lr": -1})


def test_settings_from_the_command_line_are_texts():
    texts = {k: v if isinstance(v, list) else str(v) for k, v in OTHER.items()} | {"evaluate.ks": "10"}
    assert Experiment().replace(texts) == Experiment().replace(OTHER)
    assert Experiment().replace({"text.encoders": "minilm,lsa"}).text.encoders == (Encoder(), Encoder(name="lsa"))


def test_experiments_are_values():
    first, second = Experiment().replace(OTHER), Experiment().replace(OTHER)
    assert first == second
    assert hash(first) == hash(second)
    assert first != Experiment()
    assert Experiment() == Experiment().replace({})  # replace leaves the first as it is


def test_every_setting_has_its_meaning():
    for leaf in leaves(Experiment):
        assert leaf.doc, leaf.name


def test_the_flat_form_names_every_setting():
    flat = Experiment().flat()
    assert list(flat) == [leaf.name for leaf in leaves(Experiment)]
    assert flat["text.encoders"] == [to_dict(Encoder("minilm")), to_dict(Encoder("lsa"))]
    assert build(Experiment, Experiment().replace(flat).to_dict()) == Experiment()


XSIMGCL = {"model.features": "id", "objective.augment.kind": "xsimgcl"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective.ranking.temperature": 0}, r"'objective\.ranking\.temperature' is 0, but must be above 0"),
        ({"train.lr": -1}, r"'train\.lr' is -1, but must be above 0"),
        ({"objective.ranking.temprature": 1}, r"Unknown setting 'objective\.ranking\.temprature'.*temperature"),
        ({"data.split.kind": "files"}, r"split\.files \(a folder\) are given together"),
        ({"data.split.files": "here"}, r"split\.files \(a folder\) are given together"),
        ({"text.encoders": []}, r"text\.encoders names no encoder"),
        ({"text.encoders": "lsa,lsa"}, r"text\.encoders names one encoder twice"),
        ({"model.features": "id", "model.drop_own": "text"}, r"model\.drop_own needs text"),
        ({"model.drop_own": "edge", "model.text_tower": "mlp"}, r"needs model\.text_tower linear"),
        ({"objective.cross.loss": "symcere"}, r"set model\.features to id or both"),
        ({"objective.augment.kind": "simgcl"}, r"objective\.augment .* set model\.features to id or both"),
        ({"model.features": "id", "model.skip_input": True, "model.layers": 0}, "leaves nothing"),
        ({**XSIMGCL, "objective.augment.layer": 4}, "augment.layer 4 is none of the model.layers 3"),
        ({**XSIMGCL, "model.layers": 0}, "augment.layer 1 is none of the model.layers 0"),
        ({"model.drop_own": "edge", "objective.ranking.loss": "supcon"}, "and supcon and reduction 'history' compare"),
        ({"model.drop_own": "edge", "objective.ranking.reduction": "history"}, "compare others too"),
        ({"evaluate.ks": []}, r"evaluate\.ks names no cut-off"),
        ({"evaluate.ks": [0]}, r"'evaluate\.ks\[0\]' is 0, but must be at least 1"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Experiment().replace(settings)


def test_needs_text():
    assert Experiment().needs_text
    assert not Experiment().replace({"model.features": "id"}).needs_text
    assert Experiment().replace({"model.features": "id", "objective.cross.loss": "sincere"}).needs_text
    assert (
        not Experiment()
        .replace({"model.features": "id", "objective.cross": {"loss": "sincere", "weight": 0}})
        .needs_text
    )
    assert not Experiment().replace({"closed_form.kind": "ease"}).needs_text


def test_the_schema_accepts_experiments():
    import jsonschema

    schema = json_schema(Experiment)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(Experiment().replace(OTHER).to_dict(), schema)
    with pytest.raises(jsonschema.ValidationError, match="temprature"):
        jsonschema.validate({"objective": {"ranking": {"temprature": 1}}}, schema)


def test_every_baseline_is_an_experiment():
    assert len(baselines()) > 10
    different = {baseline(name) for name in baselines()}
    assert len(different) == len(baselines())
    for settings in baselines().values():
        assert settings["about"]


def test_an_experiment_is_known_by_what_it_trains():
    for name in baselines():
        assert named(baseline(name, {"train.seed": 5, "data.core": 3, "evaluate.ks": "7"})) == name
    assert named(baseline("ease", {"model.dim": 3})) == "ease", "a closed form has no columns"
    assert named(baseline("lightgcn", {"model.dim": 3})) == ""


def test_an_unknown_baseline_names_the_nearest():
    with pytest.raises(UserError, match=r"Unknown baseline 'lightgnc'\. Did you mean lightgcn"):
        baseline("lightgnc")
    assert baseline("lightgcn", {"train.seed": 5}).train.seed == 5


def test_reading_an_experiment_needs_nothing_heavy():
    code = "import sys, symcere.config.baselines, symcere.home; print(*{'torch', 'numpy', 'mlflow'} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == ""
