"""The portal's pages, added to the vault's application."""

from __future__ import annotations

from fastapi import FastAPI


def attach(app: FastAPI) -> None:
    """Add the portal's routes."""
