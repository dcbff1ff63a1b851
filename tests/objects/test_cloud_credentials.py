"""Where credentials are found, and that nothing ever shows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from standby.objects.address import cloud_store
from standby.objects.base import StoreRefused
from standby.objects.cloud_credentials import (
    AzureSettings,
    InvalidCredentials,
    S3Settings,
    azure_options,
    s3_options,
)

KEYS = {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "S3CRET"}
FILE = {"access_key_id": "FILEKEY", "secret_access_key": "FILES3CRET"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / ".aws"
    folder.mkdir()
    (folder / "credentials").write_text(
        "[default]\naws_access_key_id = FILEKEY\naws_secret_access_key = FILES3CRET\n"
        "[backup]\naws_access_key_id = B\naws_secret_access_key = BS3CRET\naws_session_token = T0KEN\n"
    )
    (folder / "config").write_text(
        "[default]\nregion = eu-central-1\n"
        "[profile backup]\nregion = eu-north-1\nendpoint_url = https://minio.example\n"
        "[profile single-sign-on]\nsso_session = corp\n"
        "[profile empty]\nregion = x\n"
    )
    return tmp_path


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, {**FILE, "region": "eu-central-1"}),
        (KEYS, {"access_key_id": "AKIA", "secret_access_key": "S3CRET", "region": "eu-central-1"}),
        (
            {**KEYS, "AWS_SESSION_TOKEN": "T", "AWS_REGION": "a", "AWS_DEFAULT_REGION": "b"},
            {
                "access_key_id": "AKIA",
                "secret_access_key": "S3CRET",
                "session_token": "T",
                "region": "a",
            },
        ),
        (
            {"AWS_PROFILE": "backup"},
            {
                "access_key_id": "B",
                "secret_access_key": "BS3CRET",
                "session_token": "T0KEN",
                "region": "eu-north-1",
                "endpoint": "https://minio.example",
            },
        ),
        (
            {**KEYS, "AWS_PROFILE": "backup"},  # as with Amazon's own tools
            {
                "access_key_id": "AKIA",
                "secret_access_key": "S3CRET",
                "region": "eu-north-1",
                "endpoint": "https://minio.example",
            },
        ),
        (
            {"AWS_ENDPOINT_URL": "http://a:1/", "AWS_ENDPOINT_URL_S3": "http://b:2"},
            {**FILE, "region": "eu-central-1", "endpoint": "http://b:2"},
        ),
    ],
)
def test_amazons_environment_and_files(home, environment, expected):
    assert s3_options({"HOME": str(home), **environment}) == expected


def test_files_elsewhere_and_nothing_at_all(home, tmp_path):
    moved = {"AWS_SHARED_CREDENTIALS_FILE": str(home / ".aws/credentials"), "HOME": str(tmp_path / "none")}
    assert s3_options(moved) == {**FILE, "region": "us-east-1"}
    assert s3_options({"HOME": str(tmp_path / "none")}) == {"region": "us-east-1"}, "left to obstore"


def test_the_address_wins(home):
    options = s3_options({"HOME": str(home), **KEYS}, endpoint="https://x", region="r")
    assert (options["endpoint"], options["region"]) == ("https://x", "r")


@pytest.mark.parametrize(
    ("profile", "says"),
    [
        ("absent", "there is no profile absent"),
        ("single-sign-on", "by sso_session, which standby does not know.*export-credentials"),
        ("empty", "has no aws_access_key_id"),
    ],
)
def test_a_profile_that_cannot_be_used_is_told(home, profile, says):
    with pytest.raises(InvalidCredentials, match=says):
        s3_options({"HOME": str(home), "AWS_PROFILE": profile})


def test_a_broken_file_is_named_and_not_quoted(home):
    (home / ".aws/credentials").write_text("aws_secret_access_key = S3CRET\n")
    with pytest.raises(InvalidCredentials) as caught:
        s3_options({"HOME": str(home)})
    assert str(home / ".aws/credentials") in str(caught.value)
    assert "S3CRET" not in str(caught.value)


ACCOUNT = {"account_name": "acc", "account_key": "QUJD"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"AZURE_STORAGE_ACCOUNT": "acc", "AZURE_STORAGE_KEY": "QUJD"}, ACCOUNT),
        ({"AZURE_STORAGE_ACCOUNT_NAME": "acc", "AZURE_STORAGE_ACCOUNT_KEY": "QUJD"}, ACCOUNT),
        (
            {"AZURE_STORAGE_ACCOUNT": "acc", "AZURE_STORAGE_SAS_TOKEN": "?sv=1&sig=x"},
            {"account_name": "acc", "sas_key": "sv=1&sig=x"},
        ),
        (
            {"AZURE_STORAGE_CONNECTION_STRING": "AccountName=acc;AccountKey=QUJD=;EndpointSuffix=core.x"},
            {"account_name": "acc", "account_key": "QUJD=", "endpoint": "https://acc.blob.core.x"},
        ),
        (
            {
                "AZURE_STORAGE_CONNECTION_STRING": "BlobEndpoint=https://acc.blob.core.x/;"
                "SharedAccessSignature=sv=1&sig=x%3D",
                "AZURE_STORAGE_KEY": "not asked for",
            },
            {"account_name": "acc", "sas_key": "sv=1&sig=x%3D", "endpoint": "https://acc.blob.core.x"},
        ),
        ({}, {}),
    ],
)
def test_azures_environment(environment, expected):
    assert azure_options(environment) == expected


def test_the_emulators_short_form():
    options = azure_options({"AZURE_STORAGE_CONNECTION_STRING": "UseDevelopmentStorage=true"})
    assert options["endpoint"] == "http://127.0.0.1:10000/devstoreaccount1"


@pytest.mark.parametrize("text", ["S3CRET", "AccountKey=S3CRET", "a=b;S3CRET"])
def test_a_connection_string_that_is_none_is_not_repeated(text):
    with pytest.raises(InvalidCredentials, match="AZURE_STORAGE_CONNECTION_STRING") as caught:
        azure_options({"AZURE_STORAGE_CONNECTION_STRING": text})
    assert "S3CRET" not in str(caught.value)


@pytest.mark.parametrize(
    "endpoint",
    [
        "minio:9000",
        "https://user:S3CRET@h",
        "https://h?sig=S3CRET",
        "ftp://h",
        "http://:1",
        "http://[bad",
        "https://a b",
        "https://",
    ],
)
def test_an_endpoint_is_a_plain_address(endpoint):
    with pytest.raises(InvalidCredentials) as caught:
        azure_options({}, endpoint=endpoint)
    assert "S3CRET" not in str(caught.value)


def test_nothing_shows_a_secret():
    s3 = s3_options({**KEYS, "HOME": "/nonexistent"})
    azure = azure_options({"AZURE_STORAGE_ACCOUNT": "acc", "AZURE_STORAGE_KEY": "S3CRETS3CRET"})
    shown = [S3Settings("bucket", "p", s3), AzureSettings("container", "p", azure)]
    stores = [
        cloud_store("s3://bucket/p", KEYS),
        cloud_store("az://container/p", {"AZURE_STORAGE_ACCOUNT": "acc", "AZURE_STORAGE_KEY": "QUJD"}),
    ]
    for one in [*shown, *stores, *(store._client for store in stores)]:
        for text in (repr(one), str(one)):
            assert "S3CRET" not in text
            assert "QUJD" not in text


@pytest.mark.parametrize(
    "environment", [{}, {"AZURE_STORAGE_ACCOUNT": "acc", "AZURE_STORAGE_KEY": "S3CRET!"}]
)
def test_an_account_that_is_missing_or_a_key_that_is_none_is_told_at_once(environment):
    with pytest.raises(StoreRefused, match="AZURE_STORAGE_CONNECTION_STRING") as caught:
        cloud_store("az://container/p", environment)
    assert "S3CRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "environment"),
    [
        ("az://container/p", {"AZURE_STORAGE_ACCOUNT": "acc", "AZURE_STORAGE_SAS_TOKEN": "%%%S3CRET"}),
        ("s3://bucket/p", {**KEYS, "AWS_CA_BUNDLE": __file__}),
    ],
)
def test_settings_that_cannot_be_used_are_told_at_once(address, environment):
    with pytest.raises(InvalidCredentials, match="its settings cannot be used") as caught:
        cloud_store(address, environment)
    assert "S3CRET" not in str(caught.value)
