"""`fitserve webhooks`: create, list, change, test, log, redeliver, delete; `events`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fitserve.cli import screen
from fitserve.cli.session import Session, command

if TYPE_CHECKING:
    from fitserve.wire.webhooks import DeliveryInfo

group = typer.Typer(
    name="webhooks", no_args_is_help=True, help="Events sent to your address: create, test, log, redeliver."
)
WebhookId = Annotated[str, typer.Argument(help="The webhook's id, from `webhooks list`.")]


@command(
    group,
    "create",
    "fitserve webhooks create https://hooks.example.com/fitserve --event run.failed --event 'drift.*'",
    "fitserve webhooks create --channel team-chat --event automation.paused",
)
def create(
    session: Session,
    url: Annotated[str | None, typer.Argument(help="An https address. Left out with --channel.")] = None,
    event: Annotated[
        list[str] | None,
        typer.Option(help="A type, as run.failed; all of a noun, as 'run.*'. Repeatable. Default: all."),
    ] = None,
    channel: Annotated[str | None, typer.Option(help="A chat or mail channel that the operator has named.")] = None,
    secret: Annotated[str | None, typer.Option(help="whsec_ and base64. Default: the server makes one.")] = None,
    description: Annotated[str | None, typer.Option(help="What it is for.")] = None,
    all_owners: Annotated[bool, typer.Option("--all-owners", help="Of every owner's changes. Admins only.")] = False,
) -> None:
    """Send events to an address, or to one of the operator's channels. The secret is shown only once."""
    with session.client() as client:
        made = client.webhooks.create(
            url,
            events=event or ["*"],
            channel=channel,
            secret=secret,
            description=description,
            all_owners=all_owners,
        )
    session.show(made, screen.pairs({"id": made.id, "to": made.url or made.channel, "events": made.events}))
    if made.secret and not session.json:
        typer.echo(made.secret)
    session.hint(f"Try it: fitserve webhooks test {made.id}")


@command(group, "list", "fitserve webhooks list", "fitserve webhooks list --json")
def list_(session: Session) -> None:
    """List webhooks, without their secrets."""
    with session.client() as client:
        webhooks = list(client.webhooks.list())
    rows = [
        (
            one.id,
            one.url or one.channel,
            one.events,
            f"disabled: {one.disabled_reason}" if not one.enabled else "failing" if one.failing_since else "on",
            one.owner,
            screen.age(one.created_at),
        )
        for one in webhooks
    ]
    names = ("id", "to", "events", "state", "owner", "created")
    session.show(webhooks, screen.table(names, rows, droppable=("created", "owner")))


@command(
    group,
    "change",
    "fitserve webhooks change wh_01kb... --disable",
    "fitserve webhooks change wh_01kb... --event 'run.*'",
)
def change(
    session: Session,
    webhook: WebhookId,
    url: Annotated[str | None, typer.Option(help="Another address.")] = None,
    event: Annotated[list[str] | None, typer.Option(help="Other types of events. Repeatable.")] = None,
    secret: Annotated[str | None, typer.Option(help="A new secret; the old one signs too for 24 hours.")] = None,
    description: Annotated[str | None, typer.Option(help="What it is for.")] = None,
    enabled: Annotated[bool | None, typer.Option("--enable/--disable", help="Whether events are sent.")] = None,
) -> None:
    """Change a webhook; omitted settings stay as they are."""
    with session.client() as client:
        row = client.webhooks.change(
            webhook, url=url, events=event or None, secret=secret, description=description, enabled=enabled
        )
    session.show(
        row, screen.pairs({"id": row.id, "to": row.url or row.channel, "events": row.events, "on": row.enabled})
    )


@command(group, "test", "fitserve webhooks test wh_01kb...")
def test(session: Session, webhook: WebhookId) -> None:
    """Send a test event to a webhook."""
    with session.client() as client:
        sent = client.webhooks.test(webhook)
    session.show(sent, f"A test is on its way: {sent.event}.")
    session.hint(f"How it went: fitserve webhooks log {webhook}")


@command(group, "log", "fitserve webhooks log wh_01kb...", "fitserve webhooks log wh_01kb... --state failed")
def log(
    session: Session,
    webhook: WebhookId,
    state: Annotated[str | None, typer.Option(help="pending, delivered or failed.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 20,
) -> None:
    """List a webhook's deliveries, newest first."""
    with session.client() as client:
        deliveries = list(client.webhooks.deliveries(webhook, state=state, limit=limit))
    rows = [
        (one.id, one.type, one.state, one.attempts, _last(one), screen.age(one.next_at), screen.age(one.created_at))
        for one in deliveries
    ]
    names = ("id", "event", "state", "attempts", "last answer", "next", "created")
    session.show(deliveries, screen.table(names, rows, droppable=("created", "next")))


def _last(delivery: DeliveryInfo) -> str:
    if not delivery.log:
        return ""
    last = delivery.log[-1]
    return str(last.status) if last.error is None else last.error


@command(group, "redeliver", "fitserve webhooks redeliver wh_01kb... dlv_01kb...")
def redeliver(
    session: Session,
    webhook: WebhookId,
    delivery: Annotated[str, typer.Argument(help="The delivery's id, from `webhooks log`.")],
) -> None:
    """Deliver an event again, at once, under the same id."""
    with session.client() as client:
        sent = client.webhooks.redeliver(webhook, delivery)
    session.show(sent, f"{sent.event} is on its way again.")


@command(group, "delete", "fitserve webhooks delete wh_01kb...")
def delete(session: Session, webhook: WebhookId) -> None:
    """Delete a webhook and its log."""
    with session.client() as client:
        client.webhooks.delete(webhook)
    session.show({"id": webhook}, f"The webhook {webhook} is deleted.")


@command(group, "events", "fitserve webhooks events", "fitserve webhooks events --type run.failed")
def events(
    session: Session,
    type: Annotated[str | None, typer.Option(help="Only events of this type.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 20,
) -> None:
    """List the events that webhooks receive, newest first."""
    with session.client() as client:
        listed = list(client.webhooks.events(type=type, limit=limit))
    rows = [(one.id, one.type, str(one.data)[:80], screen.age(one.created_at)) for one in listed]
    session.show(listed, screen.table(("id", "event", "data", "when"), rows, droppable=("data",)))
