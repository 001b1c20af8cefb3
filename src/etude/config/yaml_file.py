"""Strict YAML for config files: ambiguous values are refused.

YAML 1.1, which PyYAML parses, has little-known notations: `12:30` is 750, `010` is 8, and `no` is
false. Here, `12:30` is a string, and ambiguous values such as `010` and `no` are refused with their
key path.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.core_plugins import file_config_source, importlib_resources_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from omegaconf import OmegaConf
from omegaconf._utils import get_yaml_loader

from etude.errors import Problem, RequestError

_TAG = "tag:yaml.org,2002:"
_STRING = f"{_TAG}str"
_KNOWN = frozenset(
    f"{_TAG}{kind}" for kind in ("str", "int", "float", "bool", "null", "map", "seq")
)

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*(_[0-9]+)*|0x[0-9a-fA-F]+|0b[01]+)")
_FLOAT = re.compile(
    r"[-+]?([0-9]+(_[0-9]+)*)?(\.([0-9]+(_[0-9]+)*)?)?([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)"
    r"|\.(nan|NaN|NAN)"
)
_BOOLEAN = re.compile("true|True|TRUE|false|False|FALSE")
_SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")
_OCTAL = re.compile(r"[-+]?0o[0-7_]+")

GLOBAL_HEADER = "# @package _global_"
"""First line of a config file whose keys are those of the whole config."""


def read_yaml(path: Path) -> Any:
    """Returns the content of a config file as dictionaries, lists and scalars.

    Raises:
        RequestError: the file is not YAML in UTF-8, or has ambiguous values or tags; the message
            has the line and key path of each problem.
        OSError: the file cannot be read.
    """
    return parse_yaml(_decode(path.read_bytes(), str(path)), str(path))


def _decode(content: bytes, where: str) -> str:
    """Decodes the bytes of a config file, without a byte order mark.

    Raises:
        RequestError: the bytes are not UTF-8; `where` is the file's name in the message.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        hint = str(error)
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            hint = "the file is UTF-16; convert it with iconv -f utf-16 -t utf-8"
        raise RequestError(Problem(where, "a text file in UTF-8", hint=hint)) from error


