"""Small models with random weights and a tokenizer of whole words."""

from __future__ import annotations

import json
from typing import Any

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers

from etude.data.tokenizer import Tokenizer
from etude.models.decoder import Decoder
from etude.models.encoder import Encoder
from etude.models.encoder_decoder import EncoderDecoder
from etude.models.language_model import LanguageModel
from etude.models.seq2seq import Seq2Seq
from etude.models.text_encoder import TextEncoder
from etude.nn.attention import MultiHeadAttention
from etude.nn.block import PreNormBlock
from etude.nn.feedforward import GELU
from etude.nn.mask import Bidirectional, Causal
from etude.nn.norm import LayerNorm
from etude.nn.position import Rotary

HOSTILE = "</script><script>document.title='ran'</script><img src=x onerror=document.title='ran'>"
WORDS = [
    "[UNK]", "[CLS]", "[SEP]", "<|endoftext|>", "a", "b", "c", "d", "\n", " ", "你好", "\u202e",
    "😀", HOSTILE, "<!--", "]]>", "&lt;", "\u3000", "\x00", "\u0301",
]  # fmt: skip
V = len(WORDS)
PARTS: dict[str, Any] = {
    "vocab_size": V, "heads": 2, "dim": 16, "max_length": 1024, "attention": MultiHeadAttention,
    "position": Rotary, "norm": LayerNorm, "feedforward": GELU, "block": PreNormBlock,
}  # fmt: skip


def words() -> Tokenizer:
    """A tokenizer that splits a text at `|`; each word of `WORDS` is a token."""
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    backend = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Split("|", "removed")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens(WORDS[:4])
    return Tokenizer(backend)


def decoder(**changes: Any) -> LanguageModel:
    parts = PARTS | {"layers": 2, "mask": Causal} | changes
    return LanguageModel(_random(Decoder(**parts)), words())


def encoder(**changes: Any) -> TextEncoder:
    parts = PARTS | {"layers": 2, "mask": Bidirectional} | changes
    return TextEncoder(_random(Encoder(**parts)), words().with_frame())


def seq2seq(**changes: Any) -> Seq2Seq:
    module = EncoderDecoder(**(PARTS | {"layers": 2, "mask": Causal} | changes))
    return Seq2Seq(_random(module), words())


def _random(module: Any) -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return module.eval()


def data_in(html: str) -> dict[str, Any]:
    """Returns the data that a page embeds."""
    text = html.partition('<script type="application/json" id="data">')[2]
    data: dict[str, Any] = json.loads(text.partition("</script>")[0])
    return data
