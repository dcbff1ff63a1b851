"""`python -m tests ARGUMENTS`: pytest, with garbage collection off until all modules are parsed.

Debian 12's Python 3.11.2 now and then answers ast.parse with "AST constructor recursion depth mismatch" when a
collection runs code in the middle of it (CPython issue 106905, mended in 3.11.5); pytest parses every test module.
"""

from __future__ import annotations

import gc
import sys

import pytest


class CollectAfterwards:
    def pytest_collection_finish(self) -> None:
        gc.enable()


if __name__ == "__main__":
    gc.disable()
    sys.exit(pytest.main(sys.argv[1:], plugins=[CollectAfterwards()]))
