"""From a trained model to its use: recommendations, exports, the registry, scoring in batch."""

import json
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from symcere import tracking
from symcere.config.fields import listed
from symcere.errors import UserError
from symcere.home import checkpoint_of, home, writing
from symcere.steps.corpora import Progress
from symcere.steps.runs import NOTE, Restored, restore
from symcere.tracking import tag

BLOCK = 4096
"""Users whose lists are made at a time."""
LENGTH = 50
"""Of the lists that are exported, when nobody asks for another and there are as many items."""


def _service(restored: Restored) -> Any:
    from symcere.serving import Service

    return Service.of(restored.fitted, restored.corpus, restored.embeddings, restored.name)


def recommend(
    run: str | Path,
    users: str | Sequence[str],
    k: int = 10,
    *,
    candidates: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    popularity_weight: float | None = None,
    why: bool = True,
    progress: Progress = None,
) -> dict[str, Any]:
    """The k best items of some users, that they have not reviewed.

    Args:
        candidates: ids of items; rank these alone (what is in stock).
        exclude: ids of items; never these.
        popularity_weight: w of the popularity term; None: that of the experiment.
        why: look for the phrase of each item's training reviews that comes closest to the user's taste.

    Raises:
        UserError: unknown run or user (nearest ones), k beyond the catalogue, or no candidate that is known.
    """
    from symcere.serving import Request, read

    restored = restore(run, progress)
    service = _service(restored)
    users = listed(users)
    for user in users:
        service.user(user)
    asked = Request(
        k=k,
        popularity_weight=popularity_weight,
        candidates=candidates,
        exclude=() if exclude is None else exclude,
        why=why,
    )
    asked = read(asked)  # once for all
    answers = service.recommend([replace(asked, user_id=user) for user in users])
    rows = []
    for answer in answers:
        for rank, item in enumerate(answer.items):
            row: dict[str, Any] = {"user": answer.user_id, "rank": rank + 1, "item": item}
            if service.item_titles is not None:
                row["title"] = answer.titles[rank]
            row["score"] = answer.scores[rank]
            if why and service.reasons is not None:
                row["why"] = answer.why[rank]
            rows.append(row)
    notes = list(dict.fromkeys(note for answer in answers for note in answer.notes))
    return {"run": restored.name, "recommendations": rows, "notes": notes}


