"""Writes `postprocessed.json`: answers as the example script of transformers chooses them.

    python make.py FOLDER

`FOLDER` holds `utils_qa.py` of `examples/pytorch/question-answering` in the repository
huggingface/transformers (Apache 2.0), whose `postprocess_qa_predictions` is called. Contexts,
windows and logits are made up here.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np

LONGEST, CANDIDATES, LENGTH, STRIDE = 5, 6, 14, 3


class Examples(list[dict[str, Any]]):
    """With columns, as a data set has them."""

    def __getitem__(self, key: Any) -> Any:
        return [each[key] for each in self] if isinstance(key, str) else super().__getitem__(key)


def made() -> tuple[Examples, list[dict[str, Any]]]:
    draw = random.Random(5)
    examples, features = Examples(), []
    for number in range(25):
        words = [draw.choice(["no", "Ada", "1843", "the", "engine", "Note-G,"]) for _ in range(18)]
        context = " ".join(words)
        examples.append({"id": str(number), "context": context})
        places, at = [], 0
        for word in words:
            places.append((at, at + len(word)))
            at += len(word) + 1
        question = [None] * (2 + number % 3)
        room = LENGTH - len(question) - 1
        for first in range(0, len(places), room - STRIDE):
            window = places[first : first + room]
            features.append(
                {"example_id": str(number), "offset_mapping": [*question, *window, None]}
            )
            if first + room >= len(places):
                break
    return examples, features


def main(folder: str) -> None:
    sys.path.insert(0, folder)
    from utils_qa import postprocess_qa_predictions

    examples, features = made()
    random = np.random.default_rng(11)
    logits = np.round(random.normal(size=(len(features), 2, LENGTH)) * 3, 3)
    unlikely = [int(feature["example_id"]) % 3 == 0 for feature in features]
    logits[np.array(unlikely), :, 0] += 6  # an answer
    for number, feature in enumerate(features):
        logits[number, :, len(feature["offset_mapping"]) :] = -1e4  # padding
    answers: dict[str, Any] = {}
    for name, may_be_none in (("always", False), ("perhaps", True)):
        out = Path(__file__).parent / name
        out.mkdir()
        found = postprocess_qa_predictions(
            examples, features, (logits[:, 0], logits[:, 1]), may_be_none, CANDIDATES, LONGEST,
            output_dir=str(out),
        )  # fmt: skip
        best = json.loads((out / "nbest_predictions.json").read_text())
        answers[name] = [
            [text, next(each["probability"] for each in best[key] if each["text"] == text)]
            for key, text in found.items()
        ]
        for file in out.iterdir():
            file.unlink()
        out.rmdir()
    told = {
        "longest": LONGEST,
        "candidates": CANDIDATES,
        "contexts": examples["context"],
        "windows": [
            {
                "row": int(feature["example_id"]),
                "begins": [
                    -1 if place is None else place[0] for place in feature["offset_mapping"]
                ],
                "ends": [-1 if place is None else place[1] for place in feature["offset_mapping"]],
                "logits": logits[n, :, : len(feature["offset_mapping"])].T.tolist(),
            }
            for n, feature in enumerate(features)
        ],
        "answers": answers,
    }
    file = Path(__file__).with_name("postprocessed.json")
    file.write_text(json.dumps(told, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
