"""A GPU that is none: tensors that say they are on one, and the errors that a real one has for what is not.

    with gpu() as (device, waits):
        fit(corpus, embeddings, experiment, device=device)

Everything is computed on the CPU, by the same kernels; what is made out is where each tensor is said to be. Mixing the
two sides, NumPy on tensors of the GPU and messages of tensors that are not there raise as on CUDA, and every place
where the host would wait for the device is counted.

PyTorch registers such a device for a whole process: use it in one that does nothing else.
"""

import contextlib
import functools
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

import symcere
from symcere.model.workers import Workers
from symcere.training import fit


class _Backend(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


NAME = "npu"
backend_registration._setup_privateuseone_for_python_backend(NAME, _Backend())
_no_casts = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
_no_casts.fallback(torch.library.fallthrough_kernel)
DEVICE = torch.device(NAME, 0)
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
COPYING = {"copy_", "_to_copy"}
WAITING = {"_local_scalar_dense", "nonzero", "_unique2", "unique_consecutive", "masked_select", "equal"}
"""Whose result, or its size, the host has to know."""


class OnGPU(torch.Tensor):
    """Stands for ``inner``, a tensor of the CPU."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "OnGPU":
        layout: dict[str, Any] = {"layout": inner.layout}
        if inner.layout == torch.strided:
            layout |= {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=DEVICE, **layout)
        made.inner = inner
        return made

    def __repr__(self) -> str:
        return f"OnGPU({self.inner})"

    def tolist(self) -> Any:
        return self.inner.tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert a tensor of a GPU to numpy. Use Tensor.cpu() to copy it to the host first.")

    __array__ = numpy

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


class RandomOnGPU(torch.Generator):
    """Its numbers are those of the CPU."""

    device = DEVICE


class _Mode(TorchDispatchMode):
    """For what has no tensor among its arguments."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


seeds: set[int] = set()
"""Of generators of the GPU: a generator is another object below the dispatcher."""
waits: Counter[str] = Counter()
"""How often the host waited, by place."""
ROOT = f"{Path(symcere.__file__).parent}/"
objects = 0
"""Above zero while objects are sent, which go by the host."""


def each(change: Callable[[Any], Any], of: Any) -> Any:
    """What a nest of an operator's arguments holds, changed; PyTorch's own way to do so takes most of the time."""
    if isinstance(of, (list, tuple)):
        return type(of)(each(change, one) for one in of)
    if isinstance(of, dict):
        return {key: each(change, one) for key, one in of.items()}
    return change(of)


@functools.cache
def divides(func: Any) -> bool:
    """Whether an operator is made of others."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operator, on the CPU."""
    if divides(func):
        with _Mode():  # in inference mode it comes here undivided
            return func.decompose(*args, **kwargs)
    name = func.name().partition("::")[2].partition(".")[0]
    tensors: list[torch.Tensor] = []
    each(lambda x: tensors.append(x) if isinstance(x, torch.Tensor) else None, (args, kwargs))
    there = [type(t) is OnGPU for t in tensors]
    if "device" in kwargs and kwargs["device"] is not None:
        goes = torch.device(kwargs["device"]).type == NAME
        kwargs = {**kwargs, "device": torch.device("cpu"), **({"pin_memory": False} if "pin_memory" in kwargs else {})}
    else:
        goes = any(there)
    if func.namespace == "c10d" and not objects and not all(there):
        raise RuntimeError(f"No backend type associated with device type cpu: {func}")
    if any(there) and name not in COPYING:
        _check(func, name, args, tensors)
    random = kwargs.get("generator")
    if random is not None and (random.initial_seed() in seeds) != goes:
        raise RuntimeError(f"A generator of another device: {func}")
    if any(there) and _waits(name, args, kwargs, goes):
        waits[_place()] += 1

    plain_args, plain_kwargs = each(lambda x: x.inner if type(x) is OnGPU else x, (args, kwargs))
    result = func(*plain_args, **plain_kwargs)
    given = {id(t.inner if type(t) is OnGPU else t): t for t in tensors}  # what is changed in place is what was given

    def stands(t: Any) -> Any:
        return given.get(id(t)) if id(t) in given else OnGPU(t) if goes and isinstance(t, torch.Tensor) else t

    return each(stands, result)


def _check(func: Any, name: str, args: Any, tensors: list[torch.Tensor]) -> None:
    """Numbers go along with everything, indices of the host along with tensors of a GPU, nothing else."""
    checked = [args[0], *args[2:3]] if name in INDEXING else tensors
    if name in INDEXING and type(args[0]) is not OnGPU:
        raise RuntimeError(f"Indices should be on the CPU, where the indexed tensor is: {func}")
    if any(type(t) is not OnGPU and t.dim() for t in checked):
        sides = [(NAME if type(t) is OnGPU else "cpu", tuple(t.shape)) for t in tensors]
        raise RuntimeError(f"Expected all tensors to be on the same device: {func} of {sides}")


def _waits(name: str, args: Any, kwargs: dict[str, Any], goes: bool) -> bool:
    if name in COPYING:
        return (type(args[0]) is OnGPU) != (type(args[1]) is OnGPU if name == "copy_" else goes)
    if name in INDEXING:
        return any(i is not None and i.dtype == torch.bool for i in args[1])
    return name in WAITING or (name == "repeat_interleave" and kwargs.get("output_size") is None)


def _place() -> str:
    """The line of symcere that is at work."""
    frame = sys._getframe()
    while frame and not frame.f_code.co_filename.startswith(ROOT):
        frame = frame.f_back  # type: ignore[assignment]
    return f"{frame.f_code.co_filename.removeprefix(ROOT)}:{frame.f_lineno}" if frame else "backward"


def _sending(method: Callable[..., Any]) -> Callable[..., Any]:
    def send(*args: Any) -> Any:
        global objects
        objects += 1
        try:
            return method(*args)
        finally:
            objects -= 1

    return send


def _generator(device: torch.device, *key: int) -> torch.Generator:
    made = _make_generator(torch.device("cpu"), *key)
    if device.type != NAME:
        return made
    seeds.add(made.initial_seed())
    there = RandomOnGPU()
    there.manual_seed(made.initial_seed())
    return there


_make_generator = fit.__globals__["generator"]


@contextlib.contextmanager
def gpu() -> Iterator[torch.device]:
    """A device to train on, in this process."""
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # a tensor that stands for one has no data
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(…, device=…) is a copy from the host
    fit.__globals__["generator"] = _generator
    kept = Workers.agree, Workers.collect
    Workers.agree, Workers.collect = map(_sending, kept)  # type: ignore[method-assign]
    try:
        with _Mode():
            yield DEVICE
    finally:
        Workers.agree, Workers.collect = kept  # type: ignore[method-assign]
        fit.__globals__["generator"] = _make_generator
        torch._C._set_only_lift_cpu_tensors(False)
        torch.__future__.set_overwrite_module_params_on_conversion(False)
