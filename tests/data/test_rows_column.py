"""Which column is read when none is named."""

from __future__ import annotations

import pytest

from etude.data.rows import choose_column
from etude.errors import RequestError


def test_text_else_the_only_one_with_text() -> None:
    assert choose_column({"text": True, "title": True}, None, "x") == "text"
    assert choose_column({"id": False, "body": True}, None, "x") == "body"


def test_a_text_that_is_no_text_is_a_doubt() -> None:
    with pytest.raises(RequestError, match=r"text \(no text\)"):
        choose_column({"text": False, "b": True}, None, "x")
