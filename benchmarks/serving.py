"""Serving: latency of one request, requests a second over HTTP, and rows a second in batches.

    python benchmarks/serving.py                     # a made-up model: 100,000 users, 20,000 items
    python benchmarks/serving.py --model models:/shop@champion --http

The service is timed in this process, on one thread: known users, new users by the items they liked, and by their words
(with an encoder that costs nothing: the encoder's own cost is in ``encoding.py``), each with plain and filtered lists.
``--http`` starts ``mlflow models serve`` on a registered model and asks it from several connections.
The yardstick is one dense product of a user's vector with all items and a full sort, in NumPy.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
import torch

from symcere.config import Model
from symcere.model.scorer import FactorScorer
from symcere.serving import Newcomers, Request, Service

SEED, T = 0, 256


class Words:
    """An encoder that costs nothing: a fixed direction for every text."""

    def encode(self, texts: list[str]) -> np.ndarray:
        return np.ones((len(texts), T), np.float32) / T**0.5


def made_up(users: int, items: int, d: int) -> Service:
    random = torch.Generator().manual_seed(SEED)
    z_u, z_i = (torch.nn.functional.normalize(torch.randn(n, d, generator=random), dim=1) for n in (users, items))
    rng = np.random.default_rng(SEED)
    seen = sp.csr_array(
        (np.ones(users * 10, np.float32), (np.repeat(np.arange(users), 10), rng.integers(0, items, users * 10))),
        shape=(users, items),
    )
    popularity = np.bincount(seen.indices, minlength=items)
    tower = torch.nn.Linear(T + 2, d, bias=False).requires_grad_(False)
    newcomers = Newcomers(
        Model(dim=d),
        torch.from_numpy(popularity).float(),
        text_sums=torch.randn(items, d, generator=random),
        tower=tower,
    )
    return Service(
        name="made up",
        scorer=FactorScorer(z_u, z_i, torch.rand(items, generator=random)),
        weight=1.0,
        user_ids=pa.array([f"user-{n:07}" for n in range(users)]),
        item_ids=pa.array([f"item-{n:07}" for n in range(items)]),
        item_titles=None,
        seen=seen,
        popularity=popularity,
        newcomers=newcomers,
        encoder=Words,  # type: ignore[arg-type]
        sentences=lambda item: [],
    )


def latency(call: Callable[[int], Any], times: int) -> tuple[float, float]:
    """p50 and p99 in milliseconds, after a tenth as many calls to warm up."""
    for n in range(times // 10):
        call(n)
    took = []
    for n in range(times):
        start = time.perf_counter()
        call(n)
        took.append((time.perf_counter() - start) * 1000)
    return float(np.percentile(took, 50)), float(np.percentile(took, 99))


def in_process(service: Service, times: int) -> None:
    users, items = (ids.to_pylist() for ids in (service.user_ids, service.item_ids))
    stock = tuple(items[::20])
    scorer = service.scorer
    assert isinstance(scorer, FactorScorer)
    assert scorer.bias is not None
    z_u, z_i, bias = scorer.users.numpy(), scorer.items.numpy(), scorer.bias.numpy()
    kinds: dict[str, Callable[[int], Any]] = {
        "yardstick: product and full sort": lambda n: np.argsort(-(z_i @ z_u[n % len(z_u)] + bias))[:10],
        "known user": lambda n: service.recommend([Request(users[n % len(users)])]),
        "known user, a twentieth in stock": lambda n: service.recommend(
            [Request(users[n % len(users)], candidates=stock)]
        ),
        "new user, five liked items": lambda n: service.recommend(
            [Request(liked_items=items[n % 1000 : n % 1000 + 5])]
        ),
        "new user, own words": lambda n: service.recommend([Request(review_text=f"words {n}")]),
    }
    print(f"{'one request, one thread':<38}{'p50 ms':>9}{'p99 ms':>9}")
    for name, call in kinds.items():
        p50, p99 = latency(call, times)
        print(f"{name:<38}{p50:>9.2f}{p99:>9.2f}")
    for size in (64, 1024, 8192):
        batch = [Request(users[n % len(users)]) for n in range(size)]
        service.recommend(batch[:64])
        start = time.process_time()
        service.recommend(batch)
        print(f"{f'batch of {size}':<38}{size / (time.process_time() - start):>9,.0f} rows a CPU second")


def over_http(model: str, user: str, times: int, connections: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", model, "--env-manager", "local"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    begun = time.perf_counter()
    server = subprocess.Popen(
        [*command, "--port", str(port)],
        env={**os.environ, "PATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    body = json.dumps({"dataframe_records": [{"user_id": user}], "params": {"k": 10}}).encode()

    def ask(_: int = 0) -> None:
        url = f"http://127.0.0.1:{port}/invocations"
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as reply:
            reply.read()

    try:
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=2).close()
                break
            if server.poll() is not None or time.perf_counter() - begun > 120:
                sys.exit("the server did not start: is MLFLOW_TRACKING_URI that of the registry?")
            time.sleep(0.2)
        print(f"\nmlflow models serve: up in {time.perf_counter() - begun:.1f} s")
        p50, p99 = latency(ask, times)
        print(f"{'over HTTP, one connection at a time':<38}{p50:>9.2f}{p99:>9.2f}")
        threads = [
            threading.Thread(target=lambda: [ask() for _ in range(times // connections)]) for _ in range(connections)
        ]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(f"{f'{connections} connections':<38}{times / (time.perf_counter() - start):>9,.0f} requests a second")
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--times", type=int, default=500, help="requests that are timed")
    parser.add_argument("--http", action="store_true", help="also over HTTP; needs --model")
    parser.add_argument("--model", default="", help="a registered model, models:/NAME@champion")
    parser.add_argument("--user", default="nobody", help="a user id to ask for over HTTP")
    parser.add_argument("--connections", type=int, default=4)
    args = parser.parse_args()
    torch.set_num_threads(1)
    in_process(made_up(args.users, args.items, args.dim), args.times)
    if args.http:
        over_http(args.model, args.user, args.times, args.connections)


if __name__ == "__main__":
    main()
