"""Access checks for models: owner and admins may do everything, others what the model is shared for."""

from __future__ import annotations

from sqlalchemy.orm import Session

from fitserve import registry, visibility
from fitserve.errors import Forbidden, NotFound
from fitserve.tables import Model
from fitserve.wire.models import Sharing
from services.http import Caller


def visible_model(session: Session, caller: Caller, name: str, to: Sharing = "ask") -> Model:
    """Return a model that the caller may `ask`, `inspect` or `download`. Raises NotFound, Forbidden."""
    model = registry.get(session, name)
    if not caller.sees(model):
        raise NotFound(f"No model {name[:63]}.", received=name[:100])
    visibility.check_use(caller.owner_filter, model, to)
    return model


def check_owner(session: Session, caller: Caller, name: str) -> None:
    """Raise NotFound or Forbidden unless the caller may change a model."""
    if not caller.owns(visible_model(session, caller, name)):
        raise Forbidden("Only its owner and admins may change a model.")


def check_may_predict(caller: Caller, name: str) -> None:
    """Raise Forbidden if the caller's key is limited to other models."""
    if not caller.may_predict(name):
        raise Forbidden(f"This key may not predict with {name[:63]}.", expected="a key with the scope predict")


def check_batch_prediction(session: Session, caller: Caller, name: str) -> None:
    """Raise NotFound or Forbidden unless the caller may predict with a model into a dataset."""
    check_may_predict(caller, name)
    visible_model(session, caller, name)
    if not caller.may("upload"):
        raise Forbidden(
            "A batch prediction creates a dataset, which this key may not.",
            expected="a key with the scopes predict and upload",
        )
