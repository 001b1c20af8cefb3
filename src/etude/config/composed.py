"""Composed configs, which a notebook shows as a tree with the values that overrides changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from etude.config.flattening import TARGET, flatten, follow_reference
from etude.errors import EtudeError
from etude.markup.fragments import Html, code, display, element, folded, join, leaf, note, title
from etude.secrets import mask_record

_DIRECTORY = "_config_dir"
_SET_AUTOMATICALLY = ("run.overrides", "run.choices", "init_from.found")
_MISSING: Any = object()


class ComposedConfig(DictConfig):
    """A composed config; a notebook shows it as a tree that marks changed values.

    It is a `DictConfig` in all other respects. Its nodes, such as `model`, are of that class;
    copies, `OmegaConf.merge` and `pickle` return a `ComposedConfig`.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> ComposedConfig:
        copied = super().__deepcopy__(memo)
        return as_composed(copied, self.__dict__.get(_DIRECTORY))

    def __copy__(self) -> ComposedConfig:
        return as_composed(super().__copy__(), self.__dict__.get(_DIRECTORY))

    def _repr_html_(self) -> str:
        return config_html(self, self.__dict__.get(_DIRECTORY))


def as_composed(config: DictConfig, config_dir: str | Path | None = None) -> ComposedConfig:
    """Converts a config to a `ComposedConfig` in place, and returns it.

    Its content is not copied, as nodes contain references to their parent.

    Args:
        config: the config.
        config_dir: folder of the user's config files, in which the defaults are searched.
    """
    object.__setattr__(config, "__class__", ComposedConfig)
    config.__dict__[_DIRECTORY] = config_dir
    assert isinstance(config, ComposedConfig)
    return config


def config_html(config: DictConfig, config_dir: str | Path | None = None) -> str:
    """Returns a config as an HTML tree, in which values that differ from the defaults are marked.

    The defaults are the values of the experiment file without further overrides; if there is no
    experiment, they are those of `conf/train.yaml`. Secrets are masked.

    Args:
        config: the composed config, with its overrides in `run.overrides`.
        config_dir: folder of the user's config files, in which the experiment is searched.
    """
    tree = _plain(config)
    overrides = [str(each) for each in (tree.get("run") or {}).get("overrides") or []]
    basis = [item for item in overrides if item.lstrip("+").startswith("experiment=")]
    defaults, problem = _defaults(basis, config_dir)
    source = basis[0].lstrip("+") if basis else "the defaults"
    writer = _Tree(tree, tree if defaults is None else defaults)
    children = writer.children(tree, writer.defaults, "")
    if problem is not None:
        summary = note(f"the defaults are not known: {problem}")
    elif writer.changed:
        marked = element("span", "marked", class_="etude-changed")
        verb = "value differs" if writer.changed == 1 else "values differ"
        summary = note(f"{writer.changed:,} {verb} from {source} (", marked, ")")
    else:
        summary = note(f"all values are those of {source}")
    typed = [note("overrides: ", join(map(code, overrides), " "))] if overrides else []
    return display(title("Config", tree.get("name", "")), *typed, summary, *children)


def _plain(config: DictConfig) -> dict[str, Any]:
    masked: dict[str, Any] = mask_record(OmegaConf.to_container(config, resolve=False))
    return masked


def _defaults(
    basis: list[str], config_dir: str | Path | None
) -> tuple[dict[str, Any] | None, str | None]:
    """Returns the tree of the config of the overrides `basis`, or the reason why there is none."""
    from etude.config.compose import compose

    try:
        return _plain(compose(basis, config_dir=config_dir)), None
    except (EtudeError, OmegaConfBaseException) as error:  # a file of another machine, for example
        return None, str(error).splitlines()[0]


class _Tree:
    """Writer of the nodes of a config.

    Args:
        tree: the config.
        defaults: the config without the changes.

    Attributes:
        defaults: the argument `defaults`.
        changed: number of values so far that differ from the defaults.
    """

    def __init__(self, tree: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self.defaults = defaults
        self.values, self.default_values = dict(flatten(tree)), dict(flatten(defaults))
        self.changed = 0

    def children(self, node: Mapping[str, Any], default: Any, path: str) -> list[Html]:
        """Returns the fragments of the keys of a node, in the order of the config.

        Args:
            node: the node.
            default: the same node of the defaults; any other value if it is no mapping there.
            path: key path of the node; empty for the root.
        """
        before: Mapping[str, Any] = default if isinstance(default, Mapping) else {}
        removed = [key for key in before if key not in node]
        return [
            self._entry(
                str(key),
                node.get(key, _MISSING),
                before.get(key, _MISSING),
                f"{path}.{key}" if path else str(key),
            )
            for key in [*node, *removed]
            if key != "_partial_"
        ]

    def _entry(self, key: str, value: Any, default: Any, path: str) -> Html:
        if path in _SET_AUTOMATICALLY:
            default = value
        if isinstance(value, Mapping) and value:
            before = self.changed
            children = self.children(value, default, path)
            class_name = str(value.get(TARGET, "")).rpartition(".")[2]
            count = self.changed - before
            counted = element("span", f"{count} changed", class_="etude-changed") if count else ""
            parts = (code(key), element("span", class_name, class_="etude-note"), counted)
            summary = join([part for part in parts if part], " ")
            return folded(summary, *children, is_open=count > 0)
        return self._value(key, value, default, path)

    def _value(self, key: str, value: Any, default: Any, path: str) -> Html:
        """Returns the line of a value, which is marked if it differs from the default."""
        if value is _MISSING:
            self.changed += 1
            text = f"{key}: {_one_line(default)}"
            return leaf(element("span", code(text), class_="etude-removed"), " (removed)")
        actual = follow_reference(value, self.values)
        shown = code(_one_line(value) + (f" = {_one_line(actual)}" if actual is not value else ""))
        name = join([code(key), ": "])
        before = follow_reference(default, self.default_values)
        if actual == before:
            return leaf(name, shown)
        self.changed += 1
        mark = element("span", shown, class_="etude-changed")
        origin = "new" if default is _MISSING else join(["default ", code(_one_line(before))])
        return leaf(name, mark, " ", element("span", "(", origin, ")", class_="etude-note"))


def _one_line(value: Any) -> str:
    if isinstance(value, Mapping) and not value:
        return "{}"
    return (
        value
        if isinstance(value, str) and value
        else json.dumps(value, ensure_ascii=False, default=str)
    )
