"""Instruction tuning: a decoder that is trained on the answers only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from etude.data.evaluation_data import Evaluated
from etude.data.examples.encoding import encode, warn_truncated
from etude.data.objective import IGNORE, Arrays, ExampleObjective, Numbers
from etude.errors import Checks, Problem, RequestError
from etude.models.decoder import Decoder
from etude.models.language_model import LanguageModel
from etude.tasks.base import Setup
from etude.tasks.metrics import Evaluation
from etude.tasks.options import EvaluationOptions
from etude.tasks.texts import TextMetrics
from etude.tasks.token_task import TokenTask

PROMPT, ANSWER = "{source}", "{target}"


@dataclass(frozen=True)
class AnswerObjective(ExampleObjective):
    """Objective (conversion to model inputs and targets) that joins prompt and answer; the targets
    are the answer's tokens and the tokens that end the answer.

    Args:
        template: text with `{source}` and `{target}`. A special token's name in the template is
            encoded as that token; in a prompt or an answer, it is ordinary text.
        before, between, after: tokens of the template's text before `{source}`, between `{source}`
            and `{target}`, and after `{target}`; set once the tokenizer is known.
        longest: largest number of tokens in an example; None sets no limit. The end of a longer
            example is cut off. If the prompt alone is longer, the example has no targets.
    """

    template: str = "{source}\n{target}"
    before: tuple[int, ...] = ()
    between: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    longest: int | None = None

    fields: ClassVar[tuple[str, ...]] = ("source", "target")
    packs = True

    def bound(self, tokenizer: Any, meta: Any) -> AnswerObjective:
        return self.bound_to_rows(tokenizer, meta.settings["sequence_length"])

    def bound_to_rows(self, tokenizer: Any, sequence_length: int) -> AnswerObjective:
        head, rest = self.template.split(PROMPT)
        middle, tail = rest.split(ANSWER)
        before, between, after = (tokenizer.encode_special(part) for part in (head, middle, tail))
        if not after:
            if tokenizer.end_of_text is None:
                expected = "a tokenizer with an end-of-text token"
                hint = "or add text after {target} to task.template"
                raise RequestError(Problem("data.tokenizer", expected, hint=hint))
            after = [tokenizer.end_of_text]
        return replace(
            self,
            before=tuple(before),
            between=tuple(between),
            after=tuple(after),
            longest=sequence_length,
        )

    def lengths(self, lengths: Mapping[str, Numbers]) -> Numbers:
        whole = self._whole(lengths)
        return whole if self.longest is None else np.minimum(whole, self.longest)

    def cut(self, lengths: Mapping[str, Numbers]) -> int:
        return 0 if self.longest is None else int((self._whole(lengths) > self.longest).sum())

    def _whole(self, lengths: Mapping[str, Numbers]) -> Numbers:
        template = len(self.before) + len(self.between) + len(self.after)
        return lengths["source"] + lengths["target"] + template - 1

    def compose(self, fields: Arrays) -> Arrays:
        prompt = [*self.before, *fields["source"], *self.between]
        answer = [*fields["target"], *self.after]
        ids = np.array([*prompt, *answer], dtype=np.int64)
        labels = ids[1:].copy()
        labels[: max(0, len(prompt) - 1)] = IGNORE
        return {"tokens": ids[:-1][: self.longest], "labels": labels[: self.longest]}


class Instruction(TokenTask):
    """Prediction of the answer after a prompt; the loss is the mean cross-entropy of the answer's
    tokens and its end, without the prompt (Ouyang et al. 2022, arXiv:2203.02155).

    Padding after a text needs no mask: no target attends to later positions.

    Args:
        setup: model, optimizer and other arguments from the run; see `etude.tasks.base.Setup`.
        template: text of an example, with `{source}` and `{target}` for prompt and answer. A
            special token's name in the template is encoded as that token; in a prompt or an answer,
            it is ordinary text. If the template ends with `{target}`, the tokenizer's end-of-text
            token is added.
        label_smoothing, z_loss: see `etude.tasks.losses.cross_entropy`.
    """

    needs_causal_model = True
    models = (Decoder,)

    def __init__(
        self,
        setup: Setup,
        *,
        template: str = "{source}\n{target}",
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        monitor: str = "val/loss",
    ) -> None:
        super().__init__(setup, label_smoothing=label_smoothing, z_loss=z_loss, monitor=monitor)
        self.template = template

    @classmethod
    def objective(cls, **arguments: Any) -> AnswerObjective:
        template = arguments.get("template", AnswerObjective.template)
        checks = Checks()
        is_valid = template.count(PROMPT) == template.count(ANSWER) == 1
        is_valid = is_valid and template.index(PROMPT) < template.index(ANSWER)
        expected = "a text that contains {source} once and, after it, {target} once"
        checks.that(is_valid, "template", template, expected)
        checks.done()
        return AnswerObjective(template)

    def samples(self, data: Any, options: Any) -> list[str]:
        return self.answered(data, options)

    def evaluate(self, evaluated: Evaluated, options: EvaluationOptions) -> Evaluation:
        losses = self.measured(evaluated).compute()
        losses["token_accuracy"] = losses.pop("accuracy")
        texts = TextMetrics()
        for number, _, target, text in self._answers(evaluated):
            texts.add(number, target, text)
        evaluation = texts.evaluation(evaluated)
        return replace(evaluation, metrics=losses | evaluation.metrics)

    def line(self, prediction: Mapping[str, Any]) -> str:
        return str(prediction["target"])

    def predict(self, evaluated: Evaluated, options: EvaluationOptions) -> Iterator[dict[str, Any]]:
        for _, source, _, text in self._answers(evaluated):
            yield {"source": source, "target": text}

    def _answers(self, evaluated: Evaluated) -> Iterator[tuple[int, str, str, str]]:
        """Yields for each row its index, its source text, its target text and the model's answer.

        The answer is decoded greedily. It ends before the text that the template puts after an
        answer, or after `sequence_length` tokens.
        """
        tokenizer, length = self.tokenizer, evaluated.data.sequence_length
        template = AnswerObjective(self.template).bound_to_rows(tokenizer, length)
        first, *more = template.after
        ends = [] if more or first not in tokenizer.special_tokens().values() else [first]
        tail = tokenizer.decode(list(template.after)) if not ends else ""
        pairs = [evaluated.data.pair(evaluated.rows[number]) for number in evaluated.read]
        encoded = encode([source for source, _ in pairs], tokenizer, length, framed=False)
        warn_truncated(sum(len(pieces) > 1 for pieces in encoded), length)
        model = LanguageModel(self.model, tokenizer)  # type: ignore[arg-type]
        for number, (source, target), (piece, *_) in zip(
            evaluated.read, pairs, encoded, strict=True
        ):
            prompt = [*template.before, *piece.ids, *template.between]
            text = model.answer(prompt, max_new_tokens=length, stop_tokens=ends)
            yield number, source, target, (text.partition(tail)[0] if tail else text).strip()
