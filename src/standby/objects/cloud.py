"""Objects in S3 or Azure Blob Storage, through obstore (docs/decisions/0005).

No write is repeated here: after StoreUnreachable only the caller knows what the same write again would mean
(docs/protocol.md, W2). obstore's own repetition is switched off, since it repeats conditional writes too: one
whose answer was lost would then come back as a conflict with itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotModifiedError, PreconditionError
from obstore.store import AzureStore, S3Store

from standby.errors import Damaged, InvalidRequest
from standby.objects.base import (
    Conflict,
    Entry,
    Object,
    StoreRefused,
    StoreUnreachable,
    StoreUnsuitable,
    Version,
)
from standby.objects.cloud_answers import answer, meaning
from standby.objects.cloud_credentials import AzureSettings, InvalidCredentials, S3Settings
from standby.objects.names import check_name, check_prefix, is_name

if TYPE_CHECKING:
    from obstore import ObjectMeta, PutResult
    from obstore.store import ClientConfig, RetryConfig

PART: Final = 8 << 20
"""Bytes of one request of a large upload; up to that much is one request."""

PARTS_AT_ONCE: Final = 4
"""With PART and Transport.request, the slowest line that still carries a log: 32 MiB in 120 s, 2.2 Mbit/s."""

_PIECE: Final = 256 << 10

_ALPHABET: Final = "-.0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"


class Transport(NamedTuple):
    """Seconds. connect: until a connection stands. request: until one request is answered whole."""

    connect: float = 10.0
    request: float = 120.0


USUAL: Final = Transport()


class CloudStore:
    """An ObjectStore in a bucket or container. Versions are ETags."""

    def __init__(self, client: S3Store | AzureStore, url: str) -> None:
        self._client = client
        self._url = url

    def __repr__(self) -> str:
        return f"CloudStore({self._url!r})"

    @property
    def url(self) -> str:
        return self._url

    def put(self, name: str, data: bytes | memoryview) -> None:
        view = memoryview(data).cast("B")  # obstore takes any other shape for a list of pieces
        with self._call("put", name):
            if len(view) > PART:
                self._put_parts(name, _slices(view))
            else:
                self._put_whole(name, view)

    def put_file(self, name: str, path: Path) -> None:
        """As in ObjectStore; at most PART times PARTS_AT_ONCE of the file are in memory at once.

        Raises InvalidRequest if the file cannot be read.
        """
        self.put_stream(name, file_pieces(path, PART + 1))

    def put_stream(self, name: str, pieces: Iterable[bytes]) -> None:
        """Write the object from pieces, which are asked for as they are sent. It is seen whole or not at all."""
        with self._call("put_file", name):
            first, rest = _first_part(iter(pieces))
            if rest is None:
                self._put_whole(name, first)
            else:
                self._put_parts(name, _chained(first, rest))

    def put_if_absent(self, name: str, data: bytes) -> Version | Conflict:
        with self._call("put_if_absent", name):
            try:
                return _version(obstore.put(self._client, name, data, mode="create", use_multipart=False))
            except (AlreadyExistsError, PreconditionError) as error:
                return self._conflict(error, "put_if_absent", name)

    def swap(self, name: str, data: bytes, old: Version) -> Version | Conflict:
        with self._call("swap", name):
            try:
                put = obstore.put(self._client, name, data, mode={"e_tag": str(old)}, use_multipart=False)
                return _version(put)
            except (AlreadyExistsError, PreconditionError) as error:
                return self._conflict(error, "swap", name)

    def get(self, name: str) -> Object:
        with self._call("get", name):
            return self._get(name, known=None)

    def get_if_changed(self, name: str, known: Version) -> Object | None:
        with self._call("get_if_changed", name):
            try:
                return self._get(name, known)
            except NotModifiedError:
                return None

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0:
            raise ValueError(f"no such range: {offset}, {length}")
        data = b""
        with self._call("get_range", name):
            if length:  # no header can ask for an empty range
                try:
                    data = bytes(obstore.get_range(self._client, name, start=offset, length=length))
                except BaseError as error:
                    if not answer(error).past_end:
                        raise
        if not length or len(data) != length:
            self._explain_short(name, offset, length, len(data))
        return data

    def size(self, name: str) -> int:
        with self._call("size", name):
            return obstore.head(self._client, name)["size"]

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        return self._list(check_prefix(prefix), check_prefix(after))

    def delete(self, name: str) -> None:
        with self._call("delete", name):
            try:
                obstore.delete(self._client, name)
            except FileNotFoundError as error:
                if answer(error).bucket_missing:
                    raise

    def _put_whole(self, name: str, data: bytes | memoryview) -> None:
        obstore.put(self._client, name, data, mode="overwrite", use_multipart=False)

    def _put_parts(self, name: str, pieces: Iterator[bytes | memoryview]) -> None:
        obstore.put(
            self._client, name, pieces, use_multipart=True, chunk_size=PART, max_concurrency=PARTS_AT_ONCE
        )

    def _get(self, name: str, known: Version | None) -> Object:
        found = obstore.get(self._client, name, options={"if_none_match": known} if known else None)
        meta = found.meta
        data = bytes(found.bytes())
        if len(data) != meta["size"]:
            raise StoreUnreachable(
                f"get: {len(data)} bytes came, of {meta['size']}",
                subject=self._subject(name),
                hint="try again",
            )
        return Object(data, _version(meta))

    def _explain_short(self, name: str, offset: int, length: int, came: int) -> None:
        size = self.size(name)
        if offset + length > size:
            raise Damaged(
                f"the object has {size} bytes, but {length} from {offset} on were to be read",
                subject=self._subject(name),
            )
        if came != length:
            raise StoreUnreachable(
                f"get_range: {came} bytes came, of {length}", subject=self._subject(name), hint="try again"
            )

    def _list(self, prefix: str, after: str) -> Iterator[Entry]:
        # obstore lists below whole parts of a name only; `offset` saves asking for what lies before.
        directory = prefix.rpartition("/")[0]
        with self._call("list", prefix, check=False):
            offset = max(after, _just_before(prefix)) or None
            for page in obstore.list(self._client, directory or None, offset=offset, chunk_size=1000):
                for meta in page:
                    name = meta["path"]
                    if name.startswith(prefix) and name > after and is_name(name):
                        yield Entry(name, meta["size"])
                    elif name > prefix and not name.startswith(prefix):
                        return

    def _conflict(self, error: Exception, verb: str, name: str) -> Conflict:
        """The Conflict that `error` stands for, unless the cloud means something else by 409 or 412."""
        got = answer(error)
        if got.undecided or got.immutable or got.bucket_missing:
            raise meaning(error, verb, self._subject(name)) from None
        return Conflict(name)

    @contextmanager
    def _call(self, verb: str, name: str, *, check: bool = True) -> Iterator[None]:
        if check:
            check_name(name)
        try:
            yield
        except (BaseError, FileNotFoundError) as error:
            # Without its cause: that may show a signed address.
            raise meaning(error, verb, self._subject(name)) from None

    def _subject(self, name: str) -> str:
        return f"{self._url.partition('?')[0]}/{name}"


_ONCE: Final[RetryConfig] = {"max_retries": 0, "retry_timeout": timedelta(minutes=5)}


def connect_s3(settings: S3Settings, url: str, transport: Transport = USUAL) -> CloudStore:
    """The store in an S3 bucket. Asks nothing of it yet."""
    with _made(url):
        client = S3Store(
            settings.bucket,
            prefix=settings.prefix or None,
            config={
                **settings.options,
                "conditional_put": "etag",
                "disable_bulk_delete": True,
                "checksum_algorithm": "sha256",  # a bucket with a default retention takes nothing without one
            },
            client_options=_client_options(
                transport, settings.options.get("endpoint", ""), settings.authority
            ),
            retry_config=_ONCE,
        )
    return CloudStore(client, url)


def connect_azure(settings: AzureSettings, url: str, transport: Transport = USUAL) -> CloudStore:
    """The store in an Azure Blob container. Asks nothing of it yet."""
    with _made(url):
        client = AzureStore(
            settings.container,
            prefix=settings.prefix or None,
            config=settings.options,
            client_options=_client_options(transport, settings.options.get("endpoint", "")),
            retry_config=_ONCE,
        )
    return CloudStore(client, url)


@contextmanager
def _made(url: str) -> Iterator[None]:
    """Nothing is asked of the cloud yet: what fails is what we were given."""
    try:
        yield
    except (BaseError, ValueError) as error:
        failure = meaning(error, "opening the store", url)
        if isinstance(failure, StoreRefused):
            raise failure from None
        raise InvalidCredentials(
            "its settings cannot be used: the account's name, a SAS or the endpoint is not what it should be",
            subject=url,
            hint="check the environment's AZURE_* or AWS_* variables and the address",
        ) from None


def file_pieces(path: Path, first: int = _PIECE) -> Iterator[bytes]:
    """The file's content, in pieces of 256 KiB but for the first. Raises InvalidRequest if it cannot be read."""
    try:
        with path.open("rb", buffering=0) as file:
            size = first
            while piece := file.read(size):
                yield piece
                size = _PIECE
    except OSError as error:
        raise InvalidRequest(
            f"the file to be stored cannot be read: {error.strerror}", subject=str(path)
        ) from error


