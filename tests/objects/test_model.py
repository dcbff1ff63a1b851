"""The directory store against a dict: any sequence of calls, the same answers."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from standby.errors import Damaged
from standby.objects.base import Conflict, Entry, ObjectMissing, Version
from standby.objects.directory import DirectoryStore

# Chosen so that no name is the directory of another, and that sorting by parts would be wrong.
NAMES = st.sampled_from(["a/b", "a/b0", "a-b", "a.b/c", "a0", "a/c/d", "a/c/e", "a/c-d", "B", "_/_/_"])
PREFIXES = st.sampled_from(["", "a", "a/", "a/b", "a/c", "a/c/", "a-", "a.", "B", "_/_", "zz"])
CONTENTS = st.sampled_from([b"", b"1", b"2", b"3" * 5000])


class AgainstADict(RuleBasedStateMachine):
    versions = Bundle("versions")

    @initialize()
    def start(self) -> None:
        self.place = tempfile.TemporaryDirectory()
        self.path = Path(self.place.name) / "store"
        self.store = DirectoryStore(self.path, create=True)
        self.model: dict[str, bytes] = {}

    def teardown(self) -> None:
        self.place.cleanup()

    @rule(name=NAMES, data=CONTENTS)
    def put(self, name: str, data: bytes) -> None:
        self.store.put(name, data)
        self.model[name] = data

    @rule(name=NAMES, data=CONTENTS)
    def put_file(self, name: str, data: bytes) -> None:
        source = Path(self.place.name) / "source"
        source.unlink(missing_ok=True)
        source.write_bytes(data)
        self.store.put_file(name, source)
        self.model[name] = data

    @rule(target=versions, name=NAMES, data=CONTENTS)
    def put_if_absent(self, name: str, data: bytes) -> tuple[Version, bytes]:
        answer = self.store.put_if_absent(name, data)
        assert isinstance(answer, Conflict) == (name in self.model)
        self.model.setdefault(name, data)
        found = self.store.get(name)
        return found.version, found.data

    @rule(target=versions, name=NAMES, data=CONTENTS, old=versions)
    def swap(self, name: str, data: bytes, old: tuple[Version, bytes]) -> tuple[Version, bytes]:
        answer = self.store.swap(name, data, old[0])
        if self.model.get(name) != old[1]:
            assert answer == Conflict(name)
            return old
        assert not isinstance(answer, Conflict)
        self.model[name] = data
        return answer, data

    @rule(name=NAMES, known=versions)
    def get_if_changed(self, name: str, known: tuple[Version, bytes]) -> None:
        if name not in self.model:
            with pytest.raises(ObjectMissing):
                self.store.get_if_changed(name, known[0])
            return
        answer = self.store.get_if_changed(name, known[0])
        assert (answer is None) == (self.model[name] == known[1])
        assert answer is None or answer.data == self.model[name]

    @rule(name=NAMES, offset=st.integers(0, 6), length=st.integers(0, 6))
    def get_range(self, name: str, offset: int, length: int) -> None:
        data = self.model.get(name)
        if data is None:
            with pytest.raises(ObjectMissing):
                self.store.get_range(name, offset, length)
        elif offset + length > len(data):
            with pytest.raises(Damaged):
                self.store.get_range(name, offset, length)
        else:
            assert self.store.get_range(name, offset, length) == data[offset : offset + length]

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        self.store.delete(name)
        self.model.pop(name, None)

    @rule(prefix=PREFIXES, after=st.one_of(st.just(""), NAMES, PREFIXES))
    def list(self, prefix: str, after: str) -> None:
        assert list(self.store.list(prefix, after=after)) == [
            Entry(name, len(data))
            for name, data in sorted(self.model.items())
            if name.startswith(prefix) and name > after
        ]

    @rule()
    def reopen(self) -> None:
        self.store = DirectoryStore(self.path)

    @invariant()
    def holds_the_same(self) -> None:
        if hasattr(self, "model"):
            assert {e.name: self.store.get(e.name).data for e in self.store.list("")} == self.model


AgainstADict.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestAgainstADict = AgainstADict.TestCase
