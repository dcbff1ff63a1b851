"""A pytest plugin: garbage collection is off until all test modules are parsed, in every process that parses them.

Debian 12's Python 3.11.2 now and then answers ast.parse with "AST constructor recursion depth mismatch" when a
collection runs code in the middle of it (CPython issue 106905, mended in 3.11.5); pytest parses every test module.
"""

from __future__ import annotations

import gc

import pytest

gc.disable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    # Not the end of the collection: the process that only hands tests to others has none.
    gc.enable()