def export(run: str | Path, out: str | Path, k: int | None = None, progress: Progress = None) -> dict[str, Any]:
    """User and item vectors and top-k lists as Parquet, for those who serve elsewhere.

    ``users.parquet`` (id, vector), ``items.parquet`` (id, title, popularity, vector, bias), ``top_k.parquet`` (user,
    rank, item, score) and ``meta.json``. The score of a user and an item is the inner product of their vectors plus
    the item's bias, which is already weighted. The lists leave out items of training and validation, as the
    evaluation on the test split does. A model without vectors (a closed form) has its lists alone.

    Args:
        k: length of the lists; None: 50, or all items where there are fewer.

    Raises:
        UserError: unknown run, k beyond the catalogue, or a folder that cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from scipy.sparse import csr_array

    from symcere.evaluation.ranking import top_k
    from symcere.model.scorer import FactorScorer

    restored = restore(run, progress)
    corpus, scorer = restored.corpus, restored.fitted.scorer
    if k is None:
        k = min(LENGTH, corpus.num_items)
    k = int(k)
    if not 1 <= k <= corpus.num_items:
        raise UserError(f"k is {k}, but there are {corpus.num_items} items: choose 1 to {corpus.num_items} with -k.")
    seen = csr_array(corpus.train + corpus.val)
    out = Path(out)
    experiment = restored.fitted.checkpoint.experiment
    meta: dict[str, Any] = {
        "run": restored.name,
        "corpus": {"name": corpus.name, "fingerprint": corpus.fingerprint},
        "users": corpus.num_users,
        "items": corpus.num_items,
        "k": k,
        "files": ["top_k.parquet"],
        "left_out_of_lists": "the user's items of training and validation",
        "experiment": experiment.to_dict(),
    }
    with writing(out, mark="meta.json", holds=("meta.json", "*.parquet")) as folder:
        folder.mkdir()
        if isinstance(scorer, FactorScorer):
            z_u, z_i = (_vectors(z) for z in (scorer.users, scorer.items))
            bias = np.zeros(corpus.num_items, np.float32) if scorer.bias is None else scorer.bias.float().cpu().numpy()
            items = {"id": corpus.item_ids, "popularity": corpus.item_popularity, "vector": z_i, "bias": bias}
            if corpus.item_titles is not None:
                items["title"] = corpus.item_titles
            pq.write_table(pa.table({"id": corpus.user_ids, "vector": z_u}), folder / "users.parquet")
            pq.write_table(pa.table(items), folder / "items.parquet")
            meta |= {
                "files": ["users.parquet", "items.parquet", "top_k.parquet"],
                "dim": scorer.users.shape[1],
                "score": "<users.vector, items.vector> + items.bias",
                "popularity_weight": experiment.evaluate.popularity_weight,
            }
        schema = pa.schema(
            {"user": pa.string(), "rank": pa.int32(), "item": pa.string(), "score": pa.float32()},
        )
        with pq.ParquetWriter(folder / "top_k.parquet", schema) as file:
            for start in range(0, corpus.num_users, BLOCK):
                users = np.arange(start, min(start + BLOCK, corpus.num_users))
                found, scores = (t.numpy() for t in top_k(scorer, users, k, seen))
                row, rank = np.nonzero(found >= 0)
                file.write_table(
                    pa.table(
                        {
                            "user": corpus.user_ids.take(users[row]),
                            "rank": pa.array(rank + 1, pa.int32()),
                            "item": corpus.item_ids.take(found[row, rank]),
                            "score": pa.array(scores[row, rank], pa.float32()),
                        },
                        schema,
                    )
                )
                if progress:
                    progress("export", int(users[-1]) + 1, corpus.num_users)
        (folder / "meta.json").write_text(json.dumps(meta, indent=1, ensure_ascii=False), encoding="utf-8")
    notes = [] if "dim" in meta else ["This model has no vectors, so only its lists were written."]
    return {"run": restored.name, "out": out, "files": [*meta["files"], "meta.json"], "k": k, "notes": notes}


def _vectors(rows: Any) -> Any:
    """A float32 matrix as a column of fixed-size lists."""
    import pyarrow as pa

    flat = rows.detach().float().cpu().contiguous().numpy()
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1])


# ---------------------------------------------------------------- the registry


def register(
    run: str | Path = "", name: str = "", *, best_of: str = "", dataset: str = "", progress: Progress = None
) -> dict[str, Any]:
    """Put a run's best model into the registry, as the next version of ``name`` and its challenger.

    Args:
        name: of the registered model, by default the data set's.
        best_of: a sweep's name, instead of ``run``: its final model that is best on validation.
        dataset: on which, where the sweep had several.

    Raises:
        UserError: unknown run, one without a checkpoint, or a store without a registry.
    """
    from symcere.tracking import registry

    if bool(run) == bool(best_of):
        raise UserError("Name a RUN, or a sweep with --best-of SWEEP.")
    found = _best_of(best_of, dataset) if best_of else tracking.find_run(run)
    if not found.id:
        note = found.checkpoint and found.checkpoint.with_name(NOTE)
        if note is not None and note.is_file():
            found = tracking.find_run(json.loads(note.read_text())["run"])
    if found.status in ("RUNNING", "SCHEDULED"):
        raise UserError(f"Run {found.name} is still running: wait for its end.")
    if found.status not in ("", "FINISHED"):
        kept = checkpoint_of(found.name).exists()
        then = f"`symcere train --resume {found.name}` goes on with it" if kept else "train it again"
        raise UserError(
            f"Run {found.name} did not come to its end ({found.status.lower()}), and was not judged: {then}."
        )
    restored = restore(found.id or run, progress)
    corpus = restored.corpus
    facts = {
        "name": corpus.name,
        "fingerprint": corpus.fingerprint,
        "users": corpus.num_users,
        "items": corpus.num_items,
        "training": corpus.train.nnz,
    }
    experiment = restored.fitted.checkpoint.experiment
    made = registry.register(_service(restored), experiment, found, facts, name or corpus.name)
    return {
        "model": made.name,
        "version": made.version,
        "aliases": list(made.aliases),
        "run": found.name,
        **_uses(made.name, registry.CHALLENGER),
        "next": [f"symcere promote {made.name}"],
    }


def _uses(model: str, alias: str) -> dict[str, str]:
    """How a registered model is taken into use."""
    uri, store = f"models:/{model}@{alias}", tracking.tracking_uri()
    return {
        "load": f"mlflow.set_tracking_uri({store!r}); mlflow.pyfunc.load_model({uri!r})",
        "serve": f"MLFLOW_TRACKING_URI={shlex.quote(store)} mlflow models serve -m {uri} --env-manager local",
    }


def _best_of(sweep: str, dataset: str) -> Any:
    """The final model of a sweep that is best on validation."""
    finals = [
        run
        for run in tracking.list_runs()
        if run.tags.get(tag.SWEEP) == sweep and run.tags.get(tag.ROLE) == "final" and run.status == "FINISHED"
    ]
    if not finals:
        raise UserError(f"There is no sweep '{sweep}' with a finished final model. Register a run by its name instead.")
    of: dict[str, list[Any]] = {}
    for run in finals:
        of.setdefault(run.tags.get(tag.DATASET, run.experiment), []).append(run)
    dataset = dataset or (next(iter(of)) if len(of) == 1 else "")
    if dataset not in of:
        raise UserError(f"Sweep '{sweep}' has final models of {', '.join(sorted(of))}: name one with --dataset.")
    return max(of[dataset], key=_validation)


def _validation(run: Any) -> float:
    """What selects a model; a closed form, which has no validation figure of its own, comes last."""
    return max((v for k, v in run.metrics.items() if k.startswith("val_ndcg_at_")), default=-1.0)


def promote(name: str, *, metric: str = "ndcg_at_10", force: bool = False) -> dict[str, Any]:
    """Make the challenger of a registered model its champion, if the paired test over users says that it is better.

    Args:
        metric: a per-user metric of the runs.
        force: promote in any case; the version's tag says that it was forced.

    Returns:
        whether it was promoted, and why; also kept in the version's tag ``symcere.promoted``.

    Raises:
        UserError: unknown model, no challenger, or models of different corpora (without ``force``).
    """
    from symcere.tracking import registry

    decided = registry.promote(name, metric, force)
    told: dict[str, Any] = {
        "model": name,
        "version": decided.version,
        "promoted": decided.promoted,
        "why": decided.reason,
        **_uses(name, registry.CHAMPION),
    }
    c = decided.comparison
    if c is not None:
        told["test"] = {
            "challenger": c.a,
            "champion": c.b,
            "difference": c.difference,
            "low": c.low,
            "high": c.high,
            "p": c.p,
            "users": c.users,
        }
    return told


def score(
    model: str,
    input: str | Path,
    out: str | Path,
    k: int = 10,
    *,
    candidates: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    popularity_weight: float | None = None,
    exclude_seen: bool = True,
    why: bool = False,
    workers: int = 0,
    batch_size: int = 4096,
    address: str = "",
    progress: Progress = None,
) -> dict[str, Any]:
    """Recommendations for every row of Parquet files, over Ray Data, in bounded memory.

    Args:
        model: a registered model (``NAME``, ``NAME@alias``, ``NAME/3``), a stored recommender's folder, or a run.
        input: a Parquet file or a folder of them, with any of the columns ``user_id``, ``review_text``,
            ``liked_items``.
        out: folder for Parquet files with the columns of :class:`symcere.serving.Answer`, a row for each input row.
        workers: processes that hold the model each; 0: one for each CPU.
        address: of a running Ray cluster, all nodes of which see the home, ``input`` and ``out``; by default
            ``RAY_ADDRESS``, or this machine.

    Raises:
        UserError: unknown model, no readable input, a request that cannot be answered, a folder that is not empty, or
            a node that does not see the folders.
    """
    from symcere.distributed.pool import ray_address
    from symcere.distributed.score import score as run
    from symcere.serving import Request, read

    asked = Request(
        k=k,
        exclude_seen=exclude_seen,
        popularity_weight=popularity_weight,
        candidates=candidates,
        exclude=() if exclude is None else exclude,
        why=why,
    )
    with _stored_service(model, for_all=bool(ray_address(address))) as folder:
        told = run(folder, Path(input), Path(out), read(asked), workers, batch_size, address, progress)
        return {"model": model, **told}


@contextmanager
def _stored_service(model: str, for_all: bool) -> Iterator[Path]:
    """The folder of a service: as given, from the registry, or made of a run for the time being.

    Args:
        for_all: what is made or fetched lies in the home, which all machines of a cluster see.
    """
    from symcere.serving import bundle
    from symcere.tracking import registry

    if (Path(model) / "manifest.json").is_file():
        yield Path(model)
        return
    found = None
    try:
        found = registry.version(model)
    except UserError as unknown:
        try:
            tracking.find_run(model)
        except UserError:
            raise unknown from None
    if found is not None and not for_all:
        yield registry.fetch(found)
        return
    home().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".service-", dir=home()) as folder:
        if found is not None:
            yield registry.fetch(found, into=Path(folder))
            return
        restored = restore(model)
        bundle.save(_service(restored), Path(folder) / "recommender", restored.fitted.checkpoint.experiment)
        yield Path(folder) / "recommender"