def _client_options(transport: Transport, endpoint: str, authority: bytes = b"") -> ClientConfig:
    options: ClientConfig = {
        "connect_timeout": timedelta(seconds=transport.connect),
        "timeout": timedelta(seconds=transport.request),
        # Clouds close what idles for longer, and a write must not be the one to find out.
        "pool_idle_timeout": timedelta(seconds=15),
        "allow_http": endpoint.startswith("http://"),
    }
    if authority:
        options["root_certificate"] = authority
    return options


def _version(meta: PutResult | ObjectMeta) -> Version:
    tag = meta["e_tag"]
    if not tag:
        raise StoreUnsuitable("the store tells no ETag", hint="use a store with conditional writes")
    return Version(tag)


def _first_part(pieces: Iterator[bytes]) -> tuple[bytes, Iterator[bytes] | None]:
    """What fits into one request, and the rest; None if that was all."""
    first: list[bytes] = []
    size = 0
    for piece in pieces:
        first.append(piece)
        size += len(piece)
        if size > PART:
            return _joined(first), pieces
    return _joined(first), None


def _joined(pieces: Sequence[bytes]) -> bytes:
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _chained(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _slices(data: memoryview) -> Iterator[bytes]:
    for start in range(0, len(data), _PIECE):
        yield bytes(data[start : start + _PIECE])


def _just_before(prefix: str) -> str:
    """A text that sorts before every name with the prefix, and close before."""
    if not prefix or prefix.endswith("/"):
        return ""
    place = _ALPHABET.index(prefix[-1])
    return prefix[:-1] + _ALPHABET[place - 1] + "zzzz" if place else ""
