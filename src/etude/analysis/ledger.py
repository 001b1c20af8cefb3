"""What an optimizer step of a run read, and which steps read a text. Nothing of it is logged: each
step is a function of the run's seed and its number.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from etude.analysis.data_view import of_batch
from etude.data.places import Place
from etude.data.steps import Assembly, Share
from etude.errors import Problem, RequestError


def batch_of(run: Any, step: int) -> dict[str, Any]:
    """All that an optimizer step of a run (an `etude.api.Run`) read, as one batch.

    Args:
        step: as in the metrics: the first is 1.

    Raises:
        RequestError: the run has no such step, or its data is gone or is not what it was trained
            on.
    """
    _check_step(run, step)
    batch: dict[str, Any] = _prepared(run).batch_of(_stated(run, "seed"), step - 1)
    return batch


def places_of(run: Any, step: int) -> list[dict[str, Any]]:
    """Where the examples of that step came from: a line for each document in each example.

    Raises:
        RequestError: see `batch_of`.
    """
    _check_step(run, step)
    data = _prepared(run)
    return [
        {"example": number, **line}
        for number, lines in enumerate(_lines(data, _places(run, data, step)), 1)
        for line in lines
    ]


def readings_of(run: Any, text: str) -> list[dict[str, Any]]:
    """The steps that have read a text, in order: a line for each example that holds some of it.

    Args:
        text: as it stands in the data.

    Raises:
        RequestError: the training split does not hold it, or see `batch_of`.
    """
    if not text:
        raise RequestError(Problem("text", "some text", text))
    data = _prepared(run)
    places = set(data.places_of(text))
    if not places:
        hint = "looked for as it stands, with its case and spaces; what is cut off is not read"
        raise RequestError(Problem("text", "what stands in the training split", text, hint))
    sources = data.sources_of({place.document for place in places})
    return [
        {
            "step": reading.step + 1,
            "example": reading.example + 1,
            **_line(reading.place, sources),
            "whole": reading.whole,
        }
        for reading in _assembly(run, data).readings(places, range(_stated(run, "step")))
    ]


def shown_step(run: Any, step: int, examples: int) -> Iterator[str]:
    """The lines of `etude data step`.

    Args:
        examples: how many to show.

    Raises:
        RequestError: see `batch_of`.
    """
    _check_step(run, step)
    data = _prepared(run)
    assembly = _assembly(run, data)
    (batch,), places = assembly.step(step - 1), assembly.places(step - 1)
    total, done = _stated(run, "total_steps"), _stated(run, "step")
    yield f"step {step:,} of {total:,}" + ("" if step <= done else f", of which {done:,} are done")
    for number, lines in enumerate(_lines(data, places[:examples]), 1):
        for line in lines:
            stretch = ""
            if "first" in line:
                stretch = f", tokens {line['first']:,} to {line['end']:,}"
            yield f"  example {number}: {line['source']}{stretch}"
    if len(places) > examples:
        yield f"  and {len(places) - examples:,} examples more"
    yield from of_batch(data, batch, examples)


def _stated(run: Any, key: str) -> int:
    """A number of the record.

    Raises:
        RequestError: it does not state it.
    """
    found = run.summary.get(key)
    if not isinstance(found, int):
        raise RequestError(Problem(f"{run.path / 'run.json'}, {key}", "a number", found))
    return found


def _places(run: Any, data: Any, step: int) -> list[list[Place]]:
    return _assembly(run, data).places(step - 1)


def _assembly(run: Any, data: Any) -> Assembly:
    found: Assembly = data.assembly(Share(_stated(run, "seed")))
    return found


def _lines(data: Any, places: list[list[Place]]) -> list[list[dict[str, Any]]]:
    sources = data.sources_of({place.document for each in places for place in each})
    return [[_line(place, sources) for place in each] for each in places]


def _line(place: Place, sources: dict[int, str]) -> dict[str, Any]:
    line: dict[str, Any] = {"document": place.document, "source": sources[place.document]}
    if place.first is not None:
        line |= {"first": place.first, "end": place.end}
    return line


def _prepared(run: Any) -> Any:
    data = run.data()
    run.prepare(data)
    return data


def _check_step(run: Any, step: int) -> None:
    total = _stated(run, "total_steps")
    if not 1 <= step <= total:
        raise RequestError(Problem("step", f"a step of the run, 1 to {total:,}", step))
