"""Times of saved runs: conversion to local time, formatting, and parsing of times in filters."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any

from etude.errors import Problem, RequestError, nearest_of

TIME_KEYS = ("started", "finished")
"""Keys of `record_fields` whose values are times."""

_DAYS = {"today": 0, "yesterday": 1}


def to_local(time: Any) -> Any:
    """Converts an ISO 8601 time to local time, without its UTC offset.

    Returns any value that is not such a time, or has no UTC offset, unchanged.
    """
    try:
        parsed = datetime.fromisoformat(time)
        if parsed.tzinfo is None:
            return time
        return parsed.astimezone().replace(tzinfo=None).isoformat(timespec="milliseconds")
    except (TypeError, ValueError, OverflowError):
        return time


def format_time(time: Any) -> str:
    """Formats an ISO 8601 time to the minute, in local time, such as `2026-01-31 14:05`.

    None becomes an empty string.
    """
    return "" if time is None else str(to_local(time))[:16].replace("T", " ")


def format_short_time(time: Any) -> str:
    """Formats a time in at most eleven characters, such as `01-31 14:05`.

    A time that is not in the current year is formatted as a date, such as `2025-01-31`. None
    becomes an empty string.
    """
    text = format_time(time)
    return text[5:] if text.startswith(f"{date.today().year}-") else text[:10]


def format_duration(seconds: Any) -> str:
    """Formats a duration by its two largest units: `12s`, `1m 20s`, `5h 03m` or `2d 04h`.

    Durations below 9.5 seconds have one decimal, such as `3.2s`. Values that are not numbers of
    seconds, such as None, are returned as text.
    """
    if not isinstance(seconds, int | float) or not 0 <= seconds < 1e10:  # a damaged record
        return str(seconds)
    if seconds < 9.5:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, days = minutes // 60, minutes // 1440
    if days:
        return f"{days}d {hours % 24:02d}h"
    if hours:
        return f"{hours}h {minutes % 60:02d}m"
    return f"{minutes}m {rest:02d}s" if minutes else f"{rest}s"


def _is_time(text: str) -> bool:
    """Returns whether a text is an ISO 8601 time or the beginning of one, such as `2026-01`."""
    example = "2000-01-01 00:00:00"
    text = text.replace("T", " ", 1)
    try:
        datetime.fromisoformat(text + example[len(text) :] if text.isascii() else "")
    except ValueError:
        return False
    return len(text) >= len("2000")


def parse_time(text: str) -> str:
    """Converts the time in a filter to the format of `to_local`, such as `2026-01-31T14:05`.

    The beginning of a time stays one: `2026-01` is returned unchanged, and `today` becomes a date.
    `null` is returned unchanged.

    Args:
        text: a time or the beginning of one (`2026-01-31`, `2026-01-31 14:05`, `2026-01`),
            `today` or `yesterday`.

    Raises:
        RequestError: the text is not a time.
    """
    if text in _DAYS:
        return (date.today() - timedelta(days=_DAYS[text])).isoformat()
    if text != "null" and not _is_time(text):
        expected = "today, yesterday, or a date such as 2026-01-31"
        raise RequestError(Problem("FILTER", expected, text, nearest_of(text, _DAYS)))
    return str(to_local(text)).replace(" ", "T", 1)
