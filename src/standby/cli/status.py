"""`standby status`: the whole of a vault at one look."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Console

from standby.cli.help import lone
from standby.cli.output import Column, Field, Json, fields, print_json, say, stdout, table
from standby.cli.quantities import age, counted, duration, instant, size
from standby.cli.vault_client import connected
from standby.replication.health import Level

app = lone()

_MOST: Final = 10
"""Alerts, and overdue test failovers, that are told one by one."""


@app.command()
def status(json: Json = False) -> None:
    """Show a vault at one look: health, jobs, what is late, what stands against it."""
    with connected() as client:
        whole = client.get("overview")
    if json:
        print_json(whole)
        return
    console = stdout()
    say(console, _sentence(whole), style=_worst(whole))
    console.print()
    fields(
        console,
        [
            Field("Vault", client.vault),
            Field("Machines", _machines(whole)),
            Field(
                "Hosts",
                f"{whole['hosts']}, {whole['silent']} silent" if whole["silent"] else str(whole["hosts"]),
            ),
            Field(
                "Jobs",
                ", ".join(f"{count} {state}" for state, count in whole["jobs"].items() if count) or "none",
            ),
            Field("Backlog", size(whole["backlog"]) if whole["backlog"] else "none"),
        ],
    )
    _alerts(console, whole["alerts"], whole["open_alerts"])
    _worst_first(console, whole["worst"])
    _overdue(console, whole["overdue"], whole["overdues"])
    if step := _next(whole):
        say(console, f"\nNext  {step}", indent=6)


def _sentence(whole: Any) -> str:
    critical, warning = (whole["levels"].get(str(one), 0) for one in (Level.CRITICAL, Level.WARNING))
    if critical:
        return f"{counted(critical, 'machine')} critical."
    if whole["silent"]:
        whose = "its" if whole["silent"] == 1 else "their"
        return f"{counted(whole['silent'], 'host')} silent: what is known of {whose} machines is old."
    if warning:
        return f"{counted(warning, 'machine')} to look at."
    if not sum(whole["levels"].values()):
        return "No machine is protected yet."
    return "All protected machines are well."


def _worst(whole: Any) -> str:
    levels = whole["levels"]
    if levels.get(str(Level.CRITICAL)):
        return "red"
    return "yellow" if levels.get(str(Level.WARNING)) or whole["silent"] else "green"


def _machines(whole: Any) -> str:
    parts = [f"{count} {level.lower()}" for level, count in whole["levels"].items() if count]
    if whole["unprotected"]:
        parts.append(f"{whole['unprotected']} not protected")
    return ", ".join(parts) or "none"


def _alerts(console: Console, alerts: list[Any], many: int) -> None:
    now = datetime.now(UTC)
    for one in alerts[:_MOST]:
        who = f" ({one['acknowledged_by']} is at it)" if one["acknowledged"] else ""
        long = duration(max(0.0, (now - instant(one["raised"])).total_seconds()))
        kind = one["kind"].replace("-", " ")
        say(console, f"\n{one['subject']}: {kind} for {long}{who}", style="yellow")
        say(console, f"  {one['text']}", style="yellow", indent=2)
    if many > _MOST:
        say(console, f"\n{many - _MOST} more alerts stand: the portal lists them.", style="yellow")


def _worst_first(console: Console, worst: list[Any]) -> None:
    if not worst:
        return
    now = datetime.now(UTC)
    console.print()
    table(
        console,
        [
            Column("Worst recovery points"),
            Column("RPO", right=True),
            Column("Newest", right=True),
            Column("Health", 1),
            Column("State", 2),
        ],
        [
            (
                one["name"],
                "unknown" if one["rpo"] is None else duration(one["rpo"]),
                age(instant(one["newest"]), now) if one["newest"] else "none yet",
                one["health"] or "-",
                one["state"] or "-",
            )
            for one in worst[:5]
        ],
    )


def _overdue(console: Console, overdue: list[Any], many: int) -> None:
    for one in overdue[:_MOST]:
        say(console, f"\n{one['name']}: a test failover was due on {one['due'][:10]}.", style="yellow")
    if many > _MOST:
        say(console, f"\n{many - _MOST} more test failovers are overdue.", style="yellow")


def _next(whole: Any) -> str:
    if not whole["sites"]:
        return "`standby site create NAME`, then `standby host key SITE` for each host."
    if not whole["hosts"]:
        return "`standby host key SITE` makes a key file: with it a host registers."
    if whole["jobs"].get("waiting for input"):
        return '`standby job list --state "waiting for input"` shows what waits for you.'
    if whole["unprotected"]:
        return "`standby vm list --unprotected` shows what is not protected."
    return ""
