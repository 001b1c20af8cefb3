"""Values from the environment, `${oc.env:NAME}`: which a config took, and the config without."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from etude.secrets import Mask, taken_from_environment, without_secrets

_one_at_a_time = threading.RLock()  # resolvers are OmegaConf's, for the whole process


@dataclass
class Resolved:
    """A config as plain data with every interpolation resolved.

    Attributes:
        plain: the data.
        mask: hides what it took from the environment.
        asked: the environment was asked for something, which may not be there.
    """

    plain: dict[str, Any]
    mask: Mask
    asked: bool


def resolved(config: DictConfig) -> Resolved:
    """The config resolved.

    Raises:
        OmegaConfBaseException: an interpolation does not resolve.
    """
    taken: dict[str, str] = {}
    asked = False

    def taking(key: str, *default: Any) -> Any:
        nonlocal asked
        asked = True
        value = _noted(key, *default)
        if key in os.environ:
            taken[key] = os.environ[key]
        return value

    with _environment(taking):
        plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    return Resolved(plain, Mask(taken), asked)


def mask_of(config: DictConfig) -> Mask:
    """What hides a config's secrets in any text; passwords in URLs alone if it does not resolve."""
    try:
        return resolved(config).mask
    except OmegaConfBaseException:
        return Mask()


def shown(config: DictConfig, read: Resolved | None = None) -> dict[str, Any]:
    """The config as it may be shown: resolved, but with references in place of what the
    environment says, and without passwords.

    Args:
        read: the config resolved, where that was done; it saves doing it again.
    """
    as_read = read is not None and not read.asked
    tree = read.plain if as_read and read is not None else instead(config, "${{oc.env:{name}}}")
    plain: dict[str, Any] = without_secrets(tree)
    return plain


def instead(config: DictConfig, form: str) -> dict[str, Any]:
    """The config as plain data, resolved, with `form` in place of values of the environment.

    As written where it does not resolve.

    Args:
        form: a text with `{name}` in it, the variable's.
    """
    asked = False

    def told(name: str, *default: Any) -> str:
        nonlocal asked
        asked = True
        return form.format(name=name)

    with _environment(told):
        try:
            found: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
            if not asked:
                return found
        except OmegaConfBaseException:  # such as a text where a number must be
            pass
        written: dict[str, Any] = OmegaConf.to_container(config, resolve=False)  # type: ignore[assignment]
        untyped = OmegaConf.create(written)  # a number from the environment is a text here
        try:
            return OmegaConf.to_container(untyped, resolve=True)  # type: ignore[return-value]
        except OmegaConfBaseException:
            return written


def _noted(key: str, *default: Any) -> Any:
    """`oc.env`, of which error messages know what it gave."""
    value = oc.env(key, *default)
    if key in os.environ:
        taken_from_environment(key, os.environ[key])
    return value


OmegaConf.register_new_resolver("oc.env", _noted, replace=True)


@contextmanager
def _environment(resolver: Callable[..., Any]) -> Iterator[None]:
    """Within, `oc.env` is `resolver`."""
    with _one_at_a_time:
        OmegaConf.register_new_resolver("oc.env", resolver, replace=True)
        try:
            yield
        finally:
            OmegaConf.register_new_resolver("oc.env", _noted, replace=True)
