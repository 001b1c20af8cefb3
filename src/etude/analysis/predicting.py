"""Predictions of a run for unlabelled texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from etude.analysis.scoring import evaluation_options
from etude.data.delimited import Quoting
from etude.data.examples.input_texts import read_texts
from etude.data.examples.source import Text
from etude.errors import Problem, RequestError


class Predictor:
    """Makes predictions, such as labels or tags, for texts with the model of a run.

    Args:
        run: an `etude.api.Run`.
        which: checkpoint to use, such as `best`.
        how: the task's options for evaluation (`etude.tasks.options`); an option that is None has
            its default.

    Raises:
        RequestError: the run's task makes no predictions for single texts.
    """

    def __init__(self, run: Any, which: str | int, **how: Any) -> None:
        self.data = run.data()
        self.options = evaluation_options(run, self.data, how)
        self.task = run.task(which)
        if not self.task.predicts:
            raise RequestError(self.task.no_predictions(str(run.path)))

    def __call__(self, texts: Sequence[Text], pair: str | None = None) -> Iterator[dict[str, Any]]:
        """Yields the predictions for each text, in order.

        The keys of a prediction depend on the task. A classifier's prediction has `text`, `label`,
        `probability` (of this label) and `probabilities` (a dict from each label to its
        probability). A tagger's has `text`, `words` and `tags`. A translation has `source` and
        `target`.

        Args:
            texts: the texts. For a tagging run, a text can be a list of words; for a run on pairs
                of texts, it can be a pair.
            pair: for a run on pairs, one second text that is combined with each of `texts`; only if
                `texts` contains no pairs.

        Raises:
            RequestError: a text is empty, or there are no texts.
        """
        task, data = self.task, self.data
        empty = [number for number, text in enumerate(texts, 1) if not "".join(text).strip()]
        if empty or not texts:
            if empty:
                raise RequestError(Problem(f"text {empty[0]}", "a non-empty text"))
            raise RequestError(Problem("texts", "at least one non-empty text"))
        if pair is not None and any(isinstance(text, tuple) for text in texts):
            hint = f"the file has second texts in the column {data.second_column}"
            raise RequestError(Problem("pair", "no value", pair, hint))
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
        """Yields the texts of a file; see `etude.data.examples.input_texts.read_texts`.

        Args:
            file: the file.
            quoting: quoting of a CSV or TSV file; None for the quoting of the run's data.
        """
        yield from read_texts(file, self.data, quoting)
