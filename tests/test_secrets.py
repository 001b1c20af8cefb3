"""Passwords in URLs and values of the environment are masked in any text, and only these."""

from __future__ import annotations

import json
import logging
from urllib.parse import quote, urlsplit

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from etude.errors import Problem, RequestError
from etude.secrets import (
    Mask,
    MaskingFormatter,
    mask_error,
    mask_passwords,
    mask_record,
    mask_secrets,
    secret_variables,
)

WORD = st.text("abcXYZ019._~-+&=,;!$()'*[]|^", min_size=1, max_size=12)


@given(WORD, st.text("abc019@:!$&'()*+,;=%^|~\"", min_size=1, max_size=12), WORD)
def test_a_password_is_what_the_standard_library_takes_for_one(
    user: str, password: str, path: str
) -> None:
    assume(not any(c in user for c in "$[]") and set(password) != {"*"})
    url = f"https://{user}:{password}@host.org:80/{path}"
    assert urlsplit(url).password == password
    for before, after in (("", ""), ("see ", " for more"), ("data.path=", "")):
        found = mask_passwords(f"{before}{url}{after}")
        assert found == f"{before}https://{user}:***@host.org:80/{path}{after}"
        assert mask_passwords(found) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no URL: a@b",
        "https://host/x",
        "https://host:8080/x",
        "https://host:8080/me@there",
        "https://host/a:b@c",
        "https://host?mail=a:b@c",
        "git@host:me/it.git",
        "ssh://git@host/me/it.git",
        "https://host:80/x and me@there",
        "https://me:${oc.env:PASSWORD}@host/x",
        'f"https://{user}:{password}@{host}"',
        "https://me:<password>@host",
        "https://me:***@host",
        "postgres://%(user)s:%(password)s@host",
    ],
)
def test_what_is_no_password_stays(text: str) -> None:
    assert mask_passwords(text) == text


def test_a_tree_keeps_its_shape() -> None:
    tree = {"a": ["https://u:p@h", 1, None], "b": {"c": (True, "s3://k:v@bucket")}}
    expected = {"a": ["https://u:***@h", 1, None], "b": {"c": [True, "s3://k:***@bucket"]}}
    assert mask_passwords(tree) == expected


def test_several_in_one_text() -> None:
    text = "https://a:1@x https://b:2@y\nhttps://c:3@z"
    assert mask_passwords(text) == "https://a:***@x https://b:***@y\nhttps://c:***@z"


SECRET = st.text(st.characters(blacklist_categories=["Cs"]), min_size=6, max_size=20).filter(
    lambda value: not value.isdigit() and value.strip("/") == value and "oc.env" not in value
)


@given(SECRET)
def test_a_value_of_the_environment_however_it_is_spelled(value: str) -> None:
    assume(value not in "see ${oc.env:NAME} here" and not value.replace(".", "").isnumeric())
    mask = Mask({"NAME": value})
    for spelled in (value, repr(value)[1:-1], json.dumps(value)[1:-1], quote(value)):
        assert mask.text(f"see {spelled} here") == "see ${oc.env:NAME} here"
    assert mask.tree({"k": [value, 1]}) == {"k": ["${oc.env:NAME}", 1]}
    assert mask.hides(value)
    assert not mask.hides("something else")
    assert not mask.hides(None)


@pytest.mark.parametrize("value", ["", "1", "abc", "true", "10000", "1e-3", "auto"])
def test_what_hides_nothing_stays(value: str) -> None:
    text = f"step 10000 of 20000, {value}"
    assert Mask({"NAME": value}).text(text) == text


def test_a_value_within_another_does_not_break_it() -> None:
    mask = Mask({"USER": "alice", "SCRATCH": "/scratch/alice/"})
    assert mask.text("/scratch/alice/runs of alice") == "${oc.env:SCRATCH}runs of ${oc.env:USER}"
    assert mask.text("/scratch/alice is full") == "${oc.env:SCRATCH} is full"


def test_a_log_line_and_its_traceback() -> None:
    formatter = MaskingFormatter("%(levelname)s %(message)s", Mask({"KEY": "s3cret-value"}))
    try:
        raise ValueError("s3cret-value at https://me:hunter2@host")
    except ValueError as error:
        record = logging.LogRecord(
            "etude", logging.ERROR, "", 1, "%s", ("s3cret-value",), (type(error), error, None)
        )
    told = formatter.format(record)
    assert told.startswith("ERROR ${oc.env:KEY}\n")
    assert "ValueError: ${oc.env:KEY} at https://me:***@host" in told


def test_a_message_about_a_wrong_value() -> None:
    said = str(Problem("data.path", "a file", "https://me:hunter2@host/x"))
    assert said == "data.path = 'https://me:***@host/x': expected a file"


KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    "name",
    [
        "WANDB_API_KEY",
        "HF_TOKEN",
        "MY_SECRET",
        "db_password",
        "AWS_SECRET_ACCESS_KEY",
        "MONKEYS",
    ],
)
def test_a_variable_whose_name_says_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, KEY)
    expected = name != "MONKEYS"
    assert (name in secret_variables()) is expected
    assert (KEY not in mask_secrets(f"a {KEY} b")) is expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("POSTGRES_PASSWORD", "postgres"),  # short, and in many texts
        ("OLDPWD", "/somewhere/else/altogether"),
        ("TOKENIZERS_PARALLELISM", "true-and-more-of-it"),
        ("SSH_KEY", "/etc/hostname"),  # names a file
    ],
)
def test_what_no_text_is_searched_for(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert mask_secrets(f"at {value}!") == f"at {value}!"


def test_a_variable_that_is_set_later_or_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (KEY, KEY[::-1]):
        monkeypatch.setenv("LATE_API_KEY", value)
        assert mask_secrets(f"{value}/x") == "${oc.env:LATE_API_KEY}/x"
    monkeypatch.delenv("LATE_API_KEY")
    assert mask_secrets(KEY) == KEY


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"wandb_key = '{KEY}': expected a key", "wandb_key = '***': expected a key"),
        (f"+vars.api_key={KEY}, more", "+vars.api_key=***, more"),
        (f'"password": "{KEY}"', '"password": "***"'),
        ("no token hf_" + 34 * "x" + " here", "no token *** here"),
        ("api_key=${oc.env:KEY}", "api_key=${oc.env:KEY}"),
        ("data.secret: expected a key of data", "data.secret: expected a key of data"),
        (
            "its key = value heads; risk-averse",
            "its key = value heads; risk-averse",
        ),
        ("data.tokenizer.pad_token='[PAD]'", "data.tokenizer.pad_token='[PAD]'"),
    ],
)
def test_keys_and_tokens_in_messages(text: str, told: str) -> None:
    assert mask_error(text) == told
    assert str(RequestError(Problem("where", text))) == f"where: expected {told}"


def test_half_a_secret_is_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long values are cut in messages, so they must be masked before."""
    monkeypatch.setenv("LONG_API_KEY", KEY)
    said = str(Problem("data.path", "a file", "/x" * 25 + KEY))
    assert KEY[:8] not in said


def test_a_tree_by_its_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", KEY)
    tree = {"vars": {"api_key": "typed-by-hand", "b": KEY, KEY: 1}, "c": ["vars.password=typed"]}
    assert mask_record(tree) == {
        "vars": {"api_key": "***", "b": "${oc.env:MY_API_KEY}", "${oc.env:MY_API_KEY}": 1},
        "c": ["vars.password=***"],
    }
    kept = {"pad_token": "[PAD]", "key": "x", "tokens": 1, "api_key": "${oc.env:MY_API_KEY}"}
    assert mask_record(kept) == kept
