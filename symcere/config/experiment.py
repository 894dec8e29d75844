"""The experiment: everything that decides a result, as one value.

The same tree in YAML, in Python and on the command line (``--objective.ranking.temperature 0.2``). It is stored
with every checkpoint and every MLflow run, and ``symcere train --config FILE`` repeats the run. Where and how
wide a run goes (workers, GPUs, storage, tracking) is not part of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from symcere.config.fields import build, flatten, merge, read_settings, setting, to_dict, to_yaml

# ---------------------------------------------------------------- data


SELECTED = 10
"""Models are selected by validation NDCG, and compared, at this cut-off, or the largest that a tiny catalogue has."""


@dataclass(frozen=True)
class Split:
    kind: Literal["random", "last", "time", "files"] = setting(
        "random",
        "random: a tenth of each user, at least one; last: each user's latest; time: by two dates; files: given pairs",
    )
    seed: int = setting(42, "seed of the random split", low=0)
    files: str = setting("", "folder with train.csv, val.csv, test.csv, users.json, items.json (kind: files)")

    def __post_init__(self):
        if (self.kind == "files") != bool(self.files):
            raise ValueError("split.kind 'files' and split.files (a folder) are given together or not at all.")


@dataclass(frozen=True)
class Data:
    dataset: str = setting("synthetic", "a card's name, a path to a card, or a new name given with its files")
    min_words: int = setting(0, "reviews with fewer words are dropped; 0 keeps every interaction", low=0)
    rating_threshold: float = setting(0.0, "a lower rating does not count as an interaction; 0: every review counts")
    core: int = setting(5, "every user and item keeps at least this many interactions (iterated k-core)", low=1)
    split: Split = setting(Split, "how interactions are divided into training, validation and test")


# ---------------------------------------------------------------- text


@dataclass(frozen=True)
class Encoder:
    name: str = setting("minilm", "minilm, lsa, a Hugging Face model's name, or a folder")
    revision: str = setting("main", "revision of a Hugging Face model")
    max_tokens: int = setting(256, "longer texts are cut, in tokens", low=8)
    pooling: Literal["mean", "last"] = setting("mean", "mean over tokens, or the last token (decoder LLMs)")
    instruction: str = setting("", "prefix of every text")
    dim: int = setting(256, "LSA only: dimensions kept", low=2)

    @classmethod
    def from_name(cls, name: str) -> "Encoder":
        return cls(name=name)


@dataclass(frozen=True)
class Text:
    encoders: tuple[Encoder, ...] = setting(
        (Encoder("minilm"), Encoder("lsa")),
        "encoders whose embeddings are joined, each block of length one: names (minilm, lsa, a Hugging Face model, a "
        "folder) or [{name: lsa, dim: 128}, {name: FOLDER, max_tokens: 128, pooling: last, instruction: …}]",
    )

    def __post_init__(self):
        if not self.encoders:
            raise ValueError("text.encoders names no encoder; 'lsa' needs no download.")
        if len(set(self.encoders)) != len(self.encoders):
            raise ValueError("text.encoders names one encoder twice.")


# ---------------------------------------------------------------- model


@dataclass(frozen=True)
class Model:
    dim: int = setting(64, "d, width of each view", low=1)
    layers: int = setting(3, "L, propagation steps of the graph", low=0, high=8)
    skip_input: bool = setting(False, "leave layer 0 out of the mean over layers (SimGCL)")
    features: Literal["id", "text", "both"] = setting("text", "what a node starts from")
    text_tower: Literal["linear", "post-mlp", "sign", "mlp"] = setting(
        "linear", "text profile -> d: linear, MLP after propagation, linear on each hop, or MLP before propagation"
    )
    text_layers: int = setting(3, "propagation steps of the text profiles; 0: own reviews alone", low=0, high=8)
    user_profile: Literal["reviews", "items"] = setting(
        "reviews", "a user's profile: the mean of the user's own reviews, or of the profiles of their items (AlphaRec)"
    )
    hidden: int = setting(256, "hidden width of an MLP tower", low=1)
    fusion: Literal["concat", "sum", "gate"] = setting("concat", "how the two views become one (features: both)")
    fusion_weight: float = setting(0.5, "weight of the graph view's cosine beside the text view's (concat)", low=0)
    drop_own: Literal["none", "text", "edge", "both"] = setting(
        "none", "left out of a pair's own profiles in training: its review, its edge, both"
    )
    normalise: Literal["none", "l2", "l2-user", "l2-item", "layer"] = setting(
        "l2", "normalisation of the scored vectors in training"
    )
    normalise_scores: Literal["same", "none", "l2", "l2-user", "l2-item", "layer"] = setting(
        "same", "normalisation in scoring"
    )
    popularity: Literal["none", "learned", "log-count"] = setting("learned", "item bias b beside the cosine")

    def __post_init__(self):
        if self.drop_own != "none" and self.features == "id":
            raise ValueError("model.drop_own needs text: set model.features to text or both.")
        if self.drop_own != "none" and self.text_tower != "linear":
            raise ValueError("model.drop_own needs model.text_tower linear, where it is exact.")
        if self.drop_own != "none" and self.user_profile == "items":
            raise ValueError(
                "model.drop_own needs model.user_profile reviews: else a review stands in other profiles too."
            )


# ---------------------------------------------------------------- objective


@dataclass(frozen=True)
class Ranking:
    loss: Literal["bpr", "softmax", "supcon", "sincere", "symcere", "directau"] = setting(
        "sincere", "symcere is sincere from both sides; softmax keeps other positives in the denominator"
    )
    temperature: float = setting(0.4, "tau: logits are inner products / tau", above=0)
    learn_temperature: bool = setting(False, "tau is a parameter, started at `temperature`")
    candidates: Literal["batch", "sampled", "all"] = setting(
        "sampled",
        "what a positive is compared with: unique items of the batch, sampled, all (symcere: users, too)",
    )
    sample: int = setting(4096, "items, or users, drawn for each batch (sampled); all, where there are no more", low=1)
    negatives: int = setting(1, "items drawn for each interaction (bpr)", low=1)
    sampling: Literal["uniform", "popularity"] = setting("uniform", "how sampled candidates and negatives are drawn")
    logq: bool = setting(True, "logits of sampled and in-batch candidates lose log π, π how likely each is there")
    reduction: Literal["pair", "anchor", "history"] = setting(
        "pair", "mean over pairs, over anchors, over all positives"
    )
    uniformity: float = setting(1.0, "gamma, weight of directau's uniformity", low=0)


@dataclass(frozen=True)
class Alignment:
    loss: Literal["none", "infonce", "supcon", "sincere", "symcere"] = setting(
        "none", "symcere is sincere in both directions"
    )
    weight: float = setting(0.1, "lambda; 0 turns the term off", low=0)
    temperature: float = setting(0.2, "tau of this term", above=0)

    @property
    def on(self) -> bool:
        return self.loss != "none" and self.weight > 0


@dataclass(frozen=True)
class SameNode(Alignment):
    loss: Literal["none", "infonce", "supcon", "sincere", "symcere", "reconstruct"] = setting(  # type: ignore[assignment]
        "none", "graph view against text view of the same node; reconstruct: text from masked graph (RLMRec-Gen)"
    )
    mask: float = setting(0.1, "share of nodes masked by reconstruct", low=0, high=1)


@dataclass(frozen=True)
class Augment:
    kind: Literal["none", "simgcl", "xsimgcl", "sgl"] = setting("none", "noise on embeddings, or dropped edges")
    weight: float = setting(0.1, "lambda; 0 turns the term off", low=0)
    temperature: float = setting(0.2, "tau of this term", above=0)
    eps: float = setting(0.1, "length of the noise (simgcl, xsimgcl)", low=0)
    drop: float = setting(0.1, "share of edges dropped (sgl)", low=0, high=1)
    layer: int = setting(1, "layer contrasted with the last (xsimgcl)", low=1)

    @property
    def on(self) -> bool:
        return self.kind != "none" and self.weight > 0


@dataclass(frozen=True)
class Objective:
    ranking: Ranking = setting(Ranking, "the ranking term, on the scored vectors")
    same: SameNode = setting(SameNode, "same-node alignment, graph view against text view")
    cross: Alignment = setting(Alignment, "cross-modal alignment of a pair, graph view against text view")
    intra: Alignment = setting(Alignment, "alignment of a pair within each view")
    augment: Augment = setting(Augment, "self-supervised term on the graph view")
    reg: float = setting(1e-4, "L2 penalty on layer-0 rows of the batch; on the tower with features: text", low=0)


# ---------------------------------------------------------------- training, evaluation


@dataclass(frozen=True)
class Train:
    lr: float = setting(3e-3, "learning rate of Adam", above=0)
    batch_size: int = setting(2048, "interactions a step, over all workers", low=1)
    epochs: int = setting(1000, "passes over the training interactions at most", low=0)
    patience: int = setting(25, "evaluations without a better validation NDCG@10 before stopping", low=1)
    eval_every: int = setting(1, "epochs between evaluations", low=1)
    seed: int = setting(0, "seed of initial weights and of the order of batches", low=0)
    precision: Literal["fp32", "bf16", "fp64"] = setting(
        "fp32", "bf16: autocast; logits stay float32; fp64: for proofs"
    )
    compile: bool = setting(False, "torch.compile the views; pays on long runs")
    deterministic: bool = setting(False, "repeat to the bit on CUDA too, at a cost")


@dataclass(frozen=True)
class Evaluate:
    ks: tuple[int, ...] = setting((5, 10, 20, 50), "cut-offs of the metrics", low=1)
    popularity_weight: float = setting(1.0, "w of the popularity term in scoring; 0 removes it", low=0)

    def __post_init__(self):
        if not self.ks:
            raise ValueError("evaluate.ks names no cut-off.")


@dataclass(frozen=True)
class ClosedForm:
    kind: Literal["none", "popularity", "itemknn", "rp3beta", "ease"] = setting(
        "none", "fitted in one step instead of model, objective and train"
    )
    reg: float = setting(500.0, "lambda (ease)", above=0)
    shrink: float = setting(100.0, "shrinkage of the cosine (itemknn)", low=0)
    neighbours: int = setting(400, "k, neighbours of an item (itemknn); 0 for all (rp3beta)", low=0)
    alpha: float = setting(0.4, "exponent of the transition probabilities (rp3beta)")
    beta: float = setting(
        -0.2, "exponent of item popularity that divides the score (rp3beta); negative favours popular"
    )


# ---------------------------------------------------------------- the whole


@dataclass(frozen=True)
class Experiment:
    data: Data = setting(Data, "which interactions")
    text: Text = setting(Text, "how reviews become vectors")
    model: Model = setting(Model, "how vectors become scores")
    objective: Objective = setting(Objective, "what is learned")
    train: Train = setting(Train, "how it is learned")
    evaluate: Evaluate = setting(Evaluate, "how it is judged")
    closed_form: ClosedForm = setting(ClosedForm, "a closed-form baseline instead")

    def __post_init__(self):
        if self.closed_form.kind != "none":
            return
        terms = self.objective
        if (terms.same.on or terms.cross.on) and self.model.features == "text":
            raise ValueError(
                "objective.same and objective.cross align a graph view of ids: set model.features to id or both."
            )
        if terms.augment.on and self.model.features == "text":
            raise ValueError("objective.augment perturbs the graph view of ids: set model.features to id or both.")
        if self.model.skip_input and self.model.layers == 0 and self.model.features != "text":
            raise ValueError("model.skip_input leaves nothing when model.layers is 0.")
        if terms.augment.on and terms.augment.kind == "xsimgcl" and terms.augment.layer > self.model.layers:
            raise ValueError(
                f"objective.augment.layer {terms.augment.layer} is none of the model.layers {self.model.layers}: lower "
                "it, or raise model.layers."
            )
        if self.model.drop_own != "none" and (terms.ranking.loss == "supcon" or terms.ranking.reduction == "history"):
            raise ValueError(
                "model.drop_own frees a pair's own vectors of it, and supcon and reduction 'history' compare others "
                "too: choose another objective.ranking.loss, or reduction 'pair'."
            )

    @classmethod
    def load(cls, path: Path | str, *layers: Mapping[str, Any]) -> "Experiment":
        """The experiment in a YAML file, with ``layers`` of (dotted) settings laid over it.

        Raises:
            UserError: the file is no experiment by itself (with its path), or not with the layers.
        """
        return build(cls, merge(read_settings(cls, path), *layers))

    def replace(self, *layers: Mapping[str, Any]) -> "Experiment":
        """This experiment with (dotted) settings changed: ``e.replace({"train.lr": 1e-2})``."""
        return build(Experiment, merge(to_dict(self), *layers))

    @property
    def needs_text(self) -> bool:
        """Whether text profiles take part at all."""
        if self.closed_form.kind != "none":
            return False
        terms = self.objective
        return self.model.features != "id" or any(t.on for t in (terms.same, terms.cross))

    def to_dict(self) -> dict[str, Any]:
        return to_dict(self)

    def to_yaml(self) -> str:
        return to_yaml(self)

    def flat(self) -> dict[str, Any]:
        """Leaves by dotted name; an encoder list is one leaf."""
        return flatten(self)
