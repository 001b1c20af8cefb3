"""Extractive question answering: the answer is a span of a given text."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from etude.data.evaluation_data import Evaluated
from etude.data.objective import IGNORE, Arrays, ExampleObjective, Numbers
from etude.errors import Checks
from etude.models.encoder import Encoder
from etude.tasks.base import MicroBatch, Setup, Task, shortened
from etude.tasks.classification import class_logits
from etude.tasks.losses import cross_entropy, each_cross_entropy
from etude.tasks.metrics import RowMetrics, Sum, ratio
from etude.tasks.options import EvaluationOptions


class AnswerSpanObjective(ExampleObjective):
    """Objective (conversion to model inputs and targets) for examples of question answering.

    An example is a window. It has tokens, the range of characters of the context that each token
    covers (`begins` and `ends`), and the indices of the answer's first and last token.
    """

    fields: ClassVar[tuple[str, ...]] = ("tokens", "types", "begins", "ends", "span")

    def lengths(self, lengths: Mapping[str, Numbers]) -> Numbers:
        return lengths["tokens"]

    def compose(self, fields: Arrays) -> Arrays:
        return {name: fields[name] for name in self.fields[:-1]} | {"labels": fields["span"]}

    def targets(self, arrays: Arrays) -> float:
        return float((arrays["labels"] != IGNORE).all())


class Candidate(NamedTuple):
    """A span of a context that may be the answer.

    Attributes:
        score: sum of the logits of its first and its last token.
        begin, end: the span is `context[begin:end]`, in characters of the context; if both are 0,
            there is no answer.
    """

    score: float
    begin: int
    end: int


class SpanMetrics(RowMetrics):
    """Metrics of answers: `loss` over windows, and over questions `exact_match` and `f1`, from 0 to
    100, as in the SQuAD script.

    Args:
        evaluated: the scored split or rows; contexts and answers are read from its rows.
        longest: largest number of tokens in an answer.
        candidates: number of most probable first tokens, and of last tokens, that are combined to
            spans in each window.
        no_answer: whether a question may have no answer.
    """

    def __init__(
        self, evaluated: Evaluated, *, longest: int, candidates: int, no_answer: bool
    ) -> None:
        self._evaluated = evaluated
        self.longest, self.candidates, self.no_answer = longest, candidates, no_answer
        self._nats, self._count = Sum(), Sum()
        self._windows: dict[int, tuple[list[Candidate], float]] = {}  # and the score of no answer

    def update(self, batch: Mapping[str, Any], outputs: Tensor) -> None:
        outputs = outputs.cpu()  # not every device has float64
        nats = each_cross_entropy(outputs.transpose(1, 2), batch["labels"].cpu()).mean(-1)
        self._nats.add(nats)
        self._count.add(len(nats))
        keep = batch.get("keep")
        begins = batch["begins"] if keep is None else batch["begins"].masked_fill(~keep, -1)
        for index, logits, first, last in zip(
            batch["index"].tolist(),
            outputs.double().numpy(),
            begins.cpu().numpy(),
            batch["ends"].cpu().numpy(),
            strict=True,
        ):
            self._windows[index] = (self._best(logits, first, last), float(logits[0].sum()))
        self.changed()

    def _best(
        self, logits: NDArray[np.float64], begins: NDArray[Any], ends: NDArray[Any]
    ) -> list[Candidate]:
        """Returns the best spans of a window, at most `candidates`, the most probable first.
        "No answer" is not among them.

        Args:
            logits: logits (T, 2) of the answer's first and last token.
            begins, ends: (T,), position of each token in the context: it covers the characters
                `context[begin:end]`. For a token outside of the context, `begin` is -1.
        """
        starts, stops = (np.argsort(-side, kind="stable")[: self.candidates] for side in logits.T)
        spans = [
            Candidate(float(logits[i, 0] + logits[j, 1]), int(begins[i]), int(ends[j]))
            for i in starts.tolist()
            for j in stops.tolist()
            if begins[i] >= 0 and begins[j] >= 0 and i <= j < i + self.longest
        ]
        return sorted(spans, key=lambda each: -each.score)[: self.candidates]

    def merge(self, other: SpanMetrics) -> None:
        self._nats.merge(other._nats)
        self._count.merge(other._count)
        self._windows |= other._windows
        self.changed()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_evaluated": None}  # the merging rank has its own

    def compute(self) -> dict[str, float]:
        return {"loss": ratio(self._nats, self._count), **self.of()}

    def of(self, rows: Container[int] | None = None) -> dict[str, float]:
        scores = [
            self._scores(number, text)
            for number, (text, _) in self.answers().items()
            if rows is None or number in rows
        ]
        exact, f1 = (100 * float(np.mean(side)) for side in zip(*scores, strict=True))
        return {"exact_match": exact, "f1": f1}

    def answers(self) -> dict[int, tuple[str, float]]:
        """Returns a dict from each row's index to the pair of its predicted answer and the answer's
        probability.

        The probabilities are a softmax of the scores of the best candidates in all windows: at most
        `candidates` spans, and no answer if that is possible. An empty answer means that the model
        predicts that the question has no answer.
        """
        return self._rows

    @cached_property
    def _rows(self) -> dict[int, tuple[str, float]]:
        rows: dict[int, list[tuple[list[Candidate], float]]] = {}
        for index, window in sorted(self._windows.items(), key=lambda item: item[0]):
            rows.setdefault(int(self._evaluated.row_of[index]), []).append(window)
        return {number: self._answer(number, windows) for number, windows in rows.items()}

    def _answer(
        self, number: int, windows: Sequence[tuple[list[Candidate], float]]
    ) -> tuple[str, float]:
        spans = [span for candidates, _ in windows for span in candidates]
        none = Candidate(min(score for _, score in windows), 0, 0)
        may_be_none = self.no_answer or not spans
        spans = sorted([*spans, none] if may_be_none else spans, key=lambda span: -span.score)
        best_spans = spans[: self.candidates]
        spans = best_spans if none in best_spans or not may_be_none else [*best_spans, none]
        scores = np.array([span.score for span in spans])
        weights = np.exp(scores - scores.max())
        first = spans[0]
        context = self._evaluated.data.read_context(self._evaluated.row(number))
        return context[first.begin : first.end], float(weights[0] / weights.sum())

    def _truth(self, number: int) -> list[str]:
        references = self._evaluated.data.read_answers(self._evaluated.row(number))
        return [answer.text for answer in references] or [""]

    def _scores(self, number: int, text: str) -> tuple[float, float]:
        truth = self._truth(number)
        return max(exact(text, each) for each in truth), max(overlap(text, each) for each in truth)

    def predictions(self) -> list[dict[str, Any]]:
        predictions = []
        for number, (text, chance) in self.answers().items():
            right, f1 = self._scores(number, text)
            truth = self._truth(number)
            predictions.append(
                {
                    "row": number,
                    "label": truth,
                    "prediction": text,
                    "probability": round(chance, 6),
                    "right": bool(right),
                    "score": f1,
                }
            )
        return predictions


class QuestionAnswering(Task):
    """Prediction of the first and last token of an answer; the loss is the mean of the two
    cross-entropies, over the windows of a step (Devlin et al. 2018, arXiv:1810.04805, section 4.2).

    In a window without the answer, both targets are the window's first token. The predicted answer
    to a question is the span with the largest sum of logits in any window.

    Args:
        setup: model, optimizer and other arguments from the run; see `etude.tasks.base.Setup`.
        longest_answer: largest number of tokens in a predicted answer.
        candidates: number of most probable first tokens, and of last tokens, that are combined to
            spans in each window.
        no_answer: whether a question may have no answer (SQuAD 2.0). The model predicts that there
            is no answer if, in each window, the first token has a larger sum of logits than every
            span (section 4.3).
        monitor: the metric that selects the best checkpoint.
    """

    metrics_class: ClassVar[type[SpanMetrics]] = SpanMetrics
    metric_names = ("val/loss", "val/exact_match", "val/f1")
    loss_unit = "nats per window"
    models = (Encoder,)
    head = "tags"
    transformers_ending = "ForQuestionAnswering"

    def __init__(
        self,
        setup: Setup,
        *,
        longest_answer: int = 30,
        candidates: int = 20,
        no_answer: bool = False,
        monitor: str = "val/loss",
    ) -> None:
        checks = Checks()
        checks.positive(longest_answer=longest_answer, candidates=candidates)
        checks.done()
        super().__init__(setup)
        self.watch(monitor)
        self.longest_answer, self.candidates = longest_answer, candidates
        self.no_answer = no_answer

    @classmethod
    def objective(cls, **arguments: Any) -> AnswerSpanObjective:
        return AnswerSpanObjective()

    def dummy_micro_batch(
        self, batch: int, length: int, vocabulary: int, labels: int
    ) -> MicroBatch:
        return {
            "tokens": torch.randint(vocabulary, (batch, length)),
            "labels": torch.zeros(batch, 2, dtype=torch.long),
            "step_targets": batch,
        }

    def outputs(self, micro: MicroBatch) -> Tensor:
        """Returns logits (B, T, 2) for the answer's first and last token; at padding, they are
        minus infinity.
        """
        logits = class_logits(self.model, micro)
        keep = micro.get("keep")
        return logits if keep is None else logits.masked_fill(~keep[..., None], -torch.inf)

    def loss(self, micro: MicroBatch) -> Tensor:
        return cross_entropy(self.outputs(micro).transpose(1, 2), micro["labels"]) / 2

    def metrics(self, evaluated: Evaluated) -> SpanMetrics:
        return self.metrics_class(
            evaluated,
            longest=self.longest_answer,
            candidates=self.candidates,
            no_answer=self.no_answer,
        )

    def predict(self, evaluated: Evaluated, options: EvaluationOptions) -> Iterator[dict[str, Any]]:
        measured: Any = self.measured(evaluated)
        for number, (text, chance) in measured.answers().items():
            question = evaluated.text(number)
            yield {"question": question, "answer": text, "probability": chance}

    def line(self, prediction: Mapping[str, Any]) -> str:
        answer = prediction["answer"] or "(no answer)"
        return f"{answer}\t{prediction['probability']:.3f}\t{shortened(prediction['question'])}"


_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def words_of(text: str) -> list[str]:
    """Returns the words of an answer for comparisons: in lower case, without punctuation and
    articles.
    """
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def exact(prediction: str, truth: str) -> float:
    """Returns 1 if two answers have the same words, else 0."""
    return float(words_of(prediction) == words_of(truth))


def overlap(prediction: str, truth: str) -> float:
    """Returns the F1 of the words of two answers. If neither has words, returns 1; if only one has
    words, returns 0.
    """
    predicted, actual = words_of(prediction), words_of(truth)
    if not predicted or not actual:
        return float(predicted == actual)
    common = (Counter(predicted) & Counter(actual)).total()
    return 2 * common / (len(predicted) + len(actual))
