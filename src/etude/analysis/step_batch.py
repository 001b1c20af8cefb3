"""Batches of a run, which a notebook shows as text with their targets."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any, TypeGuard

from torch import Tensor

from etude.counts import counted
from etude.data.objective import IGNORE
from etude.markup.fragments import Html, code, display, element, escaped, join, note, table, title

_EXAMPLES = 4
_POSITIONS = 256


class StepBatch(dict[str, Any]):
    """A batch of an optimizer step: a dict from names to tensors, which a notebook shows as text.

    Args:
        values: the tensors, and other values, by name.
        tokenizer: the run's tokenizer; None for a run without text.
        labels: names of the classes or tags, by index; empty if the targets are no classes.
        numeric: whether the targets are numbers; if false and there are no classes, they are
            tokens.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        *,
        tokenizer: Any = None,
        labels: Sequence[str] = (),
        numeric: bool = False,
    ) -> None:
        super().__init__(values)
        self._tokenizer, self._labels = tokenizer, list(labels)
        self._numeric = numeric or tokenizer is None
        self._special = set() if tokenizer is None else set(tokenizer.special_tokens().values())

    def __repr__(self) -> str:
        listed = (f"{name}: {' '.join(_kind(value))}" for name, value in self.items())
        return f"StepBatch({', '.join(listed)})"

    def _repr_html_(self) -> str:
        rows = [(code(name), *map(code, _kind(value))) for name, value in self.items()]
        inputs = (self.get(name) for name in ("tokens", "source", "numbers"))
        count = next((len(each) for each in inputs if _is_tensor(each)), 0)
        shown = min(count, _EXAMPLES)
        examples = (self._example(row) for row in range(shown))
        blocks = [
            element("div", note(f"example {number}"), *lines, class_="etude-item")
            for number, lines in enumerate(examples, 1)
            if lines
        ]
        more = note(f"and {counted(count - shown, 'more example')}") if count > shown else ""
        return display(
            title("Batch", f"of {counted(count, 'example')}"),
            table(("name", "shape or value", "data type"), rows),
            *([_legend(), *blocks, more] if blocks else []),
        )

    def _example(self, row: int) -> list[Html]:
        """Returns the lines that show one example."""
        lines: list[Html] = []
        targets = self._labels_of(row)
        for name in ("source", "tokens", "target"):
            ids = self.get(name)
            if not _is_tensor(ids) or ids.ndim != 2 or self._tokenizer is None:
                continue
            keep = self.get(f"{name}_keep", self.get("keep"))
            kept = _kept(keep, row, ids.shape[1])
            marks = targets if name == "tokens" and len(targets) == ids.shape[1] else []
            lines.append(self._text(name, ids[row].tolist(), kept, marks))
        if "numbers" in self:
            positions = self["numbers"][row, :_POSITIONS].tolist()
            shown = ["(" + " ".join(f"{x:.2f}" for x in position) + ")" for position in positions]
            lines.append(_line("numbers", " ".join(shown)))
        if targets and not self._aligned(targets):
            scored = [target for target in targets if _in_loss(target)][:_POSITIONS]
            lines.append(_line("targets", self._targets_text(scored)))
        return lines

    def _labels_of(self, row: int) -> list[Any]:
        """Returns the targets or labels of an example; empty if they belong to no single example.

        In packed sequences, there can be several labels for each sequence.
        """
        for name in ("targets", "labels", "values"):
            values = self.get(name)
            if _is_tensor(values):
                packed = self.get("documents") is not None and values.ndim == 1
                found: list[Any] = [] if packed else values[row].reshape(-1).tolist()
                return found
        return []

    def _aligned(self, targets: list[Any]) -> bool:
        """Returns whether `_text` has shown the targets at the positions of the tokens."""
        tokens = self.get("tokens")
        return _is_tensor(tokens) and tokens.ndim == 2 and tokens.shape[1] == len(targets)

    def _text(self, name: str, ids: list[int], kept: list[bool], targets: list[Any]) -> Html:
        """Returns a text with its special tokens, and with targets if they are not the next tokens.

        Args:
            name: name of the tensor.
            ids: token ids.
            kept: false for padding, which is omitted.
            targets: target of each position; empty if the tensor has none.
        """
        positions = [i for i, keep in enumerate(kept) if keep]
        pairs = pairwise(positions) if targets else ()
        is_next = all(not _in_loss(targets[i]) or targets[i] == ids[j] for i, j in pairs)
        last = positions[-1] if positions else None

        def style_of(position: int) -> str | int:
            """Returns the class of a span; for a token with its own target, its position."""
            if not targets:
                return ""
            if not _in_loss(targets[position]):
                return "etude-faint"
            return "" if is_next and position != last else position

        pieces = []
        for style, group in groupby(positions[:_POSITIONS], key=style_of):
            members = list(group)
            piece = self._decoded([ids[i] for i in members])
            if isinstance(style, int):
                piece = join([piece, "→", self._targets_text([targets[style]])])
                style = "etude-target"
            pieces.append(element("span", piece, class_=style or None))
        rest = len(positions) - _POSITIONS
        pieces += [_small(f" and {counted(rest, 'more token')}")] if rest > 0 else []
        padding = len(ids) - len(positions)
        pieces += [_small(f" + {padding:,} padding")] if padding else []
        return _line(name, join(pieces, self._separator))

    @property
    def _separator(self) -> str:
        """Text between pieces that are decoded separately."""
        return " " if self._tokenizer is not None and self._tokenizer.rewrites else ""

    def _decoded(self, ids: Sequence[int]) -> Html:
        """Returns token ids as text; special and unknown ids have a border."""
        names, pieces = self._tokenizer.backend.id_to_token, []
        for bordered, group in groupby(ids, lambda i: i in self._special or not self._is_known(i)):
            members = list(group)
            if bordered:
                shown = (names(i) if i in self._special else str(i) for i in members)
                pieces += [element("span", each, class_="etude-token") for each in shown]
            else:
                pieces.append(escaped(self._tokenizer.decode(members).replace("\n", "⏎\n")))
        return join(pieces, self._separator)

    def _is_known(self, number: int) -> bool:
        return number >= 0 and self._tokenizer.backend.id_to_token(number) is not None

    def _targets_text(self, targets: Sequence[Any]) -> Html:
        """Returns targets that enter the loss as text: labels, numbers or decoded tokens."""
        if self._labels:
            known = range(len(self._labels))
            return join((self._labels[t] if t in known else t for t in targets), " ")
        if self._numeric or any(isinstance(target, float) for target in targets):
            return join((f"{target:g}" for target in targets), " ")
        return self._decoded(targets)


