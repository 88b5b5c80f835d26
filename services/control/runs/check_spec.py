"""A request's spec: read, checked against its dataset and the limits. What `POST /runs` begins with."""

from __future__ import annotations

from dataclasses import dataclass

from fitserve import datasets, db, registry
from fitserve.datasets import store
from fitserve.spec.resolve import Resolved, resolve
from fitserve.spec.spec import Spec
from fitserve.spec.text import parse_text
from services.control.deps import Context
from services.shell import Caller


@dataclass(frozen=True, slots=True)
class CheckedSpec:
    """A spec that can be trained, and the dataset it will be trained on."""

    asked: Spec
    resolved: Resolved
    dataset_id: str


def check(ctx: Context, caller: Caller, body: bytes, content_type: str) -> CheckedSpec:
    """The spec in a request's body (JSON or YAML). Raises Malformed, SpecRefused, NotFound, Conflict."""
    limits = ctx.settings.limits
    asked = parse_text(body, content_type, limits)
    with db.reading(ctx.engine) as session:
        dataset = store.get(session, caller.owner_filter, asked.dataset.ref)
        facts = datasets.facts_of(dataset)
        if asked.model is not None:
            registry.check_name(session, asked.model, caller.owner)
    return CheckedSpec(asked, resolve(asked, facts, limits), dataset.id)
