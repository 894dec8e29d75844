"""All-ranking evaluation against its physical limit: the bare matrix product of the scores.

    python benchmarks/evaluating.py [--users 40000 --items 20000 --dim 64 --k 20 --repeats 5 --threads 1]

One run measures, alternately, (a) the bare product Z_u Z_iᵀ in chunks into reused memory, at the best of several
chunk sizes, and the same by ``symcere.model.product``, (b) the whole evaluation: scores, seen items masked, exact
top k with ties broken, every metric and popularity figure, and (c) the plain form of peers: the product, the mask and
``torch.topk``, without metrics. Prints ratios to (a), the median of paired repeats with their spread; ``--json`` for
a program. On a machine with a GPU, ``--device cuda``.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import torch
from scipy.sparse import csr_array

from symcere.evaluation import Evaluator
from symcere.evaluation.ranking import entries
from symcere.model.product import matmul
from symcere.model.scorer import FactorScorer


def corpus(users: int, items: int, interactions: int, rng: np.random.Generator) -> SimpleNamespace:
    """Random interactions with popular items, eight tenths for training, each user with one test item or more."""

    def split(pairs: np.ndarray) -> csr_array:
        rows, columns = np.divmod(np.unique(pairs), items)
        return csr_array((np.ones(len(rows), np.float32), (rows, columns)), shape=(users, items))

    draw = (items * rng.random(interactions) ** 2).astype(np.int64)
    pairs = np.unique(rng.integers(users, size=interactions) * items + draw)
    pairs = rng.permutation(pairs)
    tenth = len(pairs) // 10
    every = np.arange(users) * items + rng.integers(items, size=users)
    test = np.union1d(every, pairs[:tenth])
    rest = np.setdiff1d(pairs[tenth:], test)
    rest = rng.permutation(rest)
    return SimpleNamespace(train=split(rest[tenth:]), val=split(rest[:tenth]), test=split(test))


def plain(scorer: FactorScorer, exclude: csr_array, k: int, size: int = 1024) -> None:
    """Top k as peers do it: scores of a batch of users, seen ones set to -inf, ``topk``."""
    for start in range(0, scorer.num_users, size):
        users = np.arange(start, min(start + size, scorer.num_users))
        scores = scorer.users[torch.from_numpy(users)] @ scorer.items.T
        rows, columns = entries(exclude, users)
        scores[torch.from_numpy(rows), torch.from_numpy(columns)] = -torch.inf
        scores.topk(k, dim=1)


def product(scorer: FactorScorer, size: int) -> None:
    """The bare matrix product by torch's own choice, chunk by chunk into the same memory."""
    memory = torch.empty(size, scorer.num_items, device=scorer.users.device)
    for rows in scorer.users.split(size):
        torch.mm(rows, scorer.items.T, out=memory[: len(rows)])


def fastest(scorer: FactorScorer, size: int) -> None:
    """The same by the library that is fastest here."""
    for rows in scorer.users.split(size):
        matmul(rows, scorer.items.T)


def seconds(function: Callable[..., object], *args: object) -> float:
    """Of this process's CPU, which a busy machine does not stretch; of the wall with a GPU or several threads."""
    clock = time.perf_counter
    if torch.get_num_threads() == 1 and not torch.cuda.is_available():
        clock = time.process_time
    start = clock()
    function(*args)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - start


def measure(args: argparse.Namespace) -> dict[str, float]:
    torch.set_num_threads(args.threads)
    rng = np.random.default_rng(0)
    data = corpus(args.users, args.items, args.interactions, rng)
    torch.manual_seed(0)
    factors = torch.randn(args.users + args.items, args.dim, device=args.device)
    scorer = FactorScorer(factors[: args.users], factors[args.users :])
    ks = tuple(k for k in (5, 10, 20, 50) if k <= args.k)
    evaluator = Evaluator(data, "test", ks)  # type: ignore[arg-type]

    sizes = [s for s in (32, 64, 128, 256, 1024, 4096) if s <= args.users]
    best, quickest = (
        min(sizes, key=lambda size, how=how: min(seconds(how, scorer, size) for _ in range(2)))  # type: ignore[misc]
        for how in (product, fastest)
    )
    bare, least, whole, peer = [], [], [], []
    for _ in range(args.repeats):
        bare.append(seconds(product, scorer, best))
        least.append(seconds(fastest, scorer, quickest))
        whole.append(seconds(evaluator, scorer))
        peer.append(seconds(plain, scorer, evaluator.exclude, args.k))
    ratios = [w / b for w, b in zip(whole, bare, strict=True)]
    return {
        "product_s": statistics.median(bare),
        "product_chunk_users": best,
        "evaluation_over_product": statistics.median(ratios),
        "evaluation_over_product_min": min(ratios),
        "evaluation_over_product_max": max(ratios),
        "fastest_over_product": statistics.median(p / b for p, b in zip(least, bare, strict=True)),
        "evaluation_over_fastest": statistics.median(w / b for w, b in zip(whole, least, strict=True)),
        "plain_topk_over_product": statistics.median(p / b for p, b in zip(peer, bare, strict=True)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {
        "users": 40_000, "items": 20_000, "interactions": 400_000, "dim": 64, "k": 20, "repeats": 5, "threads": 1,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = measure(args)
    if args.json:
        print(json.dumps(found))
        return
    print(f"{args.users} users x {args.items} items, d = {args.dim}, k = {args.k}, {args.threads} thread(s)")
    print(f"  bare product               1.00   (chunks of {found['product_chunk_users']} users)")
    print(
        f"  whole evaluation           {found['evaluation_over_product']:.2f}   "
        f"({found['evaluation_over_product_min']:.2f} to {found['evaluation_over_product_max']:.2f})"
    )
    print(f"  bare product by symcere    {found['fastest_over_product']:.2f}")
    print(f"  whole evaluation over it   {found['evaluation_over_fastest']:.2f}")
    print(f"  product, mask, torch.topk  {found['plain_topk_over_product']:.2f}")


if __name__ == "__main__":
    main()
