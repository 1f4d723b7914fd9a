"""A tenant file that is wrong names itself, the key and the reason, and takes no other down."""

from __future__ import annotations

import os
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from crm_assets import tenants
from crm_assets.settings import ROOT, settings
from crm_assets.tenants import TEMPLATE, Registry, TenantError, load_tenant

GOOD = TEMPLATE.format(name="Domaine Test")


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ("lokale: fr\n", "key 'lokale': unknown key"),
        ("rules: {audit: {min_scor: 70}}\n", "key 'rules.audit.min_scor': unknown key"),
        ("rules: {audit: {min_score: high}}\n", "key 'rules.audit.min_score'"),
        ("brevo: {api_key_variable: xkeysib-123}\n", "key 'brevo.api_key_variable'"),
        ("document_numbers: monthly\n", "key 'document_numbers'"),
        (
            "source: {raw_url: 's3://b/p', raw_options: {endpoint: x}}\n",
            "raw_options.endpoint: unknown for s3; known: ",
        ),
        ("source: {raw_url: 's3://b/p', raw_options: {secret: x}}\n", "raw_options.secret: a secret stands in no file"),
        ("source: {raw_url: 'gs://b/p', raw_options: {token: x}}\n", "raw_options.token: a secret stands in no file"),
        ("source: {raw_url: 'sftp://u@h/p', raw_secrets: {password: Sesame}}\n", "key 'source.raw_secrets.password'"),
        (
            "source: {raw_url: 'sftp://u@h/p', raw_secrets: {secret: CRM_DROP_SECRET}}\n",
            "unknown for sftp; known: passph",
        ),
        ("source: {raw_url: 'sftp://u@h/p', raw_secrets: {password: CRM_SECRET}}\n", "CRM_SECRET is the product's own"),
        ("source: {raw_url: 'sftp://u:geheim@h/p'}\n", "an address has no password"),
        ("source: {raw_url: 'simplecache::s3://b/p'}\n", "one address is expected"),
        ("source: {raw_options: {host: h}}\n", "raw_options.host: unknown for file; known: none"),
    ],
)
def test_a_wrong_key_is_named(tmp_path: Path, extra: str, expected: str) -> None:
    with pytest.raises(TenantError, match=r"^a_test\.yaml: ") as refused:
        load_tenant(write(tmp_path, "a_test.yaml", GOOD + extra))
    assert expected in str(refused.value)


def test_a_wrong_value_of_the_template_is_named(tmp_path: Path) -> None:
    with pytest.raises(TenantError, match=r"key 'timezone': .*Europe/Pariss"):
        load_tenant(write(tmp_path, "a_test.yaml", GOOD.replace("Europe/Paris", "Europe/Pariss")))


