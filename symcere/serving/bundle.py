"""A service as a folder: safetensors, Parquet and JSON, no pickle; what is registered, served and scored with.

manifest.json         format, name, corpus, experiment, and the sha256 of every other file
weights.safetensors   vectors, bias, seen items, popularity, what newcomers need
users.parquet         id
items.parquet         id, title, sentences (some of its training reviews, for reasons)
encoder/              what encodes a text; models up to ``CARRIED`` bytes lie inside, in model-0, model-1, …
"""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp
import torch
from torch import Tensor, nn

import symcere
from symcere.config import Encoder, Experiment
from symcere.config.fields import build
from symcere.errors import UserError
from symcere.home import writing
from symcere.model.closed_form import ItemToItem, Popularity, from_state
from symcere.model.scorer import FactorScorer, Scorer
from symcere.serving.newcomers import Newcomers
from symcere.serving.service import Service

if TYPE_CHECKING:
    from symcere.text import Joined, TextEncoder

KIND, FORMAT = "recommender", 1
CARRIED = 300 << 20
"""Bytes of a text encoder's files up to which they are put inside; larger ones go by name and revision."""


def save(service: Service, folder: Path, experiment: Experiment, facts: dict[str, Any] | None = None) -> dict[str, Any]:
    """Writes a service, whole or not at all.

    Args:
        experiment: what it was trained by.
        facts: further entries of the manifest: where the model comes from.

    Returns:
        the manifest.

    Raises:
        UserError: the disk is full.
    """
    from safetensors.torch import save_file

    with writing(folder) as place:
        place.mkdir()
        save_file({k: v.contiguous() for k, v in _tensors(service).items()}, place / "weights.safetensors")
        pq.write_table(pa.table({"id": service.user_ids}), place / "users.parquet", compression="zstd")
        titles = service.item_titles if service.item_titles is not None else pa.nulls(service.num_items, pa.string())
        phrases: list[list[str]] = [[] for _ in range(service.num_items)]
        if service.sentences is not None and service.newcomers is not None and service.newcomers.explains:
            phrases = [list(service.sentences(item)) for item in range(service.num_items)]
        columns = {"id": service.item_ids, "title": titles, "sentences": pa.array(phrases, pa.list_(pa.string()))}
        pq.write_table(pa.table(columns), place / "items.parquet", compression="zstd")
        encoders: list[dict[str, str]] = []
        if service.newcomers is not None and service.newcomers.explains and service.encoder is not None:
            encoders = _save_encoder(service.encoder, place / "encoder")
        manifest = {
            "kind": KIND,
            "format": FORMAT,
            "symcere": symcere.__version__,
            "name": service.name,
            "weight": service.weight,
            "scorer": "vectors" if isinstance(service.scorer, FactorScorer) else "closed form",
            "encoders": encoders,
            "experiment": experiment.to_dict(),
            **(facts or {}),
            "files": checksums(place),
        }
        (place / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False), encoding="utf-8")
    return manifest


def checksums(folder: Path) -> dict[str, str]:
    """The sha256 of every file in a folder, by its path in it."""
    found = {}
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        with file.open("rb") as stream:
            found[file.relative_to(folder).as_posix()] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


def read_manifest(folder: Path, check: bool = True) -> dict[str, Any]:
    """The manifest of a stored service.

    Args:
        check: every file is read and compared with its checksum.

    Raises:
        UserError: it is no such folder, of another format, or files were changed, added or lost.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        kind, version, files = manifest["kind"], manifest["format"], manifest["files"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder} holds no recommender: its manifest.json is missing or damaged.") from None
    if kind != KIND or version != FORMAT:
        raise UserError(
            f"{folder} holds '{kind}' of format {version}; this symcere ({symcere.__version__}) reads '{KIND}' of "
            f"format {FORMAT}. Use the version that wrote it ({manifest.get('symcere')}), or register the run again."
        )
    if check:
        now = {name: digest for name, digest in checksums(folder).items() if name != "manifest.json"}
        differing = sorted(name for name in now.keys() | files.keys() if now.get(name) != files.get(name))
        if differing:
            raise UserError(
                f"The recommender in {folder} is not what was stored: {', '.join(differing[:3])} "
                f"{'was' if len(differing) == 1 else 'were'} changed, added or lost. Register the run again."
            )
    return manifest


def load(folder: Path | str, check: bool = True) -> Service:
    """The service that :func:`save` wrote. Needs no corpus, no home and no network.

    Raises:
        UserError: see :func:`read_manifest`.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    manifest = read_manifest(folder, check)
    experiment = build(Experiment, manifest["experiment"])
    tensors = load_file(folder / "weights.safetensors")
    users, items = (pq.read_table(folder / f"{name}.parquet") for name in ("users", "items"))
    seen = _csr(_part(tensors, "seen."), (len(users), len(items)))
    phrases = items["sentences"].combine_chunks()
    return Service(
        name=manifest["name"],
        scorer=_scorer(_part(tensors, "scorer."), manifest["scorer"]),
        weight=manifest["weight"],
        user_ids=_strings(users["id"]),
        item_ids=_strings(items["id"]),
        item_titles=_strings(items["title"]) if items["title"].null_count < len(items) else None,
        seen=seen,
        popularity=tensors["popularity"].numpy(),
        newcomers=_newcomers(experiment, _part(tensors, "newcomers.")),
        encoder=(lambda: _load_encoder(folder / "encoder")) if manifest["encoders"] else None,
        sentences=lambda item: phrases[item].as_py(),
    )


