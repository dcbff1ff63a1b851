"""What the cloud stores make of a bad way and of bad answers: each fault strikes between us and a real server."""

from __future__ import annotations

import socket
from pathlib import Path

import obstore
import pytest
from obstore.exceptions import AlreadyExistsError

from standby.errors import StandbyError
from standby.objects.base import (
    ObjectMissing,
    StoreBusy,
    StoreFull,
    StoreRefused,
    StoreUnreachable,
    StoreUnsuitable,
    Version,
)
from standby.objects.cloud import CloudStore, Transport
from standby.objects.cloud_answers import BucketMissing
from standby.objects.cloud_credentials import InvalidCredentials
from standby.objects.patient import PatientReads
from standby.objects.probe import probe
from standby.replica.writer import attach, create
from tests.objects.contract import names
from tests.support.clouds import Place
from tests.support.fault_proxy import Cut, DoneBut, Fault, FaultProxy, Hold, Lose, Refuse, Say, Strip
from tests.support.replicas import REPLICA, FixedClock, ModelDisk, commit_point, new_id
from tests.support.tls import tls_front

pytestmark = pytest.mark.slow

WRITES = {
    "put": lambda store: store.put("new", b"12345"),
    "put_if_absent": lambda store: store.put_if_absent("new", b"12345"),
    "swap": lambda store: store.swap("old", b"12345", store.known),
    "delete": lambda store: store.delete("old"),
}
READS = {
    "get": lambda store: store.get("old").data == b"content",
    "get_if_changed": lambda store: store.get_if_changed("old", Version('"x"')).data == b"content",
    "get_range": lambda store: store.get_range("old", 1, 3) == b"ont",
    "size": lambda store: store.size("old") == 7,
    "list": lambda store: names(store) == ["old"],
}
CALLS = WRITES | READS


@pytest.fixture
def proxy(cloud):
    with FaultProxy(cloud.port) as proxy:
        yield proxy
        assert proxy.unused == 0


@pytest.fixture
def direct(place) -> CloudStore:
    """The store without the proxy: what is really there."""
    return place.open()


@pytest.fixture
def store(place: Place, proxy, direct) -> CloudStore:
    store = place.through(proxy.endpoint).open(Transport(connect=2, request=2))
    reset(store, direct)
    return store


def reset(store: CloudStore, direct: CloudStore) -> None:
    direct.put("old", b"content")
    direct.delete("new")
    store.known = direct.get("old").version


def happened(direct: CloudStore, verb: str) -> bool:
    found = {entry.name: direct.get(entry.name).data for entry in direct.list("")}
    return {
        "put": found.get("new") == b"12345",
        "put_if_absent": found.get("new") == b"12345",
        "swap": found.get("old") == b"12345",
        "delete": "old" not in found,
    }[verb]


SLOW_DOWN = Say(503, "SlowDown")
TABLE: list[tuple[str, Fault, type[StandbyError], bool]] = [
    # what happens on the way, what it is to the caller, and whether the write has happened
    ("refused", Refuse(), StoreUnreachable, False),
    ("answer lost", Lose(), StoreUnreachable, True),
    ("gateway's 500 although done", DoneBut(500, "InternalError"), StoreUnreachable, True),
    ("gateway's 504 although done", DoneBut(504), StoreUnreachable, True),
    ("500", Say(500, "InternalError"), StoreUnreachable, False),
    ("503", SLOW_DOWN, StoreBusy, False),
    ("429", Say(429, "", (("Retry-After", "7"),)), StoreBusy, False),
    ("408", Say(408, "RequestTimeout"), StoreUnreachable, False),
    ("409 undecided", Say(409, "ConditionalRequestConflict"), StoreUnreachable, False),
    ("409 immutable", Say(409, "BlobImmutableDueToPolicy"), StoreRefused, False),
    ("412 leased", Say(412, "LeaseIdMissing"), StoreRefused, False),
    ("401", Say(401), StoreRefused, False),
    ("403", Say(403, "AccessDenied"), StoreRefused, False),
    ("403 clock", Say(403, "RequestTimeTooSkewed"), StoreRefused, False),
    ("400 expired", Say(400, "ExpiredToken"), StoreRefused, False),
    ("404 bucket", Say(404, "NoSuchBucket"), BucketMissing, False),
    ("404 container", Say(404, "ContainerNotFound"), BucketMissing, False),
    ("501", Say(501, "NotImplemented"), StoreUnsuitable, False),
    ("507", Say(507, "InsufficientStorage"), StoreFull, False),
]

WITHOUT_A_BODY = {
    "404 bucket": ObjectMissing,
    "404 container": ObjectMissing,
    "409 immutable": StoreUnreachable,
}
"""An answer to HEAD tells its status only."""


@pytest.mark.parametrize(("what", "fault", "error", "done"), TABLE, ids=[row[0] for row in TABLE])
def test_a_fault_is_told_by_what_the_caller_does_about_it(store, proxy, direct, what, fault, error, done):
    for verb in CALLS:
        reset(store, direct)
        expected = WITHOUT_A_BODY.get(what, error) if verb == "size" else error
        proxy.log.clear()
        proxy.next(fault)
        with pytest.raises(StandbyError) as caught:
            CALLS[verb](store)
        assert type(caught.value) is expected, verb
        assert caught.value.subject.startswith(store.url)
        assert caught.value.cause
        assert caught.value.hint or expected is ObjectMissing
        assert len(proxy.log) == 1, f"{verb} repeats itself"
        if verb in WRITES:
            assert happened(direct, verb) == done, verb


@pytest.mark.parametrize("verb", ["get", "get_if_changed", "get_range"])
def test_a_body_cut_short_is_no_answer(store, proxy, verb):
    proxy.next(Cut(2))
    with pytest.raises(StoreUnreachable, match="broke"):
        CALLS[verb](store)


