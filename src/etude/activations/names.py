"""Names of a model's sites: a list of them, patterns, and the names of TransformerLens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from etude.errors import Problem, RequestError, nearest_of

LAST = ("out", "final", "logits")
"""Sites of a module that are computed after all sites of its submodules."""

ALIASES = {
    "hook_resid_pre": "in",
    "hook_resid_mid": "mid",
    "hook_resid_post": "out",
    "hook_attn_out": "attention.out",
    "hook_mlp_out": "feedforward.out",
    "attn.hook_q": "attention.q",
    "attn.hook_k": "attention.k",
    "attn.hook_v": "attention.v",
    "attn.hook_rot_q": "attention.q",
    "attn.hook_rot_k": "attention.k",
    "attn.hook_attn_scores": "attention.scores",
    "attn.hook_pattern": "attention.pattern",
    "attn.hook_z": "attention.mixed",
    "mlp.hook_post": "feedforward.hidden",
    "ln1.hook_normalized": "attention_norm.out",
    "ln2.hook_normalized": "feedforward_norm.out",
    "ln_final.hook_normalized": "final",
}
"""Names of TransformerLens, after `blocks.N.` except for the last one, and those of Étude.

The order of dimensions differs: here, heads come before positions. Queries and keys are those after
the rotation.
"""


@dataclass(frozen=True)
class Site:
    """A named value inside a model.

    Attributes:
        name: the name, such as `blocks.3.attention.pattern`.
        letters: a letter for each dimension, such as `B H T S`; see `etude.nn.sites`. Empty if the
            dimensions are unknown.
        module: path of the module that computes the value; empty for the model itself.
        key: name of the site in its module; `in` and `out` are the module's input and output.
        dtype: data type of the module's weights, such as `float32`; that of the value can differ
            under autocast. Empty if the model has no weights.
    """

    name: str
    letters: str
    module: str
    key: str
    dtype: str = ""

    def axis(self, letter: str) -> int | None:
        """Returns the index of the dimension with this letter; None if there is none.

        For a value without tokens (T), the keys (S) take their place; and for a value without heads
        (H), the key-value heads (G).
        """
        letters = self.letters.split()
        for each in (letter, {"T": "S", "H": "G"}.get(letter)):
            if each in letters:
                return letters.index(each)
        return None


def list_sites(model: nn.Module) -> list[Site]:
    """Returns the sites of a model and its submodules, in the order in which they are computed."""
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    dtype = "" if weight is None else str(weight.dtype).removeprefix("torch.")
    return list(_sites_of(model, "", dtype, set()))


def _sites_of(module: nn.Module, path: str, dtype: str, visited: set[int]) -> Iterator[Site]:
    if id(module) in visited:
        return
    visited.add(id(module))
    prefix = f"{path}." if path else ""
    for name, letters in getattr(module, "own_sites", {}).items():
        *branch, key = name.split(".")
        if branch:  # a site of a submodule, which may not list it itself
            inner = module.get_submodule(".".join(branch))
            yield from _sites_of(inner, prefix + ".".join(branch), dtype, visited)
        elif key in LAST:
            for child, inner in module.named_children():
                yield from _sites_of(inner, prefix + child, dtype, visited)
        yield Site(prefix + name, letters, ".".join([*filter(None, [path]), *branch]), key, dtype)
    for child, inner in module.named_children():
        yield from _sites_of(inner, prefix + child, dtype, visited)


def find_sites(model: nn.Module, patterns: Iterable[str]) -> list[Site]:
    """Returns the sites that names or patterns select, in the order in which they are computed.

    In a pattern, `*` matches any text without a dot. A negative number counts layers from the
    last one. `PATH.in` and `PATH.out` also select the input and the output of any submodule, such
    as `blocks.3.attention_norm.out`. Names of TransformerLens are accepted.

    Raises:
        RequestError: a name or pattern selects no site; the message has the most similar name.
    """
    known = {site.name: site for site in list_sites(model)}
    order = {name: number for number, name in enumerate(known)}
    chosen: dict[str, Site] = {}
    problems = []
    for pattern in patterns:
        name = _count_from_last(translate(pattern), known)
        exact = known.get(name)
        sites = [exact] if exact else [s for s in known.values() if _matches(name, s.name)]
        sites = sites or _module_sites(model, name)
        if not sites:
            hint = _nearest_site(name, known)
            problems.append(Problem("site", "the name of a site of the model", pattern, hint))
        chosen |= {each.name: each for each in sites}
    if problems:
        raise RequestError(problems)
    return sorted(chosen.values(), key=lambda each: order.get(each.name, len(order)))


def translate(name: str) -> str:
    """Returns Étude's name for a name of TransformerLens; other names are returned unchanged."""
    block = re.match(r"((?:encoder\.|decoder\.)?blocks\.[^.]+\.)(.*)", name)
    before, after = (block[1], block[2]) if block else ("", name)
    return before + ALIASES[after] if after in ALIASES else name


def _count_from_last(name: str, known: Iterable[str]) -> str:
    """Replaces a negative number of a layer: `blocks.-1.out` is `blocks.11.out` of 12 layers."""
    match = re.match(r"(.*\bblocks\.)(-\d+)(\..*)", name)
    if match is None:
        return name
    layers = {n.removeprefix(match[1]).split(".")[0] for n in known if n.startswith(match[1])}
    return f"{match[1]}{len(layers) + int(match[2])}{match[3]}"


def _matches(pattern: str, name: str) -> bool:
    wanted, parts = pattern.split("."), name.split(".")
    return len(wanted) == len(parts) and all(
        fnmatchcase(part, each) for part, each in zip(parts, wanted, strict=True)
    )


def _module_sites(model: nn.Module, pattern: str) -> list[Site]:
    """Returns the inputs or outputs of the submodules that a pattern such as `PATH.out` selects."""
    path, _, key = pattern.rpartition(".")
    if key not in ("in", "out") or not path:
        return []
    return [
        Site(f"{name}.{key}", "", name, key)
        for name, module in model.named_modules()
        if _matches(path, name) and type(module).forward is not nn.Module.forward
    ]


def _nearest_site(name: str, known: Iterable[str]) -> str | None:
    names = list(known)
    if "*" in name:
        names = list(dict.fromkeys(re.sub(r"\d+", "*", each) for each in names))
    near = nearest_of(name, names)
    return near or "`model.sites()` lists the names"
