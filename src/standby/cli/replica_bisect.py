"""`standby replica bisect`: the first point that does not work, found by starting few; the last good one is kept."""

from __future__ import annotations

import socket
from typing import Annotated

import typer
from ulid import ULID

from standby.cli import results
from standby.cli.failover_live import BootLimit, NoAgent
from standby.cli.failover_proof import ProbeLimit, Probes, proof_of
from standby.cli.failover_show import root_of
from standby.cli.key_options import KeyFileOption, PassphraseOption, key_of
from standby.cli.output import Json, print_json, say, stderr, stdout
from standby.cli.reading import ReplicaName, StoreAddress
from standby.cli.state import State, made
from standby.errors import Damaged
from standby.objects.address import open_store
from standby.recovery import proof_bisect, proof_probes
from standby.recovery.failover import Request
from standby.recovery.run_directory import TESTS
from standby.replica import proofs
from standby.replica.journal import ReplicaLog, add_hold, read_head
from standby.replica.proofs import Verdict


def bisect(
    store: StoreAddress,
    replica: ReplicaName,
    good: Annotated[
        int | None, typer.Option("--good", metavar="P", help="A point that works [default: looked for].")
    ] = None,
    bad: Annotated[
        int | None, typer.Option("--bad", metavar="P", help="A point that fails [default: the newest].")
    ] = None,
    probe: Probes = None,
    probe_limit: ProbeLimit = proof_probes.LIMIT,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Do not believe proofs that are there: start each point again.")
    ] = False,
    state: State = None,
    no_agent: NoAgent = False,
    boot_limit: BootLimit = 300.0,
    key_file: KeyFileOption = None,
    passphrase: PassphraseOption = False,
    json: Json = False,
) -> None:
    """Find the first point that does not work by starting few of them, and keep the last good one.

    Each start is a proof, kept beside its point. With --probe, proofs without these probes are not believed.
    """
    key = key_of(key_file, passphrase)
    log = ReplicaLog.read(open_store(store), replica, key=key)
    wanted = {str(proof_probes.parse(one)) for one in probe or ()}
    known: dict[int, Verdict] = {}
    for one in sorted(() if fresh else proofs.read_all(log), key=lambda proof: proof.id):
        if one.verdict != "unsure" and wanted <= {check.name for check in one.checks}:
            known[one.seq] = one.verdict
    root = made(root_of(state, TESTS))

    def test(seq: int) -> Verdict:
        request = Request(store, replica, str(seq), None if no_agent else boot_limit, key)
        # Its steps would hide the one thing that counts here.
        verdict = proof_of(request, root, probe, probe_limit, json=True).verdict
        if not json:
            say(stderr(), f"Point {seq}: {verdict}")
        return verdict

    found = proof_bisect.bisect([one.seq for one in log.points], known, test, good=good, bad=bad)
    result = results.Bisected(
        replica=replica,
        good=found.good,
        bad=found.bad,
        between=found.between,
        tested=tuple(results.BisectStep(point=seq, verdict=verdict) for seq, verdict in found.tested),
        kept=_keep(log, found.good),
    )
    if json:
        print_json(result)
        return
    first = f"Point {found.bad} is the first that fails"
    if found.between:
        first = f"Point {found.bad} fails, and perhaps some of {', '.join(map(str, found.between))} before it"
    kept = (
        f"It is kept until `standby replica release` {result.kept}."
        if result.kept
        else "It was kept already."
    )
    say(stdout(), f"{first}; point {found.good} is the last that works. {kept}")


def _keep(log: ReplicaLog, seq: int) -> str:
    """The new hold's id; "" where such a hold is there. Raises Damaged where the point went meanwhile."""
    by = f"the search for the last good point, on {socket.gethostname()}"
    head, _ = read_head(log.place)
    if any((hold.seq, hold.by) == (seq, by) for hold in head.holds):
        return ""
    hold_id = str(ULID())
    if not add_hold(log.place, hold_id, seq, by, keep=True):
        return ""
    head, _ = read_head(log.place)
    if head.gone(seq):
        raise Damaged(
            "retention took it while others were started",
            subject=f"point {seq} of {log.place.name}",
            hint="search again",
        )
    return hold_id
