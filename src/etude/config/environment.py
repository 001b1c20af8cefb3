"""Values from the environment, `${oc.env:NAME}`: which a config took, and the config without."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from etude.secrets import Mask, taken_from_environment, without_secrets

_one_at_a_time = threading.RLock()  # resolvers are OmegaConf's, for the whole process


def resolved(config: DictConfig) -> tuple[dict[str, Any], Mask]:
    """The config as plain data with every interpolation resolved, and what hides its secrets.

    Raises:
        OmegaConfBaseException: an interpolation does not resolve.
    """
    taken: dict[str, str] = {}

    def taking(key: str, *default: Any) -> Any:
        value = _noted(key, *default)
        if key in os.environ:
            taken[key] = os.environ[key]
        return value

    with _environment(taking):
        plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    return plain, Mask(taken)


def mask_of(config: DictConfig) -> Mask:
    """What hides a config's secrets in any text; passwords in URLs alone if it does not resolve."""
    try:
        return resolved(config)[1]
    except OmegaConfBaseException:
        return Mask()


def shown(config: DictConfig) -> dict[str, Any]:
    """The config as it may be shown: resolved, but with references in place of what the
    environment says, and without passwords."""
    plain: dict[str, Any] = without_secrets(instead(config, "${{oc.env:{name}}}"))
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
