"""`standby check`: an end-to-end proof that a machine's protection works now, through its vault."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import typer
from rich.console import Console
from rich.text import Text

from standby.cli import results
from standby.cli.help import lone
from standby.cli.job_begin import begin
from standby.cli.job_watch import end_of
from standby.cli.key_options import KeyFileOption, key_of
from standby.cli.output import Json, print_json, say, stdout
from standby.cli.quantities import age, duration, instant, size
from standby.cli.reading import choose, reader
from standby.cli.vault_client import Client, connected
from standby.errors import Damaged, InvalidRequest, NeedsPerson, Recoverable, StandbyError
from standby.replica.journal import hold
from standby.replica.verify import verify_point

app = lone()

EVERY: Final = 1.0
LATE: Final = 30.0
"""Seconds of an agent's silence from which on it does not count as reporting: six heartbeats."""

_MARKS: Final = {"passed": ("+", "green"), "failed": ("x", "red"), "skipped": ("-", "yellow")}


class _Made(NamedTuple):
    seq: int
    store: str
    replica: str


class _NotTried(Exception):
    """A stage cannot be tried from here; that is no failure of the protection."""


@app.command()
def check(
    machine: Annotated[str, typer.Argument(metavar="MACHINE", help="Its name or id.")],
    within: Annotated[
        float, typer.Option("--within", metavar="SECONDS", help="How long a point may take to be committed.")
    ] = 600,
    no_store: Annotated[
        bool,
        typer.Option("--no-store", help="Do not read the point from the store: that reads all its disks."),
    ] = False,
    key_file: KeyFileOption = None,
    json: Json = False,
) -> None:
    """Prove that a machine's protection works now: make a point, wait until it is committed, read all of it back.

    The last stage needs a store that can be reached from here; where it cannot, that is told, and is no failure.
    """
    console = None if json else stdout()
    stages = _Stages(console)
    with connected() as client:
        found = client.get("machines", machine)
        name = str(found["name"])
        if console:
            say(console, f"{name} in {client.vault}", style="bold")
        try:
            host = stages.run("Its agent reports", lambda: _reporting(client, found))
            before = _newest(client, found["id"])
            began, _ = stages.run("A point is asked for", lambda: _asked(client, found))
            earliest = began + timedelta(seconds=host["skew"] - 1)
            made = stages.run(
                "The point is committed",
                lambda: _committed(client, found, before, earliest, within),
            )
            stages.run("The point is read back", lambda: _read_back(made, key_file, no_store))
            error = None
        except StandbyError as failed:
            error = failed
    if json:
        print_json(results.Check(machine=name, passed=error is None, stages=tuple(stages.told)))
    elif error is None:
        whole = all(one.result == "passed" for one in stages.told)
        say(
            stdout(),
            f"{name} is protected{'' if whole else ', as far as can be proved from here'}.",
            style="green" if whole else "yellow",
        )
    if error:
        raise error


class _Stages:
    """Each is told as it ends, with the time that it took."""

    def __init__(self, console: Console | None) -> None:
        self._console = console
        self.told: list[results.CheckStage] = []

    def run(self, name: str, work: Callable[[], tuple[str, Any]]) -> Any:
        """What `work` gives beside its text. Raises what it raises."""
        began = time.monotonic()
        try:
            text, found = work()
        except _NotTried as reason:
            self._tell(name, "skipped", began, str(reason))
            return None
        except StandbyError as error:
            self._tell(name, "failed", began, error.cause)
            raise
        self._tell(name, "passed", began, text)
        return found

    def _tell(self, name: str, result: str, began: float, text: str) -> None:
        took = time.monotonic() - began
        self.told.append(results.CheckStage(stage=name, result=result, seconds=round(took, 3), detail=text))
        if self._console:
            mark, style = _MARKS[result]
            self._console.print(Text(f"{mark} {name}  {duration(took)}", style=style), soft_wrap=True)
            say(self._console, f"  {text}", indent=2)


def _reporting(client: Client, found: Any) -> tuple[str, Any]:
    standing = found["standing"]
    if standing is None:
        raise InvalidRequest(
            "it is not protected", subject=found["name"], hint=f"`standby vm protect {found['name']}`"
        )
    host = client.get("hosts", found["host"])
    now = datetime.now(UTC)
    if host["silent"] or not host["beat"] or (now - instant(host["beat"])).total_seconds() > LATE:
        heard = age(instant(host["beat"]), now) if host["beat"] else "never"
        raise Recoverable(
            f"the agent of {host['name']} last reported {heard}",
            subject=found["name"],
            hint=f"see that `standby agent run` runs on {host['name']} and reaches the vault",
        )
    text = (
        f"{host['name']}, {age(instant(host['beat']), now)}; {standing['state']}, health {standing['level']}"
    )
    return text, host


def _newest(client: Client, machine: str) -> int:
    points = client.get("machines", machine, "points", limit=1)["points"]
    return points[0]["seq"] if points else 0


def _asked(client: Client, found: Any) -> tuple[str, Any]:
    """When the vault took the job in, and the job."""
    job = begin(client, found["id"], "point", {})
    while not job["ended"]:
        time.sleep(EVERY)
        job = client.get("jobs", job["id"])
    if error := end_of(job):
        raise error
    return f"job {job['id']}", (instant(job["created"]), job)


def _committed(
    client: Client, found: Any, before: int, earliest: datetime, within: float
) -> tuple[str, _Made]:
    """The first point that is certainly of after the asking: a cut that was open then does not count."""
    until = time.monotonic() + within
    while True:
        for one in reversed(client.get("machines", found["id"], "points", limit=50)["points"]):
            if one["seq"] > before and instant(one["at"]) >= earliest:
                standing = found["standing"]
                text = (
                    f"point {one['seq']}, {one['consistency']}, {size(one['stored'])} in {standing['store']}"
                )
                return text, _Made(one["seq"], standing["store"], standing["replica"])
        if time.monotonic() > until:
            raise NeedsPerson(
                f"no point was committed within {duration(within)}",
                subject=found["name"],
                tried="asking its agent for one, which took it on",
                hint=f"`standby vm show {found['name']}` tells what is in its way",
            )
        time.sleep(EVERY)


def _read_back(made: _Made, key_file: Path | None, no_store: bool) -> tuple[str, None]:
    if no_store:
        raise _NotTried("not wanted (--no-store)")
    try:
        chosen = choose(made.store, made.replica, str(made.seq), key_of(key_file, passphrase=False))
    except Damaged:
        raise
    except StandbyError as error:
        raise _NotTried(f"the store cannot be read from here: {error.cause}. Next: {error.hint}") from error
    with hold(chosen.log.place, chosen.record.seq, reader("check")):
        proof = verify_point(chosen.log, chosen.record)
    if proof.findings:
        first = proof.findings[0]
        raise Damaged(
            f"{first.subject}: {first.problem}",
            subject=f"{made.replica} in {made.store}, point {made.seq}",
            tried="reading every block of it and comparing it with its hash",
            hint=f"`standby replica verify {made.store} {made.replica} --all` tells which points are whole",
        )
    return f"{size(proof.bytes)} of disks, every block as its hash has it", None
