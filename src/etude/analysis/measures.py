"""Measures of a run's model at its saved steps, stored in the run's folder.

`measures/<function>-<key>.json` contains the values of one function with one set of arguments, by
the hash of the weights of each checkpoint. The key is a hash of the function and the arguments: for
a function of a package, the source code of its module; for a function of the user, its code and
defaults, and the functions and values that it reads. So a changed function, argument or checkpoint
is measured again.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any

from etude.errors import Problem, RequestError
from etude.progress import with_progress
from etude.records import opening
from etude.records.manifest import WEIGHTS, read_manifest
from etude.records.opening import list_names, make_subfolder, path_exists
from etude.records.sealed import digest, read_sealed, write_sealed
from etude.user_code import code_content, is_user_file

if TYPE_CHECKING:
    import pandas as pd

FOLDER = "measures"
_HINT = "the file was changed; to measure again, delete it"


def measure_steps(
    run: Any,
    measure: Callable[..., Any],
    args: Sequence[Any] = (),
    more: Mapping[str, Any] | None = None,
    steps: Sequence[int] | None = None,
) -> pd.Series:
    """Returns the values of a measure for the models of a run's checkpoints.

    Values that are stored in the run's folder are not computed again.

    Args:
        run: an `etude.api.Run`.
        measure: function of a model, which returns a series or a number.
        args, more: further arguments of the function.
        steps: steps of the checkpoints; None for all.

    Returns:
        The values, with `step` as the first level of the index.

    Raises:
        RequestError: the run has no checkpoint of a step, or the measure returns something else.
    """
    more = more or {}
    saved = dict(run.record.checkpoints())
    chosen = list(saved) if steps is None else list(steps)
    if missing := [step for step in chosen if step not in saved]:
        hint = f"saved: {', '.join(map(str, saved)) or 'none'}"
        raise RequestError(Problem("steps", "steps with a checkpoint", missing, hint))
    if not chosen:
        raise RequestError(Problem(str(run.path), "a run with checkpoints"))
    file = _file(run.path, measure, args, more)
    stored = _read(file)
    results: dict[int, pd.Series] = {}
    computed = 0
    for step in with_progress(chosen, f"{_name(measure)}, checkpoints", len(chosen)):
        weights = read_manifest(saved[step])["sha256"][WEIGHTS]
        if weights not in stored:
            stored[weights] = _encode(measure(run.model(str(step)), *args, **more), measure)
            computed += 1
        results[step] = _decode(stored[weights])
    if computed and file is not None:
        make_subfolder(run.path, FOLDER)
        content = {"function": _name(measure), "arguments": repr((*args, more)), "values": stored}
        write_sealed(file, content, opening.MEASURES)
    return _concatenate(results)


def _concatenate(results: Mapping[int, pd.Series]) -> pd.Series:
    """Returns the series of all steps as one; those of a single number by step alone."""
    import pandas as pd

    if all(series.index.names == [None] and len(series) == 1 for series in results.values()):
        index = pd.Index(list(results), name="step")
        values = [series.iloc[0] for series in results.values()]
        return pd.Series(values, index=index, dtype=float, name="value")
    return pd.concat(results, names=["step"])


def _file(
    folder: Path, measure: Callable[..., Any], args: Sequence[Any], more: Mapping[str, Any]
) -> Path | None:
    """Returns the file of a measure's values; None if its arguments cannot be identified."""
    try:
        key = digest([_identity(measure), [_identity(x) for x in args], _identity(dict(more))])
    except TypeError:
        return None
    name = re.sub(r"\W+", "_", _name(measure).rpartition(".")[2]) or "function"
    return folder / FOLDER / f"{name}-{key[:12]}.json"


def _name(measure: Callable[..., Any]) -> str:
    if isinstance(measure, partial):
        return _name(measure.func)
    module = getattr(measure, "__module__", "")
    return f"{module}.{getattr(measure, '__qualname__', type(measure).__name__)}"


