"""Change many runs at once; one refused run does not stop the others.

Runs are changed in groups, each in one transaction. A request interrupted between two groups can be repeated, because
cancelling, tagging and deleting are idempotent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session, load_only

from fitserve import db
from fitserve.errors import FitserveError, NotFound, StorageFull, Unavailable
from fitserve.runs import change, finish
from fitserve.runs.queries import get_owned
from fitserve.states import INTERNAL_KINDS
from fitserve.tables import Run
from fitserve.visibility import owned_by

GROUP = 100  # runs in one transaction: SQLite's other writers wait for it

Refusals = dict[str, FitserveError]
# Changes locked runs. Returns the errors of refused runs, for which it has written nothing.
Change = Callable[[Session, Sequence[Run]], Refusals]
# Called in the transaction that changed these runs, to write more rows in it.
Note = Callable[[Session, Sequence[str]], None]

# Without specs and results, which can be large; other columns are loaded when a change reads them.
_BRIEF = (
    *(Run.id, Run.kind, Run.state, Run.owner, Run.shared, Run.parent_id, Run.dataset_id, Run.model, Run.tags),
    *(Run.attempt, Run.cancel_requested_at),
)


def cancel_runs(engine: Engine, ids: Sequence[str], owner: str | None, note: Note) -> Refusals:
    """Cancel runs. Return the errors of those that were refused, by id. Raises Unavailable, StorageFull."""
    ended = 0

    def cancel(session: Session, runs: Sequence[Run]) -> Refusals:
        nonlocal ended
        at, refused, ended = db.now(session), Refusals(), 0
        for run in runs:
            if run.kind in INTERNAL_KINDS:
                session.refresh(run)  # the end of its parent run may just have ended it
            try:
                ended += finish.cancel_locked(session, run, at)
            except FitserveError as error:
                refused[run.id] = error
        return refused

    def committed() -> None:
        finish.count_cancelled(ended)

    return _change_runs(engine, ids, owner, cancel, note, committed)


def delete_runs(engine: Engine, ids: Sequence[str], owner: str | None, note: Note) -> Refusals:
    """Delete runs. Return the errors of those that were refused, by id. Raises Unavailable, StorageFull."""

    def delete(session: Session, runs: Sequence[Run]) -> Refusals:
        return {**change.delete_locked(session, runs)}

    return _change_runs(engine, ids, owner, delete, note)


def tag_runs(
    engine: Engine, ids: Sequence[str], owner: str | None, note: Note, *, add: str = "", remove: str = ""
) -> Refusals:
    """Add or remove one tag. Return the errors of runs that were refused, by id. Raises Unavailable, StorageFull."""

    def tag(_session: Session, runs: Sequence[Run]) -> Refusals:
        for run in runs:
            change.retag(run, add=add, remove=remove)
        return {}

    return _change_runs(engine, ids, owner, tag, note)


def _change_runs(
    engine: Engine,
    ids: Sequence[str],
    owner: str | None,
    apply: Change,
    note: Note,
    committed: Callable[[], None] = lambda: None,
) -> Refusals:
    """Change an owner's runs group by group, in id order so that concurrent requests queue instead of deadlocking.

    If a group's transaction fails, its runs are changed one by one: the database may have aborted it to resolve a
    deadlock.
    """
    refused: Refusals = {}
    wanted = sorted(set(ids))
    for index in range(0, len(wanted), GROUP):
        group = wanted[index : index + GROUP]
        try:
            refused |= _change_group(engine, group, owner, apply, note)
            committed()
        except FitserveError:
            for run_id in group:
                try:
                    refused |= _change_group(engine, [run_id], owner, apply, note)
                    committed()
                except (Unavailable, StorageFull):
                    raise  # every further run would fail in the same way
                except FitserveError as error:
                    refused[run_id] = error
    return refused


def _change_group(engine: Engine, ids: Sequence[str], owner: str | None, apply: Change, note: Note) -> Refusals:
    with db.transaction(engine) as session:
        possible = [run_id for run_id in ids if run_id.isprintable()]  # PostgreSQL refuses NUL in text
        mine = select(Run).options(load_only(*_BRIEF)).where(Run.id.in_(possible), owned_by(Run, owner))
        runs = session.scalars(mine.order_by(Run.id).with_for_update()).all()
        theirs = {run.id for run in runs}
        refused = {run_id: _why_not(session, run_id, owner) for run_id in ids if run_id not in theirs}
        refused |= apply(session, runs)
        done = [run.id for run in runs if run.id not in refused]
        if done:
            note(session, done)
    return refused


def _why_not(session: Session, run_id: str, owner: str | None) -> FitserveError:
    """Return why an owner may not change a run that is not theirs."""
    try:
        get_owned(session, run_id, owner)
    except FitserveError as error:
        return error
    return NotFound(f"No run {run_id}.", received=run_id)  # the run was created in the meantime
