"""Small generated data sets and a toy model, with which smoke tests of papers need no downloads."""

from __future__ import annotations

import json
import random
from pathlib import Path

from etude.records.files import write_text

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dogs", "and", "cats", "ran"]
TEXT, PAIRS, LABELLED = "toy-text.txt", "toy-pairs.jsonl", "toy-labelled.jsonl"
NAMES = (TEXT, PAIRS, LABELLED)
"""File names; a paper's smoke overrides contain them in braces."""


def write_files(folder: Path) -> dict[str, Path]:
    """Writes small generated data files to `folder`, and returns their paths by name.

    A name is a file name with its suffix. The content is the same each time. `toy-text.txt`
    contains sentences. In `toy-pairs.jsonl`, `target` is `source` with its words in reverse order.
    In `toy-labelled.jsonl`, `label` is "cats" if `text` contains this word and otherwise "none",
    `cats` is the number of its occurrences, and `second` is another text.
    """
    draw = random.Random(0)
    sentences = [draw.choices(WORDS, k=draw.randint(4, 12)) for _ in range(240)]
    lines = [" ".join(words) for words in sentences]
    pairs = [
        {"source": line, "target": " ".join(reversed(words))}
        for line, words in zip(lines, sentences, strict=True)
    ]
    labelled = [
        {
            "text": line,
            "second": other,
            "label": "cats" if "cats" in line else "none",
            "cats": line.split().count("cats"),
        }
        for line, other in zip(lines, reversed(lines), strict=True)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / TEXT, "".join(f"{line}.\n" for line in lines))
    for name, rows in ((PAIRS, pairs), (LABELLED, labelled)):
        write_text(folder / name, "".join(json.dumps(row) + "\n" for row in rows))
    return {name: folder / name for name in NAMES}


def save_model(folder: Path) -> tuple[Path, int]:
    """Saves a tiny GPT-2 with random weights and a tokenizer in Hugging Face's format.

    Args:
        folder: folder for the model's weights and config and for `tokenizer.json`; created if
            missing.

    Returns:
        `folder`, and the maximum number of tokens of an input.
    """
    import torch

    from etude.data.tokenizer import BPE
    from etude.interop.pretrained import save_weights
    from etude.models.decoder import Decoder
    from etude.nn.attention import MultiHeadAttention
    from etude.nn.block import PreNormBlock
    from etude.nn.feedforward import GELUTanh
    from etude.nn.mask import Causal
    from etude.nn.norm import LayerNorm
    from etude.nn.position import Learned

    tokenizer = BPE(vocab_size=280).train([" ".join(WORDS)] * 3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = Decoder(
            vocab_size=tokenizer.vocab_size, layers=1, heads=2, dim=8, max_length=32,
            attention=MultiHeadAttention, position=Learned, norm=LayerNorm, feedforward=GELUTanh,
            mask=Causal, block=PreNormBlock,
        )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(module, folder)
    tokenizer.save(folder / "tokenizer.json")
    return folder, module.max_length
