"""The thread that delivers events to webhooks and channels; any number of processes may have one."""

from __future__ import annotations

import json
import logging
import threading
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from sqlalchemy import Engine

from fitserve import events, telemetry, webhooks
from fitserve.crash_points import crash_point
from fitserve.errors import FitserveError
from fitserve.outgoing import ForbiddenAddress, NoAnswer
from fitserve.sealing import Unreadable
from fitserve.settings import Settings
from fitserve.webhooks import ClaimedDelivery, DeliveryOutcome

log = logging.getLogger(__name__)

THREADS = 8
POLL_SECONDS = 1.0


class Deliverer(threading.Thread):
    """Delivery loop: creates deliveries for new events, and sends those that are due."""

    def __init__(self, settings: Settings, engine: Engine, stopping: threading.Event) -> None:
        super().__init__(name="deliveries", daemon=True)
        self.settings, self.engine, self.stopping = settings, engine, stopping
        self._outgoing = webhooks.outgoing(settings)
        self._busy: list[threading.Thread] = []
        self._ended = threading.Event()  # set when a delivery has ended: there may be room for the next

    def run(self) -> None:
        """Deliver until `stopping` is set. A delivery that is interrupted then is sent again once its lease expires."""
        while not self.stopping.is_set():
            count, self._busy = 0, [one for one in self._busy if one.is_alive()]
            try:
                count = webhooks.dispatch(self.engine)
                if len(self._busy) < THREADS:
                    claimed = webhooks.claim(self.engine, THREADS - len(self._busy), self._lease)
                    count += len(claimed)
                    for one in claimed:
                        # No thread pool: a stopping interpreter would wait for its threads.
                        thread = threading.Thread(target=self.deliver, args=(one,), name="delivery", daemon=True)
                        self._busy.append(thread)
                        thread.start()
            except FitserveError as error:
                log.warning("deliveries wait", extra={"error": error.detail})
            except Exception:
                log.exception("deliveries wait")
            if not count:
                self._ended.wait(POLL_SECONDS)
                self._ended.clear()

    @property
    def _lease(self) -> float:
        return self.settings.webhook_seconds + self.settings.lease_seconds

    def deliver(self, claimed: ClaimedDelivery) -> None:
        """Send one event once, and record the outcome."""
        began = time.monotonic()
        try:
            outcome = self._send_to_channel(claimed) if claimed.url is None else self._post(claimed, claimed.url)
        except Exception:
            log.exception("a delivery failed by a fault of ours", extra={"delivery": claimed.id})
            outcome = DeliveryOutcome(False, time.monotonic() - began, error="Internal error: see the server's log.")
        crash_point("webhooks.after_answer")
        telemetry.DELIVERY_SECONDS.observe(outcome.seconds)
        try:
            state = webhooks.finish(self.engine, claimed, outcome, self.settings)
        except FitserveError as error:
            log.warning("a delivery's outcome is not written", extra={"delivery": claimed.id, "error": error.detail})
            return
        finally:
            self._ended.set()
        if state is not None:
            telemetry.DELIVERIES.labels("retried" if state == "pending" else state).inc()

    def _post(self, claimed: ClaimedDelivery, url: str) -> DeliveryOutcome:
        began, seconds = time.monotonic(), self.settings.webhook_seconds
        try:
            headers = webhooks.headers(claimed, datetime.now(UTC), self.settings)
            with self._outgoing.request("POST", url, headers=headers, body=claimed.body, seconds=seconds) as answer:
                status, retry_after = answer.status, _seconds(answer.headers.get("Retry-After"))
        except (ForbiddenAddress, NoAnswer, Unreadable) as error:
            return DeliveryOutcome(False, time.monotonic() - began, error=error.detail)
        took = time.monotonic() - began
        if 200 <= status < 300:
            return DeliveryOutcome(True, took, status)
        # The body is not shown: through it, a client could read addresses inside the operator's networks.
        why = "Redirects are not followed." if 300 <= status < 400 else f"The receiver answered {status}."
        return DeliveryOutcome(False, took, status, why, retry_after, gone=status == 410)

    def _send_to_channel(self, claimed: ClaimedDelivery) -> DeliveryOutcome:
        began = time.monotonic()
        address = self.settings.channels.get(claimed.channel or "")
        if address is None:
            return DeliveryOutcome(False, 0.0, error=f"The operator has removed the channel {claimed.channel}.")
        try:
            import apprise
        except ImportError:
            return DeliveryOutcome(False, 0.0, error="apprise is not installed here: fitserve[channels] brings it.")
        sender = apprise.Apprise()
        if not sender.add(address.get_secret_value()):
            return DeliveryOutcome(False, 0.0, error="The channel's address is none that apprise knows.")
        known = events.TYPES.get(claimed.type)  # None: a newer release has recorded it
        kind = apprise.NotifyType.FAILURE if known is not None and known.is_trouble else apprise.NotifyType.INFO
        sent = sender.notify(body=message(claimed), title=f"fitserve: {claimed.type}", notify_type=kind)
        return DeliveryOutcome(
            bool(sent), time.monotonic() - began, error=None if sent else "The channel refused the message."
        )


def message(claimed: ClaimedDelivery) -> str:
    """Format an event as lines of text for people."""
    data: dict[str, Any] = json.loads(claimed.body)["data"]
    lines = []
    for name, value in data.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {_short(one)}" for key, one in list(value.items())[:10])
        if value is not None:
            lines.append(f"{name}: {_short(value)}")
    return "\n".join(lines)[:2000]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)[:500]


def _seconds(retry_after: str | None) -> float | None:
    """Parse a Retry-After header, a number of seconds or a date, to seconds from now."""
    if retry_after is None:
        return None
    if retry_after.strip().isdecimal():
        return float(retry_after.strip()[:9])
    try:
        return max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
