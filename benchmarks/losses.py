"""Memory and time of a contrastive loss, forward and backward: the plain form against the product's.

    python benchmarks/losses.py                       # CPU, and the GPU where there is one
    python benchmarks/losses.py --sizes 2048x20000 16384x16384 --threads 4

One SINCERE term, d = 64, bias and temperature learned, eight known positives an anchor. The plain form is what one
writes first: all logits, a boolean mask, ``logsumexp``. Every case runs in a process of its own; memory is what
the peak of one step adds (resident memory on a CPU, allocated on a GPU), time the median of some steps. The ratios
matter.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from symcere.objective import Known, contrastive, pair_logits

DIM, DEGREE = 64, 8
FORMS = ("plain", "product")
# Beyond these the plain form would need more than a usual machine has; it is then left out and said so.
PLAIN_BYTES = {"cpu": 8 << 30, "cuda": 60 << 30}


def step(form: str, leaves: list[Tensor], known: Known) -> None:
    """One forward and backward pass; pair k is (anchor k, its first known positive)."""
    anchors, candidates, bias, scale = leaves
    anchors, candidates = F.normalize(anchors, dim=1), F.normalize(candidates, dim=1)
    at = known.col[::DEGREE]
    if form == "product":
        loss = contrastive(
            anchors,
            candidates[at],
            candidates,
            kind="sincere",
            scale=scale,
            known=known,
            bias=bias,
            positive_bias=bias[at],
        ).value
    else:
        mask = torch.zeros(len(anchors), len(candidates), dtype=torch.bool, device=anchors.device)
        mask[known.row, known.col] = True
        logits = scale * (anchors @ candidates.T) + bias
        rest = logits.masked_fill(mask, -torch.inf).logsumexp(1)
        loss = F.softplus(rest - pair_logits(anchors, candidates[at], scale, bias[at])).mean()
    loss.backward()
    for leaf in leaves:
        leaf.grad = None


def measure(device: str, form: str, A: int, C: int, threads: int, steps: int) -> dict[str, float]:
    """Megabytes that a step adds and milliseconds that it takes."""
    torch.set_num_threads(threads)
    g = torch.Generator().manual_seed(0)

    def problem(A: int, C: int) -> tuple[list[Tensor], Known]:
        leaves = [torch.randn(A, DIM, generator=g), torch.randn(C, DIM, generator=g), torch.randn(C, generator=g)]
        leaves.append(torch.tensor(5.0))
        row = torch.arange(A).repeat_interleave(DEGREE)
        col = (torch.arange(A)[:, None] * 7 + torch.arange(DEGREE) * 31).flatten() % C
        return [x.to(device).requires_grad_() for x in leaves], Known(row.to(device), col.to(device))

    gpu = device == "cuda"
    step(form, *problem(128, 128))  # libraries load their kernels
    leaves, known = problem(A, C)
    if gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() / 2**20
    else:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    times = []
    for _ in range(steps):
        begin = time.perf_counter()
        step(form, leaves, known)
        if gpu:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    peak = (
        torch.cuda.max_memory_allocated() / 2**20 if gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    )
    return {"megabytes": peak - before, "milliseconds": 1000 * statistics.median(times)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", metavar="AxC", help="anchors x candidates")
    parser.add_argument("--devices", nargs="+", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(**json.loads(arguments.case))))
        return
    usual = {
        "cpu": ["1024x1024", "2048x1500", "2048x20000", "4096x4096", "8192x8192", "16384x16384"],
        "cuda": ["2048x1500", "2048x20000", "16384x16384", "65536x65536", "131072x131072"],
    }
    print(
        f"{'device':7} {'anchors x candidates':>22} {'plain MB':>10} {'MB':>8} {'plain ms':>10} {'ms':>9} {'ratio':>9}"
    )
    for device in arguments.devices or (["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]):
        for size in arguments.sizes or usual[device]:
            A, C = (int(n) for n in size.split("x"))
            found: dict[str, dict[str, float]] = {}
            for form in FORMS:
                needed = 6 * 4 * A * C if form == "plain" else 0
                if needed > PLAIN_BYTES[device]:
                    continue
                case = {"device": device, "form": form, "A": A, "C": C}
                case |= {"threads": arguments.threads, "steps": arguments.steps}
                command = [sys.executable, __file__, "--case", json.dumps(case)]
                run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                found[form] = json.loads(run.stdout.splitlines()[-1])
            plain, ours = found.get("plain"), found["product"]
            print(
                f"{device:7} {size:>22} {plain['megabytes'] if plain else float('nan'):10.0f} {ours['megabytes']:8.0f}"
                f" {plain['milliseconds'] if plain else float('nan'):10.1f} {ours['milliseconds']:9.1f}"
                f" {plain['milliseconds'] / ours['milliseconds'] if plain else float('nan'):9.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
