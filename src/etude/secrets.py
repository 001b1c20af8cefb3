"""What must not be written down: passwords in URLs, values from the environment, keys and tokens.

A URL's password is replaced by `***` wherever text leaves the process, and a value that a config
takes from the environment by the reference to it, `${oc.env:NAME}`, wherever a record is written.
The run itself works with the true values.

A secret may also stand in a place where it does not belong. So `hidden`, which everything passes
that is printed, logged or written as text, knows the variables of the environment whose names say
that they are secret (`WANDB_API_KEY`, `HF_TOKEN`). `in_errors`, which error messages pass, replaces
more: every value that any config took from the environment, what follows `..._key=` or
`password=`, and tokens by their form (`hf_...`).
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
    rf"(://(?:{_REFERENCE}|[^\s/?\#:@])*:)"  # the user's name
    rf"((?:{_REFERENCE}|[^\s/?\#])+)"  # the password, up to the last @ before the path
    r"@"
)
_PLACEHOLDER = re.compile(
    rf"{_REFERENCE}|\{{[^{{}}]*\}}|%s|%\(\w+\)s|<[^<>]*>|\*+"
)  # of a config, an f-string, a template, a manual: no password yet
_SHORTEST = 4  # characters; what is shorter hides nothing and would be found everywhere
_PLAIN_WORDS = frozenset({"true", "false", "null", "none", "auto"})


def without_passwords(value: Any) -> Any:
    """The text with each URL's password replaced by `***`; likewise all texts in a tree.

    A placeholder, such as the reference `${oc.env:NAME}`, is no password yet and stays.

    Example:
        >>> without_passwords("https://me:{}@host/x".format("secret"))
        'https://me:***@host/x'
    """
    if isinstance(value, str):
        return _URL_PASSWORD.sub(_without_password, value) if "://" in value else value
    if isinstance(value, Mapping):
        return {without_passwords(k): without_passwords(inner) for k, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_passwords(inner) for inner in value]
    return value


def _without_password(found: re.Match[str]) -> str:
    return found[0] if _PLACEHOLDER.fullmatch(found[2]) else f"{found[1]}***@"


class Mask:
    """Hides the values that a config took from the environment, and passwords in URLs.

    Args:
        values: what was taken, by the variable's name. Values shorter than four characters, short
            numbers and words such as `true` are no secrets and stay: they would be found in any
            text.
    """

    def __init__(self, values: Mapping[str, str] | None = None) -> None:
        self._spellings = _references((values or {}).items())

    @property
    def spellings(self) -> dict[str, str]:
        """What it replaces, with the references in place of it."""
        return dict(self._spellings)

    def text(self, text: str) -> str:
        """The text with references in place of values."""
        return hidden(self.spelled(text))

    def spelled(self, text: str) -> str:
        """`text` of this mask's own values alone."""
        return _replaced(text, self._spellings)

    def tree(self, value: Any) -> Any:
        """`text` of all texts in lists and dictionaries; keys stay."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {key: self.tree(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.tree(inner) for inner in value]
        return value

    def hides(self, value: str | None) -> bool:
        """Whether something in the value would be replaced."""
        return value is not None and self.text(value) != value


class MaskingFormatter(logging.Formatter):
    """A formatter whose whole line, traceback included, goes through a mask, and holds nothing that
    a terminal would obey: a log is looked at on one."""

    def __init__(self, pattern: str, mask: Mask | None = None) -> None:
        super().__init__(pattern)
        self._mask = mask or Mask()

    def format(self, record: logging.LogRecord) -> str:
        """The line as it may be written."""
        text = self._mask.text(super().format(record))
        return printable(without_keys(text))


def mask_messages(mask: Mask) -> None:
    """From now on what this process logs goes through `mask`, wherever it goes."""
    for handler in logging.getLogger("etude").handlers:
        if isinstance(handler.formatter, MaskingFormatter):
            handler.formatter._mask = mask


# -- secrets in the wrong place -----------------------------------------------------------------

_SECRETIVE = (
    r"(?:api|access|secret|private|auth|signing|wandb|hf|comet|neptune)[_-]?(?:key|token)"
    r"|secret|passw(?:or)?d|passphrase|credentials?"
)
_VARIABLE = re.compile(
    r"(?i)(?:^|_)(?:\w*key|token|secret|passw(?:or)?d|pass|pwd|credentials?)(?:_|$)"
)
_NAMED = re.compile(rf"(?i)(?:{_SECRETIVE})$")
_ASSIGNED = re.compile(
    rf"(?i)((?:{_SECRETIVE})['\"]?\s*[=:]\s*)"
    r"(?!expected )('[^'\n]*'|\"[^\"\n]*\"|[^\s,;'\"]+)"
)
_FORMS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{30,}"
    r"|github_pat_\w{30,}|glpat-[\w-]{20,}|AKIA[0-9A-Z]{16}|xox[abprs]-[\w-]{10,}"
    r"|wandb_v\d_\w{20,})"
)  # of tokens whose services give them a prefix
_FORMS_BEGIN = ("hf_", "sk-", "gh", "glpat-", "AKIA", "xox", "wandb_v")
_LONG = 12  # characters of a secret that is looked for in all texts; `postgres` is in many
_LONG_TAKEN = 8
_taken: dict[str, str] = {}  # spelled values that configs took from the environment, references
_seen: tuple[dict[Any, Any], tuple[tuple[str, str], ...]] | None = None


def taken_from_environment(name: str, value: str) -> None:
    """Notes that a config took a variable's value: no error message of this process shows it."""
    if len(value) >= _LONG_TAKEN and value not in _taken:
        _taken.update(_references([(name, value)]))


