"""The data of a saved run: its batches, and where their examples come from."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from etude.api.saved_run import SavedRun
from etude.arguments import check_arguments
from etude.console import hide_messages
from etude.errors import Problem, RequestError

if TYPE_CHECKING:
    import pandas as pd

    from etude.data.evaluation_data import Evaluated, EvaluationRequest


class RunData(SavedRun):
    """A saved run with its data; a base class of `Run`. Its arguments are those of `SavedRun`."""

    @check_arguments(RequestError)
    def batch(self, step: int) -> dict[str, Any]:
        """Returns the batch of an optimizer step, over all processes, as tensors by name.

        The names depend on the task. For a language model, they include `tokens` and `targets`,
        both of shape (examples, length). A notebook shows the first examples as text.

        Args:
            step: optimizer step, as in the metrics; the first is 1.

        Raises:
            RequestError: the run has no such step, or its data is missing or differs from that of
                training.
        """
        from etude.analysis.data_trace import batch_of

        return batch_of(self, step)

    @check_arguments(RequestError)
    def places(self, step: int) -> pd.DataFrame:
        """Returns a table of the documents or data rows in the examples of an optimizer step.

        The table has one row for each document or data row in each example. Columns: `example`
        (number in the step, from 1), `document` (index of the document or data row in the training
        split, from 0), `source` (text that states where it comes from) and, for continuous text,
        `first` and `end`: the example contains the document's tokens `first` to `end` - 1.

        Args:
            step: optimizer step, as in the metrics; the first is 1.

        Raises:
            RequestError: as for `batch`.
        """
        import pandas as pd

        from etude.analysis.data_trace import example_sources

        return pd.DataFrame(example_sources(self, step))

    @check_arguments(RequestError)
    def readings(self, text: str) -> pd.DataFrame:
        """Returns a table of the optimizer steps in which the run used a text.

        The table has one row for each example of a step that contains the text or, if an example
        begins or ends within the text, a part of it.
        Columns: `step` (optimizer step), all columns of `places`, and `whole`, which states whether
        the example contains the complete text.

        Args:
            text: the text to find; upper and lower case and spaces must match.

        Raises:
            RequestError: the training split does not contain the text, or as for `batch`.
        """
        import pandas as pd

        from etude.analysis.data_trace import steps_of_text

        rows = steps_of_text(self, text)
        columns = ["step", "example", "document", "source", "whole"]
        return pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)

    @check_arguments(RequestError)
    def data(self, split: str | None = None) -> Any:
        """Returns the batches of a split of the run's data, or its data module.

        Example:
            for batch in run.data("val"):
                logits = model(batch["tokens"])

        Args:
            split: `val`, `train`, or `test` if the data has one; None for the data module, an
                `etude.data.module.DataModule`. The data module is not prepared, and its files may
                be missing; `data.prepare(folder)` prepares it in a folder for prepared data.

        Returns:
            For a split, an iterable of its batches, in which each example occurs once. A batch is a
            dict from names, such as `tokens`, to tensors.

        Raises:
            RequestError: the data has no such split, is missing or differs from that of training.
        """
        from etude.data.evaluation_data import EvaluationRequest
        from etude.training.model import configured_vocabulary

        if split is not None:
            return self.evaluated(self.data(), EvaluationRequest(split)).batches()
        data = self.checked.nodes["data"].build()
        data.model_vocabulary = configured_vocabulary(self.checked) or 0
        task: Any = self.checked.nodes["task"].build()
        data.for_task(task.constructor.objective(**task.arguments))
        return data

    def evaluated(self, data: Any, asked: EvaluationRequest) -> Evaluated:
        """Returns the examples to evaluate, from the run's data or from other files.

        Args:
            data: the run's data module; this method prepares the data unless other files are
                requested.
            asked: the requested split or files.

        Raises:
            RequestError: the data is missing, differs from that of training, or lacks the requested
                split.
        """
        if asked.files is None:
            self.prepare(data)
        asked = replace(asked, tokenizer=self.tokenizer(), labels=self.labels)
        evaluated: Evaluated = data.evaluated_with_rows(asked)
        return evaluated

    def prepare(self, data: Any) -> None:
        """Checks that the data of the data module `data` is the run's training data; prepares it.

        The prepared data is written to the cache folder: `run.cache` of the config or, if it is not
        set, `$ETUDE_CACHE` or `~/.cache/etude`.

        Raises:
            RequestError: the data is missing or differs from that of training.
        """
        from etude.training.run_folder import cache_folder

        with hide_messages():
            data.check()
        fingerprint, recorded = data.fingerprint(), self.summary["data"]["fingerprint"]
        if fingerprint != recorded:
            expected = f"the fingerprint of the training data, {recorded}"
            hint = (
                "the data has changed since the run was trained; restore it, or pass other data to "
            )
            hint += "evaluate"
            raise RequestError(Problem("the run's data", expected, fingerprint, hint))
        with hide_messages():
            data.prepare(cache_folder(self.checked))
