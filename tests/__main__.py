"""`python -m tests ARGUMENTS`: pytest as this project needs it (tests/support/parsing.py), workers of `-n` included."""

from __future__ import annotations

import sys

import pytest

if __name__ == "__main__":
    sys.exit(pytest.main(["-p", "tests.support.parsing", *sys.argv[1:]]))
