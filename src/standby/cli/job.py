"""`standby job`: a vault's jobs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from standby.cli.help import lone
from standby.cli.job_begin import Confirm, Wait, begin, told
from standby.cli.job_watch import end_of, follow, task_lines
from standby.cli.output import Column, Field, Json, fields, print_json, say, stdout, table
from standby.cli.quantities import age, duration, instant, local, zone
from standby.cli.vault_client import connected
from standby.errors import InvalidRequest

app = lone()

JobId = Annotated[str, typer.Argument(metavar="JOB", help="Its id, as `standby job list` shows it.")]


@app.command("list")
def list_jobs(
    state: Annotated[
        str,
        typer.Option(
            "--state",
            metavar="STATE",
            help="queued, `in progress`, `waiting for input`, succeeded, failed or cancelled.",
        ),
    ] = "",
    machine: Annotated[
        str, typer.Option("--machine", metavar="MACHINE", help="Of this machine, by name or id.")
    ] = "",
    kind: Annotated[
        str, typer.Option("--kind", metavar="KIND", help="As `standby job kinds` lists them.")
    ] = "",
    most: Annotated[int, typer.Option("--most", min=1, max=10_000, help="How many.")] = 50,
    json: Json = False,
) -> None:
    """List a vault's jobs, newest first."""
    with connected() as client:
        of = client.get("machines", machine)["id"] if machine else ""
        found = list(client.pages("jobs", "jobs", most, turn="before", state=state, machine=of, kind=kind))
    if json:
        print_json(found)
        return
    if not found:
        say(stdout(), "No job was begun yet." if not (state or machine or kind) else "There is no such job.")
        return
    now = datetime.now(UTC)
    table(
        stdout(),
        [
            Column("Job", whole=True),
            Column("What"),
            Column("State"),
            Column("Begun", 3, right=True),
            Column("By", 4),
        ],
        [
            (
                one["id"],
                f"{one['title']} of {one['subject']}",
                "cancelling" if one["cancelling"] else one["state"],
                age(instant(one["created"]), now),
                one["by"],
            )
            for one in found
        ],
    )


@app.command()
def show(job: JobId, json: Json = False) -> None:
    """Show a job: its tasks, its error and what can be done about it."""
    with connected() as client:
        found = client.get("jobs", job)
    if json:
        print_json(found)
    else:
        _print(found)


@app.command()
def watch(job: JobId, json: Json = False) -> None:
    """Follow a job to its end; its end is the exit status. Ctrl-C ends the watching, not the job."""
    with connected() as client:
        ended = follow(client, job, stdout(), json=json)
    if error := end_of(ended):
        raise error


@app.command()
def cancel(job: JobId, json: Json = False) -> None:
    """Cancel a job. One that is under way ends at its next safe place."""
    _act(job, "cancel", json=json)


@app.command()
def restart(job: JobId, wait: Wait = False, json: Json = False) -> None:
    """Begin a job that failed or was cancelled once more, from the part that failed."""
    _act(job, "restart", wait=wait, json=json)


@app.command("continue")
def go_on(job: JobId, wait: Wait = False, json: Json = False) -> None:
    """Let a job go on that waited for you."""
    _act(job, "continue", wait=wait, json=json)


@app.command("begin")
def begin_job(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="As `standby job kinds` lists them.")],
    machine: Annotated[str, typer.Argument(metavar="MACHINE", help="Its name or id.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting, such as host=dr-1. Repeatable."),
    ] = None,
    confirm: Confirm = "",
    wait: Wait = False,
    json: Json = False,
) -> None:
    """Begin any kind of job on a machine, such as a failover.

    Settings: host (of failovers: the one that is to run it), point (its number, newest or newest-application),
    network, source_down=true, store, policy, replica, disk, disks (with commas between).
    """
    with connected() as client:
        kinds = {one["kind"]: one for one in client.get("job-kinds") if not one["observed"]}
        if kind not in kinds:
            raise InvalidRequest(
                f"there is no job {kind!r}", subject=machine, hint=f"choose one of {', '.join(kinds)}"
            )
        job = begin(
            client,
            machine,
            kind,
            params_of(settings or []),
            confirm=confirm,
            dangerous=kinds[kind]["dangerous"],
        )
        told(client, job, wait=wait, json=json)


@app.command("kinds")
def list_kinds(json: Json = False) -> None:
    """List what jobs there are, and which role may begin them."""
    with connected() as client:
        found = [one for one in client.get("job-kinds") if not one["observed"]]
    if json:
        print_json(found)
        return
    table(
        stdout(),
        [Column("Kind", whole=True), Column("What"), Column("Confirmed", 1), Column("Role", 2)],
        [(one["kind"], one["title"], "by name" if one["dangerous"] else "", one["role"]) for one in found],
    )


def params_of(settings: list[str]) -> dict[str, Any]:
    """`NAME=VALUE` each. Raises InvalidRequest."""
    params: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise InvalidRequest("this is no setting", subject=setting, hint="give NAME=VALUE")
        if value in ("true", "false"):
            params[name] = value == "true"
        elif name in ("disks", "excluded"):
            params[name] = [one for one in value.split(",") if one]
        elif name in ("frequency", "boot_limit") and value.isdecimal():
            params[name] = int(value)
        else:
            params[name] = value
    return params


def _act(job: str, action: str, *, wait: bool = False, json: bool) -> None:
    with connected() as client:
        # Only a restart begins a job; the others may be repeated as they are.
        found = client.begin("jobs", job, action) if action == "restart" else client.post("jobs", job, action)
        if action == "restart" or wait:
            told(client, found, wait=wait, json=json)
        elif json:
            print_json(found)
        else:
            state = "being cancelled" if found["cancelling"] else found["state"]
            say(stdout(), f"{found['title']} of {found['subject']} is {state}.")


def _print(job: Any) -> None:
    console = stdout()
    error = job["error"] or {}
    took = ""
    if job["began"] and job["ended"]:
        took = f", after {duration((instant(job['ended']) - instant(job['began'])).total_seconds())}"
    fields(
        console,
        [
            Field("Job", job["id"]),
            Field("What", f"{job['title']} of {job['subject']}"),
            Field("State", ("cancelling" if job["cancelling"] else job["state"]) + took),
            Field("Waiting", job["waiting"]),
            Field("By", job["by"]),
            Field("Created", _local(job["created"])),
            Field("Began", _local(job["began"])),
            Field("Ended", _local(job["ended"])),
            *(Field(name.capitalize(), str(value)) for name, value in job["result"].items()),
            Field("Error", ": ".join(one for one in (error.get("subject"), error.get("cause")) if one)),
            Field("Tried", error.get("tried", "")),
            Field("Next", error.get("hint", "")),
            Field("Possible", ", ".join(f"`standby job {action} {job['id']}`" for action in job["actions"])),
        ],
    )
    if job["tasks"]:
        console.print()
    for line, style in task_lines(job):
        say(console, line, style=style, indent=2)


def _local(at: str | None) -> str:
    return f"{local(instant(at))} {zone(instant(at))}" if at else ""
