"""Webhooks, the deliveries of events to them, and the events themselves."""

from __future__ import annotations

import base64
import binascii
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, SecretStr, model_validator

from fitserve.data_model import DataModel
from fitserve.ids import NAME_PATTERN

PREFIX = "whsec_"
EventPattern = Annotated[
    str,
    Field(
        pattern=r"^(\*|[a-z]{1,20}\.(\*|[a-z_]{1,30}))$",
        description="A type of event, all of a noun (`run.*`), or `*`",
        examples=["run.failed"],
    ),
]
DeliveryState = Literal["pending", "delivered", "failed"]


def _check_secret(secret: SecretStr) -> SecretStr:
    """Return the secret. Raises ValueError unless it has the form of Standard Webhooks: 24 to 64 bytes, base64."""
    text = secret.get_secret_value()
    try:
        size = len(base64.b64decode(text.removeprefix(PREFIX), validate=True))
    except (binascii.Error, ValueError):
        size = 0
    if not text.startswith(PREFIX) or not 24 <= size <= 64:
        raise ValueError("must be whsec_ and the base64 of 24 to 64 random bytes")
    return secret


Secret = Annotated[
    SecretStr,
    AfterValidator(_check_secret),
    Field(description="Signs deliveries: `whsec_` and the base64 of 24 to 64 random bytes", max_length=120),
]
Url = Annotated[str, Field(min_length=1, max_length=2048, examples=["https://hooks.example.com/fitserve"])]
Channel = Annotated[str, Field(pattern=NAME_PATTERN, examples=["team-chat"])]
Events = Annotated[list[EventPattern], Field(min_length=1, max_length=50, examples=[["run.failed", "drift.*"]])]
Description = Annotated[str, Field(max_length=200)]


class WebhookRequest(DataModel):
    """Which events to send where: to a `url`, or to one of the operator's channels (`channel`)."""

    model_config = ConfigDict(extra="forbid")

    url: Url | None = Field(None, description="An https address on the public Internet")
    channel: Channel | None = Field(None, description="The name of a chat or mail address of the operator's")
    events: Events
    secret: Secret | None = Field(None, description="Made here, and shown once, where it is left out")
    description: Description | None = None
    all_owners: bool = Field(False, description="Of every owner's changes, not only of your own. Admins only")

    @model_validator(mode="after")
    def _one_destination(self) -> WebhookRequest:
        if (self.url is None) == (self.channel is None):
            raise ValueError("must have either url or channel")
        if self.channel is not None and self.secret is not None:
            raise ValueError("a channel's messages are not signed: leave secret out")
        return self


class WebhookPatch(DataModel):
    """What to change. A new secret signs beside the old one for 24 hours, so that a receiver can follow."""

    model_config = ConfigDict(extra="forbid")

    url: Url | None = None
    events: Events | None = None
    secret: Secret | None = None
    description: Description | None = None
    enabled: bool | None = None


class WebhookInfo(DataModel):
    """A webhook, without its secret."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    owner: str
    url: str | None
    channel: str | None
    events: list[str]
    description: str | None
    all_owners: bool
    enabled: bool
    disabled_reason: str | None = Field(description="Why it was disabled: by hand, or after long failure")
    failing_since: datetime | None = Field(description="The first failure after the last success")
    created_at: datetime
    updated_at: datetime


class NewWebhook(WebhookInfo):
    """A new webhook with its secret, which is shown only once; null for a channel."""

    secret: str | None = None


class DeliveryAttempt(DataModel):
    """One attempt at a delivery."""

    at: datetime
    status: int | None = Field(None, description="What the receiver answered; null where there was no answer")
    error: str | None = None
    seconds: float


class DeliveryInfo(DataModel):
    """The delivery of one event to one webhook. Receivers recognise repeats by `event`, their `webhook-id` header."""

    id: str
    webhook: str
    event: str
    type: str
    state: DeliveryState
    attempts: int
    next_at: datetime | None = Field(description="When it is tried next; null once it is over")
    created_at: datetime
    delivered_at: datetime | None
    log: list[DeliveryAttempt] = Field(description="The last attempts, the first one first")


class RecordedEvent(DataModel):
    """Something that happened."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    type: str
    owner: str
    data: dict[str, Any]
    created_at: datetime
