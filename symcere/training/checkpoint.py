"""One file that holds a run: what it was asked, how far it came, its best weights and its last state.

Nothing in it depends on the number of workers, and it is read without executing pickled code. Random numbers
are keyed by (seed, epoch, step), so an epoch number is all the sampler's and generators' state there is.
"""

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from symcere.config import Experiment
from symcere.config.fields import build
from symcere.errors import UserError
from symcere.home import writing
from symcere.storage import exists, get, put, remote

FORMAT = 1
FREE = ("data.", "train.epochs", "train.patience", "evaluate.")
"""Settings that may change while a run goes on: they move none of its steps. The corpus has its fingerprint."""


@dataclass
class Checkpoint:
    """State after an epoch.

    Attributes:
        corpus: name and fingerprint of the corpus it was trained on.
        epoch: epochs done.
        metric, best_value, best_epoch: what selects, its best value and where it was reached (0: nowhere yet).
        history: one mapping of figures for each epoch.
        best: weights of the epoch with the best validation NDCG@10; what is evaluated and served.
        last, optimiser: weights and optimiser state after ``epoch``, to go on from; empty for a closed form.
    """

    experiment: Experiment
    corpus: dict[str, str]
    epoch: int = 0
    metric: str = "val_ndcg_at_10"
    best_value: float = -1.0
    best_epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    last: dict[str, Tensor] = field(default_factory=dict)
    optimiser: dict[str, Any] = field(default_factory=dict)
    finished: bool = False

    def save(self, path: Path | str) -> None:
        """Write it whole or not at all: a kill leaves the checkpoint before.

        Args:
            path: a file, or a URI that pyarrow knows (``s3://…``, ``gs://…``).
        """
        tree = {f: getattr(self, f) for f in self.__dataclass_fields__ if f != "experiment"}
        tree |= {"format": FORMAT, "experiment": self.experiment.to_dict()}
        if remote(path):
            buffer = io.BytesIO()
            torch.save(tree, buffer)
            put(path, buffer.getbuffer())
            return
        with writing(Path(path)) as temporary:
            torch.save(tree, temporary)

    @classmethod
    def load(cls, path: Path | str) -> "Checkpoint":
        """Read a checkpoint, tensors on the CPU.

        Raises:
            UserError: missing, damaged, or of another format version.
        """
        if not exists(path):
            raise UserError(
                f"There is no checkpoint at {path}: the run ended before one was kept, or was removed. Train it again; "
                "`symcere ls` lists the runs that are stored."
            )
        file = io.BytesIO(get(path)) if remote(path) else Path(path)
        try:
            tree = torch.load(file, map_location="cpu", weights_only=True)
            version = tree.pop("format")
        except Exception as error:
            raise UserError(
                f"{path} is no checkpoint of symcere, or is damaged ({type(error).__name__}). Train the run again."
            ) from error
        if version != FORMAT:
            raise UserError(
                f"{path} has checkpoint format {version}; this version of symcere reads {FORMAT}. "
                "Use the version that wrote it, or train again."
            )
        return cls(experiment=build(Experiment, tree.pop("experiment")), **tree)

    def check_corpus(self, name: str, fingerprint: str) -> None:
        """Refuse another corpus than the one that was trained on."""
        if fingerprint != self.corpus["fingerprint"]:
            raise UserError(
                f"The run was trained on corpus '{self.corpus['name']}' ({self.corpus['fingerprint'][:12]}), but "
                f"'{name}' is now {fingerprint[:12]}. Prepare the corpus as it was, or train again."
            )

    def check_experiment(self, experiment: Experiment) -> None:
        """Refuse to go on with other settings than those it began with; it may only go on for longer or less long."""
        before, now = self.experiment.flat(), experiment.flat()
        for name, value in now.items():
            if before[name] != value and not name.startswith(FREE):
                raise UserError(
                    f"The run began with {name} {before[name]!r} and cannot go on with {value!r}. "
                    "Leave the setting as it was, or train a new run."
                )
