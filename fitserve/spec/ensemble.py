"""Ensembles: several networks of one spec, each trained without some of the rows, whose outputs are averaged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from fitserve.data_model import DataModel
from fitserve.dataset_facts import DatasetFacts
from fitserve.errors import Problem
from fitserve.spec.argument_types import Positive

Validated = Literal["folds", "holdout"]
MEMBERS = 8
FEWEST = 4  # fewest members to which a time budget reduces an ensemble whose size the spec leaves out
FOLD_ROWS = 18_000  # up to this many rows, members are reduced before folds are given up
MAX_FOLD_ROWS = 100_000  # above this many rows, folds add little: each member already sees enough rows
FEW_ROWS = 40  # below this many rows, a fold would have fewer than five
FIRST_PAST = 0.5  # share of a time split's rows that train every member; the folds follow them


class Ensemble(DataModel):
    """Several networks whose outputs are averaged.

    - folds: the rows that are not the test part are divided into as many folds as there are members. A member trains
      on the rows outside its fold, and stops by the rows in it; together the folds give predictions of rows that were
      not trained on. They follow the split: labels in proportion, groups whole; of a time split every fold is later
      than the rows of its member.
    - holdout: all members train on the training part and stop by the validation part.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    members: Positive | None = Field(None, description="Networks; left out: 8, fewer where there are few rows")
    validation: Validated | None = Field(None, description="Left out: folds, or holdout where the split says its share")
    combine: Literal["mean"] = Field("mean", description="mean: of the members' outputs")


class Folds(DataModel):
    """Cross-validation: each fold of the rows is held out from one network, which then predicts it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: Annotated[int, Field(ge=2, le=1000, strict=True)] = Field(5, description="Folds")
    method: Literal["random", "stratified", "group", "time"] | None = Field(
        None, description="How rows are divided; left out: as the split says"
    )
    by: str | None = Field(None, description="The column of a stratified, group or time division")
    then: Literal["average", "refit"] = Field(
        "average", description="What is served: the average of the folds' networks, or one trained on all of their rows"
    )


def _folds_switch(value: Any) -> Any:
    if isinstance(value, bool):
        return {} if value else None
    return {"count": value} if isinstance(value, (int, float)) else value


AnyFolds = Annotated[Folds | None, BeforeValidator(_folds_switch)]


def _switch(value: Any) -> Any:
    # `true`, `8` and `folds`.
    if isinstance(value, bool):
        return {} if value else None
    if isinstance(value, (int, float)):
        return {"members": value}
    return {"validation": value} if isinstance(value, str) else value


AnyEnsemble = Annotated[Ensemble | None, BeforeValidator(_switch)]


def members_of(ensemble: Ensemble | None) -> int:
    """Return how many networks a resolved spec trains, not counting restarts."""
    return 1 if ensemble is None else ensemble.members or MEMBERS


@dataclass(frozen=True, slots=True)
class ValidationSplit:
    """A split's validation rows: the share, and whether the spec states it."""

    method: str
    by: str | None
    stated: bool  # the spec gives a share, or a column that assigns rows to parts
    validation: float  # share of all rows
    test: float


def default_ensembles(rows: int, held_out: ValidationSplit, facts: DatasetFacts) -> list[Ensemble | None]:
    """Return the ensembles to try for a spec that leaves its ensemble out, best first; None is a single network.

    `rows` are those that are not the test part. The first is taken whose cost fits the time budget, else the last.
    """
    most = min(MEMBERS, _most_folds(rows, held_out, facts))
    if rows < FEW_ROWS or (most < 2 and not held_out.stated):
        return [None]
    folds = Ensemble(members=most, validation="folds")
    if held_out.stated or rows > MAX_FOLD_ROWS:
        if held_out.stated and held_out.method != "column" and held_out.validation == 0:
            return _down_from(folds)
        most, fewest = (MEMBERS, FEWEST) if rows <= MAX_FOLD_ROWS else (FEWEST, 2)
        holdouts: list[Ensemble | None] = [*_down_from(Ensemble(members=most, validation="holdout"), fewest)]
        return holdouts if rows <= MAX_FOLD_ROWS else [*holdouts, None]
    if rows <= FOLD_ROWS:
        return _down_from(folds)
    return [folds, Ensemble(members=FEWEST, validation="holdout")]


def _down_from(ensemble: Ensemble, fewest: int = FEWEST) -> list[Ensemble | None]:
    members = ensemble.members or MEMBERS
    return [ensemble.model_copy(update={"members": count}) for count in range(members, min(members, fewest) - 1, -1)]


def _most_folds(rows: int, held_out: ValidationSplit, facts: DatasetFacts) -> int:
    """Return the most folds possible: each needs at least one row, or one group."""
    if held_out.method == "group" and (column := facts.by_name.get(str(held_out.by))) is not None:
        return column.distinct + (column.missing > 0) - (held_out.test > 0)
    return rows


def resolve_ensemble(
    written: Ensemble, rows: int, held_out: ValidationSplit, facts: DatasetFacts, problems: list[Problem], pointer: str
) -> Ensemble | None:
    """Return the ensemble that a spec states, checked and written out; None if it has a single member.

    `pointer` is where the spec states it: `folds` are an ensemble too.
    """
    none_held_out = held_out.validation == 0 and held_out.method != "column"
    share_stated = held_out.stated and not none_held_out
    validation = written.validation or ("holdout" if share_stated else "folds")
    most = _most_folds(rows, held_out, facts)
    members = written.members or (min(MEMBERS, max(most, 2)) if validation == "folds" else MEMBERS)
    if members == 1 and written.validation != "folds":
        return None

    def refuse(detail: str, at: str, received: Any, expected: str | None = None, fix: str | None = None) -> None:
        place = pointer if pointer == "/folds" else f"{pointer}/{at}"
        problems.append(Problem(detail, place, received=received, expected=expected, fix=fix))

    if validation == "holdout" and none_held_out:
        fix = "split: {validation: 0.2}, or validation: folds"
        refuse("No rows are held out for the members to stop by.", "validation", validation, fix=fix)
    elif validation == "folds" and share_stated and held_out.method != "column":
        detail = f"Folds hold out every row in turn; the split holds out {held_out.validation:g} of them too."
        refuse(detail, "validation", validation, fix="Leave split.validation out, or validation: holdout")
    elif validation == "folds" and members == 1:
        refuse("One fold would leave no rows to train on.", "members", 1, "2 or more", "ensemble: false")
    elif validation == "folds" and members > most:
        groups = held_out.method == "group"
        what = f"{most} groups of {held_out.by!r}" if groups else f"{most} rows"
        refuse(f"{members} folds need more than {what}.", "members", members, f"at most {most}")
    return Ensemble(members=members, validation=validation, combine=written.combine)
