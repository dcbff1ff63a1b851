"""A store that fails where a test says so.

    store = FaultyStore(inner, [Fault("put_if_absent", lost(), prefix="vm/points/", nth=2)])

The second put_if_absent below `vm/points/` happens, and its answer is lost. Calls that no fault names pass.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from standby.objects.base import (
    Conflict,
    Entry,
    Object,
    ObjectStore,
    StoreFull,
    StoreRefused,
    StoreUnreachable,
    Version,
)
from standby.objects.layers import Layer

Verb = Literal[
    "put", "put_file", "put_if_absent", "swap", "get", "get_if_changed", "get_range", "size", "list", "delete"
]
T = TypeVar("T")


class Effect:
    """What happens instead of, around or after a call. The base class changes nothing."""

    def before(self, what: str) -> None:
        """Called before the inner store is asked. Raising keeps the call from happening."""

    def after(self, what: str) -> None:
        """Called when the inner store has answered. Raising loses the answer, not the effect."""

    def distort(self, data: bytes) -> bytes:
        """What get, get_if_changed and get_range return in place of `data`."""
        return data


@dataclass(frozen=True)
class Fault:
    """`effect` on calls of `verb` for names that start with `prefix`: from the `nth` on, `times` of them.

    nth counts from 1 and counts only calls that this fault's verb and prefix match. times None: for ever.
    """

    verb: Verb
    effect: Effect
    prefix: str = ""
    nth: int = 1
    times: int | None = 1


@dataclass(frozen=True)
class _Raise(Effect):
    error: Callable[[str], Exception]
    done_first: bool

    def before(self, what: str) -> None:
        if not self.done_first:
            raise self.error(what)

    def after(self, what: str) -> None:
        if self.done_first:
            raise self.error(what)


def refused() -> Effect:
    """StoreUnreachable, and nothing happened."""
    return _Raise(lambda what: StoreUnreachable("injected: not reached", subject=what), done_first=False)


def lost() -> Effect:
    """StoreUnreachable, but the call was carried out: its answer is lost."""
    return _Raise(
        lambda what: StoreUnreachable("injected: the answer is lost", subject=what), done_first=True
    )


def full() -> Effect:
    """StoreFull, and nothing happened."""
    return _Raise(lambda what: StoreFull("injected: no space", subject=what), done_first=False)


def readonly() -> Effect:
    """StoreRefused, and nothing happened."""
    return _Raise(lambda what: StoreRefused("injected: read-only", subject=what), done_first=False)


class Slow(Effect):
    """Holds the call before it happens. The test waits for `reached` and lets it go with `go`.

    late: hold the answer instead, after the call has happened.
    """

    def __init__(self, *, late: bool = False, deadline: float = 60.0) -> None:
        self.reached = threading.Event()
        self.go = threading.Event()
        self._late = late
        self._deadline = deadline

    def before(self, what: str) -> None:
        if not self._late:
            self._hold(what)

    def after(self, what: str) -> None:
        if self._late:
            self._hold(what)

    def _hold(self, what: str) -> None:
        self.reached.set()
        if not self.go.wait(self._deadline):
            raise AssertionError(f"{what}: nobody let the call go within {self._deadline} s")


class Call(Effect):
    """Does something before (or, late, after) the call: another writer's step between two of ours."""

    def __init__(self, action: Callable[[], object], *, late: bool = False) -> None:
        self._action = action
        self._late = late

    def before(self, what: str) -> None:
        if not self._late:
            self._action()

    def after(self, what: str) -> None:
        if self._late:
            self._action()


@dataclass(frozen=True)
class Flipped(Effect):
    """The store lies: one bit of the byte at `position` (negative: from the end) is another."""

    position: int = 0
    mask: int = 1

    def distort(self, data: bytes) -> bytes:
        changed = bytearray(data)
        changed[self.position] ^= self.mask
        return bytes(changed)


@dataclass(frozen=True)
class Truncated(Effect):
    """The store lies: only the first `length` bytes come."""

    length: int

    def distort(self, data: bytes) -> bytes:
        return data[: self.length]


class FaultyStore(Layer):
    """Passes calls on to `inner`, but for the faults. `calls` lists them all as (verb, name), in order.

    Thread-safe. A `list` counts as one call under its prefix, made when it is called.
    """

    def __init__(self, inner: ObjectStore, script: Iterable[Fault] = ()) -> None:
        super().__init__(inner)
        self._lock = threading.Lock()
        self._script: list[tuple[Fault, list[int]]] = []
        self.calls: list[tuple[Verb, str]] = []
        self.hits: list[Fault] = []
        for fault in script:
            self.add(fault)

    def add(self, fault: Fault) -> None:
        """One more fault; it counts calls from now on."""
        with self._lock:
            self._script.append((fault, [0]))

    def heal(self) -> None:
        """No more faults."""
        with self._lock:
            self._script.clear()

    def unused(self) -> list[Fault]:
        """Faults that never struck: a test that ends with some tested something else than it meant."""
        with self._lock:
            return [fault for fault, _ in self._script if fault not in self.hits]

    def _effects(self, verb: Verb, name: str) -> list[Effect]:
        with self._lock:
            self.calls.append((verb, name))
            struck: list[Effect] = []
            for fault, count in self._script:
                if fault.verb != verb or not name.startswith(fault.prefix):
                    continue
                count[0] += 1
                end = None if fault.times is None else fault.nth + fault.times
                if count[0] >= fault.nth and (end is None or count[0] < end):
                    struck.append(fault.effect)
                    self.hits.append(fault)
            return struck

    def _run(self, verb: Verb, name: str, call: Callable[[], T]) -> tuple[T, list[Effect]]:
        effects = self._effects(verb, name)
        what = f"{verb} {name}"
        for effect in effects:
            effect.before(what)
        answer = call()
        for effect in effects:
            effect.after(what)
        return answer, effects

    def put(self, name: str, data: bytes | memoryview) -> None:
        self._run("put", name, lambda: self.inner.put(name, data))

    def put_file(self, name: str, path: Path) -> None:
        self._run("put_file", name, lambda: self.inner.put_file(name, path))

    def put_if_absent(self, name: str, data: bytes) -> Version | Conflict:
        return self._run("put_if_absent", name, lambda: self.inner.put_if_absent(name, data))[0]

    def swap(self, name: str, data: bytes, old: Version) -> Version | Conflict:
        return self._run("swap", name, lambda: self.inner.swap(name, data, old))[0]

    def get(self, name: str) -> Object:
        found, effects = self._run("get", name, lambda: self.inner.get(name))
        return Object(_distorted(found.data, effects), found.version)

    def get_if_changed(self, name: str, known: Version) -> Object | None:
        found, effects = self._run("get_if_changed", name, lambda: self.inner.get_if_changed(name, known))
        return found and Object(_distorted(found.data, effects), found.version)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        data, effects = self._run("get_range", name, lambda: self.inner.get_range(name, offset, length))
        return _distorted(data, effects)

    def size(self, name: str) -> int:
        return self._run("size", name, lambda: self.inner.size(name))[0]

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        return self._run("list", prefix, lambda: self.inner.list(prefix, after=after))[0]

    def delete(self, name: str) -> None:
        self._run("delete", name, lambda: self.inner.delete(name))


def _distorted(data: bytes, effects: Iterable[Effect]) -> bytes:
    for effect in effects:
        data = effect.distort(data)
    return data
