"""Small files of common words, for each kind of task."""

from __future__ import annotations

import json
import random
from pathlib import Path

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dogs", "and", "cats", "ran"]


def write_toys(folder: Path) -> None:
    """Writes `text.txt`, `labelled.jsonl`, `pairs.jsonl`, `words.conllu`, `scored.jsonl`,
    `values.jsonl` and `questions.jsonl`.

    The label is whether there are cats; the second of a pair is the first backwards; a word's tag
    is its first letter, its number the count of its letters, the first word's is not known; a
    text's number is the count of its words; a question is what comes after a word.
    """
    draw = random.Random(7)
    sentences = [draw.choices(WORDS, k=draw.randint(2, 12)) for _ in range(150)]
    text = "".join(" ".join(words) + ".\n" for words in sentences)
    (folder / "text.txt").write_text(text, encoding="utf-8")
    labelled, pairs, tagged = [], [], []
    scored, values, questions = [], [], []
    for words in sentences:
        plain = " ".join(words)
        label = "cats" if "cats" in words else "none"
        labelled.append(json.dumps({"text": plain, "label": label, "long": len(words) > 6}))
        pairs.append(json.dumps({"source": plain, "target": " ".join(reversed(words))}))
        scored.append(json.dumps({"text": plain, "score": len(words) / 4}))
        numbers = [None, *map(len, words[1:])]
        values.append(json.dumps({"words": words, "values": numbers}))
        place = draw.randrange(1, len(words))
        start = len(" ".join(words[:place])) + 1
        answers = {"text": [words[place]], "answer_start": [start]}
        asked = f"after {words[place - 1]}"
        questions.append(json.dumps({"question": asked, "context": plain, "answers": answers}))
        cells = (f"{n}\t{w}\t{w}\t{w[0].upper()}" + "\t_" * 6 for n, w in enumerate(words, 1))
        tagged.append("\n".join(cells) + "\n")
    for name, lines in (
        ("labelled.jsonl", labelled),
        ("pairs.jsonl", pairs),
        ("scored.jsonl", scored),
        ("values.jsonl", values),
        ("questions.jsonl", questions),
    ):
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "words.conllu").write_text("\n".join(tagged) + "\n", encoding="utf-8")
