"""Cards: what a data set is, where it comes from, under which terms, and how it is filtered and split.

A card is a YAML file (``datasets/NAME.yaml``; its schema stands beside it). One for one's own table needs four lines:

    title: Orders of my shop
    files: [reviews.csv]                       # beside the card
    columns: {user: customer, item: sku}       # only where common names do not tell
    data: {core: 3}
"""

import functools
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from symcere.config import Data
from symcere.config.fields import build, read_yaml, setting
from symcere.errors import UserError, naming, nearest
from symcere.home import home


def file_name(address: str) -> str:
    """What a file is called that comes from a URL, or lies at a path."""
    if address.startswith(("http://", "https://")):
        address = urllib.parse.unquote(urllib.parse.urlparse(address).path)
    return address.rpartition("/")[2]


@dataclass(frozen=True)
class Card:
    name: str = setting("", "what commands call it; by default the card's file name")
    title: str = setting("", "what a person calls it")
    platform: Literal["e-commerce", "local", "travel", "synthetic", "other"] = setting("other", "kind of platform")
    format: str = setting("", "format of the reviews (see README); empty: by content, which wins in any case")
    urls: tuple[str, ...] = setting((), "where the files of reviews can be fetched without asking")
    by_hand: str = setting("", "how to get the files otherwise, or when fetching fails")
    files: tuple[str, ...] = setting((), "files of one's own: paths, relative to the card")
    sha256: dict = setting(None, "checksums of fetched files by name, as far as they are known")
    items: str = setting("", "file with the items' titles: a URL, or a name looked for beside the reviews")
    licence: str = setting("", "terms of use, shown before anything is fetched")
    citation: str = setting("", "what to cite")
    columns: dict = setting(
        None, "columns by role {user, item, rating, time, text}; synthetic: the generator's settings"
    )
    data: Data = setting(Data, "filters and split, unless an experiment says otherwise")

    def __post_init__(self):
        for field in ("sha256", "columns"):  # a mapping cannot be a default
            if getattr(self, field) is None:
                object.__setattr__(self, field, {})
        for url in self.urls:
            if not url.startswith(("https://", "http://")):
                raise ValueError(f"urls: '{url}' is no http(s) address.")
        names = [file_name(url) for url in self.urls]
        if again := next((name for name in names if names.count(name) > 1), ""):
            raise ValueError(f"urls: two files are called {again}, and would be stored in one place.")
        if self.format != "synthetic":
            object.__setattr__(self, "columns", {k: "" if v is None else v for k, v in self.columns.items()})
            for role, column in self.columns.items():
                if not isinstance(column, str):
                    raise ValueError(f"columns: the column of the {role} is a name, not {column!r}; put it in quotes.")
        for name, digest in self.sha256.items():
            if len(str(digest)) != 64 or set(str(digest).lower()) - set("0123456789abcdef"):
                raise ValueError(f"sha256: the checksum of {name} must be 64 hexadecimal digits.")

    @property
    def folder(self) -> Path:
        """Where its files are fetched to, and where files got by hand may be put: ``HOME/raw/NAME``."""
        return home() / "raw" / self.name

    def sources(self) -> list[Path]:
        """The reviews as found on this machine: the card's own files, or what lies in :attr:`folder`.

        Empty where there is nothing (then ``--source`` or a fetch is needed), and for synthetic reviews.

        Raises:
            UserError: a file that the card names is not there.
        """
        if self.files:
            for path in map(Path, self.files):
                if not path.exists():
                    raise UserError(f"The card '{self.name}' names {path}, but there is no such file.")
            return [Path(path) for path in self.files]
        if not self.folder.is_dir():
            return []
        if self.urls:
            fetched = [self.folder / file_name(url) for url in self.urls]
            return fetched if all(path.exists() for path in fetched) else []
        titles = file_name(self.items)
        return sorted(p for p in self.folder.iterdir() if not p.name.startswith(".") and p.name != titles)

    def how_to_get(self) -> str:
        """One sentence or two for somebody who has not got the files."""
        if self.format == "synthetic":
            return f"It is generated: `symcere prepare {self.name}`."
        fetch = f"Fetch it with `symcere fetch {self.name}`. " if self.urls else ""
        steps = fetch + (f"By hand: {self.by_hand.strip()}" if fetch and self.by_hand.strip() else self.by_hand.strip())
        return f"{steps.strip()} Put the files into {self.folder}, or name them with --source.".strip()


def find(name_or_path: str | Path) -> Card:
    """The card at a path, or of a name; the end of a name will do where it is the only one.

    Raises:
        UserError: no such card (with the nearest names), or one that is not valid.
    """
    given = str(name_or_path)
    path = Path(given)
    if path.suffix in (".yaml", ".yml") or "/" in given or "\\" in given:
        if not path.is_file():
            raise UserError(f"There is no card {path}. Give a card's name (`symcere datasets` lists them) or a path.")
        return _load(path)
    known = _known()
    if given in known:
        return _load(known[given])
    ends = [name for name in known if given and name.endswith("-" + given)]
    if len(ends) == 1:
        return _load(known[ends[0]])
    help = f"Did you mean {' or '.join(ends)}?" if ends else nearest(given, known)
    raise UserError(
        f"Unknown data set '{given}'. {help} `symcere datasets` lists all; a set of your own needs a card "
        "(path to a YAML file) or a new name with --source FILE."
    )


def cards() -> list[Card]:
    """Every card that comes with symcere, by platform and name."""
    order = ("e-commerce", "local", "travel", "synthetic", "other")
    return sorted((_load(path) for path in _known().values()), key=lambda card: (order.index(card.platform), card.name))


def own(name: str, sources: Sequence[Path], format: str = "", columns: dict[str, str] | None = None) -> Card:
    """A card for files that have none, from flags alone."""
    return Card(
        name=name,
        title=name,
        format=format,
        files=tuple(str(Path(source).absolute()) for source in sources),
        columns=dict(columns or {}),
        data=Data(dataset=name),
    )


def folder() -> Path:
    """Where the cards are: the checkout's ``datasets``, or else the packaged copy."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent / "datasets"
    return checkout if (checkout / "schema.json").is_file() else package / "_datasets"


def _known() -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder().glob("*.yaml"))}


def _load(path: Path) -> Card:
    return _read(path.absolute(), path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _read(path: Path, changed: int) -> Card:
    tree = read_yaml(path)
    with naming(path):
        card = build(Card, tree)
    name, split = card.name or path.stem, card.data.split
    if split.files:
        split = replace(split, files=str(path.parent / split.files))
    return replace(
        card,
        name=name,
        title=card.title or name,
        files=tuple(str(path.parent / file) for file in card.files),
        data=replace(card.data, dataset=name, split=split),
    )