def secret_variables() -> Mapping[str, str]:
    """The variables of the environment whose names say that their values are secret.

    Without short values, which would be in any text, and without names of files that exist.
    """
    return _secret_variables(_environment())[0]


def _environment() -> tuple[tuple[str, str], ...]:
    """Of this moment; reading it anew costs more than seeing that it is as before."""
    global _seen
    now: Mapping[Any, Any] = getattr(os.environ, "_data", os.environ)
    if _seen is None or _seen[0] != now:
        _seen = dict(now), tuple(os.environ.items())
    return _seen[1]


@lru_cache(maxsize=2)
def _secret_variables(
    environment: tuple[tuple[str, str], ...],
) -> tuple[dict[str, str], dict[str, str]]:
    """By name, and the references to them by how their values may be spelled."""
    found = {
        name: value
        for name, value in environment
        if len(value) >= _LONG
        and _VARIABLE.search(name)
        and name not in ("PWD", "OLDPWD")
        and not (value.startswith(("/", "~", ".")) and os.path.exists(os.path.expanduser(value)))
    }
    return found, _references(found.items())


def variable_in(text: str) -> str | None:
    """The secret variable whose value is in the text, if one's is."""
    return next((name for name, value in secret_variables().items() if value in text), None)


def hidden(text: str) -> str:
    """The text as it may be shown or written: without the values of secret variables, and without
    passwords in URLs."""
    return str(without_passwords(without_variables(text)))


def without_variables(text: str) -> str:
    """The text with references in place of the values of secret variables."""
    return _replaced(text, _secret_variables(_environment())[1])


def in_errors(text: str) -> str:
    """`hidden` for messages about something that went wrong, which may show any input: without
    values that configs took from the environment, and without what looks like a key or a token.

    Example:
        >>> in_errors("wandb_key = '0123456789abcdef': expected a key of the config")
        "wandb_key = '***': expected a key of the config"
    """
    return without_keys(_replaced(hidden(text), _taken))


def without_keys(text: str) -> str:
    """The text without what stands behind `..._key=`, `password:` and the like, and without tokens.

    Not for source code, in which such assignments are no secrets.
    """
    return _without_tokens(_ASSIGNED.sub(_starred, text))


def _starred(found: re.Match[str]) -> str:
    value = found[2]
    quote_ = value[0] if value[0] in "'\"" else ""
    if _PLACEHOLDER.fullmatch(value.strip("'\"")) or len(value.strip("'\"")) < _SHORTEST:
        return found[0]
    return f"{found[1]}{quote_}***{quote_}"


def _without_tokens(text: str) -> str:
    return _FORMS.sub("***", text) if any(begin in text for begin in _FORMS_BEGIN) else text


def without_secrets(value: Any) -> Any:
    """The text, or the tree with all its texts and keys, as a record may have it.

    Without what `hidden` replaces, tokens by their form, and the values of keys whose names say
    that they are secret, also in overrides (`vars.api_key=...`).
    """
    if isinstance(value, str):
        key, equals, rest = value.partition("=")
        if equals and rest and _is_secretive(key) and not _PLACEHOLDER.fullmatch(rest):
            value = f"{key}=***"
        return _without_tokens(hidden(value))
    if isinstance(value, Mapping):
        return {
            without_secrets(key): "***"
            if isinstance(inner, str)
            and inner
            and _is_secretive(str(key))
            and not _PLACEHOLDER.fullmatch(inner)
            else without_secrets(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [without_secrets(inner) for inner in value]
    return value


def _is_secretive(key: str) -> bool:
    return _NAMED.search(key) is not None


def _worth_hiding(value: str) -> bool:
    short_number = len(value) < 8 and re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?", value, re.IGNORECASE)
    return len(value) >= _SHORTEST and value.lower() not in _PLAIN_WORDS and not short_number


def _references(values: Iterable[tuple[str, str]]) -> dict[str, str]:
    """References to variables by the spellings of their values, the longest first."""
    found: dict[str, str] = {}
    for name, value in values:
        if _worth_hiding(value):
            for spelling in _spellings(value):
                found.setdefault(spelling, f"${{oc.env:{name}}}")
    return dict(sorted(found.items(), key=lambda item: -len(item[0])))


def _replaced(text: str, references: Mapping[str, str]) -> str:
    for spelling, reference in references.items():
        text = text.replace(spelling, reference)
    return text


def _spellings(value: str) -> list[str]:
    """The value as it stands in a text, in Python's and JSON's quotes, in a URL."""
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
