"""`standby policy`: a vault's policies, under which machines are protected."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from standby.cli.help import lone
from standby.cli.output import Column, Json, print_json, say, stdout, table
from standby.cli.policy_options import (
    ApplicationConsistent,
    Backlog,
    Frequency,
    Other,
    Reserve,
    ResyncHours,
    ResyncStart,
    UploadThreads,
    Work,
    WorkHours,
    policy_of,
)
from standby.cli.quantities import counted, duration
from standby.cli.vault_client import Client, connected
from standby.cli.vm_requests import policy_text
from standby.errors import InvalidRequest
from standby.replication.policy import Policy

app = lone()

PolicyName = Annotated[str, typer.Argument(metavar="POLICY", help="Its name or id.")]
DrillDays = Annotated[
    int | None,
    typer.Option(
        "--drill-days",
        min=0,
        max=3650,
        help="A test failover is due every so many days; 0 for never [default: 90].",
    ),
]
Keep = Annotated[
    list[str] | None,
    typer.Option(
        "--keep",
        metavar="TIER",
        help="How points are kept more sparsely later, as 1h:3d or 1d:30d; or none. Repeatable.",
    ),
]
ScrubDays = Annotated[
    int | None,
    typer.Option(
        "--scrub-days",
        min=0,
        max=3650,
        help="Its replicas are scrubbed every so many days; 0 for never [default: 7].",
    ),
]


@app.command("list")
def list_policies(json: Json = False) -> None:
    """List a vault's policies."""
    with connected() as client:
        found = client.get("policies")
    if json:
        print_json(found)
    elif not found:
        say(stdout(), "There is no policy yet: `standby policy create NAME`.")
    else:
        table(
            stdout(),
            [
                Column("Policy"),
                Column("Every", right=True),
                Column("Drill due", right=True),
                Column("Id", 1, whole=True),
            ],
            [
                (
                    one["name"],
                    duration(_body(one).frequency),
                    f"{one['drill_days']} days" if one["drill_days"] else "never",
                    one["id"],
                )
                for one in found
            ],
        )


@app.command()
def show(policy: PolicyName, json: Json = False) -> None:
    """Show what a policy holds."""
    with connected() as client:
        found = _find(client, policy)
    if json:
        print_json(found)
        return
    console = stdout()
    say(console, f"{found['name']} ({found['id']}), revision {found['revision']}", style="bold")
    for line in policy_text(_body(found)):
        say(console, line)
    days = found["drill_days"]
    say(
        console,
        f"A test failover is due every {counted(days, 'day')}." if days else "No test failover is due.",
    )


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is called.")],
    drill_days: DrillDays = None,
    keep: Keep = None,
    scrub_days: ScrubDays = None,
    frequency: Frequency = None,
    application_consistent: ApplicationConsistent = None,
    backlog: Backlog = None,
    reserve: Reserve = None,
    resync: ResyncStart = None,
    resync_hours: ResyncHours = None,
    work: Work = None,
    other: Other = None,
    work_hours: WorkHours = None,
    upload_threads: UploadThreads = None,
    json: Json = False,
) -> None:
    """Make a policy."""
    wanted = policy_of(
        Policy(),
        frequency=frequency,
        application_consistent=application_consistent,
        backlog=backlog,
        reserve=reserve,
        resync=resync,
        resync_hours=resync_hours,
        work=work,
        other=other,
        work_hours=work_hours,
        upload_threads=upload_threads,
    )
    beside = _beside(drill_days, keep, scrub_days)
    body = {"name": name, "body": msgspec.to_builtins(wanted), **beside}
    with connected() as client:
        made = client.post("policies", body=body)
    if json:
        print_json(made)
    else:
        say(stdout(), f"There is a policy {name} now.")


@app.command()
def change(
    policy: PolicyName,
    drill_days: DrillDays = None,
    keep: Keep = None,
    scrub_days: ScrubDays = None,
    frequency: Frequency = None,
    application_consistent: ApplicationConsistent = None,
    backlog: Backlog = None,
    reserve: Reserve = None,
    resync: ResyncStart = None,
    resync_hours: ResyncHours = None,
    work: Work = None,
    other: Other = None,
    work_hours: WorkHours = None,
    upload_threads: UploadThreads = None,
    json: Json = False,
) -> None:
    """Change a policy. It takes effect on all its machines, by a job for each."""
    with connected() as client:
        found = _find(client, policy)
        before = _body(found)
        wanted = msgspec.to_builtins(
            policy_of(
                before,
                frequency=frequency,
                application_consistent=application_consistent,
                backlog=backlog,
                reserve=reserve,
                resync=resync,
                resync_hours=resync_hours,
                work=work,
                other=other,
                work_hours=work_hours,
                upload_threads=upload_threads,
            )
        )
        old = msgspec.to_builtins(before)
        # What somebody else changes meanwhile is not put back.
        changed = {name: value for name, value in wanted.items() if value != old[name]}
        beside = _beside(drill_days, keep, scrub_days)
        if not (changed or beside):
            raise InvalidRequest(
                "nothing is to be changed", subject=found["name"], hint="give what is to be other"
            )
        spread = client.patch("policies", found["id"], body={"body": changed, **beside})
    if json:
        print_json(spread)
    else:
        say(
            stdout(),
            f"{found['name']} is changed; {counted(spread['jobs'], 'job')} bring it to its machines "
            "(`standby job list --kind set-policy`).",
        )


@app.command()
def delete(policy: PolicyName, json: Json = False) -> None:
    """Delete a policy under which no machine is protected."""
    with connected() as client:
        client.delete("policies", policy)
    if json:
        print_json({"policy": policy})
    else:
        say(stdout(), f"The policy {policy} is deleted.")


def _beside(drill_days: int | None, keep: list[str] | None, scrub_days: int | None) -> dict[str, Any]:
    """What a policy holds beside what agents get of it, as far as it was given."""
    tiers = [] if keep == ["none"] else keep or None
    given = {"drill_days": drill_days, "keep": tiers, "scrub_days": scrub_days}
    return {name: value for name, value in given.items() if value is not None}


def _find(client: Client, key: str) -> Any:
    """Raises InvalidRequest."""
    for one in client.get("policies"):
        if key in (one["id"], one["name"]):
            return one
    raise InvalidRequest("there is no such policy", subject=key, hint="`standby policy list` lists them")


def _body(policy: Any) -> Policy:
    return msgspec.convert(policy["body"], Policy)
