"""Drop folders on other machines, against real servers on loopback: what lies there lands, and nothing else happens."""

from __future__ import annotations

import base64
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncssh
import boto3
import pytest

from crm_assets import tables
from crm_assets.logic.landing import load_source
from crm_assets.resources import remote_folders
from crm_assets.resources.drop_zone import DropZone, DropZoneError, shown_name
from crm_assets.resources.raw_store import LandingReport, has_news, land
from crm_assets.resources.warehouse import Warehouse
from crm_assets.tenants import Tenant
from tests.servers import (
    SftpServer,
    azure_server,
    free_port,
    only_known_keys,
    relay,
    s3_server,
    sftp_server,
    silent_server,
)

NOW = datetime(2026, 1, 5, 6, tzinfo=UTC)
CLIENTS = b"Code client;Nom;E-mail\n00123;Muller;anne@example.org\nC2;Haas;\n"
MORE_CLIENTS = CLIENTS + b"C3;Weber;\n"
PASSWORD = "une phrase assez longue"


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The secrets of the servers, in variables that a tenant's file would name."""
    monkeypatch.setenv("CRM_DROP_PASSWORD", PASSWORD)
    monkeypatch.setenv("CRM_DROP_KEY", "an-access-key")
    monkeypatch.setenv("CRM_DROP_SECRET", "a-secret-key")


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def sftp(tmp_path: Path) -> Iterator[SftpServer]:
    (tmp_path / "served" / "raw").mkdir(parents=True)
    with sftp_server(tmp_path / "served", PASSWORD) as server:
        yield server


@dataclass
class Place:
    """A remote drop folder that a test can write to from the outside."""

    url: str
    options: dict[str, Any]
    secrets: dict[str, str]
    put: Callable[[str, bytes], None]
    delete: Callable[[str], None]

    def zone(self) -> DropZone:
        return DropZone(self.url, self.options, self.secrets, owner="test.yaml")


def bucket_of(s3: str, name: str) -> Any:
    client = boto3.resource(
        "s3", endpoint_url=s3, region_name="us-east-1", aws_access_key_id="an-access-key", aws_secret_access_key="x"
    )
    return client.create_bucket(Bucket=name)


def s3_place(s3: str, bucket: Any, prefix: str = "estate/raw") -> Place:
    return Place(
        f"s3://{bucket.name}/{prefix}",
        {"endpoint_url": s3, "region": "us-east-1"},
        {"key": "CRM_DROP_KEY", "secret": "CRM_DROP_SECRET"},
        lambda path, content: bucket.put_object(Key=f"{prefix}/{path}", Body=content),
        lambda path: bucket.Object(f"{prefix}/{path}").delete(),
    )


def sftp_place(server: SftpServer) -> Place:
    def put(path: str, content: bytes) -> None:
        target = server.folder / "raw" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)

    return Place(
        f"{server.url}/raw",
        {"host_key": server.host_key},
        {"password": "CRM_DROP_PASSWORD"},
        put,
        lambda path: (server.folder / "raw" / path).unlink(),
    )


