"""What turns texts into vectors: the interface of an encoder, the one that settings name, and several joined.

identity    everything that decides the vectors, as JSON: settings and content of the model. Part of every cache's key
fit         an encoder that is fitted (LSA) learns from training reviews here
encode      texts → float32 [n, width], every row of length one, or zero where there is nothing to encode
reads       how much of a text that takes in
save        what ``fit`` learned, without pickle; a pre-trained encoder stores nothing
"""

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from symcere.config import Encoder
from symcere.config.fields import build, to_dict
from symcere.errors import UserError

FORMAT = 1

Progress = Callable[[str, int, int], Any]
"""Called with what is done, how much of it, and of how much: distinct texts of all encoders together."""


class TextEncoder(Protocol):
    """One encoder. ``width`` is known from the start, or from ``fit`` or ``restore`` on where it is fitted."""

    identity: dict[str, Any]
    sample: int
    """Reviews that ``fit`` wants at most; 0: pre-trained, ``fit`` is not called."""

    @property
    def width(self) -> int: ...

    def fit(self, texts: Sequence[str]) -> None: ...

    def encode(self, texts: Sequence[str], advance: Callable[[int], Any] | None = None) -> np.ndarray:
        """float32 ``[n, width]``; ``advance`` is called with the number of texts done since the last call."""

    def reads(self, text: str) -> int:
        """The first characters of a text that its vector depends on; the rest is cut."""

    def save(self, folder: Path) -> None: ...

    def restore(self, folder: Path) -> None: ...


def make_encoder(settings: Encoder) -> TextEncoder:
    """The encoder that settings name: ``lsa``, or a transformer by ``minilm``, a Hugging Face name or a folder.

    Raises:
        UserError: the model is found nowhere (what to do instead).
    """
    if settings.name == "lsa":
        from symcere.text.lsa import LSA  # imports scikit-learn

        return LSA(settings)
    from symcere.text.transformer import Transformer  # imports torch and transformers

    return Transformer(settings)


Factory = Callable[[Encoder], TextEncoder]


def label(settings: Encoder) -> str:
    """A short name of an encoder, for folders and tables: ``minilm``, ``lsa``, ``Qwen3-Embedding-0.6B``."""
    return Path(settings.name).name or "encoder"


class Joined:
    """Several encoders as one: their vectors side by side, each block of length one. A model carries it to serve.

    Attributes:
        settings: of each encoder, in order.
        encoders: the encoders.
        slices: the columns of each.
    """

    def __init__(self, settings: Sequence[Encoder], encoders: Sequence[TextEncoder]):
        self.settings, self.encoders = tuple(settings), tuple(encoders)
        ends = list(accumulate(e.width for e in encoders))
        self.slices = [slice(end - e.width, end) for end, e in zip(ends, encoders, strict=True)]
        self.width = ends[-1]

    @property
    def blocks(self) -> list[tuple[str, int]]:
        """Name and width of each block."""
        return [(label(s), e.width) for s, e in zip(self.settings, self.encoders, strict=True)]

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """float32 ``[n, t]``. Equal texts are encoded once; an empty one is a zero row."""
        distinct = {text: row for row, text in enumerate(dict.fromkeys(t for t in texts if t.strip()))}
        # The last row stays zero: it is that of empty texts.
        vectors = np.zeros((len(distinct) + 1, self.width), np.float32)
        for encoder, columns in zip(self.encoders, self.slices, strict=True):
            if distinct:
                vectors[:-1, columns] = encoder.encode(list(distinct))
        return vectors[[distinct.get(text, -1) for text in texts]]

    def reads(self, text: str) -> int:
        """The first characters of a text that the vector depends on: the longest part that any encoder reads."""
        return max(encoder.reads(text) for encoder in self.encoders)

    def save(self, folder: Path) -> None:
        """Stores what :meth:`load` needs: settings, identities and what was fitted; no weights of a transformer."""
        folder.mkdir(parents=True, exist_ok=True)
        for n, encoder in enumerate(self.encoders):
            (folder / str(n)).mkdir(exist_ok=True)
            encoder.save(folder / str(n))
        described = [
            {"settings": to_dict(s), "identity": e.identity} for s, e in zip(self.settings, self.encoders, strict=True)
        ]
        write_manifest(folder, "text encoder", encoders=described)

    @classmethod
    def load(cls, folder: Path, factory: Factory = make_encoder) -> "Joined":
        """The encoders that :meth:`save` stored.

        Raises:
            UserError: not stored here, of another format, or a model is not the one that made the embeddings.
        """
        settings, encoders = [], []
        for n, described in enumerate(read_manifest(folder, "text encoder")["encoders"]):
            settings.append(build(Encoder, described["settings"]))
            encoder = factory(settings[-1])
            if encoder.identity != described["identity"]:
                differing = ", ".join(_differing(encoder.identity, described["identity"]))
                raise UserError(
                    f"Text encoder '{settings[-1].name}' is not the one that made these embeddings: its {differing} "
                    "differs. Restore the model as it was, or embed and train again."
                )
            encoder.restore(folder / str(n))
            encoders.append(encoder)
        return cls(settings, encoders)


def _differing(ours: dict[str, Any], theirs: dict[str, Any]) -> Iterator[str]:
    return (key for key in sorted(ours.keys() | theirs.keys()) if ours.get(key) != theirs.get(key))


def write_manifest(folder: Path, kind: str, **fields: Any) -> None:
    """Writes ``manifest.json``: what the folder is, its format version and ``fields``."""
    text = json.dumps({"kind": kind, "format": FORMAT, **fields}, indent=1, ensure_ascii=False)
    (folder / "manifest.json").write_text(text, encoding="utf-8")


def read_manifest(folder: Path, kind: str) -> dict[str, Any]:
    """The manifest of a folder.

    Raises:
        UserError: there is none, it is damaged, or of another kind or format version.
    """
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(
            f"{folder} holds no {kind}: manifest.json is missing or damaged. Embed the data again."
        ) from None
    if manifest.get("kind") != kind:
        raise UserError(f"{folder} holds a {manifest.get('kind')}, not a {kind}.")
    if manifest.get("format") != FORMAT:
        raise UserError(
            f"{folder} has format version {manifest.get('format')}; this symcere reads version {FORMAT}. "
            "Embed the data again, or use the version of symcere that made it."
        )
    return manifest