def parse_yaml(text: str, where: str) -> Any:
    """Returns the value of a YAML text; `where` is the file's name in messages.

    Raises:
        RequestError: as for `read_yaml`.
    """
    loader = None
    try:
        loader = get_yaml_loader()(text)
        node = loader.get_single_node()
        if node is None:
            return None
        problems = list(_problems(node, where, "", set()))
        if problems:
            raise RequestError(problems)
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise RequestError(Problem(where + line, "valid YAML", hint=error.problem)) from error
    except (yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise RequestError(Problem(where, "valid YAML", hint=reason)) from error
    finally:
        if loader is not None:  # the text contains a character that YAML does not allow
            loader.dispose()


def _problems(node: yaml.Node, where: str, key: str, seen: set[int]) -> Iterator[Problem]:
    """Yields a problem for each ambiguous or unsupported value below a YAML node.

    Values such as `12:30`, which YAML 1.1 reads as numbers, are changed to strings.

    Args:
        node: the YAML node; the tags of values such as `12:30` are changed in place.
        where: name of the file, for messages.
        key: key path of the node.
        seen: ids of the nodes that were visited already.
    """
    if id(node) in seen:  # an alias
        return
    seen.add(id(node))
    if isinstance(node, yaml.ScalarNode):
        yield from _problems_of_scalar(node, where, key)
        return
    position = f"{where}, line {node.start_mark.line + 1}"
    if node.tag not in _KNOWN:
        yield Problem(f"{position}: {key or 'the file'}", "a value without a YAML tag", node.tag)
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _problems(item, where, f"{key}[{index}]", seen)
    elif isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            below = f"{key}.{name.value}" if key else str(name.value)
            if not isinstance(name, yaml.ScalarNode):
                yield Problem(position, "a string as key", hint="the key is a list or a mapping")
                continue
            if name.tag != f"{_TAG}merge":
                at = f"{where}, line {name.start_mark.line + 1}: {below}"
                if name.tag in (f"{_TAG}bool", f"{_TAG}null"):
                    yield Problem(at, "a string as key", hint=f"quote it: '{name.value}'")
                else:
                    yield from _problems(name, where, below, seen)
            yield from _problems(value, where, below, seen)


def _problems_of_scalar(node: yaml.ScalarNode, where: str, key: str) -> Iterator[Problem]:
    position = f"{where}, line {node.start_mark.line + 1}: {key or 'the file'}"
    value = node.value
    if node.tag not in _KNOWN and node.tag not in (f"{_TAG}value", f"{_TAG}merge"):
        yield Problem(position, "a value without a YAML tag", node.tag)
    if node.style is not None:  # quoted or block scalars are strings
        return
    number = node.tag in (f"{_TAG}int", f"{_TAG}float")
    unusual = node.tag in (f"{_TAG}value", f"{_TAG}merge")  # `=`, and `<<` as a value
    if unusual or (number and _SEXAGESIMAL.fullmatch(value)):
        node.tag = _STRING
    elif node.tag == f"{_TAG}int" and not _INTEGER.fullmatch(value):
        yield _ambiguous(position, "a number without leading zeros or misplaced underscores", value)
    elif node.tag == f"{_TAG}float" and not _FLOAT.fullmatch(value):
        yield _ambiguous(position, "a number without misplaced underscores", value)
    elif node.tag == f"{_TAG}bool" and not _BOOLEAN.fullmatch(value):
        yield _ambiguous(position, "true or false, or a string in quotes", value)
    elif node.tag == _STRING and _OCTAL.fullmatch(value):
        yield _ambiguous(position, "a decimal number", value)


def _ambiguous(position: str, expected: str, value: str) -> Problem:
    return Problem(position, expected, value, f"to set a string, quote it: '{value}'")


class _File(file_config_source.FileConfigSource):
    """Source of Hydra configs in a folder; files are read with `parse_yaml`."""

    def load_config(self, config_path: str) -> ConfigResult:
        path = Path(self.path, self._normalize_file_name(config_path)).resolve()
        if not path.exists():
            raise ConfigLoadError(f"Config not found : {path}")
        text = _decode(path.read_bytes(), str(path))
        return _result(text, str(path), f"{self.scheme()}://{self.path}", self.provider)


class _Package(importlib_resources_config_source.ImportlibResourcesConfigSource):
    """Source of Hydra configs in an importable package; files are read with `parse_yaml`."""

    def _read_config(self, res: Any) -> ConfigResult:
        text = _decode(res.read_bytes(), str(res))
        return _result(text, str(res), f"{self.scheme()}://{self.path}", self.provider)


_File.__name__ = file_config_source.FileConfigSource.__name__
_Package.__name__ = importlib_resources_config_source.ImportlibResourcesConfigSource.__name__
# Hydra registers its plugins repeatedly and identifies them by class name.


def _result(text: str, where: str, path: str, provider: str) -> ConfigResult:
    value = parse_yaml(text, where)
    if value is not None and not isinstance(value, dict):
        hint = missing_colon(value) or "write `KEY: VALUE` on each line"
        raise RequestError(Problem(where, "a mapping of keys to values", value, hint))
    config: Any = OmegaConf.create({} if value is None else value)
    try:
        header = ConfigSource._get_header_dict(text[:512])
    except ValueError as error:  # more or fewer words
        expected = f"a header such as `{GLOBAL_HEADER}`"
        raise RequestError(Problem(where, expected, hint=str(error))) from error
    if problems := list(_defaults_problems(where, (value or {}).get("defaults", []))):
        raise RequestError(problems)
    return ConfigResult(provider=provider, path=path, config=config, header=header)


def missing_colon(value: object) -> str | None:
    """Returns a hint if a value is a text such as `dim 32`, a setting without its colon."""
    match = re.fullmatch(r"(\w+)\s+(\S.*)", value) if isinstance(value, str) else None
    return f"did you mean `{match[1]}: {match[2]}`?" if match else None


def _defaults_problems(where: str, entries: Any) -> Iterator[Problem]:
    """Yields a problem for each invalid entry of a config file's `defaults` list."""
    expected = "a list of entries such as `- override /model: nano`"
    if not isinstance(entries, list):
        yield Problem(f"{where}: defaults", expected, entries)
        return
    for number, entry in enumerate(entries):
        values = list(entry.values()) if isinstance(entry, dict) else []
        is_group = len(values) == 1 and _is_file_name(values[0])
        if not isinstance(entry, str) and not is_group:
            yield Problem(f"{where}: defaults[{number}]", "a file, or `GROUP: FILE`", entry)


def _is_file_name(value: Any) -> bool:
    """Returns whether a value of a `defaults` list is a name, a list of names, or null."""
    names = value if isinstance(value, list) else [value]
    return value is None or all(isinstance(name, str) for name in names)


@contextmanager
def strict_files() -> Iterator[None]:
    """Context manager in which Hydra reads config files with `parse_yaml`."""
    Plugins.instance()
    types = SourcesRegistry.instance().types
    before = dict(types)
    types.update(file=_File, pkg=_Package)
    try:
        yield
    finally:
        types.clear()
        types.update(before)
