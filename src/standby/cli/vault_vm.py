"""`standby vm` where a vault is named: the same words, for machines of any of its hosts."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from standby.cli.job_begin import begin, told
from standby.cli.output import Column, Field, fields, print_json, say, stdout, table
from standby.cli.quantities import age, counted, duration, instant, local, size, zone
from standby.cli.vault_client import connected

_MOST = 10_000


def list_machines(*, unprotected: bool, json: bool) -> None:
    protected = False if unprotected else None
    with connected() as client:
        found = list(client.pages("machines", "machines", _MOST, turn="offset", protected=protected))
    if json:
        print_json(found)
        return
    console, now = stdout(), datetime.now(UTC)
    if not found:
        nothing = "Every machine is protected." if unprotected else "No host has told of a machine yet."
        say(console, f"{nothing} `standby host list` shows the hosts.")
        return
    table(
        console,
        [
            Column("Machine"),
            Column("Health"),
            Column("State", 1),
            Column("Newest point", right=True),
            Column("Backlog", 4, right=True),
            Column("Host", 2),
            Column("Job", 3, whole=True),
        ],
        [
            (
                one["name"],
                one["health"] or "not protected",
                one["state"] or ("running" if one["running"] else "off"),
                age(instant(one["newest"]), now) if one["newest"] else "-",
                size(one["queued_bytes"]) if one["queued_bytes"] else "-",
                one["host_name"],
                one["job"] or "-",
            )
            for one in found
        ],
    )


def show(machine: str, *, json: bool) -> None:
    with connected() as client:
        found = client.get("machines", machine)
        points = client.get("machines", found["id"], "points", limit=1)["points"]
    if json:
        print_json(found)
    else:
        _print(stdout(), client.vault, found, points)


def change(machine: str, kind: str, params: Mapping[str, Any], *, wait: bool, json: bool) -> None:
    """One that needs no confirmation."""
    with connected() as client:
        told(client, begin(client, machine, kind, params), wait=wait, json=json)


def unprotect(machine: str, *, gone: bool, confirm: str, wait: bool, json: bool) -> None:
    with connected() as client:
        job = begin(client, machine, "disable-protection", {"gone": gone}, confirm=confirm, dangerous=True)
        told(client, job, wait=wait, json=json)


def _print(console: Console, vault: str, found: Any, points: list[Any]) -> None:
    standing, now = found["standing"], datetime.now(UTC)
    newest = "none yet"
    if points:
        at = instant(points[0]["at"])
        newest = f"{points[0]['seq']}, {age(at, now)} ({local(at)} {zone(at)}), {points[0]['consistency']}"
    elif standing and standing["newest_at"]:
        newest = age(instant(standing["newest_at"]), now)
    reasons = standing["reasons"] if standing else []
    fields(
        console,
        [
            Field("Machine", f"{found['name']} ({found['id']})"),
            Field("Vault", vault),
            Field("Host", found["host_name"]),
            Field(
                "Running",
                "yes" if found["running"] else "no" if found["present"] else "its host has it no more",
            ),
            Field("Protected", "" if standing else "no"),
            Field("Stands against", found["seen"].get("problem", "") if not standing else ""),
            Field("Health", standing["level"] if standing else ""),
            *(Field("", one["text"]) for one in reasons),
            *_protection(found, standing, newest),
            *(
                Field("Runs", f"{run['run']} of point {run['point']}: {run['kind']}, {run['phase']}")
                for run in found["runs"]
            ),
            Field("Job", f"`standby job show {found['job']}` is under way" if found["job"] else ""),
            Field("Possible", ", ".join(found["possible"])),
        ],
    )
    disks = standing["disks"] if standing else found["seen"].get("disks", [])
    if disks:
        console.print()
        table(
            console,
            [Column("Disk"), Column("Size", right=True), Column("Scan because", 1)],
            [(one["id"], size(one["size"]), one.get("scan") or "-") for one in disks],
        )


def _protection(found: Any, standing: Any, newest: str) -> list[Field]:
    if not standing:
        return []
    queued = standing["queued"]
    return [
        Field("State", standing["state"]),
        Field("Policy", found["policy_name"] or "its own"),
        Field("Store", standing["store"]),
        Field("Replica", standing["replica"]),
        Field("Newest", newest),
        Field("RPO", duration(standing["rpo"]) if standing["rpo"] is not None else "unknown"),
        Field("Every", duration(standing["policy"]["frequency"])),
        Field(
            "Queue", f"{counted(queued, 'point')}, {size(standing['queued_bytes'])}" if queued else "empty"
        ),
        Field("Error", standing["error"]),
        Field("Encrypted", "yes" if standing["encrypted"] else "no"),
        Field("Left out", ", ".join(standing["excluded"])),
        Field("Test failover", f"last succeeded {found['drilled'][:10]}" if found["drilled"] else "never"),
    ]
