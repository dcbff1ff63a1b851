"""What each job that an operator may begin asks for and does, and how a filled form becomes its parameters."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from standby.errors import InvalidRequest
from standby.link.messages import Standing
from standby.portal.fields import Field, FormPage, Option
from standby.portal.render import every
from standby.portal.visit import Filled
from standby.replication.forecast import size_of
from standby.replication.policy import FREQUENCIES
from standby.vault.jobs import KINDS
from standby.vault.machines import Detail
from standby.vault.schema import Host, Point, PolicyRow, Store


class Given(NamedTuple):
    """What a form lets choose from."""

    detail: Detail
    hosts: Sequence[Host]
    policies: Sequence[PolicyRow]
    stores: Sequence[Store]
    points: Sequence[Point]
    asked: Mapping[str, str]
    """What the link that led here chose already: `point`, `disk`."""


def form_page(kind: str, given: Given) -> FormPage:
    spec, detail = KINDS[kind], given.detail
    name = detail.machine.name
    fields = list(_FIELDS[kind](given)) if kind in _FIELDS else []
    fields.append(Field("once", "", "hidden", secrets.token_urlsafe(16)))
    if spec.dangerous:
        fields.append(
            Field(
                "confirm",
                f"To confirm, type the machine’s name: {name}",
                required=True,
                extra=(("autocomplete", "off"), ("spellcheck", "false"), ("autocapitalize", "none")),
            )
        )
    return FormPage(
        f"{spec.title}: {name}",
        f"/machines/{detail.machine.id}/begin/{kind}",
        _BUTTONS.get(kind, spec.title),
        f"/machines/{detail.machine.id}",
        text=(_TEXTS[kind].format(name=name, host=detail.host.name),),
        fields=fields,
        danger=spec.dangerous,
        lacks=_lacks(kind, given),
    )


def parameters(kind: str, form: Filled) -> dict[str, Any]:
    """Raises InvalidRequest."""
    return _PARAMETERS[kind](form) if kind in _PARAMETERS else {}


def known(kind: str) -> bool:
    """Whether there is a form that begins such a job."""
    return kind in _TEXTS


def _lacks(kind: str, given: Given) -> list[tuple[str, str]]:
    if kind != "enable-protection":
        return []
    found = []
    if not given.policies:
        found.append(("There is no policy yet: create one first", "/policies"))
    if not given.stores:
        found.append(("There is no store yet: name one first", "/infrastructure"))
    return found


_BUTTONS: Final = {
    "point": "Make a point",
    "retry": "Try again now",
    "set-policy": "Change the policy",
    "change-point": "Change the point",
    "leave-out-disk": "Leave it out",
    "take-in-disk": "Take it in",
    "resync": "Start resynchronization",
    "commit": "Commit",
    "cancel-failover": "Take the failover back",
    "test-failover": "Start test failover",
    "failover": "Fail over",
    "planned-failover": "Shut down and fail over",
    "prove": "Prove it",
}

_TEXTS: Final = {
    "enable-protection": "{name} goes on running on {host} while its disks are copied to the store; from then on only"
    " changes are sent.",
    "disable-protection": "Replication of {name} ends. What is in the store stays there and can still be restored.",
    "pause": "No points are made of {name} until it is resumed; its changes go on being tracked.",
    "resume": "Points of {name} are made again; what changed meanwhile is sent first.",
    "retry": "What failed is tried again at once, instead of at the next due time.",
    "point": "A point of {name} is made now, with the guest’s file systems frozen for a moment where its guest agent"
    " can do that.",
    "resync": "Disks of {name} are compared with the replica by hashes, and what differs is sent. Points stay; no new"
    " ones are made until it ends.",
    "cancel-resync": "The comparison of {name}’s disks stops. They wait until it is started again.",
    "set-policy": "{name} is replicated under another policy from now on.",
    "leave-out-disk": "This disk of {name} is no longer part of its points. Older points keep it.",
    "take-in-disk": "This disk of {name} is replicated from now on, beginning with all of it.",
    "test-failover": "A copy of {name} is started from the store on a recovery host, without a way to any network"
    " unless you name one. {name} itself goes on running, and so does its replication.",
    "clean-up-test": "The test copy of {name} is removed, with all that it wrote.",
    "failover": "A copy of {name} takes its place: its source is fenced off from the replica, and what it wrote after"
    " the point is not in the copy. Make sure that {name} no longer runs on {host}.",
    "planned-failover": "The guest of {name} is shut down, its last write is replicated, and its copy is started:"
    " nothing is lost. {name} stays off on {host}.",
    "prove": "A copy of {name}’s newest point is started in isolation, looked at, and removed. The picture of its"
    " console and what was found are kept beside the point.",
    "change-point": "The recovered copy of {name} is started anew from another point. What it wrote so far is lost.",
    "commit": "The recovered copy of {name} is kept: its point can no longer be changed, nor the failover cancelled.",
    "cancel-failover": "The recovered copy of {name} is removed, with all that it wrote.",
    "resume-failover": "A failover of {name} that was interrupted goes on.",
    "hydrate": "The disks of the recovered copy of {name} are fetched while it runs, until it no longer needs the"
    " store.",
    "retention": "Points of {name}’s replica that its policy no longer keeps are folded together and deleted. It stands"
    " in nobody’s way.",
    "scrub": "{name}’s replica is looked through in its store for damage. It stands in nobody’s way.",
    "reverse-replicate": "The recovered copy of {name} is protected from its new host, into the same replica.",
}


def _enable(given: Given) -> list[Field]:
    seen = given.detail.seen
    disks = [Option(one.id, f"{one.id}, {size_of(one.size)}") for one in seen.disks]
    return [
        Field("policy", "Policy", "select", options=[_policy(one) for one in given.policies], required=True),
        Field(
            "store",
            "Store",
            "select",
            options=[Option(one.id, f"{one.name} ({one.address})") for one in given.stores],
            required=True,
        ),
        Field("replica", "Name of the replica in the store", value=seen.name, required=True),
        Field("excluded", "Disks to leave out", "checks", [], disks, "swap or scratch disks, for example"),
        Field("key_file", "Key file on the host", group="Encryption and more", help="empty: not encrypted"),
        Field(
            "take_over",
            "Take over a replica of this name that another agent wrote",
            "checkbox",
            group="Encryption and more",
        ),
    ]


def _policy(row: PolicyRow) -> Option:
    body = row.body
    return Option(
        row.id, f"{row.name}: a point every {every(body['frequency'])}, kept {body['retention_hours']} h"
    )


def _points(given: Given, *, named: bool) -> list[Option]:
    found = [
        Option("newest", "The newest point"),
        Option("newest-app", "The newest application-consistent one"),
    ]
    found = found if named else []
    return found + [
        Option(str(one.seq), f"{one.at:%Y-%m-%d %H:%M:%S} UTC, {one.consistency} (no. {one.seq})")
        for one in given.points
    ]


def _start(given: Given) -> list[Field]:
    others = [one for one in given.hosts if one.id != given.detail.machine.host]
    mine = [one for one in given.hosts if one.id == given.detail.machine.host]
    hosts = [
        Option(
            one.id,
            f"{one.name}{' (the source’s own)' if one in mine else ''}{' (silent)' if one.silent else ''}",
        )
        for one in [*others, *mine]
    ]
    point = given.asked.get("point", "newest")
    return [
        Field("point", "Recovery point", "select", point, _points(given, named=True), required=True),
        Field("host", "Recovery host", "select", options=hosts, required=True),
        Field(
            "network", "Network", value="isolated", help="isolated, or as `--network` of that host takes it"
        ),
        Field(
            "boot_limit",
            "Seconds to wait for the guest agent",
            "number",
            "300",
            help="empty: the guest has none",
            group="More",
            extra=(("min", "1"),),
        ),
        Field("key_file", "Key file on the recovery host", help="of an encrypted replica", group="More"),
    ]


def _fail_over(given: Given) -> list[Field]:
    down = Field(
        "source_down",
        f"{given.detail.machine.name} is off: I have made sure",
        "checkbox",
        help="without it, the failover is refused unless the source is known to be off",
    )
    return [*_start(given), down]


def _planned(given: Given) -> list[Field]:
    force = Field(
        "force",
        "Stop a guest that does not shut down, as a power cut would",
        "checkbox",
        help="what is on its disks is kept all the same",
        group="More",
    )
    return [*(one for one in _start(given) if one.name != "point"), force]


def _disks(given: Given) -> list[Option]:
    standing = given.detail.standing
    return [Option(one.id, f"{one.id}, {size_of(one.size)}") for one in (standing.disks if standing else ())]


def _excluded(standing: Standing | None) -> list[Option]:
    return [Option(one, one) for one in (standing.excluded if standing else ())]


_FIELDS: Final[Mapping[str, Callable[[Given], Sequence[Field]]]] = {
    "enable-protection": _enable,
    "test-failover": _start,
    "failover": _fail_over,
    "planned-failover": _planned,
    "prove": lambda _given: [
        Field(
            "boot_limit",
            "Seconds to wait for the guest agent",
            "number",
            "300",
            help="empty: the guest has none",
            extra=(("min", "1"),),
        )
    ],
    "change-point": lambda given: [
        Field(
            "point",
            "Recovery point",
            "select",
            given.asked.get("point", ""),
            _points(given, named=False),
            required=True,
        )
    ],
    "set-policy": lambda given: [
        Field(
            "policy",
            "Policy",
            "select",
            given.detail.policy.id if given.detail.policy else "",
            [_policy(one) for one in given.policies],
            required=True,
        )
    ],
    "resync": lambda given: [
        Field("disks", "Disks", "checks", [], _disks(given), "none chosen: all of them")
    ],
    "leave-out-disk": lambda given: [
        Field("disk", "Disk", "select", given.asked.get("disk", ""), _disks(given), required=True)
    ],
    "take-in-disk": lambda given: [
        Field(
            "disk",
            "Disk",
            "select",
            given.asked.get("disk", ""),
            _excluded(given.detail.standing),
            required=True,
        )
    ],
    "disable-protection": lambda _given: [
        Field(
            "gone",
            "The machine’s process is gone for good",
            "checkbox",
            help="then nothing is asked of it; its change tracking went with it",
        )
    ],
    "reverse-replicate": lambda _given: [
        Field(
            "frequency",
            "A point every",
            "select",
            "30",
            [Option(str(one), every(one)) for one in FREQUENCIES],
        ),
        Field("key_file", "Key file on the host that runs it", help="of an encrypted replica"),
    ],
}


def _boot_limit(form: Filled) -> float | None:
    limit = form.number("boot_limit", 0)
    if limit < 0:
        raise InvalidRequest("seconds are 1 or more", subject="guest agent", hint="or leave it empty")
    return float(limit) if limit else None


def _started(form: Filled) -> dict[str, Any]:
    return {
        "point": form["point"] or "newest",
        "host": form["host"],
        "network": form["network"] or "isolated",
        "boot_limit": _boot_limit(form),
        "key_file": form["key_file"],
    }


_PARAMETERS: Final[Mapping[str, Callable[[Filled], dict[str, Any]]]] = {
    "enable-protection": lambda form: {
        "policy": form["policy"],
        "store": form["store"],
        "replica": form["replica"],
        "excluded": form.all("excluded"),
        "key_file": form["key_file"],
        "take_over": bool(form["take_over"]),
    },
    "test-failover": _started,
    "failover": lambda form: {**_started(form), "source_down": bool(form["source_down"])},
    "planned-failover": lambda form: {**_started(form), "force": bool(form["force"])},
    "prove": lambda form: {"boot_limit": _boot_limit(form)},
    "change-point": lambda form: {"point": form["point"]},
    "set-policy": lambda form: {"policy": form["policy"]},
    "resync": lambda form: {"disks": form.all("disks")},
    "leave-out-disk": lambda form: {"disk": form["disk"]},
    "take-in-disk": lambda form: {"disk": form["disk"]},
    "disable-protection": lambda form: {"gone": bool(form["gone"])},
    "reverse-replicate": lambda form: {
        "frequency": form.number("frequency", 30),
        "key_file": form["key_file"],
    },
}
