"""Boot proofs: what was seen when a point was started, kept beside it in the store (docs/format.md section 8).

A proof's parts are written first and its document last, all under a name that is used once: a proof without its
document was interrupted, and counts for nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Literal, NamedTuple
from uuid import UUID

import msgspec

from standby import failpoints
from standby.errors import Damaged, InvalidRequest
from standby.objects.base import ObjectMissing
from standby.replica.cipher import Cipher
from standby.replica.documents import checked_sum, with_sum
from standby.replica.format import FORMAT
from standby.replica.journal import PARALLEL_READS, Place, ReplicaLog

DOCUMENT: Final = "proof.json"
SCREEN: Final = "screen.png"
CONSOLE: Final = "console.txt"
PROBES: Final = "probes.txt"
"""Names of a proof's parts."""

Verdict = Literal["passed", "failed", "unsure"]

_NAME: Final = re.compile(r"(\d{20})/([0-9A-Z]{26})/([a-z0-9][a-z0-9.-]{0,63})")
_PART_KEPT = failpoints.declare("proofs.part_kept")
_KEPT = failpoints.declare("proofs.kept")


class ProofMissing(InvalidRequest):
    """The replica has no such proof."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A picture or a text of a proof. size, sha256 (hex): before encryption."""

    name: str
    size: int
    sha256: str


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at. passed: None where it could not be told."""

    name: str
    passed: bool | None
    text: str


class ProofStep(msgspec.Struct, frozen=True, kw_only=True):
    """A step of the start, as its row told it. began, ended: RFC 3339."""

    task: str
    step: str
    began: str
    ended: str
    error: str = ""


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of a point. id: a ULID. record: SHA-256 of the point's record as stored. at: when it was
    started, point_at: the point's instant (RFC 3339). guest: what its agent said of itself. times: seconds from
    the command, by name (`first_instruction`, `agent`, `whole`)."""

    format: int = FORMAT
    replica: UUID
    id: str
    seq: int
    record: str
    machine: str
    at: str
    point_at: str
    consistency: str
    by: str
    verdict: Verdict
    reasons: tuple[str, ...]
    checks: tuple[Check, ...] = ()
    guest: dict[str, str] = {}
    times: dict[str, float] = {}
    steps: tuple[ProofStep, ...] = ()
    parts: tuple[Part, ...] = ()


class ProofName(NamedTuple):
    seq: int
    id: str

    @property
    def folder(self) -> str:
        """Below the replica."""
        return f"proofs/{self.seq:020d}/{self.id}/"


class ProofProblem(NamedTuple):
    """What is wrong with an object of a proof, for a scrub. object: below the replica."""

    object: str
    cause: str
    seq: int


def keep(log: ReplicaLog, proof: Proof, parts: Mapping[str, bytes]) -> Proof:
    """Write a proof, its `parts` by name; as it is kept. Raises KeyMissing, and as the store."""
    place, cipher = log.place, log.cipher()
    folder = ProofName(proof.seq, proof.id).folder
    kept = msgspec.structs.replace(
        proof,
        parts=tuple(
            Part(name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest())
            for name, data in sorted(parts.items())
        ),
    )
    for name, data in sorted(parts.items()):
        place.store.put(place.below(folder + name), cipher.seal(data, "proof") if cipher else data)
        _PART_KEPT.reach()
    body = with_sum(msgspec.json.encode(kept))
    place.store.put(place.below(folder + DOCUMENT), cipher.seal(body, "proof") if cipher else body)
    _KEPT.reach()
    return kept


def names(place: Place) -> list[ProofName]:
    """The proofs that are there as a whole, by point and then by age."""
    return [name for name, part in _objects(place) if part == DOCUMENT]


def entries(place: Place) -> Iterator[tuple[int, str]]:
    """All objects of proofs, also of interrupted ones: the point's number, the object's full name."""
    for name, part in _objects(place):
        yield name.seq, place.below(name.folder + part)


def read(log: ReplicaLog, name: ProofName) -> Proof:
    """Raises ProofMissing, Damaged, KeyMissing."""
    return _read(log.place, log.cipher(), name)


