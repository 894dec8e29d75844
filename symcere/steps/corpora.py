"""From raw reviews to a corpus and its embeddings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from symcere.config import Data, Experiment
from symcere.config.fields import build, listed, merge, to_dict
from symcere.data import cards
from symcere.data.corpus import Corpus
from symcere.errors import UserError, nearest
from symcere.home import check_name, home

if TYPE_CHECKING:
    from symcere.text import Embeddings

Settings = Mapping[str, Any]
Progress = Callable[..., None] | None


@dataclass(frozen=True)
class Listed:
    """A data set, as `symcere datasets` shows it."""

    name: str
    platform: str
    title: str
    prepared: str
    get: str
    licence: str


def datasets() -> list[Listed]:
    """Every card, and every corpus of one's own: platform, size if prepared, how to get it, licence."""
    found = [
        Listed(
            card.name,
            card.platform,
            card.title,
            _size(card.name),
            "generated" if card.format == "synthetic" else "fetch" if card.urls else "by hand",
            card.licence,
        )
        for card in cards.cards()
    ]
    known = {listed.name for listed in found}
    folder = home() / "corpora"
    own = sorted(p.name for p in folder.glob("[!.]*") if (p / "manifest.json").exists()) if folder.is_dir() else []
    return found + [Listed(name, "own", name, _size(name), "", "") for name in own if name not in known]


def _size(name: str) -> str:
    path = home() / "corpora" / name
    if not path.exists():
        return ""
    try:
        corpus = Corpus.open(path)
    except UserError:
        return "damaged"
    interactions = corpus.train.nnz + corpus.val.nnz + corpus.test.nnz
    return f"{corpus.num_users:,} users, {corpus.num_items:,} items, {interactions:,} interactions"


def fetch(
    dataset: str, folder: Path | None = None, *, accept: Callable[[str], bool], progress: Progress = None
) -> dict[str, list[Path]]:
    """Download a data set where its card has an open address.

    Args:
        accept: shown the terms first; False stops.

    Raises:
        UserError: no open address, or a failed download: with the steps to do it by hand.
    """
    from symcere.data.fetch import fetch as run

    return {"files": run(cards.find(dataset), folder, accept=accept, progress=progress or (lambda *_: None))}


def corpus_path(name: str) -> Path:
    """Where the corpus of this name is stored."""
    return home() / "corpora" / name


def open_corpus(dataset: str | Corpus) -> Corpus:
    """A prepared corpus, by its name or its card's; the synthetic one is prepared on first use, an open one is itself.

    Raises:
        UserError: unknown data set (nearest names), or one that is not prepared (the command).
    """
    if isinstance(dataset, Corpus):
        return dataset
    if not dataset:
        raise UserError("Which data set? Name it, as `symcere datasets` lists it.")
    if corpus_path(dataset).is_dir():
        return Corpus.open(corpus_path(dataset))
    try:
        card = cards.find(dataset)
    except UserError:  # perhaps a slip in the name of a corpus of one's own, which no card knows
        close = nearest(dataset, [path.parent.name for path in home().glob("corpora/*/manifest.json")])
        if "/" in dataset or not close.startswith("Did you mean"):
            raise
        raise UserError(f"Unknown data set '{dataset}'. {close} `symcere datasets` lists all.") from None
    if corpus_path(card.name).is_dir():
        return Corpus.open(corpus_path(card.name))
    if card.format == "synthetic":
        return prepare(dataset)
    raise UserError(
        f"Data set '{card.name}' is not prepared. Run `symcere prepare {card.name} --source FILE`. {card.how_to_get()}"
    )


def prepare(
    dataset: str,
    sources: str | Path | Sequence[str | Path] = (),
    *,
    format: str = "",
    columns: Mapping[str, str] | None = None,
    settings: Settings | None = None,
    name: str = "",
    progress: Progress = None,
) -> Corpus:
    """Review files → corpus, under the home.

    Args:
        dataset: a card's name, a path to a card, or a new name given together with ``sources``.
        sources: review files; by default those that the card names or that were fetched.
        columns: columns by role (user, item, rating, time, text), where their names do not tell.
        settings: of the experiment's ``data`` part, ``{"core": 3, "split.kind": "last"}``.
        name: store it under another name than the data set's.

    Raises:
        UserError: no file, an unusable one, or filters that leave nothing.
    """
    from dataclasses import replace

    from symcere.data.prepare import prepare as run

    files = [Path(s) for s in listed(sources)]
    try:
        card = cards.find(dataset)
    except UserError:
        if not files and Path(dataset).name == dataset and (corpus_path(dataset) / "manifest.json").is_file():
            raise UserError(
                f"'{dataset}' was prepared from files of your own: name them again, with --source FILE."
            ) from None
        if not files or Path(dataset).suffix in (".yaml", ".yml"):
            raise
        card = cards.own(dataset, files)
    if files and card.name.endswith(f"-{dataset}"):
        raise UserError(f"Are these files of the card '{card.name}'? Then give its whole name, or else another one.")
    if files and card.format == "synthetic":
        raise UserError(f"'{card.name}' is generated, and reads no file. Give your data another name.")
    check_name(name or card.name, "a data set")
    try:
        card = replace(card, format=format or card.format, columns={**card.columns, **(columns or {})})
    except ValueError as error:
        raise UserError(f"{card.name}: {error}") from None
    files = files or card.sources()
    if not files and card.format != "synthetic":
        raise UserError(f"There is no file of '{card.name}' on this machine. {card.how_to_get()}")
    wanted = build(Data, merge(to_dict(card.data), settings or {}, {"dataset": name or card.name}), "data")
    return run(card, wanted, files, corpus_path(name or card.name), progress)


def embeddings_of(corpus: Corpus, experiment: Experiment, progress: Progress = None) -> "Embeddings | None":
    """Embeddings of the training reviews, made or resumed where they are not there yet; None without text."""
    if not experiment.needs_text:
        return None
    from symcere.text import embed as run

    return run(corpus, experiment.text, home() / "embeddings", progress)


def embed(
    dataset: str,
    settings: Settings | None = None,
    progress: Progress = None,
    *,
    workers: int = 1,
    gpus_per_worker: float = 0,
    address: str = "",
) -> "Embeddings | None":
    """Review texts → embeddings, in a cache that a killed run resumes.

    Args:
        settings: dotted settings of the experiment, ``{"text.encoders": "minilm,lsa"}``.
        workers: actors that encode side by side through Ray Data; one needs no Ray.
        gpus_per_worker: GPUs that each of them holds; given, a single one is started through Ray, too.
        address: of a running Ray cluster; by default ``RAY_ADDRESS``, else Ray is started on this machine.
    """
    corpus, experiment = open_corpus(dataset), Experiment().replace(settings or {})
    if workers == 1 and not address and not gpus_per_worker:
        return embeddings_of(corpus, experiment, progress)
    from symcere.distributed.encode import embed as run

    folder = home() / "embeddings"
    return run(
        corpus,
        experiment.text,
        folder,
        progress,
        workers=workers,
        gpus_per_worker=gpus_per_worker,
        address=address,
    )
