"""`standby replica proofs` and `proof`: what was seen of points when they were started, kept beside them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from standby.cli.failover_report import write_report
from standby.cli.key_options import KeyFileOption, PassphraseOption, key_of
from standby.cli.output import Column, Field, Json, fields, print_json, say, stdout, table
from standby.cli.quantities import age, duration, instant, local, zone
from standby.cli.reading import ReplicaName, StoreAddress
from standby.errors import InvalidRequest
from standby.objects.address import open_store
from standby.recovery import proof as proving
from standby.recovery import report_records
from standby.replica import proofs as kept
from standby.replica.journal import ReplicaLog
from standby.replica.proofs import Proof

STYLES = {"passed": "green", "failed": "red", "unsure": "yellow"}


def proofs(
    store: StoreAddress,
    replica: ReplicaName,
    key_file: KeyFileOption = None,
    passphrase: PassphraseOption = False,
    json: Json = False,
) -> None:
    """List the proofs that points were started and looked at, by point."""
    log = ReplicaLog.read(open_store(store), replica, key=key_of(key_file, passphrase))
    found = kept.read_all(log)
    if json:
        print_json(found)
        return
    if not found:
        say(
            stdout(),
            f"No point of {replica} was proved yet: `standby failover test {store} {replica} --proof` does it.",
        )
        return
    now = datetime.now(UTC)
    table(
        stdout(),
        [
            Column("Point", right=True),
            Column("Verdict"),
            Column("Age", right=True),
            Column(f"Started ({zone(now)})", priority=1),
            Column("Why"),
            Column("Proof", whole=True, priority=2),
        ],
        [
            (
                str(one.seq),
                one.verdict,
                age(instant(one.at), now),
                local(instant(one.at)),
                one.reasons[0] if one.reasons else "",
                one.id,
            )
            for one in found
        ],
    )


def proof(
    store: StoreAddress,
    replica: ReplicaName,
    which: Annotated[
        str, typer.Argument(metavar="PROOF", help="A proof's id, a point's number, or `newest`.")
    ] = "newest",
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Write its pictures and texts into this new directory."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write it as one printable HTML file.")
    ] = None,
    key_file: KeyFileOption = None,
    passphrase: PassphraseOption = False,
    json: Json = False,
) -> None:
    """Show a proof, and fetch its pictures and texts."""
    log = ReplicaLog.read(open_store(store), replica, key=key_of(key_file, passphrase))
    found = kept.read(log, kept.choose(log, which))
    if out is not None:
        _fetch(log, found, out)
    if report is not None:
        write_report(report, f"Boot proof of {found.machine}", [report_records.of_proof(log, found)])
    if json:
        print_json(found)
    else:
        show(found)
        if out is not None:
            say(
                stdout(),
                f"Written to {out}: {', '.join([one.name for one in found.parts] + [kept.DOCUMENT])}.",
            )


def show(found: Proof) -> None:
    console = stdout()
    at, point_at = instant(found.at), instant(found.point_at)
    first, agent = found.times.get("first_instruction"), found.times.get("agent")
    fields(
        console,
        [
            Field("Machine", found.machine),
            Field("Point", f"{found.seq}, of {local(point_at)} {zone(point_at)}, {found.consistency}"),
            Field("Verdict", found.verdict),
            *(Field("Reason" if index == 0 else "", one) for index, one in enumerate(found.reasons)),
            Field("First instruction", "" if first is None else duration(first)),
            Field("Guest agent", "" if agent is None else f"answered after {duration(agent)}"),
            Field("Guest", ", ".join(found.guest.values())),
            Field("Started", f"{local(at)} {zone(at)}, on {found.by}"),
            Field("Kept", ", ".join(one.name for one in found.parts)),
            Field("Proof", found.id),
        ],
    )


def _fetch(log: ReplicaLog, found: Proof, out: Path) -> None:
    try:
        out.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise InvalidRequest(
            f"it cannot be made: {error.strerror}",
            subject=str(out),
            hint="name a directory that is not there yet",
        ) from error
    for one in found.parts:
        (out / one.name).write_bytes(kept.part(log, found, one.name))
    (out / kept.DOCUMENT).write_bytes(proving.as_document(found))
