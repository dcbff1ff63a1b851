"""`standby replica points`: what there is to recover, which of it was proved to boot, and what looks suspicious."""

from __future__ import annotations

from datetime import UTC, datetime

from standby.cli import results
from standby.cli.key_options import KeyFileOption, PassphraseOption, key_of
from standby.cli.output import Column, Json, print_json, say, stdout, table
from standby.cli.quantities import age, counted, instant, local, size, zone
from standby.cli.reading import ReplicaName, StoreAddress
from standby.objects.address import open_store
from standby.replica import proofs
from standby.replica.journal import ReplicaLog


def points(
    store: StoreAddress,
    replica: ReplicaName,
    key_file: KeyFileOption = None,
    passphrase: PassphraseOption = False,
    json: Json = False,
) -> None:
    """List a replica's recovery points, oldest first."""
    log = ReplicaLog.read(open_store(store), replica, key=key_of(key_file, passphrase))
    verdicts = _verdicts(log)
    flagged = {seq: str(why) for seq, why in log.flagged().items()}
    found = [
        results.Point.of(record, verdicts.get(record.seq, ""), flagged.get(record.seq, ""))
        for record in log.points
    ]
    if json:
        print_json(found)
        return
    if not found:
        say(
            stdout(),
            f"{replica} has no recovery point yet: the first one comes with the end of its first scan.",
        )
        return
    _print(found)
    if flagged:
        newest = max(flagged)
        say(
            stdout(),
            f"\n{counted(len(flagged), 'point')} suspicious: the disks may be being encrypted. The newest of them, "
            f"{newest}: {flagged[newest]}. `--point newest-unflagged` takes the newest that does not.",
            style="yellow",
        )


def _print(found: list[results.Point]) -> None:
    now = datetime.now(UTC)
    table(
        stdout(),
        [
            Column("Point", right=True),
            Column(f"Time ({zone(now)})", priority=1),
            Column("Age", right=True),
            Column("Consistency"),
            *([Column("Proof")] if any(one.proof for one in found) else []),
            Column("Changed", priority=2, right=True),
            Column("Stored", priority=3, right=True),
            *([Column("")] if any(one.suspicious for one in found) else []),
            Column("Note", priority=4),
        ],
        [
            (
                str(one.point),
                local(instant(one.at)),
                age(instant(one.at), now),
                one.consistency.removesuffix("-consistent") + (", sealed" if one.sealed else ""),
                *([one.proof] if any(two.proof for two in found) else []),
                size(one.changed),
                size(one.stored),
                *(["suspicious" if one.suspicious else ""] if any(two.suspicious for two in found) else []),
                one.note,
            )
            for one in found
        ],
    )


def _verdicts(log: ReplicaLog) -> dict[int, str]:
    """Of each point the verdict of its newest proof; without the key only that there is one."""
    names = proofs.names(log.place)
    if log.head.encrypted and log.place.key is None:
        return {name.seq: "kept" for name in names}
    newest = {name.seq: name for name in sorted(names, key=lambda name: name.id)}
    return {proof.seq: proof.verdict for proof in proofs.read_all(log, list(newest.values()))}
