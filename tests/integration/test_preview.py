"""A customer's message looked at before it leaves, and the templates that an estate keeps at Brevo."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from crm_assets import activation, brevo_templates, cli, databases, preview, why
from crm_assets.campaigns import Campaign, CampaignError, CampaignFiles, folder
from crm_assets.logic import messages
from crm_assets.logic.activation import RefusalError
from crm_assets.logic.brevo_rows import Template
from crm_assets.logic.message_checks import text_of
from crm_assets.resources.brevo import BrevoUnavailableError
from crm_assets.resources.warehouse import Warehouse
from crm_assets.settings import Settings
from tests.integration.test_why import AS_OF, NOW, RULES, SECRETS, TENANT, tenants_folder, warehouse
from tests.logic.test_messages import AT_BREVO

__all__ = ["tenants_folder", "warehouse"]

AT = TENANT.model_copy(update={"brevo": TENANT.brevo.model_copy(update={"templates": {"noel": 7}})})


def shown(warehouse: Warehouse, tenants: Path, code: str, **asked: Any) -> preview.Preview:
    return preview.preview_of(warehouse, TENANT, tenants, code, **asked)


def test_what_would_be_planned_and_what_is_planned_look_the_same(warehouse: Warehouse, tenants_folder: Path) -> None:
    before = shown(warehouse, tenants_folder, " 00123 ")
    activation.plan_campaign(warehouse, TENANT, CampaignFiles(tenants_folder, TENANT).get("weekly"), RULES, AS_OF, NOW)
    after = shown(warehouse, tenants_folder, "old-7")
    assert (before.is_planned, after.is_planned) == (False, True)
    assert before.standing.startswith("No message yet")
    assert after.standing.startswith("Planned in weekly 2026-W01")
    assert before.html == after.html
    assert json.loads(json.dumps(after.as_dict(), allow_nan=False))["arm"] is None
    assert (after.campaign, after.template, after.client_code, after.problems) == ("weekly", "rebuy", "00123", "")
    assert "Riesling p1" in text_of(after.html)
    assert "{{" not in after.html


def test_who_gets_none_sees_it_too_and_why_and_what_cannot_be_shown_is_said(
    warehouse: Warehouse, tenants_folder: Path
) -> None:
    silenced = shown(warehouse, tenants_folder, "C2")
    assert silenced.standing.startswith("No message: SILENCE_WINDOW")
    assert "Riesling p1" in silenced.html
    with pytest.raises(preview.NoPreviewError, match="no wine is recommended to this customer; `--kind welcome`"):
        shown(warehouse, tenants_folder, "C3")
    assert "Riesling" not in shown(warehouse, tenants_folder, "C3", kind="welcome").html
    with pytest.raises(why.UnknownError, match="no customer of demo has the code 'X1'"):
        shown(warehouse, tenants_folder, "X1")
    with pytest.raises(CampaignError, match="no campaign 'other'"):
        shown(warehouse, tenants_folder, "00123", campaign="other")
    with pytest.raises(preview.NoPreviewError, match="no template 'spam'; ours are rebuy"):
        shown(warehouse, tenants_folder, "00123", kind="spam")
    calls = folder(tenants_folder, TENANT.slug) / "calls.yaml"
    calls.write_text("kind: reco\nchannel: phone\n", encoding="utf-8")
    with pytest.raises(preview.NoPreviewError, match="campaign calls is by phone"):
        shown(warehouse, tenants_folder, "00123", campaign="calls")
    calls.unlink()
    (folder(tenants_folder, TENANT.slug) / "pushed.yaml").write_text(
        "kind: reco\nwines: {push: [p2]}\nsubject: {fr: Nouveautés}\n", encoding="utf-8"
    )
    assert "planning adds them" in shown(warehouse, tenants_folder, "00123", campaign="pushed").standing
    assert "planning adds them" not in silenced.standing
    warehouse.execute("update curated.dim_products set price_ttc = null")
    with pytest.raises(preview.NoPreviewError, match="none of the recommended wines can be shown: p1 lacks price"):
        shown(warehouse, tenants_folder, "C2")


def test_the_command_and_the_job_write_the_file_and_name_nobody(
    warehouse: Warehouse,
    tenants_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    at_home: Callable[..., Settings],
) -> None:
    from crm_assets.defs.preview import MESSAGES, preview_message_job

    home = at_home(tmp_path / "var", tenants=tenants_folder)
    (tenants_folder / "demo.yaml").write_text(
        json.dumps(TENANT.model_dump(mode="json", exclude={"slug", "as_of"}, exclude_defaults=True)), encoding="utf-8"
    )
    monkeypatch.setattr(databases, "ensure_tenant", lambda *_: warehouse.url)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    for module in ("crm_assets.cli", "crm_assets.defs.preview"):
        monkeypatch.setattr(f"{module}.settings", lambda: home)

    assert cli.main(["preview", "--tenant", "demo", "--customer", "00123", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    page = tmp_path / "var" / "previews" / "demo" / "00123-weekly-rebuy.html"
    assert (said["file"], said["is_planned"], page.stat().st_mode & 0o777) == (str(page), False, 0o600)
    target = tmp_path / "shown.html"
    asked = ["preview", "--tenant", "demo", "--customer", "00123", "--to", str(target), "--png"]
    with pytest.raises(SystemExit, match="1"):
        cli.main(asked)  # the HTML is there, and a sentence
    assert "Chromium is not installed here; open the HTML in any browser" in capsys.readouterr().err
    assert target.read_text(encoding="utf-8") == page.read_text(encoding="utf-8")

    config = dg.RunConfig(ops={"preview": {"config": {"customer": "C2", "kind": "winback"}}})
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("tenant", ["demo"])
        done = preview_message_job.execute_in_process(run_config=config, partition_key="demo", instance=instance)
        events = instance.all_logs(done.run_id)
        (record,) = instance.fetch_observations(MESSAGES, limit=9).records
        assert preview_message_job.execute_in_process(instance=instance).success  # no estate chosen
    seen = record.asset_observation
    assert seen is not None
    assert Path(str(seen.metadata["file"].value)).name == "C2-weekly-winback.html"
    assert str(seen.metadata["standing"].value).startswith("No message: SILENCE_WINDOW")
    told = " ".join(str(event) for event in events)
    assert [secret for secret in SECRETS if secret.lower() in told.lower()] == []


@pytest.mark.skipif(
    not any(shutil.which(name) for name in preview._BROWSERS), reason="a picture needs Chromium, which is not here"
)
def test_a_picture_is_as_wide_as_asked_and_no_taller_than_the_message(tmp_path: Path) -> None:
    from matplotlib import image

    page = tmp_path / "page.html"
    page.write_text('<body style="margin:0;background:#eee"><div style="height:200px;background:#a22">', "utf-8")
    drawn = image.imread(preview.picture(page, 375))
    assert drawn.shape[1] == 375
    assert 200 <= drawn.shape[0] < 240


class AtBrevo:
    """Brevo's client, as far as templates go."""

    def __init__(self, **changes: Any) -> None:
        self.template_now = Template(
            **{
                **{"template_id": 7, "name": "Noël", "subject": "Vos vins", "html": AT_BREVO, "is_active": True},
                **{"sender_email": None, "reply_to": None, "modified_at": None, **changes},
            }
        )

    def template(self, template_id: int) -> Template:
        if template_id != self.template_now.template_id:
            raise BrevoUnavailableError("not_found", "GET /smtp/templates/{templateId}: Brevo knows no such thing")
        return self.template_now


