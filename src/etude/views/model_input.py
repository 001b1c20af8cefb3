"""Token ids that a view shows: those of a text, up to the number that fits on a page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from etude.errors import Checks, InvalidArguments, Problem, RequestError
from etude.interpret.inputs import Ids, module_of, token_ids, vocabulary_size
from etude.views.token_labels import TokenLabels

LONGEST = 512
"""Largest number of tokens on a page."""


@dataclass(frozen=True, eq=False)
class ModelInput:
    """Token ids that a view shows.

    Attributes:
        ids: the ids, (T,).
        labels: a visible text for each id.
        left_out: number of tokens of the text that the view leaves out.
        note: sentence that states `left_out` and its reason; empty if nothing is left out.
    """

    ids: list[int]
    labels: list[str]
    left_out: int = 0
    note: str = ""


def read_input(
    model: Any, text: Ids, name: str = "text", *, least: int = 1, largest: int = LONGEST
) -> ModelInput:
    """Returns the ids that a model reads for a text, with the special tokens around it.

    Args:
        model: the model.
        text: a text; or ids (T,) or (1, T), which are used as they are.
        name: name of the argument, for messages.
        least: smallest number of tokens.
        largest: largest number of tokens; the number that the model reads is a second limit.

    Raises:
        RequestError: no model, no single sequence, too few tokens, or ids outside the vocabulary.
    """
    module = checked_module(model)
    vocabulary_size(module)  # raises for a model of numbers
    longest = int(getattr(module, "max_length", largest))
    limit = min(longest, largest)
    if isinstance(text, str) and hasattr(model, "input_ids"):
        try:
            whole, ids = model.input_ids(text), model.input_ids(text, limit)
        except InvalidArguments as error:
            problems = [Problem(name, each.expected, text) for each in error.problems]
            raise RequestError(problems) from error
    else:
        tokens = token_ids(model, text, name)
        if len(tokens) != 1:
            raise RequestError(Problem(name, "one sequence", f"{len(tokens)} sequences"))
        whole = tokens[0].tolist()
        ids = whole[:limit]
    checks = Checks()
    plural = "" if least == 1 else "s"
    checks.that(len(ids) >= least, name, text, f"a text of at least {least} token{plural}")
    if checks.problems:
        raise RequestError(checks.problems)
    left_out = len(whole) - len(ids)
    labels = TokenLabels(getattr(model, "tokenizer", None))(ids)
    note = f"{left_out} of {len(whole)} tokens of the {name} are left out: " if left_out else ""
    return ModelInput(ids, labels, left_out, note and note + _reason(limit, longest))


def checked_module(model: Any) -> Any:
    """Returns the module of a model.

    Raises:
        RequestError: the argument is no model.
    """
    module = module_of(model)
    if not isinstance(module, nn.Module):
        expected = "a model, as `run.model()` or `etude.load_pretrained(...)` returns it"
        raise RequestError(Problem("model", expected, type(model).__name__))
    return module


def _reason(limit: int, longest: int) -> str:
    if limit == longest:
        return f"the model reads {limit}."
    if limit == LONGEST:
        return f"a page shows {limit} at most."
    return f"a page of so many heads shows {limit}; choose layers or heads to see more."
