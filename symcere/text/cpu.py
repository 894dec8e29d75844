"""What makes a transformer fast on a CPU: attention by plain matrix products, weights packed once, fused GELU.

PyTorch's fused attention reaches a tenth of the speed of its matrix products here, and a plain ``nn.Linear`` packs its
weight anew in each call. Both are exchanged where the model is of a known, plain kind; the values stay those of the
model in its precision.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from symcere.processor import made_by_amd

PLAIN = {"bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert"}
"""Model types whose attention is softmax(q kᵀ · scale + padding mask) v and nothing else."""
SCORES = 2**20
"""Attention scores computed at a time, so that they stay in the cache."""
SAFE = 80.0
"""Below this, exp and the sum of a row of exps stay within bfloat16 and float32."""


def has_fast_bf16() -> bool:
    """Whether this processor multiplies matrices faster in bfloat16 than in float32.

    With AMX, and AMD's with AVX512-bf16, do. Intel's with AVX512-bf16 alone, as many virtual machines show them, take
    twice as long as in float32: 88 GFLOP/s instead of 160.
    """
    amx, avx512 = (  # the names are torch's own, hence the care
        getattr(torch.cpu, name, lambda: False)() for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    )
    return bool(amx or (avx512 and made_by_amd()))


def register_attention(config: Any) -> str | None:
    """The name of the attention to ask of transformers for this model: ``chunked`` where it is exact, else its own."""
    if config.model_type not in PLAIN or getattr(config, "is_decoder", False):
        return None
    try:
        from transformers import AttentionInterface, AttentionMaskInterface
        from transformers.masking_utils import eager_mask
    except ImportError:  # transformers before 4.53
        return None
    AttentionInterface.register("chunked", chunked_attention)
    AttentionMaskInterface.register("chunked", eager_mask)
    return "chunked"


def chunked_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """softmax(q kᵀ · scaling + mask) v by plain matrix products over a few texts at a time.

    Args:
        query, key, value: ``[b, heads, L, e]``.
        attention_mask: ``[b, 1, L, L]``, added to the scores: 0, or very negative in the columns of padding.

    Returns:
        ``[b, L, heads, e]``, and None for the weights.
    """
    b, heads, L, e = query.shape
    scaling = e**-0.5 if scaling is None else scaling
    out = query.new_empty(b, L, heads, e)
    # Cauchy-Schwarz bounds every score. Where the bound is small, the softmax needs no maximum of each row: it becomes
    # exp and a division of the much smaller result, half the time; and padding has weight 0 instead of a mask.
    bound = query.norm(dim=-1).amax(-1) * key.norm(dim=-1).amax(-1) * scaling  # [b, heads]
    bounded = bool(bound.max() < SAFE)
    weight = None
    if bounded and attention_mask is not None:
        weight = (attention_mask[:, :, :1] == 0).to(value.dtype).transpose(2, 3)  # [b, 1, L, 1]
        value = value * weight
    size = max(SCORES // (heads * L * L), 1)
    for start in range(0, b, size):
        rows = slice(start, min(start + size, b))
        n = rows.stop - start
        q, k, v = (x[rows].reshape(n * heads, L, e) for x in (query, key, value))
        scores = torch.baddbmm(q.new_empty(1, 1, 1), q, k.transpose(1, 2), beta=0, alpha=scaling)
        if bounded:
            scores.exp_()
            each = weight[rows].expand(n, heads, L, 1).reshape(n * heads, L, 1) if weight is not None else None
            total = scores.sum(-1, keepdim=True) if each is None else torch.bmm(scores, each)
            mixed = torch.bmm(scores, v).div_(total)
        else:
            if attention_mask is not None:
                scores.view(n, heads, L, L).add_(attention_mask[rows])
            mixed = torch.bmm(torch.softmax(scores, -1, out=scores), v)
        out[rows] = mixed.view(n, heads, L, e).transpose(1, 2)
    return out, None


class PackedLinear(nn.Module):
    """``activation(x Wᵀ + b)`` with W in oneDNN's own layout: for inference only."""

    def __init__(self, linear: nn.Linear, activation: str = "none"):
        super().__init__()
        self.activation = activation
        self.register_buffer("bias", linear.bias, persistent=False)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), 2048)

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, self.activation, [], "none")


def pack(model: nn.Module) -> nn.Module:
    """Exchanges the linear layers of a model of a plain kind for packed ones; GELU is fused where it follows.

    The operators are those that PyTorch's compiler emits; where they are missing, or do not give the values of the
    model's own layers, it is left as it is.
    """
    if getattr(model.config, "model_type", "") not in PLAIN or not torch.backends.mkldnn.is_available():
        return model
    dtype = cast(torch.dtype, model.dtype)
    try:
        with torch.no_grad():
            x = torch.linspace(-1, 1, 8 * 32, dtype=dtype).view(8, 32)
            probe = nn.Linear(32, 16, dtype=dtype)
            atol = 0.02 if dtype == torch.bfloat16 else 1e-5
            if not torch.allclose(PackedLinear(probe, "gelu")(x), F.gelu(probe(x)), atol=atol):
                return model
    except (AttributeError, NotImplementedError, RuntimeError):
        return model
    for module in list(model.modules()):
        # transformers' BERT and its kin: intermediate_act_fn(dense(x)).
        if type(getattr(module, "intermediate_act_fn", None)).__name__ == "GELUActivation":
            module.dense = PackedLinear(cast(nn.Linear, module.dense), "gelu")
            module.intermediate_act_fn = nn.Identity()
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, PackedLinear(child))
    return model
