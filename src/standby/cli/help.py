"""How help lists commands: with all of what each says of itself, wrapped and never cut."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup


class Group(TyperGroup):
    """A noun, or the program. Typer gives no public names to what it passes here."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        names = self.list_commands(ctx)
        rows = [(name, self._about(ctx, name)) for name in names]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)

    def _about(self, ctx: Any, name: str) -> str:
        command = self.get_command(ctx, name)
        # The first paragraph, in one piece.
        return " ".join((command.help or "").split("\n\n")[0].split()) if command else ""
