"""The spec: what a client asks for."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from fitserve.spec.feature import Feature
from fitserve.settings import Limits
from fitserve.spec.network import DEFAULT, Network, read_network
from fitserve.spec.split import SplitSpec
from fitserve.spec.target import Target, Targets, Task
from fitserve.spec.training import Training
from fitserve.validation import Refused, SpecRefused, problems_of, shown

NAME = r"^[a-z0-9][a-z0-9._-]{0,62}$"
REFERENCE = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}(@[1-9][0-9]{0,8})?$"


class DatasetRef(BaseModel):
    """The dataset: a name (its newest version), name@version, or an id."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ref: str = Field(pattern=REFERENCE, description="A name, name@version, or an id")
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$", description="Refuse any other content")

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        return {"ref": value} if isinstance(value, str) else value

    @property
    def name(self) -> str:
        """Without the version."""
        return self.ref.partition("@")[0]


def _features(value: Any) -> Any:
    """`{gre: standardize, rank: one_hot}` is understood as a list too."""
    if isinstance(value, dict):
        return [{"column": column, "encoding": encoding} for column, encoding in value.items()]
    return value


class Spec(BaseModel):
    """What to train, how, on what. Resolved, nothing is left out and it is the same spec when it is resolved again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: DatasetRef = Field(description="A dataset: its name, name@version, or id")
    target: Targets = Field(description="The column to predict, or several")
    task: Task | None = Field(None, description="Left out: inferred from the target's column")
    features: Annotated[tuple[Feature, ...], BeforeValidator(_features)] | None = Field(
        None, description="Columns, with their encodings; left out: every other column"
    )
    split: SplitSpec = Field(SplitSpec(), description="How rows are divided into training, validation and test")
    network: Network = Field(
        read_network(DEFAULT), description="Layers; left out: two hidden layers of 64 and 32 units, relu"
    )
    training: Training = Field(Training(), description="How it is trained")
    model: str | None = Field(None, pattern=NAME, description="Registered under this name when it succeeds")

    @model_validator(mode="before")
    @classmethod
    def _with_editor_line(cls, value: Any) -> Any:
        if isinstance(value, dict) and "$schema" in value:  # for editors
            return {key: item for key, item in value.items() if key != "$schema"}
        return value

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [target.name for target in self.target]
        if len(set(names)) != len(names):
            raise ValueError("two targets have the same name")
        columns = [column for target in self.target for column in target.columns]
        if len(set(columns)) != len(columns):
            raise ValueError("a column is the target twice")
        return self

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `parse` reads them back."""
        return self.model_dump(mode="json")


def parse(body: Any, limits: Limits | None = None) -> Spec:
    """A spec from JSON values. Raises SpecRefused with a problem for each thing that is wrong."""
    if not isinstance(body, dict):
        raise SpecRefused("A spec is a mapping.", pointer="", received=shown(body), expected="a mapping")
    try:
        return Spec.model_validate(body, context={"layers": (limits or Limits()).layers})
    except ValidationError as error:
        raise SpecRefused.because(problems_of(error, Spec, body)) from None
    except Refused as error:
        raise SpecRefused.because(error.problems) from None


def target_of(spec: Spec, name: str) -> Target:
    """The target of this name. Raises KeyError."""
    for target in spec.target:
        if target.name == name:
            return target
    raise KeyError(name)
