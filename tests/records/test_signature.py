"""Tests of the signature: equal values have equal hashes, independent of key order."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.records.signature import canonical_json, group, sha256_of, signature

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
IDENTITIES = st.dictionaries(st.text(), TREES, max_size=5)


def reordered(value: object) -> object:
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(list(value))}
    return [reordered(inner) for inner in value] if isinstance(value, list) else value


@given(IDENTITIES)
def test_the_order_of_keys_does_not_matter(identity: dict) -> None:
    assert signature(reordered(identity)) == signature(identity)  # type: ignore[arg-type]


@given(IDENTITIES)
def test_the_canonical_text_says_the_value_and_nothing_else(identity: dict) -> None:
    text = canonical_json(identity)
    assert json.loads(text) == identity
    assert canonical_json(json.loads(text)) == text


@given(IDENTITIES, IDENTITIES)
def test_different_values_have_different_signatures(one: dict, other: dict) -> None:
    if canonical_json(one) != canonical_json(other):
        assert signature(one) != signature(other)


def test_it_is_the_sha256_of_canonical_json() -> None:
    text = '{"a":[1,2.5,null,true],"b":{"é":"ß"}}'
    value = {"b": {"é": "ß"}, "a": [1, 2.5, None, True]}
    assert canonical_json(value) == text
    assert signature(value) == hashlib.sha256(text.encode()).hexdigest() == sha256_of(value)


def test_what_json_cannot_hold_is_no_identity() -> None:
    with pytest.raises(ValueError):
        signature({"lr": float("nan")})


def test_a_group_leaves_out_the_seed_of_the_run_alone() -> None:
    one = {"seed": 1, "data": {"seed": 1}}
    assert group(one) == group({"seed": 2, "data": {"seed": 1}})
    assert group(one) != group({"seed": 1, "data": {"seed": 2}})
    assert group(one) == signature({"data": {"seed": 1}})[:12]
