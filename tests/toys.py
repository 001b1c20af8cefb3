"""Small files of common words, for each kind of task."""

from __future__ import annotations

import json
import random
from pathlib import Path

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dogs", "and", "cats", "ran"]


def write_toys(folder: Path) -> None:
    """Writes `text.txt`, `labelled.jsonl`, `pairs.jsonl` and `words.conllu`.

    The label is whether there are cats; the second of a pair is the first backwards; a word's tag
    is its first letter.
    """
    draw = random.Random(7)
    sentences = [draw.choices(WORDS, k=draw.randint(2, 12)) for _ in range(150)]
    text = "".join(" ".join(words) + ".\n" for words in sentences)
    (folder / "text.txt").write_text(text, encoding="utf-8")
    labelled, pairs, tagged = [], [], []
    for words in sentences:
        plain = " ".join(words)
        label = "cats" if "cats" in words else "none"
        labelled.append(json.dumps({"text": plain, "label": label, "long": len(words) > 6}))
        pairs.append(json.dumps({"source": plain, "target": " ".join(reversed(words))}))
        cells = (f"{n}\t{w}\t{w}\t{w[0].upper()}" + "\t_" * 6 for n, w in enumerate(words, 1))
        tagged.append("\n".join(cells) + "\n")
    for name, lines in (("labelled.jsonl", labelled), ("pairs.jsonl", pairs)):
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "words.conllu").write_text("\n".join(tagged) + "\n", encoding="utf-8")
