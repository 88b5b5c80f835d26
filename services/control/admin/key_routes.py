"""API keys, and the page's signing in with one of them."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request, Response
from pydantic import BaseModel, ConfigDict

from fitserve import api_keys, db
from fitserve.errors import Forbidden, NotFound
from fitserve.tables import Key
from fitserve.wire.admin import KeyInfo, KeyRequest, NewKey
from services.control.deps import Context, context
from services.shell import Caller, Router, require
from services.shell.auth import COOKIE, caller_of

router = Router(tags=["keys"])


@router.post("/keys", status_code=201, summary="Make a key")
def create(
    body: KeyRequest,
    caller: Annotated[Caller, Depends(require("admin"))],
    ctx: Annotated[Context, Depends(context)],
) -> NewKey:
    with db.transaction(ctx.engine) as session:
        key, token = api_keys.create(
            session,
            owner=body.owner or caller.owner,
            name=body.name,
            scopes=body.scopes,
            models=body.models,
            expires_at=body.expires_at,
            quotas=body.quotas,
        )
        return NewKey(**api_keys.describe(key), token=token)


@router.get("/keys", summary="The keys that are there")
def list_keys(
    caller: Annotated[Caller, Depends(caller_of)],
    ctx: Annotated[Context, Depends(context)],
) -> list[KeyInfo]:
    """An admin sees all of them, others their own."""
    with db.reading(ctx.engine) as session:
        found = api_keys.listing(session, caller.owner_filter)
        return [KeyInfo.model_validate(key) for key in found]


@router.delete("/keys/{key_id}", summary="Revoke a key")
def revoke(
    key_id: str,
    request: Request,
    caller: Annotated[Caller, Depends(caller_of)],
    ctx: Annotated[Context, Depends(context)],
) -> KeyInfo:
    """An admin may revoke any key, others their own."""
    with db.transaction(ctx.engine) as session:
        key = session.get(Key, key_id)
        if key is None or not caller.sees(key.owner):
            raise NotFound(f"No key {key_id[:64]}.")
        revoked = KeyInfo.model_validate(api_keys.revoke(session, key_id))
    request.app.state.ring.forget()
    return revoked


class SignIn(BaseModel):
    """A key, given once to get a session cookie."""

    model_config = ConfigDict(extra="forbid")
    token: str


class Me(BaseModel):
    """Who is signed in."""

    key_id: str
    owner: str
    scopes: list[str]


@router.post("/session", summary="Sign the page in")
def sign_in(body: SignIn, request: Request, response: Response) -> Me:
    """Sets an HttpOnly, SameSite=Strict cookie: no script of a page ever holds the key."""
    identity = request.app.state.identify(body.token)
    origin = request.headers.get("origin")
    if origin is not None and origin.split("://")[-1] != request.headers.get("host"):
        raise Forbidden("Sign in from this server's own page.", received=origin)
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, body.token, httponly=True, samesite="strict", secure=secure, path="/")
    return Me(key_id=identity.key_id, owner=identity.owner, scopes=sorted(identity.scopes))


@router.get("/session", summary="Who is signed in")
def who(caller: Annotated[Caller, Depends(caller_of)]) -> Me:
    return Me(key_id=caller.key_id, owner=caller.owner, scopes=sorted(caller.scopes))


@router.delete("/session", status_code=204, summary="Sign the page out")
def sign_out(response: Response) -> None:
    response.delete_cookie(COOKIE, httponly=True, samesite="strict", path="/")