class TestTemplatesKeptAtBrevo:
    def fetched(self, warehouse: Warehouse, at_brevo: AtBrevo, **asked: Any) -> brevo_templates.FetchedTemplate:
        return brevo_templates.fetch_checked(warehouse, at_brevo, AT, 7, RULES, NOW, **asked)

    def test_each_content_that_can_be_read_is_kept_with_what_is_wrong_with_it(
        self, tenant_warehouse: Warehouse
    ) -> None:
        fit = self.fetched(tenant_warehouse, AtBrevo())
        brevo_templates.require_fit(fit)
        unfit = self.fetched(tenant_warehouse, AtBrevo(html=AT_BREVO.replace("SIREN 123456789", ""), is_active=False))
        self.fetched(tenant_warehouse, AtBrevo())
        assert unfit.problems == ("SIREN", "INACTIVE")
        with pytest.raises(RefusalError, match="TEMPLATE_UNREADABLE: template 7 could not be read at Brevo"):
            self.fetched(tenant_warehouse, AtBrevo(template_id=8))
        kept = tenant_warehouse.read("activation", "brevo_templates").set_index("content_hash")
        assert {h: list(p) for h, p in kept["problems"].items()} == {
            fit.content_hash: [],
            unfit.content_hash: ["SIREN", "INACTIVE"],
        }
        assert kept.loc[fit.content_hash, "html"] == AT_BREVO
        with pytest.raises(RefusalError, match=r"TEMPLATE_UNFIT: template 7 .* SIREN is missing; it is not active"):
            brevo_templates.require_fit(unfit)

    @pytest.mark.parametrize(
        ("changes", "code"),
        [
            ({}, None),
            ({"name": "Autre nom"}, None),
            ({"html": AT_BREVO + " "}, "TEMPLATE_CHANGED"),
            ({"subject": "Nos vins"}, "TEMPLATE_CHANGED"),
            ({"is_active": False}, "TEMPLATE_CHANGED"),
            ({"template_id": 8}, "TEMPLATE_UNREADABLE"),
        ],
    )
    def test_one_that_has_changed_since_is_not_sent_with(self, changes: dict[str, Any], code: str | None) -> None:
        planned = {7: brevo_templates.content_hash("Vos vins", AT_BREVO)}
        if code is None:
            brevo_templates.require_unchanged(AtBrevo(**changes), planned)
            return
        with pytest.raises(RefusalError) as refused:
            brevo_templates.require_unchanged(AtBrevo(**changes), planned)
        assert refused.value.code == code

    def test_planning_refuses_what_lacks_a_piece_and_a_preview_shows_what_was_read_last(
        self, warehouse: Warehouse, tenants_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def plan(made: Campaign, client: AtBrevo | None = None) -> Any:
            return activation.plan_campaign(warehouse, AT, made, RULES, AS_OF, NOW, client=client)  # type: ignore[arg-type]

        def campaign(**changes: Any) -> Campaign:
            return Campaign.model_validate({"name": "noel", "kind": "reco", "subject": {"fr": "Noël"}, **changes})

        at_brevo = campaign(template="brevo:noel")
        without = AtBrevo(html=AT_BREVO.replace("Vente interdite aux mineurs", ""))
        ours = messages.render  # a template of ours that somebody has damaged
        with monkeypatch.context() as patched:
            patched.setattr(
                messages, "render", lambda *a, **k: ours(*a, **k).replace("Vente interdite aux mineurs", "")
            )
            with pytest.raises(RefusalError, match=r"TEMPLATE_UNFIT: messages of campaign noel .* mineurs"):
                plan(campaign())
        with pytest.raises(RefusalError, match=r"TEMPLATE_UNFIT: template 7 .* mineurs"):
            plan(at_brevo, without)
        with pytest.raises(RefusalError, match="TEMPLATE_UNREADABLE"):
            plan(at_brevo)
        assert warehouse.count("activation", "campaigns") == 0
        # Before there is a plan, and with the content that was read last.
        warehouse.execute("delete from activation.brevo_templates")
        (folder(tenants_folder, AT.slug) / "noel.yaml").write_text(
            "kind: reco\ntemplate: brevo:noel\nsubject: {fr: Noël}\n", encoding="utf-8"
        )
        with pytest.raises(preview.NoPreviewError, match="template 7 kept at Brevo has not been read yet"):
            preview.preview_of(warehouse, AT, tenants_folder, "00123", campaign="noel")
        for html, when in ((AT_BREVO.replace("Bonjour", "Ancien"), NOW - timedelta(days=1)), (AT_BREVO, NOW)):
            brevo_templates.fetch_checked(warehouse, AtBrevo(html=html), AT, 7, RULES, when)
        made = preview.preview_of(warehouse, AT, tenants_folder, "00123", campaign="noel")
        text = text_of(made.html)
        assert text.startswith("Bonjour,\nRiesling p1\n2022 75 cl")
        assert made.problems == ""
        assert (
            preview.preview_of(warehouse, AT, tenants_folder, "00123", campaign="noel", kind="rebuy").template
            == "rebuy"
        )
        assert plan(at_brevo, AtBrevo()).planned > 0
        assert set(warehouse.read("activation", "messages", ["template"])["template"]) == {"brevo:7"}
