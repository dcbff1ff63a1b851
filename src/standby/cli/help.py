"""Nouns and how help lists commands: with all of what each says of itself, wrapped and never cut."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import typer
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


def lone() -> typer.Typer:
    """Of a module that is loaded by itself (`Program.nouns`): plain help, as the program's."""
    return typer.Typer(cls=Group, add_completion=False, rich_markup_mode=None)


class Noun(NamedTuple):
    """A noun whose module is loaded when it is used: what it imports takes longer than most commands.

    about: "" of a single command, which says it itself.
    """

    module: str
    about: str = ""


class Program(Group):
    """The program, with some nouns that are loaded when they are used."""

    nouns: ClassVar[Mapping[str, Noun]] = {
        "up": Noun("standby.cli.up"),
        "vault": Noun("standby.cli.vault", "The control plane: REST, portal, jobs."),
        "login": Noun("standby.cli.login"),
        "logout": Noun("standby.cli.logout"),
        "status": Noun("standby.cli.status"),
        "check": Noun("standby.cli.check"),
        "job": Noun("standby.cli.job", "A vault's jobs: list, watch, cancel, begin."),
        "site": Noun("standby.cli.site", "A vault's sites."),
        "host": Noun("standby.cli.host", "A vault's hosts, and the keys by which they register."),
        "policy": Noun("standby.cli.vault_policy", "A vault's policies."),
    }

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *(name for name in self.nouns if name not in self.commands)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in self.nouns and cmd_name not in self.commands:
            module = importlib.import_module(self.nouns[cmd_name].module)
            command = typer.main.get_command(module.app)
            command.name, command.help = cmd_name, self.nouns[cmd_name].about or command.help
            self.commands[cmd_name] = command
        return super().get_command(ctx, cmd_name)

    def _about(self, ctx: Any, name: str) -> str:
        return (name in self.nouns and self.nouns[name].about) or super()._about(ctx, name)
