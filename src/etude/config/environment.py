"""Resolves configs with values from the environment (`${oc.env:NAME}`), and masks these values."""

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

from etude.secrets import Mask, mask_record, register_secret_value

_resolver_lock = threading.RLock()  # OmegaConf's resolvers belong to the whole process


@dataclass
class ResolvedConfig:
    """A config as plain data with resolved interpolations.

    Attributes:
        values: the config as nested dictionaries and lists.
        mask: masks the values that the config takes from the environment.
        uses_environment: whether the config refers to the environment, even to unset variables.
    """

    values: dict[str, Any]
    mask: Mask
    uses_environment: bool


def resolve_config(config: DictConfig) -> ResolvedConfig:
    """Returns a config as plain data in which all interpolations are resolved.

    Raises:
        OmegaConfBaseException: an interpolation cannot be resolved.
    """
    variables: dict[str, str] = {}
    uses_environment = False

    def record(key: str, *default: Any) -> Any:
        nonlocal uses_environment
        uses_environment = True
        value = _registering_env(key, *default)
        if key in os.environ:
            variables[key] = os.environ[key]
        return value

    with _environment(record):
        values: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    return ResolvedConfig(values, Mask(variables), uses_environment)


def make_mask(config: DictConfig) -> Mask:
    """Returns an object that masks passwords, and the values that a config takes from the
    environment.

    If the config cannot be resolved, only passwords are masked.
    """
    try:
        return resolve_config(config).mask
    except OmegaConfBaseException:
        return Mask()


def masked_config(config: DictConfig, read: ResolvedConfig | None = None) -> dict[str, Any]:
    """Returns the resolved config without secrets.

    Values from the environment are replaced by references such as `${oc.env:NAME}`; passwords are
    masked. If an interpolation cannot be resolved, all interpolations stay unresolved.

    Args:
        config: the config.
        read: the result of `resolve_config`, if the caller has it already; None resolves the
            config here.
    """
    is_usable = read is not None and not read.uses_environment
    tree = (
        read.values
        if is_usable and read is not None
        else resolve_with_placeholders(config, "${{oc.env:{name}}}")
    )
    masked: dict[str, Any] = mask_record(tree)
    return masked


def resolve_with_placeholders(config: DictConfig, form: str) -> dict[str, Any]:
    """Returns the resolved config with placeholders for the values from the environment.

    Returns the unresolved config if an interpolation cannot be resolved.

    Args:
        config: the config.
        form: the placeholder, a format string in which `{name}` stands for the name of the
            environment variable.
    """
    uses_environment = False

    def placeholder(name: str, *default: Any) -> str:
        nonlocal uses_environment
        uses_environment = True
        return form.format(name=name)

    with _environment(placeholder):
        try:
            values: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
            if not uses_environment:
                return values
        except OmegaConfBaseException:  # for example, a placeholder instead of a number
            pass
        written: dict[str, Any] = OmegaConf.to_container(config, resolve=False)  # type: ignore[assignment]
        untyped = OmegaConf.create(written)  # accepts a placeholder instead of a number
        try:
            return OmegaConf.to_container(untyped, resolve=True)  # type: ignore[return-value]
        except OmegaConfBaseException:
            return written


def _registering_env(key: str, *default: Any) -> Any:
    """Implementation of OmegaConf's resolver `oc.env` that registers the value it returns.

    Registered values are masked in error messages.

    Args:
        key: the name of the environment variable.
        *default: at most one value, which is returned if the variable is not set. It is not
            registered. Without it, an unset variable is an error.
    """
    value = oc.env(key, *default)
    if key in os.environ:
        register_secret_value(key, os.environ[key])
    return value


OmegaConf.register_new_resolver("oc.env", _registering_env, replace=True)


@contextmanager
def _environment(resolver: Callable[..., Any]) -> Iterator[None]:
    """Context manager that replaces OmegaConf's resolver `oc.env` by `resolver`."""
    with _resolver_lock:
        OmegaConf.register_new_resolver("oc.env", resolver, replace=True)
        try:
            yield
        finally:
            OmegaConf.register_new_resolver("oc.env", _registering_env, replace=True)
