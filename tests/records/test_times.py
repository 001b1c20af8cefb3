"""Times of records: shown and filtered in local time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from etude.errors import RequestError
from etude.records.filters import parse_filter
from etude.records.times import format_duration, format_short_time, format_time

STARTED = "2026-01-31T23:30:00.000+00:00"


@pytest.fixture
def shanghai(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The local time zone is 8 hours ahead of UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Shanghai")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.56, "0.6s"),
        (9.6, "10s"),
        (59.7, "1m 00s"),
        (80, "1m 20s"),
        (2 * 3600 + 5 * 60, "2h 05m"),
        (26 * 3600, "1d 02h"),
        (10**400, str(10**400)),
    ],
)
def test_durations(seconds: float, expected: str) -> None:
    assert format_duration(seconds) == expected


@pytest.mark.usefixtures("shanghai")
def test_times_are_local() -> None:
    assert format_time(STARTED) == "2026-02-01 07:30"
    assert format_time(None) == ""
    assert format_short_time("2001-01-31T23:30:00.000+00:00") == "2001-02-01"
    assert format_short_time(f"{datetime.now().year}-06-30T12:00:00+08:00") == "06-30 12:00"


@pytest.mark.usefixtures("shanghai")
@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("started>=2026-02-01", True),
        ("started>=2026-01-31", True),
        ("started>=2026-02-02", False),
        ("started<2026-02-01", False),
        ("started<=2026-02-01", True),  # the whole day
        ("started>2026-02-01", False),
        ("started=2026-02", True),
        ("started!=2026-02-01", False),
        ("started>=2026-02-01 07:30", True),  # as it is shown
        ("started<2026-02-01 07:30", False),
        (f"started={STARTED}", True),  # as it is recorded
        ("started<2026-01-31T23:31:00+00:00", True),
        ("started~02-01", True),
        ("started=null", False),
        ("started>=today", False),
    ],
)
def test_filters_of_times(condition: str, expected: bool) -> None:
    assert parse_filter(condition).accepts(STARTED) is expected


def test_filters_of_days() -> None:
    now = datetime.now().astimezone()
    noon = now.replace(hour=12, minute=0)
    for days, fulfilled in (
        (0, {"started>=today", "started=today", "started>yesterday", "started>=yesterday"}),
        (1, {"started<today", "started=yesterday", "started>=yesterday", "started<=yesterday"}),
        (2, {"started<today", "started<yesterday", "started<=yesterday"}),
    ):
        recorded = (noon - timedelta(days=days)).astimezone(UTC).isoformat(timespec="milliseconds")
        for condition in ("started<today", "started<yesterday", *fulfilled):
            assert parse_filter(condition).accepts(recorded) is (condition in fulfilled)


@pytest.mark.parametrize("day", ["2026-2-1", "2026-13-01", "2026-02-30", "２０２６-11-30", "x"])
def test_what_is_no_date_is_refused(day: str) -> None:
    with pytest.raises(RequestError, match="a date such as 2026-01-31"):
        parse_filter(f"started>={day}")


def test_a_filter_of_a_time_names_a_day() -> None:
    with pytest.raises(RequestError, match=r"a date such as 2026-01-31.*did you mean yesterday"):
        parse_filter("started>=yesterdy")
