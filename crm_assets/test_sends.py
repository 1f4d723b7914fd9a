"""The test of a campaign: its messages as customers would get them, to the estate's own test addresses, before any
customer gets one; accepted by a named person (spec.md §7, "Safe by default").

A test counts for one hash of templates and wording: what is changed afterwards wants a new one. Its addresses are no
contacts and its messages stand in no outbox: their tag names the occurrence `test`, which is none.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from crm_assets import attempts
from crm_assets.activation import fetched_of
from crm_assets.campaigns import BREVO_TEMPLATE, Campaign, CampaignFiles
from crm_assets.clock import Clock
from crm_assets.logic import outbox
from crm_assets.logic.activation import RefusalError, canonical
from crm_assets.logic.messages import template_hash_of
from crm_assets.operations import Estate, named, plan_of
from crm_assets.resources.brevo import Answer, Brevo
from crm_assets.tenants import Tenant

MARK = "[TEST]"  # before the subject; the same word in French, English and German
_OCCURRENCE = "test"
_ENDPOINT = "POST /smtp/email"


@dataclass(frozen=True)
class SentTest:
    """A test that was sent: how many messages (one of each scenario, arm and step) to how many addresses."""

    test_id: str
    campaign: str
    template_hash: str
    addresses: int
    messages: int
    outcome: str
    reason: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def send_test(estate: Estate, name: str, client: Brevo, clock: Clock) -> SentTest:
    """Send one message of each kind that the stored plan of the campaign holds to each test address.

    RefusalError: NOT_PLANNED, NO_TEST_ADDRESS, TEMPLATE_CHANGED since the plan, LIVE_REFUSED for a client that sends
    nothing.
    """
    tenant, stored = estate.tenant, plan_of(estate, name, None)
    campaign = CampaignFiles(estate.config.tenants, tenant).get(name)
    if not tenant.brevo.test_addresses:
        raise RefusalError("NO_TEST_ADDRESS", f"tenants/{tenant.slug}.yaml names nobody in brevo.test_addresses")
    if client.is_dry_run:
        raise RefusalError("LIVE_REFUSED", "a test is a real message: it needs a client that may send")
    require_same_templates(estate, campaign, stored)
    test_id, now = uuid.uuid4().hex, clock.now()
    samples = _samples(estate, campaign, stored)
    answers: list[Answer] = []
    for step, of_step in samples.groupby("step", sort=True):
        packer = outbox.Packer(tenant, campaign, _OCCURRENCE, int(str(step)), estate.rules)
        addressed = of_step.merge(pd.DataFrame({"address": list(tenant.brevo.test_addresses)}), how="cross")
        addressed["message_id"] = [f"{test_id}-{step}-{number}" for number in range(len(addressed))]
        for chunk in outbox.chunks(packer, addressed):
            answers.append(_sent(estate, client, clock, chunk))
    worst = min(answers, key=lambda answer: ("rejected", "unknown", "not_sent", "accepted").index(answer.outcome))
    estate.warehouse.execute(
        "insert into activation.test_sends (test_id, campaign, template_hash, n_addresses, outcome, sent_at)"
        " values (%s, %s, %s, %s, %s, %s)",
        [test_id, name, stored["template_hash"], len(tenant.brevo.test_addresses), worst.outcome, now],
    )
    return SentTest(
        test_id, name, stored["template_hash"], len(tenant.brevo.test_addresses), len(samples),
        worst.outcome, worst.reason,
    )  # fmt: skip


def require_same_templates(estate: Estate, campaign: Campaign, stored: dict[str, Any]) -> None:
    """RefusalError when templates, wording, sender or estate are no longer those that the plan was made with."""
    now = template_hash_of(campaign, estate.tenant, estate.rules, fetched_of(stored))
    if now != stored["template_hash"]:
        raise RefusalError(
            "TEMPLATE_CHANGED",
            f"the templates or the wording of {campaign.name} have changed since its plan: give it up"
            " (crm activation abandon) and plan the next occurrence, of a campaign that runs once a copy of its file"
            " under another name; or change them back",
        )


def _samples(estate: Estate, campaign: Campaign, stored: dict[str, Any]) -> pd.DataFrame:
    """The longest message of each scenario that the plan holds, in every step and arm: step, scenario, arm, template,
    params.
    """
    longest = estate.warehouse.query(
        "select distinct on (scenario) scenario, params from activation.messages"
        " where campaign = %s and occurrence = %s and step = %s"
        " order by scenario, length(params::text) desc, message_id",
        [stored["campaign"], stored["occurrence"], int(stored["step"])],
    )
    rows = [
        {
            "step": step,
            "scenario": scenario,
            "arm": arm,
            "template": _template(campaign, estate.tenant, scenario, step, arm),
            "params": params,
        }
        for step, arm in campaign.variants
        for scenario, params in longest[["scenario", "params"]].itertuples(index=False)
    ]
    return pd.DataFrame(rows)


def _template(campaign: Campaign, tenant: Tenant, scenario: str, step: int, arm: str | None) -> str:
    """The template as activation.messages names it: Brevo's by its id."""
    name = campaign.template_of(scenario, step, arm)
    if not name.startswith(BREVO_TEMPLATE):
        return name
    return f"{BREVO_TEMPLATE}{tenant.brevo.templates[name.removeprefix(BREVO_TEMPLATE)]}"


def _sent(estate: Estate, client: Brevo, clock: Clock, chunk: outbox.Chunk) -> Answer:
    """One call, written down before and after like every other."""
    body = _marked(chunk.body)
    with estate.warehouse.transaction() as connection:
        attempt = attempts.begin(
            connection, _ENDPOINT, body, len(chunk.message_ids), clock.now(), is_dry_run=False, tag=chunk.tag,
            account=client.account,
        )  # fmt: skip
    answer = client.send_email(body)
    with estate.warehouse.transaction() as connection:
        attempts.end(connection, attempt, answer, clock.now())
    return answer


def _marked(body: bytes) -> bytes:
    """The request with every subject saying that it is a test."""
    request = json.loads(body)
    for part in (request, *request["messageVersions"]):
        if "subject" in part:
            part["subject"] = f"{MARK} {part['subject']}"
    return canonical(request)


def accept_test(estate: Estate, name: str, clock: Clock, *, by: str) -> dict[str, Any]:
    """A person has looked at the newest test of a campaign and lets its templates go live.

    RefusalError NO_TEST where none arrived for the templates as they are.
    """
    who, stored = named(by), plan_of(estate, name, None)
    require_same_templates(estate, CampaignFiles(estate.config.tenants, estate.tenant).get(name), stored)
    accepted = estate.warehouse.rows(
        "update activation.test_sends set accepted_by = %s, accepted_at = %s where test_id = ("
        " select test_id from activation.test_sends where campaign = %s and template_hash = %s and outcome = 'accepted'"
        " order by sent_at desc limit 1) returning test_id",
        [who, clock.now(), name, stored["template_hash"]],
    )
    if not accepted:
        raise RefusalError(
            "NO_TEST",
            f"no test of the templates of {name} as they are now has been taken by Brevo; send one:"
            f" crm activation test --tenant {estate.tenant.slug} --campaign {name}",
        )
    return {"campaign": name, "template_hash": stored["template_hash"], "accepted_by": who}
