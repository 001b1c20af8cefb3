"""What a run says of texts that nobody has labelled."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from etude.analysis.evaluation import batches_of
from etude.analysis.written import answers, bound_to, search_of, translations
from etude.data.delimited import Quoting
from etude.data.examples.base import ExampleData
from etude.data.examples.conll import is_conll
from etude.data.examples.encoding import encode, warn_of_cut
from etude.data.examples.labelled import LabelledFiles
from etude.data.examples.source import Row
from etude.data.examples.tables import TableData
from etude.data.examples.tagged import Tagged
from etude.data.formats import format_of
from etude.data.plain import lines_of
from etude.data.rows import check_surrogates, columns_of, newlines, records_of
from etude.errors import Problem, RequestError
from etude.tasks.causal_lm import CausalLM
from etude.tasks.classification import Classification
from etude.tasks.instruction import Instruction
from etude.tasks.predictions import class_probabilities, word_tags
from etude.tasks.tagging import Tagging
from etude.tasks.translation import Translation

WORD = re.compile(r"[^ \t\n\r]+")  # a no-break space belongs to its word


class Predictor:
    """A run, ready to be asked.

    Args:
        run: an `etude.api.Run`.
        which: its checkpoint.
        beams, length_penalty: of a search for targets; None is as usual.

    Raises:
        RequestError: the run's task says nothing of a text alone.
    """

    def __init__(
        self, run: Any, which: str, beams: int | None = None, length_penalty: float | None = None
    ) -> None:
        self.run = run
        self.task = run.checked.nodes["task"].constructor
        known = (Classification, Tagging, Translation, Instruction)
        self.data = run.data()
        if not issubclass(self.task, known) or not isinstance(self.data, ExampleData):
            expected = "a run of classification, tagging, translation or instruction"
            writes = issubclass(self.task, CausalLM)
            hint = f"etude generate {run.path} continues texts" if writes else None
            raise RequestError(Problem("RUN", expected, self.task.__name__, hint))
        self.beams = search_of(self.task, beams, length_penalty)
        self.model = run.model(which)
        self.labels = run.summary.get("data", {}).get("labels", [])

    def __call__(
        self, texts: Sequence[str | list[str]], pair: str | None = None
    ) -> Iterator[dict[str, Any]]:
        """What it says of each text, in their order; of a text without any letters, an error.

        Args:
            texts: of a tagging run also lists of words.
        """
        paired = isinstance(self.data, LabelledFiles) and self.data.pair is not None
        if paired != (pair is not None):
            expected = "the second text: the run was trained on pairs" if paired else "no --pair"
            raise RequestError(Problem("--pair", expected, pair))
        empty = [number for number, text in enumerate(texts, 1) if not "".join(text).strip()]
        if empty or not texts:
            where = f"text {empty[0]}" if empty else "--file"
            raise RequestError(Problem(where, "some text; it is empty"))
        if issubclass(self.task, Tagging):
            yield from self._tags(texts)
            return
        plain = [text if isinstance(text, str) else " ".join(text) for text in texts]
        if issubclass(self.task, Translation):
            found = translations(self.model, plain, self.beams, self.data.sequence_length)
            for text, target in zip(plain, found, strict=True):
                yield {"source": text, "target": target}
        elif issubclass(self.task, Instruction):
            options = self.run.checked.nodes["task"].arguments
            template = bound_to(self.task, options, self.data, self.model)
            for text in plain:
                (target,) = answers(self.model, template, [text], self.data.sequence_length)
                yield {"source": text, "target": target}
        else:
            yield from self._labels(plain, pair)

    def read(self, file: Path, quoting: Quoting | None = None) -> Iterator[str | list[str]]:
        """The texts of a file: its lines, or a column of its rows. For tags also the sentences of
        CoNLL and CoNLL-U, and lists of words.

        Args:
            quoting: of CSV and TSV; None is as the run's data.

        Raises:
            RequestError: it can't be read, or has no such column.
        """
        form = format_of(file, without_suffix=True)
        if not file.is_file():
            raise RequestError(Problem("--file", "a file", str(file)))
        tags = issubclass(self.task, Tagging)
        if tags and isinstance(self.data, Tagged) and is_conll(file):
            yield from self.data.words_of(file)
            return
        if form is None or not form.rows:
            for number, line in enumerate(lines_of(file), 1):
                if not line.strip():
                    raise RequestError(Problem(f"{file}, line {number}", "some text; it is empty"))
                yield line.removesuffix("\n")
            return
        columns = self.data.columns() if isinstance(self.data, TableData) else {}
        wanted = [columns.get(key) for key in ("text", "source", "words")]
        column = next((name for name in wanted if name), "words" if tags else "text")
        quoting = quoting or getattr(self.data, "quoting", None)
        found = columns_of(file, form, quoting)
        if column not in found:
            hint = f"{file} has {', '.join(found)}" if found else f"{file} is empty"
            raise RequestError(Problem("--file", f"the column {column}", hint=hint))
        for where, row in records_of(file, form, [column], quoting):
            value = row[column]
            listed = tags and isinstance(value, list) and all(isinstance(x, str) for x in value)
            if not isinstance(value, str) and not listed:
                expected = "text or a list of words" if tags else "text"
                raise RequestError(Problem(where, expected, value))
            if not "".join(value).strip():
                raise RequestError(Problem(where, "some text; it is empty"))
            check_surrogates(where, "".join(value))
            yield value if listed else newlines(value)

    def _labels(self, texts: Sequence[str], pair: str | None) -> Iterator[dict[str, Any]]:
        data: Any = self.data
        pairs: list[Any] = [text if pair is None else (text, pair) for text in texts]
        found = encode(pairs, self.model.tokenizer, data.sequence_length)
        rows, examples, cut = [], [], 0
        for number, pieces in enumerate(found):
            taken, lost = data.pieces_of(pieces)
            cut += lost > 0
            for piece in taken:
                rows.append(number)
                examples.append({"tokens": piece.ids, "types": piece.type_ids, "label": [0]})
        warn_of_cut(cut, data.sequence_length)
        table = data.held(examples)
        answers = class_probabilities(self.model.module, batches_of(table), rows)
        for number, chances in answers.items():
            best = int(chances.argmax())
            yield {
                "text": texts[number],
                "label": self.labels[best],
                "probability": float(chances[best]),
                "probabilities": dict(zip(self.labels, map(float, chances), strict=True)),
            }

    def _tags(self, texts: Sequence[str | list[str]]) -> Iterator[dict[str, Any]]:
        data: Any = self.data
        words = [WORD.findall(text) if isinstance(text, str) else text for text in texts]
        rows = [Row("", {"words": each, "tags": [self.labels[0]] * len(each)}) for each in words]
        table, numbers = data.of_rows(rows, self.model.tokenizer, self.labels)
        for number, tags in word_tags(self.model.module, batches_of(table), numbers).items():
            yield {
                "text": " ".join(words[number]),
                "words": words[number],
                "tags": [self.labels[tag] for tag in tags],
            }