def _is_tensor(value: Any) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.ndim > 0


def _kind(value: Any) -> Iterator[str]:
    """Yields the shape and the data type of a tensor, or another value as text and its class."""
    if isinstance(value, Tensor):
        yield f"({', '.join(map(str, value.shape))})"
        yield str(value.dtype).removeprefix("torch.")
    elif isinstance(value, int | float | str | None):
        yield str(value)
        yield type(value).__name__
    else:
        yield ""
        yield type(value).__name__


def _in_loss(target: Any) -> bool:
    return target != IGNORE and not (isinstance(target, float) and math.isnan(target))


def _kept(keep: Any, row: int, length: int) -> list[bool]:
    is_mask = _is_tensor(keep) and keep.ndim == 2 and keep.shape[1] == length
    return [bool(each) for each in keep[row].tolist()] if is_mask else [True] * length


def _small(text: str) -> Html:
    return element("span", text, class_="etude-note")


def _line(name: str, content: Any) -> Html:
    return element("div", code(name), ": ", element("span", content, class_="etude-text"))


def _legend() -> Html:
    return note(
        "with a border: special tokens; ",
        element("span", "faint", class_="etude-faint"),
        ": not in the loss; ",
        element("span", "a→b", class_="etude-target"),
        ": token and target, where the next token is not the target",
    )
