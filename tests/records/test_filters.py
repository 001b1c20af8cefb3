"""Tests of filters: parsing, matching, and printing a filter as it was typed."""

from __future__ import annotations

import math
import operator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.errors import RequestError
from etude.records.filters import Filter, is_filter, parse_filter
from etude.records.record_fields import MISSING, ClassName

KEYS = st.from_regex(r"[a-z_]+([./][a-z_0-9]+){0,3}", fullmatch=True).filter("status".__ne__)
SIGNS = st.sampled_from(["=", "!=", "<", "<=", ">", ">=", "~", "!~"])
VALUES = st.text(max_size=12).map(str.strip)
NUMBERS = st.one_of(st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False))


CONDITIONS = st.one_of(
    st.tuples(KEYS, SIGNS.filter(lambda sign: sign[0] not in "<>"), VALUES),
    st.tuples(KEYS, SIGNS, NUMBERS.map(str)),
)


@given(CONDITIONS)
def test_what_is_printed_is_read_back(parts: tuple[str, str, str]) -> None:
    condition = Filter(*parts)
    assert is_filter(str(condition))
    assert parse_filter(str(condition)) == condition


@given(CONDITIONS)
def test_spaces_around_the_operator_mean_nothing(parts: tuple[str, str, str]) -> None:
    key, sign, value = parts
    assert parse_filter(f" {key} {sign} {value} ") == Filter(key, sign, value)


@given(
    found=NUMBERS,
    sign=st.sampled_from(["<", "<=", ">", ">=", "=", "!="]),
    wanted=NUMBERS,
)
def test_numbers_compare_as_numbers(found: float, sign: str, wanted: float) -> None:
    compare = {
        "<": operator.lt,
        "<=": operator.le,
        ">": operator.gt,
        ">=": operator.ge,
        "=": operator.eq,
        "!=": operator.ne,
    }[sign]
    assert Filter("x", sign, repr(wanted)).accepts(found) is compare(found, wanted)


@pytest.mark.parametrize(
    ("condition", "found", "holds"),
    [
        ("lr>1e-3", 0.01, True),
        ("lr>1e-3", 1e-3, False),
        ("lr>=1e-3", 1e-3, True),
        ("lr==0.001", 1e-3, True),
        ("lr<1", None, False),  # missing values have no order
        ("lr>1", None, False),
        ("lr<1", MISSING, False),
        ("lr<1", "auto", False),
        ("bias=true", True, True),
        ("bias=1", True, False),  # true is not a number
        ("layers=true", 1, False),
        ("bias!=true", False, True),
        ("cap=null", None, True),
        ("cap=null", MISSING, True),
        ("cap!=null", 1.0, True),
        ("position=rotary", "rotary", True),
        ("position=Rotary", "rotary", False),  # names of files are compared exactly
        ("position!=rotary", MISSING, True),
        ("position=rotary", ClassName("Rotary"), True),
        ("feedforward=gelu_tanh", ClassName("GELUTanh"), True),
        ("feedforward=gelu", ClassName("GELUTanh"), False),
        ("attention!=multi_head", ClassName("GroupedQuery"), True),
        ("label~ROTARY", "position=rotary seed=1", True),
        ("label!~rotary", "position=alibi", True),
        ("tag=x", ["x", "y"], True),
        ("tag=z", ["x", "y"], False),
        ("tag~arge", ["large"], True),
        ("betas=[0.9, 0.99]", [0.9, 0.99], True),
        ("betas=0.9", [0.9, 0.99], True),
        ("finished>2026-02", "2026-11-23T18:00:00", True),
        ("signature=123456789012", "123456789012", True),
        ("loss<2", math.inf, False),
    ],
)
def test_what_holds(condition: str, found: object, holds: bool) -> None:
    assert parse_filter(condition).accepts(found) is holds


@pytest.mark.parametrize("text", ["=x", ">1", "lr", "", "a b=1"])
def test_what_is_no_condition(text: str) -> None:
    with pytest.raises(RequestError, match="KEY OPERATOR VALUE"):
        parse_filter(text)


def test_a_status_that_does_not_exist() -> None:
    with pytest.raises(RequestError, match="did you mean finished"):
        parse_filter("status=finnished")
