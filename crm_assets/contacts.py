"""Contacts and lists at Brevo kept as the estate knows its customers: what changed, nothing else (spec.md §7).

Only people whom we may write to and who have refused nothing are handed over; whoever refuses leaves our lists, first
of all. Attributes are made before they are written and read back once they are; a row that Brevo has not accepted is
part of the next sync. Lists are mirrors: their members are read, so that a lost answer needs no settling. What may be
handed over is decided in `logic/contacts.py`; no message is sent, and nobody's refusal can be lifted.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd

from crm_assets import attempts, feedback, gating, instances
from crm_assets.activation import gate_in_force
from crm_assets.clock import Clock
from crm_assets.logic import brevo_requests as requests
from crm_assets.logic import contacts as rules_of
from crm_assets.logic.activation import Gate, RefusalError, require_open
from crm_assets.logic.brevo_answers import Answer, Reason
from crm_assets.logic.brevo_rows import Contact
from crm_assets.logic.brevo_rows import address as address_of
from crm_assets.logic.contacts import ATTRIBUTES, EVERYBODY
from crm_assets.logic.gate import NO_ELIGIBLE_CUSTOMER
from crm_assets.rendering import texts
from crm_assets.resources import brevo
from crm_assets.resources.brevo import Brevo
from crm_assets.run_context import TenantRun

log = logging.getLogger("crm.brevo")

_MEMBERS = ["list_key", "address"]
_READ_BACKS = 3  # of a contact just written: Brevo may need a moment
_CHECKED_ROWS = 50  # written one by one: who of them has refused is asked again so often


@dataclass(frozen=True)
class ContactsSummary:
    """What a sync did, or in a dry run would do, in counts. `handed_over`: people who may be; `changed`: of them, those
    whose attributes are new; `accepted`: of those, what Brevo took; `added`, `removed`: memberships; `failed`: rows
    that the next sync tries again. `problem`: why it ended early.
    """

    dry_run: bool
    handed_over: int = 0
    changed: int = 0
    accepted: int = 0
    added: int = 0
    removed: int = 0
    failed: int = 0
    refused: int = 0  # people who must be in none of our lists, and were handed over once
    attributes_created: int = 0
    lists_created: int = 0
    problem: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class _StoppedError(Exception):
    """The rest would fare no better; the message says what to do."""


@dataclass
class _Sync:
    """One sync under way. `lists`: list_key -> Brevo's id; `members`: who is in them; `hashes`: what was accepted."""

    run: TenantRun
    client: Brevo
    clock: Clock
    counts: Counter[str] = field(default_factory=Counter)
    lists: dict[str, int] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    failures: int = 0
    members: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=_MEMBERS))

    def __post_init__(self) -> None:
        warehouse = self.run.warehouse
        lists = warehouse.rows("select list_key, list_id from activation.contact_lists")
        self.lists = {key: int(list_id) for key, list_id in lists}
        self.hashes = dict(
            warehouse.rows("select address, row_hash from activation.contacts where row_hash is not null")
        )

    # --- who

    def _barred(self, addresses: Iterable[str]) -> set[str]:
        """Those of the addresses that must not be handed over, as of this moment."""
        with self.run.warehouse.transaction() as connection:
            return set(feedback.barred(connection, list(addresses)))

    def wanted(self, gate: Gate) -> pd.DataFrame:
        """Rows of `logic.contacts.handed_over` by the gate in force."""
        people = _people(self.run, gate)
        return rules_of.handed_over(rules_of.allowed(people, self._barred(people["address"].dropna())))

    # --- a dry run

    def told(self, wanted: pd.DataFrame) -> None:
        """Count what would change, by what is known here, and record it as what it is: a dry run."""
        known = self.run.warehouse.query(
            "select lists.list_key, contacts.address from activation.contacts as contacts"
            " cross join unnest(contacts.list_ids) as known (list_id)"
            " inner join activation.contact_lists as lists on known.list_id = lists.list_id"
        )
        moves = rules_of.moves(wanted, known)
        changed = rules_of.changed(wanted, self.hashes)
        self.counts.update(changed=len(changed), added=len(moves.added), removed=len(moves.removed))
        keys = set(wanted["list_keys"].explode().dropna())
        self.counts["lists_created"] = len(keys - self.lists.keys())
        now = self.clock.now()
        with self.run.warehouse.transaction() as connection:
            for endpoint, rows in (
                ("POST /contacts", changed["address"] + changed["row_hash"]),
                ("POST /contacts/lists/{listId}/contacts/add", moves.added["list_key"] + moves.added["address"]),
                ("POST /contacts/lists/{listId}/contacts/remove", moves.removed["list_key"] + moves.removed["address"]),
            ):
                if rows.empty:
                    continue
                content = "\n".join(rows).encode()
                digest = hashlib.sha256(content).hexdigest()
                attempt_id = attempts.begin(
                    connection, endpoint, content, len(rows), now, is_dry_run=True,
                    attempt_id=hashlib.sha256(f"dry_run {endpoint} {digest}".encode()).hexdigest()[:16],
                )  # fmt: skip
                attempts.end(connection, attempt_id, Answer("dry_run", "dry_run"), now)

    # --- calls

    def _write(self, request: requests.WriteRequest) -> Answer:
        """One call. It is made again only where nothing has left, after a wait; _StoppedError where that is no use."""
        rules = self.run.rules
        for n_try in range(1, rules.activation.not_sent_tries + 1):
            answer = attempts.write(self.run.warehouse, self.client, request, self.clock)
            if answer.outcome != "not_sent":
                break
            first = rules.brevo.backoff_seconds.first * 2 ** (n_try - 1)
            wait = answer.retry_after if answer.retry_after is not None else first
            passes = answer.reason in ("throttled", "not_connected") and wait <= rules.brevo.backoff_seconds.most
            if not passes or n_try == rules.activation.not_sent_tries:
                raise _StoppedError(brevo.advice(answer.reason, self.run.tenant))
            self.clock.sleep(wait)
        if answer.outcome == "accepted":
            self.failures = 0
            return answer
        self.counts["failed"] += request.n_rows
        self.failures += 1
        if self.failures >= rules.brevo.contacts.give_up_after:
            raise _StoppedError(
                f"{self.failures} calls in a row failed, the last with: {brevo.advice(answer.reason, self.run.tenant)}"
            )
        return answer

    def _made(self, request: requests.WriteRequest) -> int:
        """The id of what a call made. A lost answer ends the sync: the next one finds by its name what was made."""
        answer = self._write(request)
        said = _said(answer)
        if answer.outcome != "accepted" or not isinstance(said.get("id"), int):
            raise _StoppedError(f"{request.endpoint}: {_problem(answer, self.run)}")
        return int(said["id"])

    # --- lists

    def find_lists(self, keys: Iterable[str]) -> set[str]:
        """Folder and lists as Brevo has them; those that are missing are made. Keys of those that were found by name:
        an earlier sync made them and never knew.
        """
        tenant = self.run.tenant
        there = self.client.lists()
        ids = {each.list_id for each in there}
        missing = [key for key in sorted(set(keys)) if self.lists.get(key) not in ids]
        self.lists = {key: list_id for key, list_id in self.lists.items() if list_id in ids}
        if not missing:
            return set()
        folders = {folder.name: folder.folder_id for folder in reversed(self.client.folders())}
        folder_id = folders.get(tenant.brevo.folder) or self._made(requests.create_folder(tenant.brevo.folder))
        by_name = {each.name: each.list_id for each in reversed(there) if each.folder_id == folder_id}
        found = set()
        for key in missing:
            name = list_name(key, tenant.slug, tenant.locale)
            if name in by_name:
                self.lists[key] = by_name[name]
                found.add(key)
            else:
                self.lists[key] = self._made(requests.create_list(name, folder_id))
                self.counts["lists_created"] += 1
            self.run.warehouse.execute(
                "insert into activation.contact_lists (list_key, list_id, name, created_at) values (%s, %s, %s, %s)"
                " on conflict (list_key) do update set list_id = excluded.list_id, name = excluded.name",
                [key, self.lists[key], name, self.clock.now()],
            )
        return found

    def read_members(self, keys: Iterable[str]) -> None:
        """Who is in these lists of ours; refusals that show there are kept."""
        rows: list[tuple[str, str]] = []
        refused: dict[str, Contact] = {}
        for key in sorted(keys):
            for contact in self.client.list_contacts(self.lists[key]):
                if contact.email is None:
                    continue
                rows.append((key, contact.email))
                if contact.is_unsubscribed or contact.unsubscribed_list_ids:
                    refused[contact.email] = contact
        self._joined(rows)
        self._keep_refusals(refused.values())

    def _keep_refusals(self, refused: Iterable[Contact]) -> None:
        said = [(contact.email, True, contact.modified_at, True) for contact in refused]
        columns = ["address", "is_unsubscribed", "refused_at", "is_unsubscribed_now"]
        with self.run.warehouse.transaction() as connection:
            feedback.keep_refusals(connection, pd.DataFrame(said, columns=columns), self.clock.now())

    def move(self, what: str, rows: pd.DataFrame) -> None:
        """Put addresses into lists (`added`) or take them off (`removed`), as far as Brevo does it row by row."""
        most = self.run.rules.brevo.contacts.list_max_rows
        request = requests.add_to_list if what == "added" else requests.remove_from_list
        for key, named in rows.groupby("list_key", sort=True):
            addresses = named["address"].tolist()
            for start in range(0, len(addresses), most):
                part = addresses[start : start + most]
                if what == "added":
                    barred = self._barred(part)
                    part = [address for address in part if address not in barred]
                if part:
                    self._moved(what, str(key), part, self._write(request(self.lists[str(key)], part)))

    def _moved(self, what: str, key: str, part: Sequence[str], answer: Answer) -> None:
        if answer.outcome != "accepted":
            return
        told = _said(answer).get("contacts")
        done = {address_of(str(address)) for address in (told or {}).get("success") or []} & set(part)
        self.counts[what] += len(done)
        self.counts["failed"] += len(part) - len(done)
        if what == "added":
            self._joined([(key, address) for address in sorted(done)])
        else:
            gone = (self.members["list_key"] == key) & self.members["address"].isin(done)
            self.members = self.members[~gone]

    def _joined(self, rows: Sequence[tuple[str, str]]) -> None:
        more = pd.DataFrame(list(rows), columns=_MEMBERS)
        self.members = pd.concat([self.members, more], ignore_index=True).drop_duplicates(ignore_index=True)

    # --- contacts

    def make_attributes(self) -> None:
        """Every attribute is there, with its type, before it is first written."""
        known = self.client.attributes()
        for name in rules_of.attributes_missing(known):
            self._write(requests.create_attribute(name, ATTRIBUTES[name]))
            self.counts["attributes_created"] += 1
        if self.counts["attributes_created"]:
            known = self.client.attributes()
        missing, wrong = rules_of.attributes_missing(known), rules_of.attributes_of_another_type(known)
        if missing or wrong:
            raise _StoppedError(
                "Brevo would drop what is written without a word: attributes missing there:"
                f" {', '.join(missing) or 'none'}; of another type there: {', '.join(wrong) or 'none'}."
                " Rename or delete those in Brevo (Contacts, Settings), then sync again"
            )

    def hand_over(self, changed: pd.DataFrame) -> None:
        """Write changed rows: the first alone and read back, many by imports, the others one by one."""
        rows = [{str(name): value for name, value in row.items()} for row in changed.to_dict("records")]
        limits = self.run.rules.brevo.contacts
        rest = self._allowed(rows)
        is_probed = False
        while rest and not is_probed:
            is_probed = self._upserted(rest.pop(0), is_read_back=True)
        # What is unknown now and was known before is blanked; an import leaves it as it was.
        known = [row for row in rest if row["address"] in self.hashes]
        blanked = {row["address"] for row in known if any(pd.isna(row[name]) for name in ATTRIBUTES)}
        if len(rest) - len(blanked) >= limits.import_from_rows:
            self._import([row for row in rest if row["address"] not in blanked])
            rest = [row for row in rest if row["address"] in blanked]
        for start in range(0, len(rest), _CHECKED_ROWS):
            for row in self._allowed(rest[start : start + _CHECKED_ROWS]):
                self._upserted(row)

    def _allowed(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The rows without whoever has refused meanwhile."""
        barred = self._barred(row["address"] for row in rows)
        return [row for row in rows if row["address"] not in barred]

    def _upserted(self, row: dict[str, Any], *, is_read_back: bool = False) -> bool:
        """Write one contact; whether Brevo took it."""
        written = rules_of.contact_row(row, clears=row["address"] in self.hashes)
        if self._write(requests.upsert_contact(written)).outcome != "accepted":
            return False
        if is_read_back:
            self._read_back(written)
        self._accepted([row])
        return True

    def _read_back(self, written: requests.ContactRow) -> None:
        """_StoppedError unless Brevo has the contact as it was written."""
        for n_read in range(_READ_BACKS):
            if n_read:
                self.clock.sleep(self.run.rules.brevo.backoff_seconds.first)
            found = self.client.contact(written.email)
            if found is not None:
                break
        if found is None:
            raise _StoppedError("Brevo accepted a contact and does not show it: nothing is taken for handed over")
        if found.is_unsubscribed or found.unsubscribed_list_ids:
            self._keep_refusals([found])
        if dropped := rules_of.differs(written, found.attributes):
            names = ", ".join(dropped)
            raise _StoppedError(f"Brevo has not kept what was written to {names}: look at their types there")

    def _import(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write many contacts by imports, each waited for."""
        limit = self.run.rules.brevo.contacts.import_max_bytes
        # Each takes minutes, in which people refuse: who is left is asked before each.
        while rows := self._allowed(rows):
            written = (rules_of.contact_row(row, clears=False) for row in rows)
            request = next(requests.import_contacts(written, self.lists[EVERYBODY], limit))
            part, rows = rows[: request.n_rows], rows[request.n_rows :]
            said = _said(answer) if (answer := self._write(request)).outcome == "accepted" else {}
            if not isinstance(said.get("processId"), int):
                continue  # nothing of it is known to be there: it is part of the next sync
            if not self._imported(int(said["processId"]), part):
                self.counts["failed"] += len(part)

    def _imported(self, process_id: int, part: Sequence[dict[str, Any]]) -> bool:
        """Wait for an import; whether it is over, and well."""
        rules = self.run.rules.brevo.contacts
        for _ in range(rules.process_polls):
            self.clock.sleep(rules.process_poll_seconds)
            process = self.client.process(process_id)
            if process.is_over:
                break
        if process.status != "completed":
            return False
        taken = list(part)
        if process.n_invalid or process.has_error:
            # It does not say who was left out: those who are in the list were not.
            there = {contact.email for contact in self.client.list_contacts(self.lists[EVERYBODY])}
            taken = [row for row in part if row["address"] in there]
            self.counts["failed"] += len(part) - len(taken)
        if taken:
            self._read_back(rules_of.contact_row(taken[0], clears=False))
            self._accepted(taken)
            self._joined([(EVERYBODY, row["address"]) for row in taken])
        return True

    def _accepted(self, rows: Sequence[dict[str, Any]]) -> None:
        """Remember what Brevo has taken."""
        hashes = {row["address"]: row["row_hash"] for row in rows}
        self.run.warehouse.execute(
            "insert into activation.contacts (address, is_unsubscribed, is_blocked, row_hash, updated_at)"
            " select said.address, false, false, said.row_hash, %s"
            " from unnest(%s::text[], %s::text[]) as said (address, row_hash)"
            " on conflict (address) do update set row_hash = excluded.row_hash, updated_at = excluded.updated_at",
            [self.clock.now(), list(hashes), list(hashes.values())],
        )
        self.hashes |= hashes
        self.counts["accepted"] += len(rows)

    def keep_members(self) -> None:
        """Remember who is in which of our lists."""
        ids = self.members["list_key"].map(self.lists)
        with self.run.warehouse.transaction() as connection:
            connection.execute(
                "with said as (select address, array_agg(list_id order by list_id) as list_ids"
                " from unnest(%s::text[], %s::bigint[]) as said (address, list_id) group by address),"
                " gone as (update activation.contacts as known set list_ids = '{}', updated_at = %s"
                " where cardinality(known.list_ids) > 0"
                " and not exists (select from said where said.address = known.address))"
                " insert into activation.contacts as known (address, is_unsubscribed, is_blocked, list_ids, updated_at)"
                " select address, false, false, list_ids, %s from said"
                " on conflict (address) do update set list_ids = excluded.list_ids, updated_at = excluded.updated_at"
                " where known.list_ids is distinct from excluded.list_ids",
                [self.members["address"].tolist(), ids.tolist(), self.clock.now(), self.clock.now()],
            )

    def summary(self, problem: str | None = None) -> ContactsSummary:
        return ContactsSummary(dry_run=self.client.is_dry_run, problem=problem, **self.counts)


def _said(answer: Answer) -> dict[str, Any]:
    """The answer's object; empty when it says none."""
    try:
        said = answer.json()
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _problem(answer: Answer, run: TenantRun) -> str:
    reason: Reason = "unreadable" if answer.outcome == "accepted" else answer.reason
    return brevo.advice(reason, run.tenant)


def list_name(key: str, slug: str, locale: str) -> str:
    """What a list is called at Brevo, in the estate's language; estates that share an account are told apart."""
    kind, _, value = key.partition(":")
    wording = texts(locale)
    return str(wording["contact_list"][kind].format(slug=slug, name=wording.get(kind, {}).get(value, value)))


def _people(run: TenantRun, gate: Gate) -> pd.DataFrame:
    """One row per customer of the gate's run, with all that a contact may show."""
    warehouse, which = run.warehouse, [gate.run_id]
    facts = ["customer_id", "client_code", "email", "is_email_contact", "is_refused", "is_bounced", "last_order_date"]
    cards = ["customer_id", "first_name", "last_name", "profiling_objected"]
    people = warehouse.read("gate", "next_actions", ["customer_id", "permitted", "scenario"], "run_id = %s", which)
    items = gating.listed_items(warehouse, gate.run_id, ["customer_id", "product_key", "rank"])
    labels = warehouse.read("curated", "dim_products", ["product_key", "label"])
    top = items[items["rank"] == 1].merge(labels, on="product_key", how="left")
    for more in (
        warehouse.read("audit", "customer_facts", facts).rename(columns={"email": "address"}),
        warehouse.read("curated", "dim_customers", cards),
        warehouse.read("rfm", "customer_rfm", ["customer_id", "segment"]),
        warehouse.read("customers", "clusters", ["customer_id", "cluster_name"]),
        warehouse.read("customers", "predictions", ["customer_id", "lead_score", "probability_90d"]),
        top.rename(columns={"label": "top_wine"})[["customer_id", "top_wine"]],
    ):
        people = people.merge(more, on="customer_id", how="left", validate="one_to_one")
    return people


def _require_fresh(run: TenantRun, client: Brevo, clock: Clock) -> None:
    """RefusalError unless all refusals have been read from Brevo lately."""
    if feedback.is_fresh(run.warehouse, run.rules, clock.now()):
        return
    pulled = feedback.pull(run.warehouse, run.tenant, client, run.rules, clock, feedback.REFUSALS)
    if pulled.failed:
        raise RefusalError(
            "REFUSALS_UNREADABLE",
            f"refusals could not be read from Brevo ({', '.join(pulled.failed.values())}): nobody is handed over",
        )


def sync(run: TenantRun, client: Brevo, clock: Clock) -> ContactsSummary:
    """Bring contacts and lists at Brevo to what the gate in force knows; a dry client counts what would change.

    RefusalError when it may not be done; what Brevo refuses on the way ends it, and is said in the summary.
    """
    tenant = run.tenant
    if run.is_historical:
        raise RefusalError("HISTORICAL", "the past is not handed over: sync without a day")
    work = _Sync(run, client, clock)
    if client.is_dry_run:
        wanted = work.wanted(_gate(run))
        work.counts["handed_over"] = len(wanted)
        work.told(wanted)
        return work.summary()
    if not tenant.brevo.sync_contacts:
        raise RefusalError("CONTACTS_OFF", f"tenants/{tenant.slug}.yaml says brevo.sync_contacts: false")
    instances.require_armed(run.warehouse, run.config, tenant.slug)
    _require_fresh(run, client, clock)
    try:
        work.find_lists(work.lists)
        work.read_members(work.lists)
        # Whoever refused leaves first, whatever else may be wrong today.
        barred = work._barred(work.members["address"].unique())
        work.counts["refused"] = len(barred)
        work.move("removed", work.members[work.members["address"].isin(barred)])
        wanted = work.wanted(_gate(run))
        work.counts["handed_over"] = len(wanted)
        work.read_members(work.find_lists(wanted["list_keys"].explode().dropna()))
        work.move("removed", rules_of.moves(wanted, work.members).removed)
        changed = rules_of.changed(wanted, work.hashes)
        work.counts["changed"] = len(changed)
        if len(changed):
            work.make_attributes()
            work.hand_over(changed)
        added = rules_of.moves(wanted, work.members).added
        work.move("added", added[added["address"].isin(work.hashes)])
    except (_StoppedError, brevo.BrevoUnavailableError) as error:
        return work.summary(str(error))
    finally:
        work.keep_members()
    return work.summary()


def _gate(run: TenantRun) -> Gate:
    """The gate in force; that nobody's list of wines has passed audit and review says nothing of a contact."""
    return require_open(gate_in_force(run.warehouse), run.as_of, run.rules, despite=frozenset({NO_ELIGIBLE_CUSTOMER}))