def _identity(value: Any) -> Any:
    """Returns a JSON value that identifies an argument or a function.

    Raises:
        TypeError: there is none.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_identity(each) for each in value]
    if isinstance(value, dict):
        return {str(key): _identity(each) for key, each in value.items()}
    if isinstance(value, partial):
        keywords = _identity(value.keywords)
        return ["partial", _identity(value.func), _identity(value.args), keywords]
    is_array = hasattr(value, "tobytes") and hasattr(value, "dtype")
    if is_array or hasattr(value, "detach"):  # or a tensor
        array = value.detach().cpu().numpy() if hasattr(value, "detach") else value
        content = hashlib.sha256(array.tobytes()).hexdigest()
        return [str(array.dtype), list(array.shape), content]
    if inspect.isfunction(value):
        if not _is_of_user(value):
            return [_name(value), _module_hash(value)]
        return _identity_of_code(value)
    raise TypeError(f"{type(value).__name__} has no hash")


def _module_hash(value: Any) -> str:
    """Returns a hash of the source of the module that defines a function.

    Raises:
        TypeError: there is no source.
    """
    try:
        source = inspect.getsource(sys.modules[value.__module__])
    except (OSError, KeyError) as error:
        raise TypeError("a function without source code") from error
    return hashlib.sha256(source.encode()).hexdigest()


def _identity_of_code(function: Any) -> Any:
    """Returns a JSON value that identifies a user's function: its code, defaults and globals.

    The code is that in memory, because the file may have been edited since.

    Raises:
        TypeError: the function depends on local variables, or a value has no hash.
    """
    if function.__closure__ or function.__dict__:
        raise TypeError("a function that depends on local variables or attributes")
    if function in _visited.get():
        return function.__qualname__
    token = _visited.set({*_visited.get(), function})
    try:
        defaults = _identity([function.__defaults__, function.__kwdefaults__])
        found = {name: _global(function.__globals__[name]) for name in sorted(_names(function))}
        return [_name(function), code_content(function.__code__), defaults, found]
    finally:
        _visited.reset(token)


_visited: ContextVar[frozenset[Any] | set[Any]] = ContextVar("visited", default=frozenset())


def _names(function: Any) -> set[str]:
    """Returns the names of the globals that a function, and functions inside of it, read."""

    def names(code: CodeType) -> set[str]:
        inner = (names(each) for each in code.co_consts if isinstance(each, CodeType))
        return set(code.co_names).union(*inner)

    return names(function.__code__) & function.__globals__.keys()


def _global(value: Any) -> Any:
    """Returns a JSON value that identifies a global of a user's function."""
    if inspect.ismodule(value):
        if is_user_file(getattr(value, "__file__", None) or ""):
            raise TypeError("a module of the user, whose functions are not known")
        return value.__name__
    if isinstance(value, type) or inspect.isbuiltin(value):
        if _is_of_user(value):
            raise TypeError("a class of the user")
        return _name(value)
    if type(value).__name__ == "ufunc":  # a function of NumPy
        return value.__name__
    return _identity(value)


def _is_of_user(value: Any) -> bool:
    """Returns whether a function or class is from a notebook or a file of the user."""
    module = sys.modules.get(value.__module__ or "")
    file = getattr(module, "__file__", None)
    return value.__module__ != "builtins" and (file is None or is_user_file(file))


def _read(file: Path | None) -> dict[str, Any]:
    if file is None or not path_exists(file):
        return {}
    values: dict[str, Any] = read_sealed(file, opening.MEASURES, _HINT)["values"]
    return values


def measure_faults(folder: Path) -> Iterator[str]:
    """Yields a text for each file of measures in a run's folder that is damaged or was changed."""
    try:
        names = [name for name in list_names(folder / FOLDER) if name.endswith(".json")]
        for name in names:
            try:
                read_sealed(folder / FOLDER / name, opening.MEASURES, _HINT)
            except RequestError as error:
                yield str(error).replace(f"{folder}/", "")
    except RequestError as error:  # not a folder
        yield str(error).replace(f"{folder}/", "")


def _encode(value: Any, measure: Callable[..., Any]) -> dict[str, Any]:
    """Returns a series or a number as JSON values.

    Raises:
        RequestError: the value is neither.
    """
    import pandas as pd

    if not isinstance(value, pd.Series | str):
        with suppress(TypeError, ValueError, RuntimeError):  # reported below
            value = pd.Series([float(value)], name="value")
    if not isinstance(value, pd.Series):
        expected = "a function that returns a pandas.Series or a number"
        raise RequestError(Problem(_name(measure), expected, type(value).__name__))
    frame = value.index.to_frame(index=False)
    columns = [[_plain(each) for each in frame[name]] for name in frame.columns]
    return {
        "name": None if value.name is None else str(value.name),
        "levels": list(value.index.names),
        "index": columns,
        "values": [None if number != number else float(number) for number in value],
    }


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _decode(stored: Mapping[str, Any]) -> pd.Series:
    import pandas as pd

    levels, columns = stored["levels"], stored["index"]
    index = (
        pd.Index(columns[0], name=levels[0])
        if len(levels) == 1
        else pd.MultiIndex.from_arrays(columns, names=levels)
    )
    return pd.Series(stored["values"], index=index, dtype=float, name=stored.get("name"))