@pytest.mark.parametrize(
    "text", ["", "- a list\n", "name: [unclosed\n", "name: caf\x00e\n", "? [a, b]\n: x\n", "rules: &a [*a]\n"]
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(TenantError, match=r"^broken\.yaml: "):
        load_tenant(write(tmp_path, "broken.yaml", text))


@pytest.mark.parametrize("name", ["Demo.yaml", "1a.yaml", "control.yaml", "dagster.yaml", "a-b.yaml"])
def test_a_file_name_that_is_no_slug_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(TenantError, match="slug"):
        load_tenant(write(tmp_path, name, GOOD))


def test_a_wrong_file_takes_no_other_down(tmp_path: Path) -> None:
    write(tmp_path, "good_one.yaml", GOOD)
    write(tmp_path, "bad_one.yaml", "locale: fr\n")
    registry = Registry(tmp_path)
    assert list(registry.tenants) == ["good_one"]
    assert "bad_one.yaml" in registry.errors["bad_one"]
    assert "key 'name'" in registry.errors["bad_one"]
    with pytest.raises(TenantError, match="bad_one"):
        registry.get("bad_one")
    with pytest.raises(TenantError, match="crm tenant add third"):
        registry.get("third")


def test_overrides_change_the_rules_and_their_version(tmp_path: Path) -> None:
    plain = load_tenant(write(tmp_path, "plain.yaml", GOOD))
    other = load_tenant(write(tmp_path, "other.yaml", GOOD + "rules: {audit: {silence_days: 21}}\n"))
    assert (plain.business_rules.audit.silence_days, other.business_rules.audit.silence_days) == (14, 21)
    assert other.business_rules.audit.min_score == plain.business_rules.audit.min_score
    assert plain.business_rules.version != other.business_rules.version


def test_today_is_the_fixed_day_or_the_day_where_the_estate_is(tmp_path: Path) -> None:
    late = datetime(2026, 1, 5, 23, 30, tzinfo=UTC)
    plain = load_tenant(write(tmp_path, "plain.yaml", GOOD))
    fixed = load_tenant(write(tmp_path, "fixed.yaml", GOOD + "as_of: 2025-12-31\n"))
    assert plain.today(late) == date(2026, 1, 6)
    assert fixed.today(late) == date(2025, 12, 31)


def test_reports_are_not_written_among_the_exports(tmp_path: Path) -> None:
    drop, elsewhere = tmp_path / "drop", tmp_path / "link"
    (drop / "below").mkdir(parents=True)
    elsewhere.symlink_to(drop / "below")

    def load(folder: Path | str, source: str = f"source: {{raw_url: '{drop}'}}\n") -> None:
        load_tenant(write(tmp_path, "a_test.yaml", f"{GOOD}{source}reports: {{folder: '{folder}'}}\n"))

    for wrong in (drop, drop / "reports", elsewhere, tmp_path / "x" / ".." / "drop"):
        with pytest.raises(TenantError, match=r"a_test\.yaml.*key 'reports\.folder': lies in the drop folder"):
            load(wrong)
    with pytest.raises(TenantError, match="lies in the drop folder"):
        load(settings().data / "a_test" / "raw" / "reports", source="")
    with pytest.raises(TenantError, match="lies in the drop folder"):
        load(drop / "reports", source=f"source: {{raw_url: '{drop.as_uri()}'}}\n")
    load(tmp_path / "dropped")
    load(drop, source="source: {raw_url: 's3://bucket/drop'}\n")


def test_the_projects_own_tenants_are_right() -> None:
    registry = Registry(ROOT / "tenants")
    assert registry.errors == {}
    assert {"demo", "vieux_lavoir"} <= set(registry.tenants)
    assert registry.get("demo").as_of == date(2025, 12, 31)


def test_where_the_files_come_from_changes_no_result(tmp_path: Path) -> None:
    here = load_tenant(write(tmp_path, "here.yaml", GOOD)).model_copy(update={"slug": "x"})
    there = "source: {raw_url: 'sftp://u@h/p', raw_options: {port: 2222}, raw_secrets: {password: CRM_DROP_PASSWORD}}\n"
    elsewhere = load_tenant(write(tmp_path, "there.yaml", GOOD + there)).model_copy(update={"slug": "x"})
    assert elsewhere.version == here.version


def test_an_unchanged_file_is_not_read_again_and_any_change_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def counted(path: Path) -> tenants.Tenant:
        read.append(path.name)
        return load_tenant(path)

    monkeypatch.setattr(tenants, "load_tenant", counted)
    path = write(tmp_path, "left.yaml", GOOD)
    write(tmp_path, "wrong.yaml", "locale: fr\n")
    Registry(tmp_path)
    Registry(tmp_path)
    assert read == ["left.yaml", "wrong.yaml"] * 2, "just written: a second change might not show in the times"
    monkeypatch.setattr(tenants, "_TICK", -1.0)
    Registry(tmp_path)
    read.clear()
    registry = Registry(tmp_path)
    assert read == []
    assert list(registry.tenants) == ["left"]
    assert "wrong.yaml" in registry.errors["wrong"]
    before = path.stat()
    path.write_text(GOOD.replace("Domaine Test", "Domaine Tess"), encoding="utf-8")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert Registry(tmp_path).get("left").name == "Domaine Tess"
    path.unlink()
    assert "left" not in Registry(tmp_path).tenants
