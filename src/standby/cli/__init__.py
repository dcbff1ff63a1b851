"""The command line, one module a noun."""

from standby.cli.app import main

__all__ = ["main"]
