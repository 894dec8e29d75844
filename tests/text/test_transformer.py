import gzip
import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from symcere.config import Encoder
from symcere.errors import UserError
from symcere.text import Joined, cpu
from symcere.text.transformer import Transformer, pool

SPECIAL = [
    "x",
    "Ωραίο ξενοδοχείο, 素晴らしい!",
    "très bon 👍🏽",
    "word " * 3000,
    "a" * 5000,
    "!!!",
    "\u200b",
    "Ünïcödé\r\n\t",
]


def cosines(a, b):
    return (a * b).sum(1)


@pytest.fixture(scope="module")
def texts(shared_data):
    with gzip.open(shared_data / "Magazine_Subscriptions_5.json.gz", "rt", encoding="utf-8") as lines:
        found = [json.loads(line).get("reviewText", "") for line, _ in zip(lines, range(60), strict=False)]
    return [t for t in found if t.strip()] + SPECIAL


@pytest.fixture(scope="module")
def reference(minilm, texts):
    library = pytest.importorskip("sentence_transformers").SentenceTransformer(str(minilm.folder), device="cpu")
    library.max_seq_length = 64
    return library.encode(texts, normalize_embeddings=True)


def save_tokenizer(folder, special=False):
    """A word-level tokenizer of twenty words and, on wish, the special tokens of BERT."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *"abcdefghijklmnop"]
    tokenizer = Tokenizer(models.WordLevel({w: n for n, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if special:
        tokenizer.post_processor = processors.TemplateProcessing(
            "[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
        )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(folder)
    return words


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory):
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=20,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=24,
    )
    BertModel(config).save_pretrained(folder)
    save_tokenizer(folder, special=True)
    return folder


@pytest.fixture(scope="module")
def tiny_llama(tmp_path_factory):
    from transformers import LlamaConfig, LlamaModel

    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=20,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
    )
    LlamaModel(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def letters(rng, n, most=12):
    return [" ".join(rng.choice(list("abcdefghijklmnop"), rng.integers(1, most))) for _ in range(n)]


# ---------------------------------------------------------------- against sentence-transformers


def test_the_embeddings_of_sentence_transformers(minilm, texts, reference):
    ours = minilm.encode(texts)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)
    assert cosines(ours, reference).min() > 0.999


def test_float32_is_the_library_to_rounding(minilm, texts, reference):
    exact = Transformer(minilm.settings, device="cpu", precision=torch.float32).encode(texts)
    np.testing.assert_allclose(exact, reference, atol=2e-5)


def test_order_and_company_do_not_matter(minilm, texts):
    ours = minilm.encode(texts)
    order = np.random.default_rng(0).permutation(len(texts))
    assert cosines(minilm.encode([texts[k] for k in order]), ours[order]).min() > 0.9998
    for k in (0, len(texts) - 5, len(texts) - 1):
        assert cosines(minilm.encode([texts[k]]), ours[k : k + 1]).min() > 0.9998


def test_nothing_to_encode(minilm):
    assert minilm.encode([]).shape == (0, 384)
    joined = Joined([minilm.settings], [minilm])
    vectors = joined.encode(["", "good", " \n", "good"])
    assert not vectors[[0, 2]].any()
    np.testing.assert_array_equal(vectors[1], vectors[3])
    assert joined.encode([]).shape == (0, 384)


def test_equal_texts_are_forwarded_once(minilm):
    rows = []
    hook = minilm.model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    try:
        Joined([minilm.settings], [minilm]).encode(["good", "bad", "", "good", "good strings", "bad"])
    finally:
        hook.remove()
    assert sum(rows) == 3


def test_progress_counts_every_text(minilm, monkeypatch):
    monkeypatch.setattr("symcere.text.transformer.WINDOW", 4)
    done = []
    minilm.encode(["good " * n for n in range(1, 12)], done.append)
    assert sum(done) == 11


# ---------------------------------------------------------------- against slow loops


@pytest.mark.parametrize("instruction", ["", "a b : "])
def test_mean_over_tokens(tiny_bert, instruction, monkeypatch):
    monkeypatch.setitem(__import__("symcere.text.transformer").text.transformer.BUDGET, "cpu", 40)
    from transformers import AutoModel, AutoTokenizer

    texts = letters(np.random.default_rng(0), 30)
    settings = Encoder(name=str(tiny_bert), instruction=instruction)
    ours = Transformer(settings, device="cpu", precision=torch.float32).encode(texts)
    model, tokenizer = AutoModel.from_pretrained(tiny_bert).eval(), AutoTokenizer.from_pretrained(tiny_bert)
    for text, vector in zip(texts, ours, strict=True):
        ids = torch.tensor([tokenizer(instruction + text)["input_ids"]])
        with torch.no_grad():
            mean = model(input_ids=ids).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(vector, F.normalize(mean, dim=0), atol=1e-5)


@pytest.mark.parametrize("instruction", ["", "a b "])
def test_last_token_of_a_decoder(tiny_llama, instruction, monkeypatch):
    monkeypatch.setitem(__import__("symcere.text.transformer").text.transformer.BUDGET, "cpu", 40)
    from transformers import AutoModel, AutoTokenizer

    texts = letters(np.random.default_rng(1), 30)
    settings = Encoder(name=str(tiny_llama), pooling="last", instruction=instruction)
    ours = Transformer(settings, device="cpu", precision=torch.float32).encode(texts)
    model, tokenizer = AutoModel.from_pretrained(tiny_llama).eval(), AutoTokenizer.from_pretrained(tiny_llama)
    for text, vector in zip(texts, ours, strict=True):
        ids = torch.tensor([tokenizer(instruction + text)["input_ids"]])
        with torch.no_grad():
            last = model(input_ids=ids).last_hidden_state[0, -1]
        np.testing.assert_allclose(vector, F.normalize(last, dim=0), atol=1e-5)


def test_a_text_without_a_token_is_a_zero_row(tiny_llama):
    encoder = Transformer(Encoder(name=str(tiny_llama), pooling="last"), device="cpu", precision=torch.float32)
    vectors = encoder.encode(["\u200b\u2009", "a b"])
    assert np.isfinite(vectors).all()
    assert np.linalg.norm(vectors[1]) == pytest.approx(1, abs=1e-5)
    states = torch.randn(2, 3, 4)
    for pooling in ("mean", "last"):
        pooled = pool(states, torch.tensor([0, 2]), pooling)
        assert not pooled[0].any()
        assert pooled[1].norm() == pytest.approx(1, abs=1e-5)


def test_texts_are_cut_at_what_the_model_can_take(tiny_bert):
    encoder = Transformer(Encoder(name=str(tiny_bert)), device="cpu", precision=torch.float32)
    assert encoder.max_tokens == 24
    a, b, c = encoder.encode(["a " * 22 + "b " * 9, "a " * 22, "a " * 21 + "b"])
    np.testing.assert_allclose(a, b, atol=1e-6)
    assert np.abs(a - c).max() > 1e-3


@pytest.mark.parametrize("instruction", ["", "a b : "])
def test_what_is_beyond_the_part_that_is_read_changes_nothing(tiny_bert, instruction):
    encoder = Transformer(Encoder(name=str(tiny_bert), max_tokens=8, instruction=instruction), device="cpu")
    text = "c,  d e f; g h i j k l"
    read = encoder.reads(text)
    assert text[:read] == ("c,  d e f;" if not instruction else "c,  d")  # six tokens beside the special ones
    whole, part, shorter, longer = encoder.encode([text, text[:read], text[: read - 1], text[:read] + " a a a"])
    np.testing.assert_array_equal(whole, part)
    np.testing.assert_array_equal(whole, longer)
    assert np.abs(whole - shorter).max() > 1e-3
    assert encoder.reads("c d ") == 4
    assert encoder.reads("") == 0


def test_joined_encoders_read_the_longest_part_of_any(tiny_bert):
    short, long = (Transformer(Encoder(name=str(tiny_bert), max_tokens=n), device="cpu") for n in (4, 8))
    joined = Joined([short.settings, long.settings, short.settings], [short, long, short])
    text = "a b c d e f g h i"
    assert (short.reads(text), joined.reads(text), long.reads(text)) == (3, 11, 11)


# ---------------------------------------------------------------- the fast forms against the plain ones


@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("padded", [False, True])
def test_chunked_attention(monkeypatch, scale, padded):
    """``scale`` takes the scores below and beyond what exp can bear without a maximum; the last chunk is uneven."""
    monkeypatch.setattr(cpu, "SCORES", 3 * 2 * 7 * 7)
    torch.manual_seed(0)
    q, k, v = (torch.randn(8, 2, 7, 5) for _ in range(3))
    q = q * scale
    mask = None
    if padded:
        kept = torch.arange(7) < torch.tensor([7, 1, 3, 7, 2, 6, 5, 4])[:, None]
        mask = torch.zeros(8, 1, 7, 7).masked_fill(~kept[:, None, None], torch.finfo(torch.float32).min)
    out, _ = cpu.chunked_attention(torch.nn.Module(), q, k, v, mask, scaling=0.3)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3).transpose(1, 2)
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_plain_models_use_it_and_others_do_not(tiny_bert, tiny_llama):
    for folder, name in ((tiny_bert, "chunked"), (tiny_llama, "sdpa")):
        model = Transformer(Encoder(name=str(folder)), device="cpu").model
        assert model.config._attn_implementation == name


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN")
@pytest.mark.parametrize(("precision", "least"), [(torch.float32, 0.999999), (torch.bfloat16, 0.9998)])
def test_packed_layers_give_the_values_of_the_plain_ones(tiny_bert, monkeypatch, precision, least):
    texts = letters(np.random.default_rng(2), 40)
    settings = Encoder(name=str(tiny_bert))
    packed = Transformer(settings, device="cpu", precision=precision)
    fast = packed.encode(texts)
    # Without AVX-512 oneDNN does not multiply bfloat16: the model then keeps its own layers.
    able = precision == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert (cpu.PackedLinear in {type(m) for m in packed.model.modules()}) == able
    monkeypatch.setattr(cpu, "pack", lambda model: model)
    plain = Transformer(settings, device="cpu", precision=precision).encode(texts)
    assert cosines(fast, plain).min() > least


@pytest.mark.parametrize(
    ("amx", "avx512", "amd", "expected"),
    [
        (True, True, False, torch.bfloat16),
        (False, True, True, torch.bfloat16),
        (False, True, False, torch.float32),  # Intel's without AMX: half the rate of float32
        (False, False, True, torch.float32),
    ],
)
def test_bfloat16_is_taken_where_the_processor_is_faster_in_it(tiny_bert, monkeypatch, amx, avx512, amd, expected):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(cpu, "made_by_amd", lambda: amd)
    assert Transformer(Encoder(name=str(tiny_bert)), device="cpu").precision == expected


def test_what_is_no_model_is_said(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(UserError, match="cannot read"):
        Transformer(Encoder(name=str(tmp_path))).encode(["a"])


KINDS = {
    "bert": {},
    "roberta": {"pad_token_id": 0, "max_position_embeddings": 40},
    "xlm-roberta": {"pad_token_id": 0},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
    "electra": {"embedding_size": 16},
    "mpnet": {"pad_token_id": 0},
    "modernbert": {
        "pad_token_id": 0,
        "local_attention": 4,
        "global_attn_every_n_layers": 2,
        "cls_token_id": 1,
        "sep_token_id": 2,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8},
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_models(kind, tmp_path):
    """Padded batches in the fast forms against one text at a time in the plain one."""
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    own = KINDS[kind]
    sizes = {} if {"d_model", "dim"} & own.keys() else sizes
    config = AutoConfig.for_model(kind, vocab_size=20, **{**sizes, **own})
    AutoModel.from_config(config).save_pretrained(tmp_path)
    words = save_tokenizer(tmp_path, special=True)
    pooling = "last" if kind == "qwen3" else "mean"
    texts = letters(np.random.default_rng(3), 25)
    plain = AutoModel.from_pretrained(tmp_path, attn_implementation="eager").eval()
    plain = plain.get_encoder() if kind == "t5" else plain
    slow = []
    for text in texts:
        ids = torch.tensor([[1, *map(words.index, text.split()), 2]])
        with torch.no_grad():
            states = plain(input_ids=ids).last_hidden_state[0]
        slow.append(F.normalize(states[-1] if pooling == "last" else states.mean(0), dim=0).numpy())
    for precision, least in ((torch.float32, 0.99999), (torch.bfloat16, 0.999)):
        encoder = Transformer(Encoder(name=str(tmp_path), pooling=pooling), device="cpu", precision=precision)
        assert encoder.width == 32
        assert cosines(encoder.encode(texts), np.array(slow)).min() > least
