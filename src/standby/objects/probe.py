"""Proof, before the first use, that a store has what the commit protocol rests on.

A store that overwrites where it should refuse destroys replicas silently, so nothing is believed that was
not tried (docs/protocol.md, STORE rules). Nothing here can show what two hosts see of each other.
"""

from __future__ import annotations

from typing import Final

from ulid import ULID

from standby.errors import StandbyError
from standby.objects.base import (
    Conflict,
    Object,
    ObjectMissing,
    ObjectStore,
    StoreRefused,
    StoreUnsuitable,
    Version,
)

PREFIX: Final = "standby-probe"


def probe(store: ObjectStore) -> None:
    """Try every property once, on objects `standby-probe-<ulid>-*` that are removed afterwards.

    They lie in no directory, as that of a directory store would stay behind.

    Where the credentials may write and not delete, as an agent's need not, deleting is not tried, and the
    four objects stay.

    Raises StoreUnsuitable naming the first property that is lacking and what the store did instead, and
    what the store raises when it cannot be reached or refuses.
    """
    trial = _Trial(store, f"{PREFIX}-{ULID()}-")
    try:
        trial.run()
    except BaseException:
        _clean_up_after_failure(trial)
        raise
    trial.clean_up()


def _clean_up_after_failure(trial: _Trial) -> None:
    try:
        trial.clean_up()
    except StandbyError:
        return  # the failure that brought us here tells more; what is left begins with PREFIX


class _Trial:
    def __init__(self, store: ObjectStore, place: str) -> None:
        self._store = store
        self._place = place
        self._names = [f"{place}{part}" for part in ("a-1", "a.1", "a0", "b")]

    def run(self) -> None:
        head = self._names[0]
        first = self._put_if_absent(head)
        self._sees_what_was_put(head)
        second = self._swap(head, first)
        self._conditional_get(head, first, second)
        self._ranges(head)
        self._list()
        if self._may_delete(head):
            self._delete(head, second)

    def clean_up(self) -> None:
        for name in self._names:
            if not self._may_delete(name):
                return

    def _may_delete(self, name: str) -> bool:
        """Deletes it, unless that is denied."""
        try:
            self._store.delete(name)
        except StoreRefused:
            return False
        return True

    def _put_if_absent(self, name: str) -> Version:
        rule = "put_if_absent writes only where nothing is"
        won = self._store.put_if_absent(name, b"one")
        if isinstance(won, Conflict):
            raise self._lacking(rule, "it refused the write of a name that nobody ever used")
        lost = self._store.put_if_absent(name, b"two")
        found = self._get(name, rule)
        if found.data != b"one":
            raise self._lacking(rule, "it silently overwrote the object with the second write")
        if not isinstance(lost, Conflict):
            raise self._lacking(rule, "it called the second write a success, though it kept the first")
        if found.version != won:
            raise self._lacking(rule, f"it answered version {won}, and get then told version {found.version}")
        return won

    def _sees_what_was_put(self, name: str) -> None:
        rule = "get sees what put has written"
        other = self._names[3]
        for data in (b"old", b"new"):
            self._store.put(other, data)
            if self._get(other, rule).data != data:
                raise self._lacking(rule, "get answered with older content")
        if self._store.size(other) != 3:
            raise self._lacking("size tells an object's length", "it told another one")
        if self._get(name, rule).data != b"one":
            raise self._lacking(rule, "a write to one object changed another")

    def _swap(self, name: str, first: Version) -> Version:
        rule = "swap replaces only the version it was told"
        second = self._store.swap(name, b"two", first)
        if isinstance(second, Conflict):
            raise self._lacking(rule, "it refused to replace the version it had told just before")
        if second == first:
            raise self._lacking(rule, "it gave two different contents the same version")
        stale = self._store.swap(name, b"stale", first)
        found = self._get(name, rule)
        if found.data != b"two":
            raise self._lacking(rule, "it silently overwrote a newer version on a stale swap")
        if not isinstance(stale, Conflict):
            raise self._lacking(rule, "it called a stale swap a success, though it kept the newer version")
        if found.version != second:
            raise self._lacking(rule, f"it answered version {second}, and get told version {found.version}")
        absent = self._names[1]
        if not isinstance(self._store.swap(absent, b"x", second), Conflict):
            raise self._lacking(rule, "it wrote an object that was not there")
        return second

    def _conditional_get(self, name: str, old: Version, current: Version) -> None:
        rule = "get_if_changed answers only when the version is another"
        if self._store.get_if_changed(name, current) is not None:
            raise self._lacking(rule, "it sent the object although its version was known")
        changed = self._store.get_if_changed(name, old)
        if changed is None or changed != Object(b"two", current):
            raise self._lacking(rule, "it did not send the newer version")

    def _ranges(self, name: str) -> None:
        if self._store.get_range(name, 1, 2) != b"wo":
            raise self._lacking("get_range reads exactly the bytes asked for", "it answered with others")

    def _list(self) -> None:
        rule = "list tells every object, sorted by name"
        for name in self._names[1:3]:
            self._store.put(name, b"")
        listed = [entry.name for entry in self._store.list(self._place)]
        if sorted(listed) != self._names:
            raise self._lacking(rule, f"of {len(self._names)} objects just written it told {len(listed)}")
        if listed != self._names:
            raise self._lacking(rule, "it told them in another order")
        behind = [entry.name for entry in self._store.list(f"{self._place}a", after=self._names[1])]
        if behind != self._names[2:3]:
            raise self._lacking(rule, "it did not keep to the prefix and the start asked for")

    def _delete(self, name: str, version: Version) -> None:
        rule = "delete removes an object"
        self._store.delete(name)  # again: removing what is not there is no error
        try:
            self._store.get(name)
        except ObjectMissing:
            pass
        else:
            raise self._lacking(rule, "get still answered with the object")
        if any(entry.name == name for entry in self._store.list(self._place)):
            raise self._lacking(rule, "list still told the object")
        if not isinstance(self._store.swap(name, b"x", version), Conflict):
            raise self._lacking("swap replaces only what is there", "it wrote a deleted object anew")

    def _get(self, name: str, rule: str) -> Object:
        try:
            return self._store.get(name)
        except ObjectMissing:
            raise self._lacking(rule, "get did not find the object just written") from None

    def _lacking(self, rule: str, did: str) -> StoreUnsuitable:
        return StoreUnsuitable(
            f"the store lacks what replicas rest on: {rule}; {did}",
            subject=self._store.url,
            tried="a trial with a few small objects, which are removed again",
            hint="use another store, or a newer version of this one; no replica was touched",
        )
