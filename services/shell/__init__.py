"""What every web process shares: problem details, request ids, auth, /metrics, /livez, /readyz."""

from functools import partial

from fastapi import APIRouter

from services.shell.app import Probe, StrictRoute, make_app
from services.shell.auth import Caller, require

Router = partial(APIRouter, route_class=StrictRoute)  # reads JSON strictly

__all__ = ["Caller", "Probe", "Router", "make_app", "require"]
