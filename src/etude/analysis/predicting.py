"""What a run says of texts that nobody has labelled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from etude.analysis.scoring import options_of
from etude.data.delimited import Quoting
from etude.data.examples.source import Text
from etude.data.examples.texts import texts_in
from etude.errors import Problem, RequestError


class Predictor:
    """A run, ready to be asked.

    Args:
        run: an `etude.api.Run`.
        which: its checkpoint.
        how: the task's options (`etude.tasks.options`); None is as usual.

    Raises:
        RequestError: the run's task says nothing of a text alone.
    """

    def __init__(self, run: Any, which: str, **how: Any) -> None:
        self.data = run.data()
        self.options = options_of(run, self.data, how)
        self.task = run.task(which)
        if not self.task.predicts:
            raise RequestError(self.task.no_predictions(str(run.path)))

    def __call__(self, texts: Sequence[Text], pair: str | None = None) -> Iterator[dict[str, Any]]:
        """What it says of each text, in their order; of a text without any letters, an error.

        Args:
            texts: of a tagging run also lists of words; of a run on pairs also both texts.
            pair: the second text, where the texts come without.
        """
        task, data = self.task, self.data
        empty = [number for number, text in enumerate(texts, 1) if not "".join(text).strip()]
        if empty or not texts:
            where = f"text {empty[0]}" if empty else "--file"
            raise RequestError(Problem(where, "some text; it is empty"))
        if pair is not None and any(isinstance(text, tuple) for text in texts):
            expected = f"none: the file has the column {data.second_column}"
            raise RequestError(Problem("--pair", expected, pair))
        rows = [
            row
            for text in texts
            for row in (
                data.rows_of_texts([text[0]], text[1], task.labels)
                if isinstance(text, tuple)
                else data.rows_of_texts([text], pair, task.labels)
            )
        ]
        evaluated = data.evaluated_rows(rows, task.tokenizer, task.labels)
        yield from task.predict(evaluated, self.options)

    def read(self, file: Path, quoting: Quoting | None = None) -> Iterator[Text]:
        """The texts of a file; see `etude.data.examples.texts.texts_in`."""
        yield from texts_in(file, self.data, quoting)
