"""What all web processes share: authentication, problem details, instrumentation, /metrics, /livez, /readyz."""

from functools import partial

from fastapi import APIRouter

from services.http.app import StrictRoute, make_app
from services.http.auth import Caller, require

Router = partial(APIRouter, route_class=StrictRoute)

__all__ = ["Caller", "Router", "make_app", "require"]
