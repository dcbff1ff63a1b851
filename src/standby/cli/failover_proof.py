"""`standby failover test --proof`: a test failover that is looked at, kept as a proof and cleaned up."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from standby.cli.failover_show import tell
from standby.cli.output import print_json, say, stdout
from standby.cli.replica_proofs import show
from standby.errors import NeedsPerson
from standby.hypervisor.launch import QemuHost
from standby.recovery import proof_probes
from standby.recovery.failover import Request
from standby.recovery.proof import prove
from standby.replica.proofs import Proof

KeepProof = Annotated[
    bool,
    typer.Option(
        "--proof", help="Keep screenshot, console, guest and probes beside the point, and clean up."
    ),
]
Probes = Annotated[
    list[str] | None,
    typer.Option(
        "--probe",
        metavar="PROBE",
        help="With --proof: tcp:PORT, http:PORT/PATH, script:FILE or guest:COMMAND. May be repeated.",
    ),
]
ProbeLimit = Annotated[float, typer.Option("--probe-limit", help="Seconds in which a probe must pass.")]


def proof_of(request: Request, root: Path, probes: list[str] | None, limit: float, *, json: bool) -> Proof:
    asked = [proof_probes.parse(one) for one in probes or ()]
    return prove(request, root, QemuHost(), probes=asked, probe_limit=limit, told=None if json else tell)


def test_and_prove(
    request: Request, root: Path, probes: list[str] | None, limit: float, *, json: bool
) -> None:
    """The exit status tells a point that failed."""
    proof = proof_of(request, root, probes, limit, json=json)
    if json:
        print_json(proof)
    else:
        show(proof)
        say(stdout(), f"Kept beside point {proof.seq}; nothing of the test is left here.")
    if proof.verdict == "failed":
        raise typer.Exit(NeedsPerson.exit_status)
