"""Small released folders as `transformers` writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import zoo
from tokenizers import processors

from etude.data.tokenizer import BPE, Tokenizer
from etude.data.wordpiece import WordPiece

TEXT = ["the people of the united states, and the congress of 1862; their peace.", "peace and war"]


def bpe() -> Tokenizer:
    return BPE(vocab_size=300).train(TEXT * 3)


def wordpiece() -> Tokenizer:
    return WordPiece(vocab_size=80).train(TEXT * 3)


def closed(tokenizer: Tokenizer) -> Tokenizer:
    """Adds a token after each text, as T5's tokenizer does."""
    return tokenizer.closed_by("<|endoftext|>")


def framed(tokenizer: Tokenizer) -> Tokenizer:
    """Adds BERT's tokens around each text."""
    backend = tokenizer.backend
    names = {name: backend.token_to_id(name) for name in ("[CLS]", "[SEP]")}
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=list(names.items())
    )
    return tokenizer


def write_folder(folder: Path, model: Any, tokenizer: Tokenizer | None, **generation: Any) -> Path:
    """Writes weights, config and `tokenizer.json`."""
    zoo.randomised(model).save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save(folder / "tokenizer.json")
    if generation:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def write_gpt2(folder: Path, **more: Any) -> Path:
    tokenizer = bpe()
    return write_folder(folder, zoo.gpt2(vocab_size=tokenizer.vocab_size, **more), tokenizer)
