"""Description of a model: one line of text, and an HTML tree of its parts with their parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from torch import Tensor, nn

from etude.activations.names import list_sites
from etude.counts import counted
from etude.markup.fragments import Html, code, display, element, fields, folded, join, leaf, title


def model_line(module: nn.Module) -> str:
    """Returns a model's class, sizes and number of parameters as one line of text.

    Args:
        module: the model; its attribute `shown_sizes`, if it has one, contains the sizes.
    """
    return ", ".join([type(module).__name__, *_sizes(module), _total(module)])


def model_html(module: nn.Module, name: str | None = None) -> str:
    """Returns an HTML tree of a model's parts.

    A node shows the class of the part, its number of parameters and their share of the total, the
    shapes of its own weights, and its sites. Weights that several parts share count only in the
    first one. Consecutive equal parts are one node.

    Args:
        module: the model.
        name: name of the wrapper that contains it; None for the module alone.
    """
    reader = _Reader(module)
    root = reader.part(module, "")
    kind = type(module).__name__
    head = title(name, kind) if name else title(kind)
    pairs = [
        ("sizes", ", ".join(_sizes(module))),
        ("parameters", _total(module).replace(" parameters", "", 1)),
        ("data type", _listed(str(p.dtype).removeprefix("torch.") for p in module.parameters())),
        ("device", _listed(str(p.device) for p in module.parameters())),
    ]
    facts = fields((key, value) for key, value in pairs if value)
    return display(head, facts, *_nodes(root.children, root.count), *_own_lines(root))


def _sizes(module: nn.Module) -> list[str]:
    sizes: Mapping[str, int] = getattr(module, "shown_sizes", {})
    return [f"{key} {value:,}" for key, value in sizes.items()]


def _total(module: nn.Module) -> str:
    parameters = list(module.parameters())
    total = sum(each.numel() for each in parameters)
    trainable = sum(each.numel() for each in parameters if each.requires_grad)
    text = counted(total, "parameter")
    return text if trainable == total else f"{text}, {trainable:,} trainable"


def _listed(values: Iterator[str]) -> str:
    return ", ".join(dict.fromkeys(values))


@dataclass
class _Part:
    """A part of a model.

    Attributes:
        name: name in the module that contains it.
        kind: name of its class.
        details: text that distinguishes it from parts of the same class.
        remark: further text that the model states on it, such as its layer kind.
        count: number of parameters in it that no earlier part contains.
        weights: its own weights as text: name, shape, and the earlier name of a shared weight.
        sites: its own sites.
        children: the parts that it contains.
    """

    name: str
    kind: str
    details: str
    remark: str
    count: int
    weights: list[str]
    sites: list[str]
    children: list[_Part] = field(default_factory=list)

    def key(self) -> tuple[Any, ...]:
        """Returns a value that is the same for equal parts, except for their names."""
        inner = tuple((child.name, child.key()) for child in self.children)
        return self.kind, self.details, self.remark, self.count, *self.weights, *self.sites, inner


class _Reader:
    """Reader of the parts of a model, which counts each weight and each module once.

    Args:
        model: the model.
    """

    def __init__(self, model: nn.Module) -> None:
        self.weights: dict[int, str] = {}
        self.modules: dict[int, str] = {}
        self.remarks: dict[str, str] = {}
        self.sites: dict[str, list[str]] = {}
        for site in list_sites(model):
            self.sites.setdefault(site.module, []).append(site.key)

    def part(self, module: nn.Module, path: str) -> _Part:
        """Returns the description of a module and of its parts.

        Args:
            module: the module.
            path: its path in the model; empty for the model itself.
        """
        name, kind = path.rpartition(".")[2], type(module).__name__
        first = self.modules.setdefault(id(module), path)
        if first != path:
            return _Part(name, kind, "", f"shared: {first}", 0, [], [])
        prefix = f"{path}." if path else ""
        remarks: Mapping[str, str] = getattr(module, "part_notes", {})
        self.remarks |= {prefix + key: text for key, text in remarks.items()}
        own, count = [], 0
        for key, weight in module.named_parameters(recurse=False):
            earlier = self.weights.setdefault(id(weight), prefix + key)
            shared = "" if earlier == prefix + key else f" (shared: {earlier})"
            count += 0 if shared else weight.numel()
            own.append(f"{key} {_shape(weight)}{shared}")
        children = [
            self.part(child, prefix + key)
            for key, child in module.named_children()
            if not _is_empty(child)
        ]
        count += sum(child.count for child in children)
        remark, sites = self.remarks.get(path, ""), self.sites.get(path, [])
        return _Part(name, kind, _details(module), remark, count, own, sites, children)


def _is_empty(module: nn.Module) -> bool:
    """Returns whether a module is a list or a dict without modules."""
    return isinstance(module, nn.ModuleList | nn.ModuleDict) and len(module) == 0


def _details(module: nn.Module) -> str:
    """Returns the settings of a module: its public attributes that are numbers or texts.

    They distinguish, for example, layers with different windows.
    """
    values = (
        f"{key}={value}"
        for key, value in vars(module).items()
        if not key.startswith("_") and key != "training" and isinstance(value, int | float | str)
    )
    return ", ".join(values)


def _shape(weight: Tensor) -> str:
    return "×".join(map(str, weight.shape)) or "1"


def _nodes(parts: list[_Part], total: int) -> Iterator[Html]:
    """Yields the nodes of the parts of a module; consecutive equal parts are one node.

    Args:
        parts: the parts, in the order of the module.
        total: number of parameters of the whole model.
    """
    for _, run in groupby(parts, key=_Part.key):
        equal = list(run)
        first, last = equal[0], equal[-1]
        name = code(first.name)
        times = ""
        if last is not first:
            is_range = first.name.isdecimal()
            names = [code(part.name) for part in ((first, last) if is_range else equal)]
            name = join([join(names, " to " if is_range else ", "), ", equal"])
            times = f"{len(equal)} × "
        yield _node(first, name, times, len(equal), total)


def _node(part: _Part, name: Html, times: str, number: int, total: int) -> Html:
    size = f"{times}{part.count:,}" if part.count else ""
    if part.count and total:
        share = part.count * number / total
        size += f" ({share:.1%})" if share >= 0.0005 else " (<0.1%)"
    parts: list[Any] = [name, _note(part.kind), size, _note(part.remark)]
    if part.children:
        inner = [*_own_lines(part), *_nodes(part.children, total)]
        line = join([each for each in parts if each], " ")
        return folded(line, *inner, is_open=not part.sites)
    if not part.weights:
        parts.append(_note(part.details))
    parts += [code(", ".join(part.weights)) if part.weights else "", _sites(part)]
    return leaf(join([each for each in parts if each], " "))


def _own_lines(part: _Part) -> Iterator[Html]:
    """Yields lines with the weights and the sites that a part with children has itself."""
    if part.weights:
        yield leaf(code(", ".join(part.weights)))
    if part.sites:
        yield leaf(_sites(part))


def _sites(part: _Part) -> Html | str:
    if not part.sites:
        return ""
    return join([_note("sites: "), code(" ".join(part.sites))])


def _note(text: str) -> Html | str:
    return element("span", text, class_="etude-note") if text else ""
