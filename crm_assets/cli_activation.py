"""`crm activation …`: what a person asks of campaigns that leave. The work is in `operations.py`, `test_sends.py` and
`rearming.py`; here it is asked for, and told. Registered by `cli.py`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from crm_assets.settings import Settings

if TYPE_CHECKING:
    from crm_assets.operations import Estate
    from crm_assets.resources.brevo import Brevo, Mode

Result = dict[str, Any]


class Commands:
    """The subcommands. `say` tells a person, `refused` makes the error that ends a command with its reason."""

    def __init__(self, say: Callable[[str], None], refused: type[Exception]) -> None:
        self.say = say
        self.refused = refused

    def register(
        self,
        add: Callable[..., argparse.ArgumentParser],
        add_tenant: Callable[[argparse.ArgumentParser], None],
        within: Any,
    ) -> None:
        """Add the subcommands to the parser of `crm activation`."""

        def made(name: str, function: Callable[..., Any], text: str, campaign: bool | None, by: bool) -> Any:
            parser = add(name, function, text, within)
            add_tenant(parser)
            if campaign is not None:
                parser.add_argument("--campaign", required=campaign, metavar="C", help="name of a campaign file")
            if by:
                parser.add_argument("--by", required=True, metavar="NAME", help="the person who decides")
            return parser

        made(
            "status",
            self.status,
            "where campaigns stand, what waits, what is unknown, whether live is armed",
            None,
            False,
        )
        stop = made(
            "stop", self.stop, "stop a campaign, or all: nothing more leaves after the call under way", False, True
        )
        stop.add_argument("--reason", required=True, metavar="TEXT")
        made("resume", self.resume, "end the stop of a campaign, or the stop of all", False, True)
        confirm = made("confirm", self.confirm, "let exactly the plan of a hash go live", True, True)
        confirm.add_argument("--hash", required=True, metavar="HASH", help="plan hash, as crm plan printed it")
        made("test", self.test, "send a campaign's messages to the estate's test addresses", True, False)
        made("accept-test", self.accept_test, "accept the newest test of a campaign's templates", True, True)
        retry = made("retry", self.retry, "plan again the messages that Brevo has refused", True, True)
        abandon = made("abandon", self.abandon, "give up the messages of an occurrence that have not left", True, True)
        for parser in (confirm, retry, abandon):
            parser.add_argument("--occurrence", metavar="O", help="once, or an ISO week; default: the newest")
        reconcile = made(
            "reconcile", self.reconcile, "look unknown calls up in Brevo's log, or decide one", None, False
        )
        reconcile.add_argument("--tag", metavar="TAG", help="the call to decide on")
        reconcile.add_argument("--as", dest="decision", choices=("sent", "failed"), help="what became of it")
        reconcile.add_argument("--by", default="", metavar="NAME", help="the person who decides")
        made("rearm", self.rearm, "read back from Brevo what the ledger lacks, and arm live sending again", None, True)

    # --- what every command needs

    def _estate(self, config: Settings, args: argparse.Namespace) -> Estate:
        from crm_assets import databases
        from crm_assets.operations import Estate
        from crm_assets.resources.warehouse import Warehouse
        from crm_assets.tenants import Registry

        tenant = Registry(config.tenants).get(args.tenant)
        url = databases.ensure_tenant(databases.cluster(config), tenant.slug)
        return Estate(tenant, Warehouse(url, application_name="crm-cli"), config)

    @contextmanager
    def _alone(self, config: Settings, args: argparse.Namespace) -> Iterator[Estate]:
        """The estate while no run of it is under way: a send among them."""
        from crm_assets import run_context
        from crm_assets.operations import Estate
        from crm_assets.tenants import Registry

        with run_context.tenant_run(Registry(config.tenants).get(args.tenant), say=self.say) as run:
            yield Estate(run.tenant, run.warehouse, run.config)

    def _client(self, estate: Estate, mode: Mode) -> Brevo:
        from crm_assets.clock import SystemClock
        from crm_assets.resources import brevo

        try:
            return brevo.client(estate.tenant, estate.config, SystemClock(), mode=mode)
        except brevo.LiveRefusedError as error:
            raise self.refused(str(error)) from None

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        from crm_assets.logic.activation import RefusalError

        try:
            yield
        except RefusalError as error:
            raise self.refused(str(error)) from error

    # --- the commands

    def status(self, config: Settings, args: argparse.Namespace) -> Result:
        from crm_assets import operations

        found = operations.status(self._estate(config, args), _now())
        for line in operations.status_lines(found):
            self.say(line)
        return found

    def stop(self, config: Settings, args: argparse.Namespace) -> Result:
        from crm_assets import operations

        with self._refusals():
            result = operations.stop(self._estate(config, args), args.campaign, args.reason, args.by, _now())
        self.say(f"{_named(result['campaign'])} stopped by {result['stopped_by']}: no call follows the one under way")
        return result

    def resume(self, config: Settings, args: argparse.Namespace) -> Result:
        from crm_assets import operations

        with self._refusals():
            result = operations.resume(self._estate(config, args), args.campaign, args.by, _now())
        self.say(f"{result['ended']} stops of {_named(result['campaign'])} ended by {result['resumed_by']}")
        for each in result["still_stopped"]:
            self.say(f"still stopped: {_named(each['campaign'])}: {each['reason']}")
        return result

    def confirm(self, config: Settings, args: argparse.Namespace) -> Result:
        from crm_assets import operations

        with self._refusals():
            result = operations.confirm(
                *(self._estate(config, args), args.campaign, args.hash, args.by, _now()),
                occurrence=args.occurrence,
            )
        self.say(
            f"plan of {result['campaign']} {result['occurrence']} step {result['step']}, {result['audience']} messages:"
            f" confirmed by {result['confirmed_by']}; nothing has been sent by this"
        )
        return result

    def test(self, config: Settings, args: argparse.Namespace) -> Result:
        from crm_assets import test_sends
        from crm_assets.clock import SystemClock

        estate = self._estate(config, args)
        with self._refusals(), self._client(estate, "live") as client:
            sent = test_sends.send_test(estate, args.campaign, client, SystemClock())
        self.say(f"{sent.messages} messages to each of {sent.addresses} test addresses: {sent.outcome} ({sent.reason})")
        return {"tenant": estate.tenant.slug, **sent.as_dict()}

    def accept_test(self, config: Settings, args: argparse.Namespace) -> Result:
        from crm_assets import test_sends
        from crm_assets.clock import SystemClock

        with self._refusals():
            result = test_sends.accept_test(self._estate(config, args), args.campaign, SystemClock(), by=args.by)
        self.say(f"test of {result['campaign']} ({result['template_hash']}) accepted by {result['accepted_by']}")
        return result

    def retry(self, config: Settings, args: argparse.Namespace) -> Result:
        from crm_assets import operations

        with self._refusals(), self._alone(config, args) as estate:
            result = operations.retry(estate, args.campaign, args.by, _now(), args.occurrence)
        self.say(f"{result['planned_again']} messages planned again, {result['still_failed']} stay dead letters")
        return result

    def abandon(self, config: Settings, args: argparse.Namespace) -> Result:
        from crm_assets import operations

        with self._refusals():
            result = operations.abandon(self._estate(config, args), args.campaign, args.by, _now(), args.occurrence)
        self.say(f"{result['given_up']} messages of {result['campaign']} {result['occurrence']} given up")
        return result

    def reconcile(self, config: Settings, args: argparse.Namespace) -> Result:
        from crm_assets import operations
        from crm_assets.clock import SystemClock

        if bool(args.decision) != bool(args.tag):
            raise self.refused("--tag and --as go together: which call, and what became of it")
        with self._refusals(), self._alone(config, args) as estate:
            if args.decision:
                result = operations.decide(estate, args.tag, args.decision == "sent", args.by, _now())
                self.say(f"{result['messages']} messages of {args.tag} are {result['decided']}, says {result['by']}")
                return result
            with self._client(estate, "read") as client:
                result = operations.look_up(estate, client, SystemClock())
        self.say(
            f"{result['n_sent']} messages found; calls that never arrived: {len(result['absent'])}, still unknown:"
            f" {len(result['waiting']) + len(result['partial'])}"
        )
        if result["problem"]:
            self.say(f"the log could not be read: {result['problem']}")
        return result

    def rearm(self, config: Settings, args: argparse.Namespace) -> Result:
        from crm_assets import rearming
        from crm_assets.clock import SystemClock

        with self._refusals(), self._alone(config, args) as estate, self._client(estate, "read") as client:
            found = rearming.rearm(estate, client, SystemClock(), by=args.by)
        self.say(
            f"live sending is armed, by {found.armed_by}. Brevo's log since {found.read_from}: {found.n_log} messages"
            f" of ours, {found.marked_sent} marked as sent in the ledger, {found.added} added to it"
        )
        return found.as_dict()


def _now() -> Any:
    from crm_assets.clock import SystemClock

    return SystemClock().now()


def _named(campaign: str) -> str:
    return "all campaigns" if campaign == "*" else f"campaign {campaign}"
