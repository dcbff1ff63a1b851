"""`python -m tests ARGUMENTS`: pytest as this project needs it (tests/support/parsing.py), workers of `-n` included."""

from __future__ import annotations

import shutil
import sys
import tempfile

import pytest

if __name__ == "__main__":
    # Short: below it, and below the folder that each worker adds, are sockets, whose paths have 107 bytes.
    folder = tempfile.mkdtemp(prefix="sb")
    status = pytest.main(["-p", "tests.support.parsing", "--basetemp", folder, *sys.argv[1:]])
    if status == 0:  # what failed is left to be looked at
        shutil.rmtree(folder)
    sys.exit(status)