# ---------------------------------------------------------------- tensors


def _tensors(service: Service) -> dict[str, Tensor]:
    found = {
        "popularity": torch.from_numpy(np.array(service.popularity, dtype=np.int64)),
        "seen.indptr": torch.from_numpy(np.array(service.seen.indptr, dtype=np.int64)),
        "seen.indices": torch.from_numpy(np.array(service.seen.indices, dtype=np.int32)),
    }
    scorer = service.scorer
    if isinstance(scorer, FactorScorer):
        state = {"users": scorer.users, "items": scorer.items}
        if scorer.bias is not None:
            state["bias"] = scorer.bias
    else:
        assert isinstance(scorer, (Popularity, ItemToItem))
        state = scorer.state()
    found |= {f"scorer.{name}": tensor.detach().clone() for name, tensor in state.items()}
    new = service.newcomers
    if new is not None:
        parts = {"degrees": new.degrees, "graph_sums": new.graph_sums, "text_sums": new.text_sums}
        parts["item_profiles"] = new.item_profiles
        for name, module in (("tower", new.tower), ("gate", new.gate)):
            if module is not None:
                parts |= {f"{name}.{key}": value for key, value in module.state_dict().items()}
        found |= {f"newcomers.{name}": tensor.detach().clone() for name, tensor in parts.items() if tensor is not None}
    return found


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _scorer(state: dict[str, Tensor], kind: str) -> Scorer:
    if kind == "vectors":
        return FactorScorer(state["users"], state["items"], state.get("bias"))
    return from_state(state)


def _newcomers(experiment: Experiment, parts: dict[str, Tensor]) -> Newcomers | None:
    if not parts:
        return None
    modules = {name: _module(_part(parts, f"{name}.")) for name in ("tower", "gate")}
    names = ("graph_sums", "text_sums", "item_profiles")
    return Newcomers(experiment.model, parts["degrees"], **{n: parts.get(n) for n in names}, **modules)  # type: ignore[arg-type]


def _module(state: dict[str, Tensor]) -> nn.Module | None:
    """A tower or a gate from its weights: one linear map, or two with a leaky ReLU between them."""
    if not state:
        return None

    def linear(prefix: str) -> nn.Linear:
        weight, bias = state[f"{prefix}weight"], state.get(f"{prefix}bias")
        made = nn.utils.skip_init(
            nn.Linear, weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype
        )
        made.load_state_dict(_part(state, prefix))
        return made

    made = linear("") if "weight" in state else nn.Sequential(linear("0."), nn.LeakyReLU(), linear("2."))
    return made.requires_grad_(False)


def _csr(arrays: dict[str, Tensor], shape: tuple[int, int]) -> sp.csr_array:
    indices = arrays["indices"].numpy()
    return sp.csr_array((np.ones(len(indices), np.float32), indices, arrays["indptr"].numpy()), shape=shape)


def _strings(column: pa.ChunkedArray) -> pa.StringArray:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


# ---------------------------------------------------------------- the encoder


def _save_encoder(encoder: "Joined", folder: Path) -> list[dict[str, str]]:
    """Settings, what was fitted, and the files of small models. Returns name and place of each."""
    from symcere.text.models import FILES, WEIGHTS

    encoder.save(folder)
    told = []
    for n, (settings, one) in enumerate(zip(encoder.settings, encoder.encoders, strict=True)):
        source = getattr(one, "folder", None)  # of a transformer
        place = "inside" if source is None else f"{settings.name}@{settings.revision}"
        if source is not None:
            weights = next((p for p in WEIGHTS if any(Path(source).glob(p))), "")
            files = {f for pattern in (weights, *FILES) if pattern for f in Path(source).glob(pattern)}
            if sum(f.stat().st_size for f in files) <= CARRIED:
                (folder / f"model-{n}").mkdir()
                for file in files:
                    shutil.copyfile(file, folder / f"model-{n}" / file.name)  # follows the links of the hub's cache
                place = "inside"
        told.append({"name": settings.name, "place": place})
    return told


def _load_encoder(folder: Path) -> "Joined":
    from symcere.text import Joined, make_encoder

    number = iter(range(1 << 30))

    def make(settings: Encoder) -> "TextEncoder":
        inside = folder / f"model-{next(number)}"
        return make_encoder(replace(settings, name=str(inside)) if inside.is_dir() else settings)

    return Joined.load(folder, make)
