"""Real cloud services for tests: Azurite (Azure Blob) and moto's server (S3), each a process of its own."""

from __future__ import annotations

import base64
import email.utils
import hashlib
import hmac
import http.client
import itertools
import os
import re
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

from standby.objects.address import cloud_store
from standby.objects.cloud import USUAL, CloudStore, Transport

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
S3_KEYS = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "t0psecret", "AWS_REGION": "us-east-1"}

_NODE = Path(__file__).parents[2] / ".node/node_modules/.bin/azurite-blob"
_numbers = itertools.count(1)


class Place(NamedTuple):
    """Somewhere to keep objects: its address, and the environment that opens it."""

    address: str
    environment: dict[str, str]

    def open(self, transport: Transport = USUAL) -> CloudStore:
        return cloud_store(self.address, self.environment, transport)

    def through(self, endpoint: str) -> Place:
        """The same place by way of another server; of the endpoint only host and port count."""
        environment = dict(self.environment)
        if "AWS_ENDPOINT_URL" in environment:
            environment["AWS_ENDPOINT_URL"] = endpoint
        else:
            text = environment["AZURE_STORAGE_CONNECTION_STRING"]
            environment["AZURE_STORAGE_CONNECTION_STRING"] = re.sub(r"http://[0-9.:]+", endpoint, text)
        return Place(self.address, environment)


class Answered(NamedTuple):
    status: int
    text: str


class Cloud:
    """A service that runs. `kind` is s3 or az."""

    def __init__(self, kind: str, command: list[str], folder: Path, host: str = "127.0.0.1") -> None:
        self.kind = kind
        self.host = host
        self._log = (folder / f"{kind}.log").open("w+b")
        self._process = subprocess.Popen(
            command, stdout=self._log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=folder
        )
        self.port = self._wait_for_port()

    def _wait_for_port(self, seconds: float = 60.0) -> int:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._log.seek(0)
            text = self._log.read().decode()
            if found := re.search(r"(?:listen\w* (?:at|on)|Running on) http://[0-9.]+:(\d+)", text):
                return int(found[1])
            if self._process.poll() is not None:
                break
            time.sleep(0.02)
        self.stop()
        raise AssertionError(f"{self.kind} did not start: {text}")

    @property
    def endpoint(self) -> str:
        return f"http://{self.host}:{self.port}"

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()

    def s3(self, verb: str, path: str, headers: dict[str, str] | None = None, body: str = "") -> Answered:
        """What moto says to a request as it stands; by its host name it tells which service one means."""
        # Whose a request is it looks for, and whether he signed it it does not.
        signed = "AWS4-HMAC-SHA256 Credential=tester/20261124/us-east-1/s3/aws4_request, SignedHeaders=, Signature="
        known = {"Host": "s3.amazonaws.com", "Authorization": signed}
        return _asked(self.host, self.port, verb, path, known | (headers or {}), body)

    def lease(self, place: Place, name: str, action: str) -> None:
        """Acquire a lease on an object of Azurite, for ever, or break it."""
        path = f"/{ACCOUNT}/{place.address.removeprefix('az://')}/{name}"
        extra = {"x-ms-lease-action": action}
        extra |= {"x-ms-lease-duration": "-1"} if action == "acquire" else {"x-ms-lease-break-period": "0"}
        _request(self.host, self.port, "PUT", f"{path}?comp=lease", _signed("PUT", path, "comp:lease", extra))

    def place(self, prefix: str = "backups/standby", *, locks: bool = False) -> Place:
        """A new bucket or container, and a prefix in it. locks: a bucket with object lock, hence with versions."""
        name = f"bucket-{os.getpid()}-{next(_numbers)}"
        if self.kind == "s3":
            self.s3("PUT", f"/{name}", {"x-amz-bucket-object-lock-enabled": "true"} if locks else {})
            return Place(f"s3://{name}/{prefix}", {**S3_KEYS, "AWS_ENDPOINT_URL": self.endpoint})
        path = f"/{ACCOUNT}/{name}"
        _request(
            self.host,
            self.port,
            "PUT",
            f"{path}?restype=container",
            _signed("PUT", path, "restype:container"),
        )
        connection = (
            f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};"
            f"BlobEndpoint={self.endpoint}/{ACCOUNT};"
        )
        return Place(f"az://{name}/{prefix}", {"AZURE_STORAGE_CONNECTION_STRING": connection})


def with_sas(place: Place, permissions: str, *, expiry: str = "2099-01-01T00:00:00Z") -> Place:
    """The same container, opened by a shared access signature of its own instead of the account's key."""
    container = place.address.split("/")[2]
    text = "\n".join(
        [permissions, "", expiry, f"/blob/{ACCOUNT}/{container}", "", "", "", _SAS, "c", *[""] * 7]
    )
    fields = {"sp": permissions, "se": expiry, "sv": _SAS, "sr": "c", "sig": _mac(text)}
    endpoint = re.search("BlobEndpoint=([^;]+)", place.environment["AZURE_STORAGE_CONNECTION_STRING"])
    assert endpoint
    connection = f"BlobEndpoint={endpoint[1]};AccountName={ACCOUNT};SharedAccessSignature={urlencode(fields)}"
    return Place(place.address, {"AZURE_STORAGE_CONNECTION_STRING": connection})


_SAS = "2021-12-02"


def _mac(text: str) -> str:
    return base64.b64encode(hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()).decode()


def start_azurite(folder: Path) -> Cloud:
    command = ["node", str(_NODE), "--blobHost", "127.0.0.1", "--blobPort", "0", "--location", str(folder)]
    return Cloud("az", [*command, "--skipApiVersionCheck", "--disableTelemetry"], folder)


def start_moto(folder: Path, host: str = "127.0.0.1") -> Cloud:
    """host: the address at which it listens."""
    command = [str(Path(sys.executable).parent / "moto_server"), "-H", host, "-p", "0"]
    return Cloud("s3", command, folder, host)


def _signed(verb: str, path: str, query: str, extra: dict[str, str] | None = None) -> dict[str, str]:
    headers = {"x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": _SAS, **(extra or {})}
    listed = "\n".join(f"{name}:{headers[name]}" for name in sorted(headers))
    text = verb + "\n" * 12 + listed + f"\n/{ACCOUNT}{path}\n{query}"
    return {
        **headers,
        "Authorization": f"SharedKey {ACCOUNT}:{_mac(text)}",
        "Content-Length": "0",
    }


def _request(host: str, port: int, verb: str, path: str, headers: dict[str, str]) -> None:
    answer = _asked(host, port, verb, path, headers)
    assert answer.status in (200, 201, 202), answer.text


def _asked(host: str, port: int, verb: str, path: str, headers: dict[str, str], body: str = "") -> Answered:
    with closing(http.client.HTTPConnection(host, port, timeout=30)) as connection:
        connection.request(verb, path, headers=headers, body=body.encode() or None)
        answer = connection.getresponse()
        return Answered(answer.status, answer.read().decode())
