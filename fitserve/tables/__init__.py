"""ORM rows, by subject. Times are UTC, from the database's clock; JSON columns hold what `wire` or `spec` describe."""

from fitserve.tables.access import Audit, BrowserSession, Key
from fitserve.tables.automations import Automation, AutomationFiring, Delivery, OutboxEvent, Webhook
from fitserve.tables.base import NAMING, Base, UtcTime
from fitserve.tables.datasets import PLAYGROUND, Blob, Dataset, StagedRows, Upload, UploadedWeights
from fitserve.tables.models import (
    AdaptiveLevel,
    DecisionChange,
    Label,
    Model,
    Rollout,
    RolloutCount,
    RolloutStep,
    Version,
)
from fitserve.tables.operations import Alarm, Leader, ModelFault, Sample, TrafficSample
from fitserve.tables.predictions import Drifting, Feedback, StoredPrediction, Window
from fitserve.tables.runs import TERMINAL_GUARD, Epoch, Event, GangMember, Idempotency, Run, Trial, Worker

__all__ = [
    "NAMING",
    "PLAYGROUND",
    "TERMINAL_GUARD",
    "AdaptiveLevel",
    "Alarm",
    "Audit",
    "Automation",
    "AutomationFiring",
    "Base",
    "Blob",
    "BrowserSession",
    "Dataset",
    "DecisionChange",
    "Delivery",
    "Drifting",
    "Epoch",
    "Event",
    "Feedback",
    "GangMember",
    "Idempotency",
    "Key",
    "Label",
    "Leader",
    "Model",
    "ModelFault",
    "OutboxEvent",
    "Rollout",
    "RolloutCount",
    "RolloutStep",
    "Run",
    "Sample",
    "StagedRows",
    "StoredPrediction",
    "TrafficSample",
    "Trial",
    "Upload",
    "UploadedWeights",
    "UtcTime",
    "Version",
    "Webhook",
    "Window",
    "Worker",
]
