from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standby.objects.names import MAX_NAME, MAX_PART, InvalidName, check_name, check_prefix

GOOD = ["a", "A.b-c_d", "a/b/c", "...", ".a", "a/..b", "x" * MAX_PART, "/".join("x" * 255 for _ in range(4))]
BAD = [
    "",
    "/",
    "a/",
    "/a",
    "a//b",
    ".",
    "..",
    "a/.",
    "../a",
    "a/../b",
    "a b",
    "a\\b",
    "ä",
    "a\n",
    "a:b",
    "~a",
]


@pytest.mark.parametrize("name", GOOD)
def test_names(name: str):
    assert check_name(name) == name


@pytest.mark.parametrize("name", [*BAD, "x" * (MAX_PART + 1), "/".join(["x"] * (MAX_NAME // 2 + 1))])
def test_no_names(name: str):
    with pytest.raises(InvalidName, match=re.escape(repr(name[:40])[:-1])):
        check_name(name)


@pytest.mark.parametrize("prefix", ["", "a", "a/", "a/b", ".", "a/..", "a/b/", "x" * MAX_PART])
def test_prefixes(prefix: str):
    assert check_prefix(prefix) == prefix


@pytest.mark.parametrize("prefix", ["/", "a//", "./", "a/../", "a b", "ä", "x" * 1025])
def test_no_prefixes(prefix: str):
    with pytest.raises(InvalidName):
        check_prefix(prefix)


@given(st.text(alphabet="a.-/~ ", max_size=8))
def test_a_name_is_what_the_docstring_says(text: str):
    parts = text.split("/")
    good = all(part and part not in (".", "..") and not set(part) & set("~ ") for part in parts)
    try:
        check_name(text)
    except InvalidName:
        assert not good
    else:
        assert good
        assert all(check_prefix(text[:end]) == text[:end] for end in range(len(text) + 1))