def read_all(log: ReplicaLog, wanted: Sequence[ProofName] | None = None) -> list[Proof]:
    """The proofs (by default all) of points that are still there, in the order of `names`."""
    cipher = log.cipher()
    chosen = [name for name in wanted or names(log.place) if not log.head.gone(name.seq)]
    with ThreadPoolExecutor(PARALLEL_READS) as pool:
        return list(pool.map(lambda name: _read(log.place, cipher, name), chosen))


def part(log: ReplicaLog, proof: Proof, name: str) -> bytes:
    """A part's bytes, compared with what the proof's document says. Raises Damaged, ProofMissing, KeyMissing."""
    described = next((one for one in proof.parts if one.name == name), None)
    if described is None:
        raise ProofMissing(
            f"it has no part {name}",
            subject=f"proof {proof.id}",
            hint=f"it has {', '.join(one.name for one in proof.parts) or 'none'}",
        )
    return _part(log.place, log.cipher(), proof, described)


def choose(log: ReplicaLog, wanted: str) -> ProofName:
    """The proof that `wanted` names: its id, `newest`, or a point's number (its newest). Raises ProofMissing."""
    known = names(log.place)
    found = [one for one in known if wanted == "newest" or wanted in (one.id, str(one.seq))]
    if not found:
        raise ProofMissing(
            f"it has no proof {wanted}" if known else "no point of it was proved yet",
            subject=log.place.name,
            hint=f"`standby replica proofs {log.place.store.url} {log.place.name}` lists them"
            if known
            else f"`standby failover test {log.place.store.url} {log.place.name} --proof` makes one",
        )
    return max(found, key=lambda one: one.id)


def problems(place: Place, cipher: Cipher | None, chosen: Sequence[ProofName]) -> list[ProofProblem]:
    """What is wrong with these proofs, read in full. In an encrypted replica the cipher is needed."""
    found = []
    for name in chosen:
        try:
            proof = _read(place, cipher, name)
        except ProofMissing:
            continue  # swept meanwhile
        except (Damaged, InvalidRequest) as error:
            found.append(ProofProblem(name.folder + DOCUMENT, error.cause, name.seq))
            continue
        for one in proof.parts:
            try:
                _part(place, cipher, proof, one)
            except Damaged as error:
                found.append(ProofProblem(name.folder + one.name, error.cause, name.seq))
    return found


def _objects(place: Place) -> Iterator[tuple[ProofName, str]]:
    prefix = place.below("proofs/")
    for entry in place.store.list(prefix):
        if match := _NAME.fullmatch(entry.name.removeprefix(prefix)):
            yield ProofName(int(match[1]), match[2]), match[3]


def _read(place: Place, cipher: Cipher | None, name: ProofName) -> Proof:
    object_name = place.below(name.folder + DOCUMENT)
    subject = place.subject(object_name)
    try:
        stored = place.store.get(object_name).data
    except ObjectMissing as error:
        raise ProofMissing(
            f"point {name.seq} has no proof {name.id}",
            subject=place.name,
            hint="it went with its point; list proofs again",
        ) from error
    body = cipher.unseal(stored, "proof", subject) if cipher else stored
    checked_sum(body, subject)
    try:
        proof = msgspec.json.decode(body, type=Proof)
    except msgspec.DecodeError as error:
        raise Damaged(f"it cannot be read: {error}", subject=subject) from error
    if proof.format > FORMAT:
        raise InvalidRequest(f"it has format {proof.format}", subject=subject, hint="use a newer standby")
    if (proof.seq, proof.id) != name or any(
        "/" in one.name or one.name[:1] in (".", "") for one in proof.parts
    ):
        raise Damaged(f"it is the proof {proof.id} of point {proof.seq}", subject=subject)
    return proof


def _part(place: Place, cipher: Cipher | None, proof: Proof, described: Part) -> bytes:
    name = place.below(ProofName(proof.seq, proof.id).folder + described.name)
    try:
        stored = place.store.get(name).data
    except ObjectMissing as error:
        raise Damaged("it is gone", subject=place.subject(name)) from error
    data = cipher.unseal(stored, "proof", place.subject(name)) if cipher else stored
    if hashlib.sha256(data).hexdigest() != described.sha256:
        raise Damaged("its bytes are not those that were written", subject=place.subject(name))
    return data
