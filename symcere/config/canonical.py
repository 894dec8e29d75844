"""When two experiments are one: settings that have no effect, put back to their defaults.

A search that tried both would count the same model twice, and a table would show a setting that nothing depends on.
Each rule here is a statement about :mod:`symcere.model` and :mod:`symcere.objective`, whatever the data are: that a
sample larger than the catalogue is all of it is no rule.
"""

import hashlib
from dataclasses import replace

from symcere.config.experiment import (
    Alignment,
    Augment,
    ClosedForm,
    Encoder,
    Experiment,
    Model,
    Objective,
    Ranking,
    SameNode,
    Text,
    Train,
)
from symcere.config.fields import to_yaml


def canonical(experiment: Experiment) -> Experiment:
    """The experiment of the same model in which every setting without effect has its default.

    >>> from symcere.config import Experiment
    >>> spheres = Experiment().replace({"objective.ranking.loss": "bpr"})
    >>> plain = spheres.replace({"model.normalise": "none"})
    >>> canonical(spheres.replace({"objective.ranking.temperature": 0.5})) == canonical(spheres)
    False
    >>> canonical(plain.replace({"objective.ranking.temperature": 0.5})) == canonical(plain)
    True
    """
    if experiment.closed_form.kind != "none":
        return replace(
            experiment,
            text=Text(),
            model=Model(),
            objective=Objective(),
            train=Train(),
            closed_form=_closed_form(experiment.closed_form),
        )
    objective = replace(
        experiment.objective,
        ranking=_ranking(experiment),
        same=_same(experiment.objective.same),
        cross=experiment.objective.cross if experiment.objective.cross.on else Alignment(),
        intra=experiment.objective.intra if experiment.objective.intra.on else Alignment(),
        augment=_augment(experiment.objective.augment),
    )
    return replace(
        experiment,
        text=_text(experiment.text) if experiment.needs_text else Text(),
        model=_model(experiment),
        objective=objective,
        closed_form=ClosedForm(),
    )


def same_model(experiment: Experiment) -> str:
    """16 hexadecimal digits that two experiments share if they train the same model; the data part counts, too."""
    return hashlib.sha256(to_yaml(canonical(experiment)).encode()).hexdigest()[:16]


def _closed_form(s: ClosedForm) -> ClosedForm:
    used = {
        "popularity": (),
        "itemknn": ("shrink", "neighbours"),
        "rp3beta": ("alpha", "beta", "neighbours"),
        "ease": ("reg",),
    }[s.kind]
    return replace(ClosedForm(), kind=s.kind, **{name: getattr(s, name) for name in used})


def _text(s: Text) -> Text:
    def encoder(e: Encoder) -> Encoder:
        return Encoder(name="lsa", dim=e.dim) if e.name == "lsa" else replace(e, dim=Encoder().dim)

    # Blocks are joined side by side: their order only permutes columns.
    return Text(tuple(sorted(map(encoder, s.encoders), key=lambda e: (e.name, str(e)))))


def _model(experiment: Experiment) -> Model:
    s, plain = experiment.model, Model()
    unused: list[str] = []
    if s.features != "both":
        unused += ["fusion", "fusion_weight"]
    elif s.fusion != "concat":
        unused += ["fusion_weight"]
    if s.features == "text":
        unused += ["layers", "skip_input"]  # of the graph view, which there is not
    if not experiment.needs_text:
        unused += ["text_tower", "text_layers", "user_profile", "hidden"]
    elif s.text_tower == "linear":
        unused += ["hidden"]
    found = replace(s, **{name: getattr(plain, name) for name in unused})
    if found.text_tower in ("mlp", "sign") and found.text_layers == 0:
        found = replace(found, text_tower="post-mlp")  # nothing is propagated, before or after the tower
    if found.normalise_scores == found.normalise:
        found = replace(found, normalise_scores="same")
    return found


def _ranking(experiment: Experiment) -> Ranking:
    s, plain, model = experiment.objective.ranking, Ranking(), experiment.model
    contrastive = s.loss not in ("bpr", "directau")
    unused: list[str] = []
    if not contrastive:
        unused += ["candidates", "logq", "reduction"]
        if model.normalise == "none":  # the length of Z plays the temperature's part
            unused += ["temperature", "learn_temperature"]
    samples = contrastive and s.candidates == "sampled"
    if not samples:
        unused += ["sample"]
    if s.loss != "bpr":
        unused += ["negatives"]
    if s.loss != "bpr" and not samples:
        unused += ["sampling"]
    if s.candidates == "all":
        unused += ["logq"]
    if s.loss == "directau":
        unused += ["learn_temperature"]  # its loss has none: τ only weighs the popularity term in the score
        if model.popularity == "none":
            unused += ["temperature"]
    else:
        unused += ["uniformity"]
    if model.drop_own != "none":
        unused += ["reduction"]  # each pair is an anchor of its own
    found = replace(s, **{name: getattr(plain, name) for name in unused})
    if found.loss == "supcon" and found.reduction == "history":
        found = replace(found, reduction="anchor")  # it averages over the known positives in any case
    return found


def _same(s: SameNode) -> SameNode:
    if not s.on:
        return SameNode()
    if s.loss == "reconstruct":
        return s
    # A node's one positive is itself: InfoNCE, SupCon and SINCERE are one loss, and SymCERE is both its directions.
    return replace(s, mask=SameNode().mask, loss="symcere" if s.loss == "symcere" else "infonce")


def _augment(s: Augment) -> Augment:
    if not s.on:
        return Augment()
    plain = Augment()
    used = {"simgcl": ("eps",), "xsimgcl": ("eps", "layer"), "sgl": ("drop",)}[s.kind]
    return replace(s, **{name: getattr(plain, name) for name in ("eps", "drop", "layer") if name not in used})
