"""E-mail campaigns: those of the API and those sent from Brevo's own screens, their states, statistics and recipients.

draft → queued → in_process → sent, with suspended and archive beside; A/B of two subjects; `sendNow` is not
idempotent. Recipients are the contacts of the lists, without who is excluded or has refused.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from brevo_standin.account import Account
from brevo_standin.contacts import Contact, Contacts
from brevo_standin.processes import Processes
from brevo_standin.times import PARIS, in_utc
from brevo_standin.webhooks import Webhooks
from brevo_standin.wire import RefusedError, Reply, Request, invalid, missing, not_found, whole_number

QUEUED_SECONDS, SENDING_SECONDS = 10.0, 60.0
MAX_STORED, MAX_SCHEDULED = 10_000, 150
STATISTICS_DAYS = 183  # the list of campaigns covers events of the last six months only
# kind -> (name of the webhook's event, name it is created by, key of the statistics of a contact)
KINDS = {
    "delivered": ("delivered", "delivered", "delivered"),
    "opened": ("opened", "opened", "opened"),
    "click": ("click", "click", "clicked"),
    "hard_bounce": ("hard_bounce", "hardBounce", "hardBounces"),
    "soft_bounce": ("soft_bounce", "softBounce", "softBounces"),
    "spam": ("spam", "spam", "complaints"),
    "unsubscribed": ("unsubscribe", "unsubscribed", "unsubscriptions"),
}
BLACKLISTING = {"hard_bounce", "spam", "unsubscribed"}
EXPORTS = {
    "all": None, "clickers": "click", "openers": "opened", "softBounces": "soft_bounce",
    "hardBounces": "hard_bounce", "unsubscribed": "unsubscribed",
}  # fmt: skip
NEGATED = {"nonClickers": "click", "nonOpeners": "opened"}


@dataclass
class Campaign:
    """One campaign. `happened`: what came of it, by contact: kind -> moments."""

    id: int
    said: dict[str, Any]
    created_at: datetime
    modified_at: datetime
    status: str = "draft"
    sent_at: datetime | None = None
    recipients: list[int] = field(default_factory=list)
    version_b: set[int] = field(default_factory=set)
    happened: dict[int, dict[str, list[datetime]]] = field(default_factory=dict)


class Campaigns:
    """The campaigns of an account."""

    def __init__(self, account: Account, contacts: Contacts, processes: Processes, webhooks: Webhooks) -> None:
        self.account, self.contacts, self.processes, self.webhooks = account, contacts, processes, webhooks
        self.times = account.times
        contacts.statistics = self.statistics_of_contact
        self.forget()

    def forget(self) -> None:
        self.by_id: dict[int, Campaign] = {}

    def routes(self) -> list[tuple[str, str, Callable[..., Reply]]]:
        return [
            ("POST", "/emailCampaigns", self.create),
            ("GET", "/emailCampaigns", self.all),
            ("GET", "/emailCampaigns/{number}", self.one),
            ("PUT", "/emailCampaigns/{number}", self.update),
            ("DELETE", "/emailCampaigns/{number}", self.delete),
            ("POST", "/emailCampaigns/{number}/sendNow", self.send_now),
            ("PUT", "/emailCampaigns/{number}/status", self.set_status),
            ("GET", "/emailCampaigns/{number}/abTestCampaignResult", self.ab_result),
            ("POST", "/emailCampaigns/{number}/exportRecipients", self.export),
        ]

    # --- making one

    def _check(self, said: dict[str, Any]) -> None:
        if not said.get("name"):
            raise missing("name is missing")
        sender = said.get("sender")
        if not isinstance(sender, dict) or not ("email" in sender or "id" in sender):
            raise missing("sender is missing")
        self.account.registered(sender.get("email") or f"id:{sender['id']}")
        if sum(bool(said.get(name)) for name in ("htmlContent", "htmlUrl", "templateId")) != 1:
            raise missing("One of htmlContent, htmlUrl or templateId is missing")
        if said.get("templateId") and said["templateId"] not in self.account.templates:
            raise invalid("templateId does not exist")
        lists = said.get("recipients", {})
        for name in ("listIds", "exclusionListIds"):
            if any(number not in self.contacts.lists for number in lists.get(name, [])):
                raise invalid(f"{name} do not exist")
        if lists.get("segmentIds") or lists.get("exclusionSegmentIds"):
            raise RefusedError(400, "bad_request", "the stand-in has no segments")
        if said.get("abTesting"):
            self._check_ab(said)
        elif not said.get("subject") and not said.get("templateId"):
            raise missing("subject is missing")

    @staticmethod
    def _check_ab(said: dict[str, Any]) -> None:
        if not said.get("subjectA") or not said.get("subjectB") or said["subjectA"] == said["subjectB"]:
            raise invalid("subjectA and subjectB should be given and differ")
        split = said.get("splitRule")
        if not isinstance(split, int) or not 1 <= split <= 50:
            raise invalid("splitRule should lie between 1 and 50")
        if split < 50 and (
            said.get("winnerCriteria") not in ("open", "click") or not 1 <= int(said.get("winnerDelay", 0)) <= 168
        ):
            raise missing("winnerCriteria and winnerDelay are mandatory below a splitRule of 50")

    def create(self, request: Request) -> Reply:
        said = dict(request.mapping)
        self._check(said)
        if len(self.by_id) >= MAX_STORED:
            raise RefusedError(400, "out_of_range", "Number of campaigns should not exceed 10000")
        campaign = self._add(said)
        if said.get("scheduledAt"):
            self._schedule(campaign, said["scheduledAt"])
        return Reply.of({"id": campaign.id}, 201)

    def _add(self, said: dict[str, Any]) -> Campaign:
        now = self.times.now()
        campaign = Campaign(max(self.by_id, default=0) + 1, said, now, now)
        self.by_id[campaign.id] = campaign
        return campaign

    def _schedule(self, campaign: Campaign, text: str) -> None:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise invalid("scheduledAt is not a valid date-time") from None
        if moment.tzinfo is None or moment <= self.times.now():
            raise invalid("scheduledAt should lie in the future, with its time zone")
        if sum(each.status == "queued" for each in self.by_id.values()) >= MAX_SCHEDULED:
            raise RefusedError(400, "out_of_range", "Number of scheduled campaigns should not exceed 150")
        campaign.status = "queued"
        self.times.at(moment, lambda: self._send(campaign))

    def seed(self, said: dict[str, Any]) -> None:
        """A campaign sent from Brevo's own screens: `name`, `emails` or `lists`, `sent_at`; each was delivered."""
        for email in said.get("emails", []):
            if self.contacts.find("email", email) is None:
                self.contacts.seed([{"email": email}])
        now = self.times.now()
        content = {
            "name": said["name"],
            "subject": said.get("subject", said["name"]),
            "htmlContent": said.get("htmlContent", "<html><body>seeded</body></html>"),
            "sender": {"email": said.get("sender", "sender@example.com"), "name": ""},
            "recipients": {"listIds": said.get("lists", [])},
            "tag": said.get("tag", ""),
        }
        campaign = self._add(content)
        campaign.status = "sent"
        campaign.sent_at = datetime.fromisoformat(said["sent_at"]) if "sent_at" in said else now
        people = [self.contacts.find("email", email) for email in said.get("emails", [])]
        people += [contact for number in said.get("lists", []) for contact in self.contacts.members(number)]
        campaign.recipients = list(dict.fromkeys(contact.id for contact in people if contact is not None))
        for contact in campaign.recipients:
            campaign.happened.setdefault(contact, {})["delivered"] = [campaign.sent_at]

    # --- states

    def _one(self, number: str) -> Campaign:
        if not number.isdecimal() or int(number) not in self.by_id:
            raise not_found("Campaign ID does not exist")
        return self.by_id[int(number)]

    def update(self, request: Request, number: str) -> Reply:
        campaign = self._one(number)
        if campaign.status not in ("draft", "suspended", "queued"):
            raise RefusedError(400, "campaign_sent", "Campaign is already sent")
        changed = {**campaign.said, **request.mapping}
        self._check(changed)
        campaign.said, campaign.modified_at = changed, self.times.now()
        if request.mapping.get("scheduledAt"):
            self._schedule(campaign, request.mapping["scheduledAt"])
        return Reply(204)

    def delete(self, request: Request, number: str) -> Reply:
        campaign = self._one(number)
        if campaign.status == "in_process":
            raise RefusedError(400, "campaign_processing", "Campaign is being sent")
        del self.by_id[campaign.id]
        return Reply(204)

    def _audience(self, campaign: Campaign) -> list[Contact]:
        lists = campaign.said.get("recipients", {})
        wanted, excluded = set(lists.get("listIds", [])), set(lists.get("exclusionListIds", []))
        return [
            contact
            for contact in self.contacts.by_id.values()
            if contact.email
            and wanted & set(contact.lists)
            and not excluded & set(contact.lists)
            and not contact.email_blacklisted
        ]

    def send_now(self, request: Request, number: str) -> Reply:
        """POST …/sendNow: 204, 402 where the credits do not suffice, 400 where it is on its way already."""
        campaign = self._one(number)
        if campaign.status in ("sent", "archive"):
            raise RefusedError(400, "campaign_sent", "Campaign is already sent")
        if campaign.status == "in_process":
            raise RefusedError(400, "campaign_processing", "Campaign is being sent")
        people = self._audience(campaign)
        if not people:
            raise invalid("Campaign has no recipients")
        if self.account.credits is not None and self.account.credits < len(people):
            raise RefusedError(402, "not_enough_credits", "Insufficient credits")
        campaign.status = "queued"
        self.times.after(QUEUED_SECONDS, lambda: self._send(campaign))
        return Reply(204)

    def _send(self, campaign: Campaign) -> None:
        if campaign.status != "queued":
            return
        people = self._audience(campaign)
        if self.account.credits is not None:
            if self.account.credits < len(people):
                campaign.status = "suspended"
                return
            self.account.credits -= len(people)
        campaign.status = "in_process"
        campaign.recipients = [contact.id for contact in people]
        if campaign.said.get("abTesting"):
            campaign.version_b = set(campaign.recipients[1::2])
        self.times.after(SENDING_SECONDS, lambda: self._sent(campaign))

    def _sent(self, campaign: Campaign) -> None:
        campaign.status, campaign.sent_at = "sent", self.times.now()
        for number in campaign.recipients:
            if number in self.contacts.by_id:
                self.happen(campaign, self.contacts.by_id[number], "delivered")

    def set_status(self, request: Request, number: str) -> Reply:
        campaign = self._one(number)
        wanted, status = request.mapping.get("status"), campaign.status
        moves = {
            "suspended": ({"queued"}, "suspended"),
            "queued": ({"suspended", "draft"}, "queued"),
            "draft": ({"suspended", "queued"}, "draft"),
            "archive": ({"sent"}, "archive"),
            "darchive": ({"archive"}, "sent"),
        }
        if wanted == "sent":
            return self.send_now(request, number)
        if wanted in ("replicate", "replicateTemplate"):
            self._add({**campaign.said, "name": f"Copy of {campaign.said['name']}"})
            return Reply(204)
        if wanted not in moves:
            raise invalid("status is not valid")
        allowed, then = moves[wanted]
        if status not in allowed:
            raise invalid(f"Campaign is {status}: its status can not be set to {wanted}")
        campaign.status = then
        if then == "queued":
            self.times.after(QUEUED_SECONDS, lambda: self._send(campaign))
        return Reply(204)

    # --- what came of it

    def happen(self, campaign: Campaign, contact: Contact, kind: str, at: datetime | None = None, **more: Any) -> None:
        """An event of a campaign at one recipient; refusals reach the contact, not the transactional blocklist."""
        moment = at or self.times.now()
        campaign.happened.setdefault(contact.id, {}).setdefault(kind, []).append(moment)
        if kind in BLACKLISTING:
            self.contacts.blacklist(contact, True)
        name, creation, _ = KINDS[kind]
        sent = campaign.sent_at or moment
        self.webhooks.marketing(
            name,
            creation,
            str(contact.email),
            **{
                "camp_id": campaign.id,
                "campaign name": campaign.said["name"],
                "date_sent": sent.astimezone(PARIS).strftime("%Y-%m-%d %H:%M:%S"),
                "ts_sent": int(sent.timestamp()),
                "tag": campaign.said.get("tag", ""),
                **more,
            },
        )

    def script(self, said: dict[str, Any]) -> int:
        """`{campaign, event, email?, at?}`: make it happen to one recipient, or to all; how many."""
        campaign = self._one(str(said["campaign"]))
        if said["event"] not in KINDS:
            raise invalid(f"no such event: {said['event']}; known: {', '.join(KINDS)}")
        at = datetime.fromisoformat(said["at"]) if "at" in said else None
        more = {name: said[name] for name in ("reason", "link") if name in said}
        people = [self.contacts.by_id[number] for number in campaign.recipients if number in self.contacts.by_id]
        chosen = [contact for contact in people if said.get("email") in (None, contact.email)]
        for contact in chosen:
            self.happen(campaign, contact, said["event"], at, **more)
        return len(chosen)

    def statistics_of_contact(self, contact: Contact) -> dict[str, Any]:
        """Of GET /contacts/{identifier}: which campaigns reached this contact, and what it did."""
        found: dict[str, list[dict[str, Any]]] = {}
        for campaign in self.by_id.values():
            if contact.id not in campaign.recipients or campaign.sent_at is None:
                continue
            sent = {"campaignId": campaign.id, "eventTime": in_utc(campaign.sent_at)}
            found.setdefault("messagesSent", []).append(sent)
            for kind, moments in campaign.happened.get(contact.id, {}).items():
                row: dict[str, Any] = {"campaignId": campaign.id, "eventTime": in_utc(moments[0])}
                if kind == "opened":
                    row |= {"count": len(moments), "ip": "192.0.2.1"}
                if kind == "click":
                    link = {
                        "count": len(moments),
                        "eventTime": row["eventTime"],
                        "ip": "192.0.2.1",
                        "url": "https://example.com",
                    }
                    row = {"campaignId": campaign.id, "links": [link]}
                if kind == "unsubscribed":
                    by_user = {**row, "ip": "192.0.2.1"}
                    found.setdefault("unsubscriptions", {"userUnsubscription": [], "adminUnsubscription": []})  # type: ignore[arg-type]
                    found["unsubscriptions"]["userUnsubscription"].append(by_user)  # type: ignore[call-overload]
                    continue
                found.setdefault(KINDS[kind][2], []).append(row)
        return found

    def _statistics(self, campaign: Campaign, since: datetime | None = None) -> dict[str, int | float]:
        every: Counter[str] = Counter()
        unique: Counter[str] = Counter()
        for kinds in campaign.happened.values():
            for kind, moments in kinds.items():
                counted = [moment for moment in moments if since is None or moment >= since]
                every[kind] += len(counted)
                unique[kind] += bool(counted)
        n_delivered = unique["delivered"]
        return {
            "sent": len(campaign.recipients),
            "delivered": n_delivered,
            "hardBounces": unique["hard_bounce"],
            "softBounces": unique["soft_bounce"],
            "deferred": 0,
            "viewed": every["opened"],
            "trackableViews": every["opened"],
            "estimatedViews": 0,
            "uniqueViews": unique["opened"],
            "clickers": every["click"],
            "uniqueClicks": unique["click"],
            "unsubscriptions": unique["unsubscribed"],
            "complaints": unique["spam"],
            "opensRate": round(100 * unique["opened"] / n_delivered, 2) if n_delivered else 0,
            "appleMppOpens": 0,
        }

    def _row(self, campaign: Campaign, statistics: str | None, since: datetime | None = None) -> dict[str, Any]:
        said = campaign.said
        lists = said.get("recipients", {})
        figures = self._statistics(campaign, since)
        empty = dict.fromkeys(figures, 0)
        row = {
            "id": campaign.id,
            "name": said["name"],
            "type": "classic",
            "status": campaign.status,
            "subject": said.get("subject", said.get("subjectA", "")),
            "testSent": False,
            "header": said.get("header", ""),
            "footer": said.get("footer", ""),
            "sender": said["sender"],
            "replyTo": said.get("replyTo", ""),
            "toField": said.get("toField", ""),
            "htmlContent": said.get("htmlContent", ""),
            "tag": said.get("tag", ""),
            "createdAt": in_utc(campaign.created_at),
            "modifiedAt": in_utc(campaign.modified_at),
            "abTesting": bool(said.get("abTesting")),
            "recipients": {
                "lists": lists.get("listIds", []),
                "exclusionLists": lists.get("exclusionListIds", []),
            },
            "statistics": {
                "globalStats": figures if statistics == "globalStats" else empty,
                "campaignStats": [{**figures, "listId": number} for number in lists.get("listIds", [])[:1]],
                "mirrorClick": 0,
                "remaining": 0,
                "linksStats": {},
                "statsByDomain": {},
                "statsByDevice": {},
                "statsByBrowser": {},
            },
        }
        if campaign.sent_at is not None:
            row["sentDate"] = in_utc(campaign.sent_at)
        if said.get("scheduledAt"):
            row["scheduledAt"] = said["scheduledAt"]
        return row

    def one(self, request: Request, number: str) -> Reply:
        return Reply.of(self._row(self._one(number), request.first("statistics")))

    def all(self, request: Request) -> Reply:
        """GET /emailCampaigns: newest first; `startDate` and `endDate` are about when they were sent."""
        limit, offset = whole_number(request, "limit", 50, most=100), whole_number(request, "offset", 0)
        status = request.first("status")
        chosen = list(self.by_id.values())
        if status is not None:
            names = {"inProcess": "in_process"}
            chosen = [campaign for campaign in chosen if campaign.status == names.get(status, status)]
        start, end = request.first("startDate"), request.first("endDate")
        if start or end:
            if not start or not end:
                raise missing("startDate and endDate go together")
            if status not in (None, "sent"):
                raise invalid("startDate and endDate go with the status sent")
            try:
                first, last = datetime.fromisoformat(start), datetime.fromisoformat(end)
            except ValueError:
                raise invalid("startDate and endDate should be UTC date-times") from None
            first, last = (each if each.tzinfo else each.replace(tzinfo=UTC) for each in (first, last))
            chosen = [each for each in chosen if each.sent_at is not None and first <= each.sent_at <= last]
        since = self.times.now() - timedelta(days=STATISTICS_DAYS)
        rows = [self._row(campaign, request.first("statistics"), since) for campaign in chosen]
        if request.first("excludeHtmlContent") == "true":
            rows = [{name: value for name, value in row.items() if name != "htmlContent"} for row in rows]
        rows = rows if request.first("sort") == "asc" else rows[::-1]
        return Reply.of({"campaigns": rows[offset : offset + limit], "count": len(rows)} if rows else {"count": 0})

    def ab_result(self, request: Request, number: str) -> Reply:
        campaign = self._one(number)
        if not campaign.said.get("abTesting"):
            raise invalid("Campaign is no A/B test")
        counts = {version: Counter[str]() for version in "AB"}
        for contact, kinds in campaign.happened.items():
            counts["B" if contact in campaign.version_b else "A"].update(kinds.keys())
        kind = "click" if campaign.said.get("winnerCriteria") == "click" else "opened"
        a, b = counts["A"][kind], counts["B"][kind]
        delay = timedelta(hours=int(campaign.said.get("winnerDelay", 0)))
        if campaign.sent_at is None:
            winner = "notAvailable"
        elif self.times.now() < campaign.sent_at + delay:
            winner = "pending"
        else:
            winner = "tie" if a == b else "A" if a > b else "B"
        sizes = {"B": len(campaign.version_b), "A": len(campaign.recipients) - len(campaign.version_b)}

        def both(name: str) -> dict[str, str]:
            return {f"Version {version}": f"{counts[version][name]}" for version in "AB"}

        def rate(name: str) -> str:
            done = counts["A"][name] + counts["B"][name]
            return f"{100 * done / sum(sizes.values()):.2f}%" if sum(sizes.values()) else "0.00%"

        return Reply.of(
            {
                "winningVersion": winner,
                "winningCriteria": "Click" if kind == "click" else "Open",
                "winningSubjectLine": campaign.said["subjectB" if winner == "B" else "subjectA"],
                "openRate": rate("opened"),
                "clickRate": rate("click"),
                "winningVersionRate": rate(kind),
                "statistics": {
                    "openers": both("opened"), "clicks": both("click"), "unsubscribed": both("unsubscribed"),
                    "hardBounces": both("hard_bounce"), "softBounces": both("soft_bounce"), "complaints": both("spam"),
                },
                "clickedLinks": {"Version A": [], "Version B": []},
            }
        )  # fmt: skip

    def export(self, request: Request, number: str) -> Reply:
        """POST …/exportRecipients: 202 and a process, whose export_url leads to a CSV once it is completed."""
        campaign = self._one(number)
        kind = request.mapping.get("recipientsType")
        if kind not in EXPORTS and kind not in NEGATED:
            raise invalid("recipientsType is not valid")
        if campaign.status not in ("sent", "archive"):
            raise invalid("Campaign is not sent yet")

        def work() -> str:
            text = io.StringIO()
            writer = csv.writer(text, delimiter=";", lineterminator="\n")
            writer.writerow(["Email_ID", "Send_Date", "Delivered_Date", "Open_Date", "Click_Date"])
            for each in campaign.recipients:
                kinds = campaign.happened.get(each, {})
                wanted = EXPORTS.get(kind)
                if (wanted and wanted not in kinds) or (kind in NEGATED and NEGATED[kind] in kinds):
                    continue
                moments = [
                    kinds[name][0].isoformat() if name in kinds else "" for name in ("delivered", "opened", "click")
                ]
                sent = campaign.sent_at.isoformat() if campaign.sent_at else ""
                contact = self.contacts.by_id.get(each)
                writer.writerow([contact.email if contact else "", sent, *moments])
            return text.getvalue()

        return Reply.of(
            {"processId": self.processes.start("CAMPAIGN_PROCESSING", work, request.mapping.get("notifyURL"))}, 202
        )
