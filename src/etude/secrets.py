"""Masks secrets: passwords in URLs, values from the environment, keys and tokens.

A URL's password is replaced by `***` in all output. A value that a config takes from the
environment is replaced by its reference, `${oc.env:NAME}`, in saved files. The run itself uses the
true values.

A secret may also be typed where it does not belong. `mask_secrets`, which is applied to all text
that is printed, logged or saved, replaces the values of environment variables whose names mark them
as secret (`WANDB_API_KEY`, `HF_TOKEN`). `mask_error`, which is applied to error messages, also
replaces all values that a config took from the environment, the text after `..._key=` or
`password=`, and tokens of known formats (`hf_...`).
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from etude.escaping import printable

_REFERENCE = r"\$\{[^{}]*\}"
_URL_PASSWORD = re.compile(
    rf"(://(?:{_REFERENCE}|[^\s/?\#:@])*:)"  # user name
    rf"((?:{_REFERENCE}|[^\s/?\#])+)"  # password, up to the last @ before the path
    r"@"
)
_PLACEHOLDER = re.compile(
    rf"{_REFERENCE}|\{{[^{{}}]*\}}|%s|%\(\w+\)s|<[^<>]*>|\*+"
)  # in a config, an f-string, a template or a manual: a placeholder, not a password
_SHORTEST = 4  # characters; shorter values occur in any text
_COMMON_WORDS = frozenset({"true", "false", "null", "none", "auto"})


def mask_passwords(value: Any) -> Any:
    """Replaces the password of each URL by `***`, in a text or in nested lists and dictionaries.

    The result is returned; the argument is not changed. Keys are masked too, and tuples become
    lists. A placeholder, such as the reference `${oc.env:NAME}`, is not a password and is
    unchanged.

    Example:
        >>> mask_passwords("https://me:{}@host/x".format("secret"))
        'https://me:***@host/x'
    """
    if isinstance(value, str):
        return _URL_PASSWORD.sub(_without_password, value) if "://" in value else value
    if isinstance(value, Mapping):
        return {mask_passwords(k): mask_passwords(inner) for k, inner in value.items()}
    if isinstance(value, list | tuple):
        return [mask_passwords(inner) for inner in value]
    return value


def _without_password(match: re.Match[str]) -> str:
    return match[0] if _PLACEHOLDER.fullmatch(match[2]) else f"{match[1]}***@"


class Mask:
    """Mask for the values that a config took from the environment, and for other secrets.

    Args:
        values: value of each environment variable that the config uses, by the variable's name.
            Values shorter than four characters, numbers shorter than eight characters, and words
            such as `true` are not masked, because they occur in any text.
    """

    def __init__(self, values: Mapping[str, str] | None = None) -> None:
        self._spellings = _references((values or {}).items())

    @property
    def spellings(self) -> dict[str, str]:
        """Dict from each masked text to the text that replaces it, such as `${oc.env:NAME}`.

        A value is masked in several spellings, such as that in JSON.
        """
        return dict(self._spellings)

    def text(self, text: str) -> str:
        """Returns a text with this mask's values replaced by references, and other secrets masked.

        The other secrets are those that `mask_secrets` masks.
        """
        return mask_secrets(self.spelled(text))

    def spelled(self, text: str) -> str:
        """Returns a text in which this mask's values are replaced by references, `${oc.env:NAME}`.

        Unlike the method `text`, other secrets are not masked.
        """
        return _replace_spellings(text, self._spellings)

    def tree(self, value: Any) -> Any:
        """Returns nested lists and dictionaries with secrets masked in all texts, except in keys.

        Each text is masked by the method `text`. The argument is not changed; tuples become lists
        and other values are unchanged.
        """
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {key: self.tree(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.tree(inner) for inner in value]
        return value

    def hides(self, value: str | None) -> bool:
        """Returns whether `value` contains a secret, which the method `text` would mask."""
        return value is not None and self.text(value) != value


class MaskingFormatter(logging.Formatter):
    """Log formatter that masks secrets and escapes control characters, also in tracebacks."""

    def __init__(self, pattern: str, mask: Mask | None = None) -> None:
        super().__init__(pattern)
        self._mask = mask or Mask()

    def format(self, record: logging.LogRecord) -> str:
        """Formats a log record with secrets masked and control characters escaped."""
        text = self._mask.text(super().format(record))
        return printable(mask_keys(text))


def mask_messages(mask: Mask) -> None:
    """Applies `mask` to all later log messages of this process."""
    for handler in logging.getLogger("etude").handlers:
        if isinstance(handler.formatter, MaskingFormatter):
            handler.formatter._mask = mask


# -- secrets in unexpected positions ------------------------------------------------------------

_SECRET_KEY = (
    r"(?:api|access|secret|private|auth|signing|wandb|hf|comet|neptune)[_-]?(?:key|token)"
    r"|secret|passw(?:or)?d|passphrase|credentials?"
)
_VARIABLE = re.compile(
    r"(?i)(?:^|_)(?:\w*key|token|secret|passw(?:or)?d|pass|pwd|credentials?)(?:_|$)"
)
_NAMED = re.compile(rf"(?i)(?:{_SECRET_KEY})$")
_ASSIGNED = re.compile(
    rf"(?i)((?:{_SECRET_KEY})['\"]?\s*[=:]\s*)"
    r"(?!expected )('[^'\n]*'|\"[^\"\n]*\"|[^\s,;'\"]+)"
)
_TOKENS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{30,}"
    r"|github_pat_\w{30,}|glpat-[\w-]{20,}|AKIA[0-9A-Z]{16}|xox[abprs]-[\w-]{10,}"
    r"|wandb_v\d_\w{20,})"
)  # tokens with a prefix set by their service
_TOKEN_PREFIXES = ("hf_", "sk-", "gh", "glpat-", "AKIA", "xox", "wandb_v")
_MIN_SECRET = 12  # minimum characters of a secret masked in all texts; `postgres` occurs in many
_MIN_CONFIG_VALUE = 8
_taken: dict[str, str] = {}
"""References (`${oc.env:NAME}`) by the spelling of the value that a config took."""
_seen: tuple[dict[Any, Any], tuple[tuple[str, str], ...]] | None = None


def register_secret_value(name: str, value: str) -> None:
    """Registers a value that a config took from an environment variable.

    Error messages mask registered values. Values shorter than 8 characters are not registered.

    Args:
        name: name of the environment variable.
        value: its value.
    """
    if len(value) >= _MIN_CONFIG_VALUE and value not in _taken:
        _taken.update(_references([(name, value)]))


def secret_variables() -> Mapping[str, str]:
    """Returns the secret environment variables, as a dict from name to value.

    A variable is secret if its name marks its value as secret, for example `WANDB_API_KEY`.
    Values shorter than 12 characters, which may occur in any text, and paths of existing files are
    excluded.
    """
    return _secret_variables(_environment())[0]


def _environment() -> tuple[tuple[str, str], ...]:
    """Returns the environment variables as pairs (name, value).

    The result is cached until a variable changes, because decoding the variables is slow.
    """
    global _seen
    now: Mapping[Any, Any] = getattr(os.environ, "_data", os.environ)
    if _seen is None or _seen[0] != now:
        _seen = dict(now), tuple(os.environ.items())
    return _seen[1]


@lru_cache(maxsize=2)
def _secret_variables(
    environment: tuple[tuple[str, str], ...],
) -> tuple[dict[str, str], dict[str, str]]:
    """Returns the secret environment variables, and what replaces their values in texts.

    The first dict contains the value of each secret variable, by its name. The second dict maps
    each spelling of each value, such as that in JSON, to the reference `${oc.env:NAME}`.

    Args:
        environment: all environment variables, as pairs (name, value).
    """
    secrets = {
        name: value
        for name, value in environment
        if len(value) >= _MIN_SECRET
        and _VARIABLE.search(name)
        and name not in ("PWD", "OLDPWD")
        and not (value.startswith(("/", "~", ".")) and os.path.exists(os.path.expanduser(value)))
    }
    return secrets, _references(secrets.items())


def find_secret_variable(text: str) -> str | None:
    """Returns the name of a secret environment variable whose value occurs in the text.

    Returns None if there is no such variable.
    """
    return next((name for name, value in secret_variables().items() if value in text), None)


def mask_secrets(text: str) -> str:
    """Masks the values of secret environment variables, and passwords in URLs, in a text."""
    return str(mask_passwords(mask_variables(text)))


def mask_variables(text: str) -> str:
    """Replaces the values of secret environment variables by references, `${oc.env:NAME}`."""
    return _replace_spellings(text, _secret_variables(_environment())[1])


def mask_error(text: str) -> str:
    """Masks secrets in an error message, which may quote any input.

    Masks the secrets that `mask_secrets` masks, the values that configs took from the environment,
    and text that looks like a key or a token.

    Example:
        >>> mask_error("wandb_key = '0123456789abcdef': expected a key of the config")
        "wandb_key = '***': expected a key of the config"
    """
    return mask_keys(_replace_spellings(mask_secrets(text), _taken))


def mask_keys(text: str) -> str:
    """Masks the values after texts such as `..._key=` or `password:`, and tokens such as `hf_...`.

    This function is not applied to source code, where such assignments are not secrets.
    """
    return _without_tokens(_ASSIGNED.sub(_mask_assignment, text))


def _mask_assignment(match: re.Match[str]) -> str:
    value = match[2]
    quote_ = value[0] if value[0] in "'\"" else ""
    if _PLACEHOLDER.fullmatch(value.strip("'\"")) or len(value.strip("'\"")) < _SHORTEST:
        return match[0]
    return f"{match[1]}{quote_}***{quote_}"


def _without_tokens(text: str) -> str:
    return _TOKENS.sub("***", text) if any(begin in text for begin in _TOKEN_PREFIXES) else text


def mask_record(value: Any) -> Any:
    """Masks the secrets in a text, or in nested lists and dictionaries, and returns the result.

    For data that is saved. Masks the secrets that `mask_secrets` masks, tokens of known formats,
    and the values of keys whose names mark them as secret, also in overrides (`vars.api_key=...`).
    The argument is not changed; tuples become lists.
    """
    if isinstance(value, str):
        key, equals, rest = value.partition("=")
        if equals and rest and _is_secret_key(key) and not _PLACEHOLDER.fullmatch(rest):
            value = f"{key}=***"
        return _without_tokens(mask_secrets(value))
    if isinstance(value, Mapping):
        return {
            mask_record(key): "***"
            if isinstance(inner, str)
            and inner
            and _is_secret_key(str(key))
            and not _PLACEHOLDER.fullmatch(inner)
            else mask_record(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [mask_record(inner) for inner in value]
    return value


def _is_secret_key(key: str) -> bool:
    return _NAMED.search(key) is not None


def _worth_hiding(value: str) -> bool:
    short_number = len(value) < 8 and re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?", value, re.IGNORECASE)
    return len(value) >= _SHORTEST and value.lower() not in _COMMON_WORDS and not short_number


def _references(values: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Returns a dict from each spelling of secret values to the reference that replaces it.

    A spelling is the value as it is written in a text, such as in JSON. A reference is a text
    `${oc.env:NAME}`. The longest spelling is first. Values that are not masked (see `Mask`) are
    left out.

    Args:
        values: pairs of an environment variable's name and its value.
    """
    references: dict[str, str] = {}
    for name, value in values:
        if _worth_hiding(value):
            for spelling in _spellings(value):
                references.setdefault(spelling, f"${{oc.env:{name}}}")
    return dict(sorted(references.items(), key=lambda item: -len(item[0])))


def _replace_spellings(text: str, references: Mapping[str, str]) -> str:
    for spelling, reference in references.items():
        text = text.replace(spelling, reference)
    return text


def _spellings(value: str) -> list[str]:
    """Returns the forms of a value in texts: unchanged, in Python or JSON strings, and in URLs."""
    stripped = value.rstrip("/")  # joined to a path, `/data/` becomes `/data`
    return [
        value,
        *([stripped] if len(stripped) >= _SHORTEST else []),
        repr(value)[1:-1],
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        quote(value),
        quote(value, safe=""),
    ]
