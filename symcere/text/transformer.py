"""A Hugging Face transformer as a text encoder: sorted by length, batched by tokens, bf16 where it is faster."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from symcere.config import Encoder
from symcere.errors import UserError
from symcere.text import cpu
from symcere.text.models import content_of, find_model

BUDGET = {"cpu": 2**11, "cuda": 2**16}
"""Tokens of a batch, padding included: enough to saturate the device, few enough for the CPU's cache."""
WINDOW = 2048
"""Texts tokenised and sorted together."""


class Transformer:
    """A pre-trained model, loaded at the first :meth:`encode`.

    Texts are cut at ``max_tokens`` (or at what the model can take), forwarded in batches of similar length, pooled by
    the mean over tokens (Reimers & Gurevych, arXiv 1908.10084) or the last token (decoder LLMs), and brought to length
    one.
    """

    sample = 0

    def __init__(self, settings: Encoder, device: str | None = None, precision: torch.dtype | None = None):
        """
        Args:
            device: by default the GPU if there is one.
            precision: by default bfloat16 where the device is faster in it, else float32.

        Raises:
            UserError: the model is found nowhere, or cannot be read.
        """
        self.settings = settings
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.precision = precision or (torch.bfloat16 if _has_fast_bf16(self.device) else torch.float32)
        self.folder = find_model(settings)
        # Precision and device are not part of it: they move a vector by a cosine of 0.0001.
        self.identity: dict[str, Any] = {
            "kind": "transformer",
            "content": content_of(self.folder),
            "max_tokens": settings.max_tokens,
            "pooling": settings.pooling,
            "instruction": settings.instruction,
        }

    def fit(self, texts: Sequence[str]) -> None:
        raise TypeError("A transformer comes trained.")

    def save(self, folder: Path) -> None:
        """Nothing: the weights stay where they are; ``identity`` tells if they are the same later."""

    def restore(self, folder: Path) -> None:
        """Nothing to restore."""

    # ------------------------------------------------------------ the model

    @cached_property
    def _config(self) -> Any:
        from transformers import AutoConfig

        return self._read(AutoConfig.from_pretrained)

    @property
    def width(self) -> int:
        return self._config.get_text_config().hidden_size

    @cached_property
    def model(self) -> torch.nn.Module:
        """The network, in evaluation mode, on its device and in its precision."""
        from transformers import AutoModel

        on_cpu = self.device.type == "cpu"
        attention = cpu.register_attention(self._config) if on_cpu else None
        model = self._read(AutoModel.from_pretrained, dtype=self.precision, attn_implementation=attention)
        if getattr(model.config, "is_encoder_decoder", False):
            model = model.get_encoder()
        model = model.eval().requires_grad_(False).to(self.device)
        return cpu.pack(model) if on_cpu else model

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        tokenizer = self._read(AutoTokenizer.from_pretrained)
        if not tokenizer.is_fast:
            return tokenizer
        tokenizer.backend_tokenizer.no_padding()
        tokenizer.backend_tokenizer.enable_truncation(self.max_tokens)
        return tokenizer

    def _read(self, read: Callable[..., Any], **settings: Any) -> Any:
        from transformers.utils import logging

        bar = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()  # of the weights: a fraction of a second
        try:
            return read(self.folder, local_files_only=True, **settings)
        except (OSError, ValueError, KeyError, ImportError) as error:
            why = " ".join(str(error).split())[:300]
            raise UserError(f"transformers cannot read '{self.settings.name}' in {self.folder}: {why}") from error
        finally:
            if bar:
                logging.enable_progress_bar()

    @cached_property
    def max_tokens(self) -> int:
        """Tokens of a text at most, special ones included: the setting, or what the model has positions for."""
        limits = [self.settings.max_tokens]
        positions = getattr(self._config.get_text_config(), "max_position_embeddings", None)
        if positions:
            # RoBERTa and its kin number positions from the padding index + 1 on.
            offset = getattr(getattr(self.model, "embeddings", None), "padding_idx", None)
            limits.append(positions - (0 if offset is None else offset + 1))
        return min(limits)

    # ------------------------------------------------------------ encoding

    def encode(self, texts: Sequence[str], advance: Callable[[int], Any] | None = None) -> np.ndarray:
        """float32 ``[n, width]``, rows of length one.

        Values do not depend on the order of the texts nor on their company, but for rounding in the precision.
        """
        vectors = np.empty((len(texts), self.width), np.float32)
        self.model  # noqa: B018  loaded before the threads below
        with torch.inference_mode():
            for rows, tokens in self._windows(texts):
                for batch in self._batches(tokens):
                    vectors[rows[batch]] = self._forward([tokens[k] for k in batch])
                    if advance:
                        advance(len(batch))
        return vectors

    def reads(self, text: str) -> int:
        """Characters up to the end of the last token that is not cut; all of them where the tokenizer is a slow one,
        which does not know where its tokens stand."""
        if not self._tokenizer.is_fast:
            return len(text)
        found = self._tokenizer.backend_tokenizer.encode(self.settings.instruction + text)
        if not found.overflowing:
            return len(text)
        return max(max(end for _, end in found.offsets) - len(self.settings.instruction), 0)

    def _windows(self, texts: Sequence[str]) -> Iterator[tuple[np.ndarray, list[list[int]]]]:
        """Texts of similar length, longest first, with their tokens; the next window is tokenised meanwhile."""
        order = np.argsort([-len(text) for text in texts], kind="stable")
        windows = [order[start : start + WINDOW] for start in range(0, len(texts), WINDOW)]
        with ThreadPoolExecutor(1) as pool:
            ahead = [pool.submit(self._tokenise, [texts[k] for k in rows]) for rows in windows[:1]]
            for n, rows in enumerate(windows):
                tokens = ahead.pop().result()
                if n + 1 < len(windows):
                    ahead.append(pool.submit(self._tokenise, [texts[k] for k in windows[n + 1]]))
                yield rows, tokens

    def _tokenise(self, texts: list[str]) -> list[list[int]]:
        texts = [self.settings.instruction + text for text in texts]
        if self._tokenizer.is_fast:
            return [found.ids for found in self._tokenizer.backend_tokenizer.encode_batch_fast(texts)]
        return self._tokenizer(texts, truncation=True, max_length=self.max_tokens)["input_ids"]

    def _batches(self, tokens: list[list[int]]) -> Iterator[list[int]]:
        """Positions of texts, longest first, within the budget of tokens."""
        lengths = np.array([max(len(ids), 1) for ids in tokens])
        order = np.argsort(-lengths, kind="stable")
        start = 0
        while start < len(order):
            size = max(BUDGET[self.device.type] // lengths[order[start]], 1)
            yield order[start : start + size].tolist()
            start += size

    def _forward(self, tokens: list[list[int]]) -> np.ndarray:
        """float32 ``[b, width]``"""
        lengths = torch.tensor([len(ids) for ids in tokens])
        L = max(int(lengths.max()), 1)
        ids = torch.full((len(tokens), L), self._tokenizer.pad_token_id or 0, dtype=torch.long)
        for row, found in enumerate(tokens):
            ids[row, : len(found)] = torch.tensor(found)
        # Padding on the right; no mask where nothing is padded: attention is faster without.
        mask = (torch.arange(L) < lengths[:, None]).long().to(self.device) if lengths.min() < L else None
        ids, lengths = ids.to(self.device), lengths.to(self.device)
        states = self.model(input_ids=ids, attention_mask=mask)
        return pool(states.last_hidden_state, lengths, self.settings.pooling).cpu().numpy()


def pool(states: Tensor, lengths: Tensor, pooling: str) -> Tensor:
    """Token states ``[b, L, width]`` of texts padded on the right → float32 ``[b, width]`` of length one.

    A text without a token (a tokenizer without special ones, a text of nothing that it knows) is a zero row.
    """
    mask = torch.arange(states.shape[1], device=states.device) < lengths[:, None]
    if pooling == "mean":  # the sum will do: the length is one in the end
        pooled = torch.einsum("bl,bld->bd", mask.float(), states.float())
    else:
        pooled = states[torch.arange(len(states), device=states.device), (lengths - 1).clamp(min=0)].float()
        pooled = pooled * (lengths > 0)[:, None]
    return F.normalize(pooled, dim=1)


def _has_fast_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and cpu.has_fast_bf16()