@pytest.mark.parametrize("verb", WRITES)
def test_a_write_without_an_answer_in_time_may_have_happened(store, place, proxy, direct, verb):
    hasty = place.through(proxy.endpoint).open(Transport(connect=2, request=0.3))
    hasty.known = store.known
    held = Hold()
    proxy.next(held)
    with pytest.raises(StoreUnreachable, match="no answer in time"):
        CALLS[verb](hasty)
    assert held.done.wait(30)
    assert happened(direct, verb)
    held.go.set()


def test_a_server_that_is_not_there(place):
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    store = place.through(f"http://127.0.0.1:{port}").open()
    store.known = Version('"x"')
    for call in CALLS.values():
        with pytest.raises(StoreUnreachable, match="no connection: Connection refused"):
            call(store)


def test_a_commit_whose_answer_was_lost_is_the_same_commit_again(store, proxy, direct, tmp_path):
    """W2: the record is put again; the store then says 412, and the record met is our own."""
    create(store, "web", replica=REPLICA, origin="host", clock=FixedClock())
    writer = attach(store, "web", owner="agent", clock=FixedClock(), new_id=new_id)
    disk = ModelDisk("vda", 1 << 20)
    nonce = new_id()
    for fault in (Lose(), DoneBut(500), Refuse()):
        proxy.next(fault)
        with pytest.raises(StoreUnreachable):
            commit_point(writer, [disk], tmp_path, nonce=nonce)
    record = commit_point(writer, [disk], tmp_path, nonce=nonce)
    assert record.nonce == nonce
    assert len(names(direct, "web/points/")) == 2, "the fence and one point"


def test_obstores_own_repetition_would_turn_a_won_put_into_a_conflict(store, proxy, place):
    """Why it is off: the same put of the same client, repeated below us, meets itself."""
    eager = type(store._client)(
        config=store._client.config,
        prefix=store._client.prefix,
        client_options={"allow_http": True},
        retry_config={"max_retries": 2},
    )
    proxy.next(Lose())
    with pytest.raises(AlreadyExistsError):
        obstore.put(eager, "new", b"mine", mode="create", use_multipart=False)


def test_reads_outlast_a_short_trouble_and_writes_are_not_repeated(store, proxy):
    waited: list[float] = []
    patient = PatientReads(store, waited.append)
    for call in READS.values():
        proxy.next(Refuse(), Lose(), Say(500))
        assert call(patient)
        assert waited == [0.2, 1.0, 4.0]
        waited.clear()
    proxy.next(SLOW_DOWN, times=3)
    assert READS["get"](patient)
    assert waited == [2.0, 5.0, 10.0], "who is asked for less asks later"
    waited.clear()
    proxy.next(Refuse(), times=4)
    with pytest.raises(StoreUnreachable, match="Tried: 4 times in 5 seconds"):
        patient.get("old")
    waited.clear()
    for verb in ("put", "put_if_absent", "delete"):
        proxy.next(Refuse())
        with pytest.raises(StoreUnreachable):
            WRITES[verb](patient)
    assert waited == []


def test_a_listing_goes_on_where_it_broke(store, proxy, direct):
    expected = sorted([f"p/{number:04d}" for number in range(30)])
    for name in expected:
        direct.put(name, b"")

    class Breaks(CloudStore):
        def list(self, prefix, *, after=""):
            for number, entry in enumerate(super().list(prefix, after=after)):
                if number == 10:
                    raise StoreUnreachable("broken after ten")
                yield entry

    patient = PatientReads(Breaks(store._client, store.url), lambda _: None)
    assert names(patient, "p/") == expected


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        (("if-none-match",), "it silently overwrote the object with the second write"),
        (("if-match",), "it silently overwrote a newer version on a stale swap"),
    ],
)
def test_a_server_that_ignores_conditions_is_refused(moto, headers, says):
    """On S3 only: Azure's signature covers these headers, so a stripped request is refused anyway."""
    place = moto.place()
    with FaultProxy(moto.port) as proxy:
        store = place.through(proxy.endpoint).open()
        proxy.always = Strip(headers)
        with pytest.raises(StoreUnsuitable, match=says) as caught:
            probe(store)
        assert "use another store" in caught.value.hint
        assert names(place.open()) == []
        proxy.heal()
        probe(store)


def test_a_large_file_is_there_whole_or_not_at_all(store, proxy, direct, tmp_path: Path):
    source = tmp_path / "log"
    source.write_bytes(bytes(range(256)) * (20 << 12) + b"end")
    proxy.next(Refuse(), verb="PUT")
    with pytest.raises(StoreUnreachable):
        store.put_file("log", source)
    assert names(direct) == ["old"]
    store.put_file("log", source)
    assert direct.size("log") == source.stat().st_size
    assert direct.get("log").data == source.read_bytes()
    store.put("view", memoryview(source.read_bytes()))
    assert direct.get("view").data == source.read_bytes()


def test_a_certificate_must_be_trusted(moto, tmp_path):
    place = moto.place()
    with tls_front(moto.port, tmp_path) as front:
        secure = place.through(front.endpoint)
        with pytest.raises(StoreRefused, match="certificate is not trusted.*AWS_CA_BUNDLE"):
            secure.open().put("a", b"1")
        secure.environment["AWS_CA_BUNDLE"] = str(front.authority)
        probe(secure.open())


def test_a_bundle_that_is_not_there_is_told(moto, tmp_path):
    place = moto.place()
    place.environment["AWS_CA_BUNDLE"] = str(tmp_path / "none.pem")
    with pytest.raises(InvalidCredentials, match="none.pem"):
        place.open()
