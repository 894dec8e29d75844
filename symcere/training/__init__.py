"""The training loop and the checkpoint: pure PyTorch, process-group aware; knows neither Ray nor MLflow."""

from symcere.training.checkpoint import Checkpoint
from symcere.training.fit import Epoch, Fitted, build, fit, restore

__all__ = ["Checkpoint", "Epoch", "Fitted", "build", "fit", "restore"]
