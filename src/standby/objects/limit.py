"""A bandwidth that several stores of a host share, without bursts, changeable while transfers run."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple, Protocol, runtime_checkable

from standby.clock import Clock, SystemClock
from standby.objects.base import Conflict, Object, ObjectStore, Version
from standby.objects.cloud import file_pieces
from standby.objects.layers import Layer

STEP: Final = 256 << 10
"""Bytes that pass at once. Smaller than what a second carries at any limit worth setting."""


class Flow(NamedTuple):
    """What was promised and what has run off, in bytes since the start, as of a time in seconds."""

    promised: int = 0
    run_off: float = 0.0
    at: float = 0.0


def advanced(flow: Flow, now: float, rate: int | None) -> Flow:
    """The flow at `now`, after running at `rate` bytes a second (None: without limit). Pure.

    Never more runs off than was promised: an idle time earns nothing, so nothing ever comes in a burst.
    """
    if rate is None:
        return Flow(flow.promised, float(flow.promised), now)
    return Flow(flow.promised, min(float(flow.promised), flow.run_off + (now - flow.at) * rate), now)


def seconds_until(flow: Flow, position: int, rate: int | None) -> float:
    """How long from flow.at until everything before `position` has run off. Pure."""
    if rate is None or flow.run_off >= position:
        return 0.0
    return (position - flow.run_off) / rate


class Throttle:
    """Bytes a second for everybody who takes from it, first come first served. Thread-safe."""

    def __init__(self, limit: int | None = None, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._changed = threading.Condition()
        self._limit = _checked(limit)
        self._flow = Flow(at=self._clock.monotonic())

    @property
    def limit(self) -> int | None:
        """Bytes a second, or None without a limit. Setting it counts at once, for those who wait too."""
        return self._limit

    @limit.setter
    def limit(self, limit: int | None) -> None:
        with self._changed:
            self._flow = advanced(self._flow, self._clock.monotonic(), self._limit)
            self._limit = _checked(limit)
            self._changed.notify_all()

    def take(self, count: int) -> None:
        """Returns when `count` more bytes may go."""
        for start in range(0, count, STEP):
            self._take(min(STEP, count - start))

    def _take(self, count: int) -> None:
        with self._changed:
            self._flow = advanced(self._flow, self._clock.monotonic(), self._limit)
            position = self._flow.promised
            self._flow = self._flow._replace(promised=position + count)
            while wait := seconds_until(self._flow, position, self._limit):
                self._changed.wait(wait)
                self._flow = advanced(self._flow, self._clock.monotonic(), self._limit)


def _checked(limit: int | None) -> int | None:
    if limit is not None and limit <= 0:
        raise ValueError(f"a limit is a positive number of bytes a second, not {limit}")
    return limit


@runtime_checkable
class Streaming(Protocol):
    """A store that takes an object in pieces, asking for each as it is sent."""

    def put_stream(self, name: str, pieces: Iterable[bytes]) -> None: ...


class Limited(Layer):
    """Lets bytes of objects pass no faster than the bandwidth. What is in flight counts when it is let go.

    Put it around the store itself, inside other layers. On a store that is not Streaming a file waits as a
    whole. A cloud's request goes out as fast as the line carries it once its part (8 MiB) is together.
    """

    def __init__(self, inner: ObjectStore, throttle: Throttle) -> None:
        super().__init__(inner)
        self._throttle = throttle

    def put(self, name: str, data: bytes | memoryview) -> None:
        self._throttle.take(memoryview(data).nbytes)
        self.inner.put(name, data)

    def put_file(self, name: str, path: Path) -> None:
        if isinstance(self.inner, Streaming):
            self.inner.put_stream(name, self._paced(file_pieces(path)))
        else:
            self._throttle.take(path.stat().st_size)
            self.inner.put_file(name, path)

    def put_if_absent(self, name: str, data: bytes) -> Version | Conflict:
        self._throttle.take(len(data))
        return self.inner.put_if_absent(name, data)

    def swap(self, name: str, data: bytes, old: Version) -> Version | Conflict:
        self._throttle.take(len(data))
        return self.inner.swap(name, data, old)

    def get(self, name: str) -> Object:
        found = self.inner.get(name)
        self._throttle.take(len(found.data))
        return found

    def get_if_changed(self, name: str, known: Version) -> Object | None:
        found = self.inner.get_if_changed(name, known)
        if found:
            self._throttle.take(len(found.data))
        return found

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        self._throttle.take(length)
        return self.inner.get_range(name, offset, length)

    def _paced(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self._throttle.take(len(piece))
            yield piece
