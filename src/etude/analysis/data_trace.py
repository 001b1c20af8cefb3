"""Finds the data that a run used in an optimizer step, and the steps in which it used a text.

The answers are recomputed and not logged, since the data of a step depends only on the run's seed
and the step number.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from etude.analysis.data_view import batch_lines
from etude.analysis.step_batch import StepBatch
from etude.data.origins import DocumentSpan
from etude.data.steps import Share, StepAssembler
from etude.errors import Problem, RequestError


def batch_of(run: Any, step: int) -> StepBatch:
    """Returns the whole batch of an optimizer step, over all processes, as tensors by name.

    The result is a dict from names such as `tokens` and `targets` to tensors on the CPU, as the
    task receives them in training. It can also contain numbers, such as `step_tokens`, the number
    of tokens in the step.

    Args:
        run: an `etude.api.Run`.
        step: step number as in the metrics; the first is 1.

    Raises:
        RequestError: the run has no such step, or its data is missing or was changed.
    """
    _check_step(run, step)
    data = _prepared(run)
    batch = data.batch_of(_recorded_number(run, "seed"), step - 1)
    names_classes = bool(data.labels) and data.states_classes
    return StepBatch(
        batch,
        tokenizer=data.tokenizer_ if data.tokenizer_.vocab_size else None,
        labels=data.labels if names_classes else (),
        numeric=bool(data.labels) and not names_classes,
    )


def example_sources(run: Any, step: int) -> list[dict[str, Any]]:
    """Returns where the examples of an optimizer step come from, as a list of dicts.

    There is a dict for each document in each example. Its keys are `example` (number of the
    example, from 1), `document` (number of the document in the training split, from 0) and `source`
    (a text that states where the document comes from, such as a file). For continuous text, the
    example may contain only a part of the document. Then the dict also has the keys `first`
    and `end`: the positions, in the document, of the part's first token and of the token after its
    last.

    Args:
        run: an `etude.api.Run`.
        step: step number as in the metrics; the first is 1.

    Raises:
        RequestError: see `batch_of`.
    """
    _check_step(run, step)
    data = _prepared(run)
    return [
        {"example": number, **line}
        for number, lines in enumerate(_entries(data, _places(run, data, step)), 1)
        for line in lines
    ]


def steps_of_text(run: Any, text: str) -> list[dict[str, Any]]:
    """Returns the optimizer steps in which a run used a text, in order, as a list of dicts.

    There is a dict for each example that contains the text or a part of the text. Its keys are
    `step` (the step number), `example`, `document`, `source`, `first` and `end`, as in
    `example_sources`, and `whole`, which is true if the example contains the whole text.

    Args:
        run: an `etude.api.Run`.
        text: exact text in the data.

    Raises:
        RequestError: the text is empty or not in the training split, or the data is missing or was
            changed.
    """
    if not text:
        raise RequestError(Problem("text", "a non-empty text", text))
    data = _prepared(run)
    places = set(data.places_of(text))
    if not places:
        hint = "case and spaces must match; "
        hint += "text that was cut off when the data was prepared is not found"
        raise RequestError(Problem("text", "a text in the training split", text, hint))
    sources = data.sources_of({place.document for place in places})
    return [
        {
            "step": reading.step + 1,
            "example": reading.example + 1,
            **_entry(reading.place, sources),
            "whole": reading.whole,
        }
        for reading in _assembly(run, data).readings(places, range(_recorded_number(run, "step")))
    ]


def step_lines(run: Any, step: int, examples: int) -> Iterator[str]:
    """Yields the lines that `etude data step` prints about the data of an optimizer step.

    Args:
        run: an `etude.api.Run`.
        step: step number as in the metrics; the first is 1.
        examples: number of examples to show, from the start of the step.

    Raises:
        RequestError: see `batch_of`.
    """
    _check_step(run, step)
    data = _prepared(run)
    assembly = _assembly(run, data)
    (batch,), places = assembly.step(step - 1), assembly.places(step - 1)
    total, done = _recorded_number(run, "total_steps"), _recorded_number(run, "step")
    progress = "" if step <= done else f" (the run has trained only {done:,} steps)"
    yield f"step {step:,} of {total:,}{progress}"
    for number, lines in enumerate(_entries(data, places[:examples]), 1):
        for line in lines:
            token_range = ""
            if "first" in line:
                token_range = f", tokens {line['first']:,} to {line['end']:,}"
            yield f"  example {number}: {line['source']}{token_range}"
    if len(places) > examples:
        yield f"  and {len(places) - examples:,} more examples"
    yield from batch_lines(data, batch, examples)


def _recorded_number(run: Any, key: str) -> int:
    """Returns the integer that the run's `run.json` contains under the key `key`.

    Raises:
        RequestError: `run.json` does not contain an integer under this key.
    """
    value = run.summary.get(key)
    if not isinstance(value, int):
        raise RequestError(Problem(f"{run.path / 'run.json'}, {key}", "a whole number", value))
    return value


def _places(run: Any, data: Any, step: int) -> list[list[DocumentSpan]]:
    return _assembly(run, data).places(step - 1)


def _assembly(run: Any, data: Any) -> StepAssembler:
    assembly: StepAssembler = data.assembly(Share(_recorded_number(run, "seed")))
    return assembly


def _entries(data: Any, places: list[list[DocumentSpan]]) -> list[list[dict[str, Any]]]:
    sources = data.sources_of({place.document for example in places for place in example})
    return [[_entry(place, sources) for place in example] for example in places]


def _entry(place: DocumentSpan, sources: dict[int, str]) -> dict[str, Any]:
    line: dict[str, Any] = {"document": place.document, "source": sources[place.document]}
    if place.first is not None:
        line |= {"first": place.first, "end": place.end}
    return line


def _prepared(run: Any) -> Any:
    data = run.data()
    run.prepare(data)
    return data


def _check_step(run: Any, step: int) -> None:
    total = _recorded_number(run, "total_steps")
    if not 1 <= step <= total:
        raise RequestError(Problem("step", f"a step of the run, 1 to {total:,}", step))
