"""Encoding reviews against ``SentenceTransformer.encode``: same model, same maximum length, same reviews.

    python benchmarks/encoding.py REVIEWS [--reviews 1000 --max-tokens 256 --threads 1 --repeats 3 --json]

REVIEWS is any review file (JSON lines, CSV, Parquet, …) or the folder of a prepared corpus. A random sample of it is
encoded alternately by both, in an order that turns round each time. Ratios (peer / ours) are medians over the pairs, in
CPU seconds and in wall time: on a machine that is shared, the former count. The smallest and the mean cosine between
the two show that they are the same embeddings. ``--profile`` prints where our time goes,
``--ours`` measures our rate alone.

What profiles of MiniLM showed on one thread with AVX512-bf16, 256 tokens, and what was done: PyTorch's fused attention
took 36 % of the time at a tenth of the rate of the matrix products (plain products with exp and a late division: 20 %),
linear layers packed their weights in each call (packed once: 15 % less time in them), GELU was a pass of its own
(fused). Two thirds of the time are now linear layers at the processor's bf16 rate; padding is under 1 % of tokens in
a full window, tokenising 2 % of the time. Ratio 3.7 to 4.2, median 4.0, on a machine shared with other work.

On the GPU (``--device cuda``) the share of the card's bf16 peak is given too (``--peak`` in TFLOP/s).
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from symcere.config import Encoder


def sample(path: Path, n: int) -> list[str]:
    """n random distinct reviews with text."""
    from symcere.data.corpus import Corpus
    from symcere.data.reviews import read

    prepared = (path / "manifest.json").exists()
    chunks = Corpus.open(path).texts("train").chunks if prepared else (batch["text"] for batch in read([path]))
    texts = list({t: None for chunk in chunks for t in chunk.to_pylist() if t.strip()})
    return [texts[k] for k in np.random.default_rng(0).permutation(len(texts))[:n]]


def clock(function: Callable[[], np.ndarray]) -> tuple[np.ndarray, dict[str, float]]:
    wall, cpu = time.perf_counter(), time.process_time()
    vectors = function()
    return vectors, {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}


def flops(config: Any, tokens: int) -> float:
    """Of the matrix products with weights, 2 for each token and weight of the blocks; attention not counted."""
    return (
        2.0
        * tokens
        * config.num_hidden_layers
        * (4 * config.hidden_size**2 + 2 * config.hidden_size * config.intermediate_size)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--reviews", type=int, default=1000)
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peak", type=float, default=0.0, help="bf16 peak of the device, TFLOP/s")
    parser.add_argument("--ours", action="store_true", help="without the peer")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    from symcere.text.transformer import Transformer

    texts = sample(args.path, args.reviews)
    ours = Transformer(Encoder(name=args.encoder, max_tokens=args.max_tokens), device=args.device)
    ours.encode(texts[:16])  # loads the model
    tokens = sum(map(len, ours._tokenise(texts)))
    if args.profile:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            ours.encode(texts)
        print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=16, max_name_column_width=40))

    measured: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
    sides: dict[str, Callable[[], np.ndarray]] = {"ours": lambda: ours.encode(texts)}
    if not args.ours:
        from sentence_transformers import SentenceTransformer

        peer = SentenceTransformer(str(ours.folder), device=args.device)
        peer.max_seq_length = args.max_tokens
        peer.encode(texts[:16])
        sides["peer"] = lambda: peer.encode(texts, normalize_embeddings=True)
    vectors = {}
    for repeat in range(args.repeats):
        for side in list(sides)[:: 1 if repeat % 2 else -1]:
            vectors[side], seconds = clock(sides[side])
            measured[side].append(seconds)

    best = {kind: min(m[kind] for m in measured["ours"]) for kind in ("cpu", "wall")}
    result: dict[str, float | str] = {
        "reviews": len(texts),
        "tokens_per_review": tokens / len(texts),
        "precision": str(ours.precision).removeprefix("torch."),
        "threads": args.threads,
        "reviews_per_cpu_second": len(texts) / best["cpu"],
        "reviews_per_second": len(texts) / best["wall"],
        "tokens_per_second": tokens / best["wall"],
    }
    if args.peak:
        result["share_of_peak"] = flops(ours.model.config, tokens) / best["wall"] / args.peak / 1e12
    if not args.ours:
        for kind in ("cpu", "wall"):
            ratios = [p[kind] / o[kind] for p, o in zip(measured["peer"], measured["ours"], strict=True)]
            result |= {
                f"ratio_{kind}": statistics.median(ratios),
                f"ratio_{kind}_low": min(ratios),
                f"ratio_{kind}_high": max(ratios),
            }
        cosine = (vectors["ours"] * vectors["peer"]).sum(1)
        result |= {"cosine_min": float(cosine.min()), "cosine_mean": float(cosine.mean())}
    if args.json:
        print(json.dumps(result))
    else:
        for key, value in result.items():
            print(f"{key:20} {value if isinstance(value, (str, int)) else f'{value:.4g}'}")


if __name__ == "__main__":
    main()