@pytest.fixture(params=["s3", "sftp"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "sftp":
        return sftp_place(request.getfixturevalue("sftp"))
    url = request.getfixturevalue("s3")
    return s3_place(url, bucket_of(url, f"drop-{abs(hash(tmp_path)) % 10**9}"))


def landing(
    warehouse: Warehouse, zone: DropZone, pause: Callable[[float], None] = lambda seconds: None
) -> LandingReport:
    tenant = Tenant(slug="test", name="T", legal_name="T", address="1 rue", siren="123456789")
    with zone:
        return land(warehouse, zone, tenant, load_source(), NOW, pause=pause)


def left_copies() -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob(f"crm-drop-{os.getpid()}-*"))


# --- what lies there lands


def test_the_samples_land_as_from_a_local_folder(tenant_warehouse: Warehouse, place: Place, samples: Path) -> None:
    def contents() -> dict[str, list[tuple[object, ...]]]:
        found = {
            name: tenant_warehouse.rows(f"select * from raw.{name} order by file_id, source_line")
            for name in tables.RAW_TABLES
        }
        return {
            **found,
            "files": tenant_warehouse.rows(
                "select path, sha256, dataset, status, reason, row_count, mapping_quality from raw.files order by 1"
            ),
        }

    files = {path.relative_to(samples).as_posix(): path for path in samples.rglob("*") if path.is_file()}
    for name, path in files.items():
        place.put(name, path.read_bytes())
    landing(tenant_warehouse, place.zone())
    remote = contents()
    for name in ("files", *tables.RAW_TABLES):
        tenant_warehouse.execute(f"truncate raw.{name}")
    tenant_warehouse.execute("truncate landing.files")
    landing(tenant_warehouse, DropZone(samples))
    assert remote == contents()
    assert sum(map(len, remote.values())) > 1000
    assert not left_copies()


def test_a_drop_a_change_and_a_deletion(tenant_warehouse: Warehouse, place: Place) -> None:
    place.put("isavigne/clients/a.csv", CLIENTS)
    place.put("isavigne/clients/b.csv.part", MORE_CLIENTS)
    assert landing(tenant_warehouse, place.zone()).loaded_rows == {"customers": 2}
    assert landing(tenant_warehouse, place.zone()).loaded_rows == {}
    place.put("isavigne/clients/a.csv", MORE_CLIENTS)
    with place.zone() as zone:
        assert has_news(tenant_warehouse, zone)
    assert landing(tenant_warehouse, place.zone()).loaded_rows == {"customers": 3}
    place.put("isavigne/clients/keep.csv", CLIENTS)
    place.delete("isavigne/clients/a.csv")
    assert landing(tenant_warehouse, place.zone()).deleted == ["isavigne/clients/a.csv"]
    assert tenant_warehouse.count("raw", "customers") == 5, "a deleted file's rows stay"


def test_a_growing_file_waits(tenant_warehouse: Warehouse, place: Place) -> None:
    place.put("clients.csv", CLIENTS)
    report = landing(tenant_warehouse, place.zone(), lambda seconds: place.put("clients.csv", MORE_CLIENTS))
    assert report.status_counts == {"waiting": 1}
    assert landing(tenant_warehouse, place.zone()).loaded_rows == {"customers": 3}


def test_a_file_that_changes_while_it_is_fetched_is_not_kept(
    tenant_warehouse: Warehouse, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.put("clients.csv", CLIENTS)
    hashed = DropZone.sha256

    def hash_then_change(zone: DropZone, path: str) -> str:
        found = hashed(zone, path)
        place.put("clients.csv", MORE_CLIENTS)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(DropZone, "sha256", hash_then_change)
        assert landing(tenant_warehouse, place.zone()).status_counts == {"waiting": 1}
    assert tenant_warehouse.count("raw", "customers") == 0
    assert landing(tenant_warehouse, place.zone()).loaded_rows == {"customers": 3}


def test_a_file_is_fetched_once(tenant_warehouse: Warehouse, sftp: SftpServer) -> None:
    place = sftp_place(sftp)
    place.put("clients.csv", CLIENTS)
    landing(tenant_warehouse, place.zone())
    assert sftp.opened == ["/raw/clients.csv"]
    assert not left_copies()


def test_an_empty_bucket_is_an_empty_folder_and_a_missing_one_is_not_there(s3: str) -> None:
    place = s3_place(s3, bucket_of(s3, "nothing-yet"))
    with place.zone() as zone:
        assert zone.exists()
        assert zone.list() == []
    place.url = "s3://never-made/estate/raw"
    with place.zone() as zone:
        assert not zone.exists()
        assert zone.list() == []


def test_a_missing_folder_on_an_sftp_server_is_not_there(tenant_warehouse: Warehouse, sftp: SftpServer) -> None:
    place = sftp_place(sftp)
    place.put("clients.csv", CLIENTS)
    landing(tenant_warehouse, place.zone())
    (sftp.folder / "raw").rename(sftp.folder / "unmounted")
    with place.zone() as zone:
        assert not zone.exists()
        assert zone.list() == []
    report = landing(tenant_warehouse, place.zone())
    assert report.folder_missing
    assert tenant_warehouse.rows("select count(*) from raw.files where deleted_at is not null") == [(0,)]


def test_azure_lands_too(tenant_warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    with azure_server() as (url, blobs):
        key = base64.b64encode(b"a-secret-key").decode()
        login = f"DefaultEndpointsProtocol=http;AccountName=cave;AccountKey={key};BlobEndpoint={url};"
        monkeypatch.setenv("CRM_DROP_SECRET", login)
        zone = DropZone("abfs://estate/raw", {}, {"connection_string": "CRM_DROP_SECRET"}, owner="test.yaml")
        assert zone.exists()
        assert zone.list() == []
        blobs |= {"raw/isavigne": b"", "raw/isavigne/clients/é #1.csv": CLIENTS, "raw2/clients.csv": b"x"}
        (file,) = zone.list()
        assert zone.look(file.path) == file
        assert landing(tenant_warehouse, zone).loaded_rows == {"customers": 2}
        assert landing(tenant_warehouse, zone).loaded_rows == {}
        blobs["raw/isavigne/clients/é #1.csv"] = MORE_CLIENTS
        assert landing(tenant_warehouse, zone).loaded_rows == {"customers": 3}
        monkeypatch.setenv("CRM_DROP_SECRET", login.replace("AccountName=cave", "AccountName=other"))
        assert "abfs://estate/raw" in fault(DropZone(zone.url, {}, zone._secrets, owner="test.yaml"))
        monkeypatch.setenv("CRM_DROP_SECRET", login)
        with DropZone("abfs://nowhere/raw", {}, {"connection_string": "CRM_DROP_SECRET"}) as nowhere:
            assert not nowhere.exists()
            assert nowhere.list() == []


# --- names, numbers and sizes


def test_thousands_of_odd_keys_are_listed_in_a_few_answers(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from aiobotocore.httpsession import AIOHTTPSession
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    bucket = bucket_of(s3, "many-keys")
    place = s3_place(s3, bucket)
    plain = [f"isavigne/ventes_lignes/{number:04d}.csv" for number in range(1010)]
    odd = ["deux  espaces & co/clients #1 100%.csv", "ça/œuvre+été.csv", "a//b.csv", "back\\slash.csv", "[x]*?.csv"]
    escaped = {"tab\tstop.csv": "tab\\tstop.csv", "bidi\u202ecsv.clients": "bidi\\u202ecsv.clients"}
    # Straight into the server: on the way there its URLs would be tidied up.
    keys = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    for name in (*plain, *odd, *escaped):
        keys.put_object(bucket.name, f"estate/raw/{name}", b"x")
    # Not exports: folders' markers, steps upwards, hidden names, and a neighbour whose name begins the same way.
    for name in ("", "isavigne/", "../outside.csv", "a/../../b.csv", "./c.csv", ".", "..", ".hidden", "x/~$lock.xlsx"):
        keys.put_object(bucket.name, f"estate/raw/{name}", b"")
    bucket.put_object(Key="estate/raw2/clients.csv", Body=b"x")
    asked = []
    send = AIOHTTPSession.send

    async def counted(session: Any, request: Any) -> Any:
        asked.append(request.method)
        return await send(session, request)

    monkeypatch.setattr(AIOHTTPSession, "send", counted)
    with place.zone() as zone:
        files = zone.list()
        assert [file.path for file in files] == sorted([*plain, *odd, *escaped.values()])
        assert asked == ["GET", "GET"], "two pages, and no question per file"
        for file in files[-20:]:
            assert zone.look(file.path) == file
        for path in [*odd, *escaped.values()]:
            with zone.open(path) as stream:
                assert stream.read() == b"x"


def test_odd_names_on_an_sftp_server(tenant_warehouse: Warehouse, sftp: SftpServer, tmp_path: Path) -> None:
    place = sftp_place(sftp)
    raw = sftp.folder / "raw"
    place.put("clients  n° 1 & co #100%.csv", CLIENTS)
    (raw / os.fsdecode("clients_août.csv".encode("cp1252"))).write_bytes(MORE_CLIENTS)
    outside = tmp_path / "clients.csv"
    outside.write_bytes(CLIENTS)
    (raw / "clients_lien.csv").symlink_to(outside)
    (raw / "lien").symlink_to(outside.parent)
    os.mkfifo(raw / "clients_tube.csv")
    report = landing(tenant_warehouse, place.zone())
    assert {outcome.path: outcome.status for outcome in report.outcomes} == {
        "clients_ao\\xfbt.csv": "loaded",
        "clients  n° 1 & co #100%.csv": "loaded",
    }


def test_names_are_shown_as_they_are_where_they_can_be() -> None:
    for name in ("été/clients n° 1.csv", "a\xa0b.csv", "Ωμέγα.csv"):
        assert shown_name(name) == name
    assert shown_name("a\tb\x00.csv") == "a\\tb\\x00.csv"
    assert shown_name(os.fsdecode(b"\xfb\n.csv")) == "\\xfb\\n.csv"


def test_a_copy_that_does_not_fit_is_said_so(sftp: SftpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    place = sftp_place(sftp)
    place.put("clients.csv", CLIENTS)
    monkeypatch.setattr("crm_assets.resources.drop_zone._KEEP_FREE_BYTES", 1 << 60)
    with place.zone() as zone, pytest.raises(DropZoneError, match=r"test\.yaml: clients\.csv: .*TMPDIR"):
        zone.open("clients.csv")
    assert sftp.opened == []


def test_copies_of_killed_processes_are_removed(sftp: SftpServer) -> None:
    place = sftp_place(sftp)
    place.put("clients.csv", CLIENTS)
    ended = subprocess.Popen(["true"])
    ended.wait()
    left = Path(tempfile.mkdtemp(prefix=f"crm-drop-{ended.pid}-"))
    with place.zone() as zone:
        zone.open("clients.csv").close()
        assert len(left_copies()) == 1
    assert not left.exists()
    assert not left_copies()


# --- servers that do not let us in, or do not answer


def fault(zone: DropZone) -> str:
    """What a look at the folder ends with; no secret stands in it."""
    with zone, pytest.raises(DropZoneError) as refused:
        zone.list()
    text = f"{refused.value!r} {refused.value.__cause__!r}"
    assert PASSWORD not in text
    assert "a-secret-key" not in text
    assert str(refused.value).startswith("test.yaml: ")
    return str(refused.value)


def test_a_wrong_password(tenant_warehouse: Warehouse, sftp: SftpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    place = sftp_place(sftp)
    place.put("clients.csv", CLIENTS)
    landing(tenant_warehouse, place.zone())
    monkeypatch.setenv("CRM_DROP_PASSWORD", "another")
    assert "refuses the user or its password" in fault(place.zone())
    report = landing(tenant_warehouse, place.zone())
    assert report.folder_missing
    assert "refuses the user" in (report.out_of_reach or "")
    assert tenant_warehouse.rows("select count(*) from raw.files where deleted_at is not null") == [(0,)]
    monkeypatch.setenv("CRM_DROP_PASSWORD", PASSWORD)
    assert landing(tenant_warehouse, place.zone()).status_counts == {"loaded": 1}


def test_a_variable_that_is_not_set(sftp: SftpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CRM_DROP_PASSWORD")
    assert "'source.raw_secrets.password': the variable CRM_DROP_PASSWORD is not set" in fault(sftp_place(sftp).zone())


def test_the_servers_key_must_be_known(sftp: SftpServer, tmp_path: Path) -> None:
    place = sftp_place(sftp)
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    place.options = {"host_key": other}
    assert "host key" in fault(place.zone())
    known_hosts = tmp_path / "known_hosts"
    place.options = {"known_hosts": str(known_hosts)}
    known_hosts.write_text(f"[127.0.0.1]:{sftp.port} {other}")
    assert "host key" in fault(place.zone())
    known_hosts.write_text(f"[127.0.0.1]:{sftp.port} {sftp.host_key}\n")
    with place.zone() as zone:
        assert zone.exists()
    known_hosts.unlink()
    assert "known_hosts" in fault(place.zone())


@pytest.mark.parametrize("in_variable", [False, True])
def test_a_key_in_place_of_a_password(tmp_path: Path, in_variable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    (tmp_path / "served").mkdir()
    with sftp_server(tmp_path / "served", "no password", key) as server:
        place = sftp_place(server)
        place.url = server.url
        if in_variable:
            monkeypatch.setenv("CRM_DROP_KEY", key.export_private_key().decode().replace("\n", "\\n"))
            place.secrets = {"private_key": "CRM_DROP_KEY"}
        else:
            (tmp_path / "id").write_bytes(key.export_private_key(passphrase=PASSWORD, rounds=50))
            place.options["key_filename"] = str(tmp_path / "id")
            place.secrets = {"passphrase": "CRM_DROP_PASSWORD"}
        with place.zone() as zone:
            assert zone.exists()


def test_a_file_that_may_not_be_read_fails_alone(tenant_warehouse: Warehouse, sftp: SftpServer) -> None:
    place = sftp_place(sftp)
    place.put("clients.csv", CLIENTS)
    place.put("clients_geheim.csv", CLIENTS)
    report = landing(tenant_warehouse, place.zone())
    assert {o.path: o.status for o in report.outcomes} == {"clients.csv": "loaded", "clients_geheim.csv": "unreadable"}
    assert "permission denied" in next(o.reason or "" for o in report.outcomes if o.status == "unreadable")


def test_credentials_that_s3_refuses() -> None:
    with s3_server() as url:
        place = s3_place(url, bucket_of(url, "closed"))
        place.put("clients.csv", CLIENTS)
        with only_known_keys(url):
            assert "access is denied" in fault(place.zone())


def test_a_server_that_is_down(s3: str) -> None:
    port = free_port()
    sftp = DropZone(f"sftp://cave@127.0.0.1:{port}/raw", {}, {"password": "CRM_DROP_PASSWORD"}, owner="test.yaml")
    assert f"127.0.0.1:{port}/raw" in fault(sftp)
    place = s3_place(f"http://127.0.0.1:{port}", bucket_of(s3, "down"))
    assert "s3://down/estate/raw" in fault(place.zone())


@pytest.mark.parametrize("scheme", ["sftp", "s3"])
def test_a_server_that_never_answers_is_given_up(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONNECT_SECONDS", "ANSWER_SECONDS", "LISTING_SECONDS"):
        monkeypatch.setattr(remote_folders, name, 0.5)
    with silent_server() as port:
        if scheme == "sftp":
            zone = DropZone(f"sftp://cave@127.0.0.1:{port}/raw", {}, {}, owner="test.yaml")
        else:
            options = {"endpoint_url": f"http://127.0.0.1:{port}"}
            secrets = {"key": "CRM_DROP_KEY", "secret": "CRM_DROP_SECRET"}
            zone = DropZone("s3://bucket/raw", options, secrets, owner="test.yaml")
        assert "127.0.0.1" in fault(zone) or scheme == "s3"


def test_a_connection_lost_in_the_middle_stops_the_landing_and_keeps_what_had_landed(
    tenant_warehouse: Warehouse, sftp: SftpServer, tmp_path: Path
) -> None:
    place = sftp_place(sftp)
    place.put("clients_1.csv", CLIENTS)
    place.put("clients_2.csv", MORE_CLIENTS)
    with relay(sftp.port) as (port, cut):
        zone = DropZone(f"sftp://cave@127.0.0.1:{port}/raw", place.options, place.secrets, owner="test.yaml")
        fetched = zone.sha256

        def cut_before_the_second(path: str) -> str:
            if path == "clients_2.csv":
                cut()
            return fetched(path)

        zone.sha256 = cut_before_the_second  # type: ignore[method-assign]
        with pytest.raises(DropZoneError):
            landing(tenant_warehouse, zone)
    assert tenant_warehouse.rows("select path, status from raw.files") == [("clients_1.csv", "loaded")]
    assert landing(tenant_warehouse, place.zone()).status_counts == {"loaded": 2}
