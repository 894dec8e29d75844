"""What a sweep stands on: its corpora with their embeddings, its studies, and room on Ray."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from symcere.config import Experiment, Text
from symcere.config.sweep import Declared, Search
from symcere.data.corpus import Corpus
from symcere.errors import UserError
from symcere.home import home, writing
from symcere.steps.corpora import Progress, embeddings_of, open_corpus
from symcere.steps.sweeps.needs import gpu_share, memory_of, one_size

if TYPE_CHECKING:
    from symcere.distributed.studies import Study


@dataclass(frozen=True)
class Ready:
    """A data set of a sweep, with all that its trials read."""

    corpus: Corpus
    embeddings: dict[Text, Path]
    searches: list[Search]
    """Their experiments' data part is that of the corpus."""


def open_all(declared: Declared, progress: Progress) -> list[Ready]:
    """Opens every data set and makes the embeddings that are not there yet.

    Raises:
        UserError: what is missing, all of it.
    """
    found: list[Corpus] = []
    missing: list[str] = []
    for dataset in declared.sweep.datasets:
        try:
            found.append(open_corpus(dataset))
        except UserError as error:
            missing.append(str(error))
    if missing:
        raise UserError(" ".join(missing))
    if len({corpus.name for corpus in found}) < len(found):
        raise UserError("Two names among `datasets` are one and the same data set.")
    ready = []
    texts = dict.fromkeys(text for search in declared.searches for text in search.texts)
    for corpus in found:
        embeddings = {}
        for text in texts:
            made = embeddings_of(corpus, replace(Experiment(), text=text), progress)
            assert made is not None
            embeddings[text] = made.path
        ready.append(Ready(corpus, embeddings, _on(corpus, declared.searches)))
    return ready


def _on(corpus: Corpus, searches: Sequence[Search]) -> list[Search]:
    return [replace(s, base=s.base.replace({"data": corpus.settings})) for s in searches]


def studies_of(
    declared: Declared, ready: Sequence[Ready], folder: Path, resources: Mapping[str, float]
) -> tuple[list["Study"], dict[str, float]]:
    """The studies, and the memory that a trial on each data set reserves."""
    from symcere.distributed.pool import most
    from symcere.distributed.studies import Study, open_storage, open_study

    sweep = declared.sweep
    storage = open_storage(sweep.storage, folder)
    prefix = f"{folder.name}-{_token(folder)}/" if sweep.storage else ""  # others may keep their studies there, too
    studies: list[Study] = []
    memory: dict[str, float] = {}
    for one in ready:
        # By the searches as declared, whose experiments are known by now; the data's own part changes nothing here.
        needed = max(
            memory_of(one.corpus, experiment, width)
            for search in declared.searches
            for width in [_width(one, search)]
            for experiment in search.experiments
        )
        gpu = gpu_share(sweep.resources.gpu, needed, resources)
        wanted = needed if sweep.resources.memory == "auto" else float(sweep.resources.memory) * 1e9
        # More than a node has would wait for ever; the estimate is no reason not to try.
        memory[one.corpus.name] = float(
            int(min(wanted, 0.8 * most("memory", {"CPU": sweep.resources.cpu, "GPU": gpu})))
        )
        for search in one.searches:
            number = len(studies)
            optimiser = open_study(storage, f"{prefix}{one.corpus.name}/{search.method}", sweep.sampler, number)
            studies.append(
                Study(
                    one.corpus.name,
                    one.corpus.path,
                    search,
                    one.embeddings,
                    folder / "trials",
                    optimiser,
                    sweep.stopping.milestones,
                    max(1, int(sweep.resources.cpu)),
                    gpu,
                    sweep.resources.workers,
                    one.corpus.fingerprint,
                )
            )
    return studies, one_size(memory, resources, sweep.resources.cpu)


def _token(folder: Path) -> str:
    """What tells a sweep from those of the same name elsewhere; made once."""
    path = folder / "token"
    if not path.exists():
        with writing(path) as part:
            part.write_text(secrets.token_hex(4))
    return path.read_text()


def _width(one: Ready, search: Search) -> int:
    """Columns of the widest embeddings that a method's trials read."""
    from symcere.text import Embeddings

    return max((Embeddings.open(one.embeddings[t], one.corpus).width for t in search.texts), default=0)


def room_for(declared: Declared, address: str) -> dict[str, float]:
    """The resources of Ray, once they hold a trial. A cluster may have to grow for it, this machine cannot.

    Raises:
        UserError: no trial would fit.
    """
    from symcere.distributed.pool import GROWTH, room

    asked = declared.sweep.resources
    seconds = GROWTH if address else 0.0
    gpu = 0.0 if asked.gpu == "auto" else float(asked.gpu)
    if asked.workers == 1:
        return room([{"CPU": asked.cpu, "GPU": gpu}], seconds)
    found = room([{"CPU": 1, "GPU": float(gpu > 0)}] * asked.workers, seconds)
    # Whether there are GPUs shows only where there are nodes at all.
    return room([{"CPU": 1, "GPU": 1}] * asked.workers, seconds) if asked.gpu == "auto" and found.get("GPU") else found


def together(declared: Declared, resources: Mapping[str, float]) -> int:
    """Trials of several workers at the same time at most; 0, of one worker: Ray counts."""
    asked = declared.sweep.resources
    if asked.workers == 1:
        return 0
    on_gpus = resources.get("GPU") and (asked.gpu == "auto" or float(asked.gpu) > 0)
    return max(1, int(min(resources[kind] // asked.workers for kind in ("CPU", *(["GPU"] if on_gpus else [])))))


def check_home(address: str = "") -> None:
    """Asks the nodes of the Ray that is running, if there is more than this machine, whether they share the home.

    Args:
        address: of a cluster, which may have no node but others; "" for a Ray of this machine.

    Raises:
        UserError: those that do not.
    """
    from symcere.distributed.nodes import blind
    from symcere.distributed.pool import living

    if len(living()) == 1 and not address:
        return
    home().mkdir(parents=True, exist_ok=True)
    found = blind(home())
    if found:
        raise UserError(
            f"The home {home()} has to be on a disk that all nodes share, since trials read and write it: "
            f"{'; '.join(found)}. Set SYMCERE_HOME to a folder that every node mounts (`symcere submit` passes it on "
            "with --env SYMCERE_HOME=/shared/symcere), and prepare the data sets there."
        )
