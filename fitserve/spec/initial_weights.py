"""`initial_weights`: the trained weights that a network starts from, and the layers that are frozen."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from fitserve.data_model import DataModel
from fitserve.ids import NAME

# A model's name (its champion), name@version, or name@label.
VERSION_REFERENCE = rf"^{NAME}(@{NAME})?$"
RUN = "run_"  # prefix of a run's id
UPLOAD = "wts_"  # prefix of the id of uploaded weights
MAX_PATTERNS = 1000
Patterns = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=255)], ...],
    Field(max_length=MAX_PATTERNS),
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else () if value is None else value),
]


class InitialWeights(DataModel):
    """Trained weights to start from: a run's, a model version's, or uploaded ones. A plain text is the reference.

    Features, network and ensemble that the spec leaves out are taken from the source. Every layer with weights takes
    the weights of the source's layer of the same name, whose shapes must be equal.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str | None = Field(None, max_length=40, description="A run of yours that has succeeded: its best network")
    model: str | None = Field(
        None, pattern=VERSION_REFERENCE, description="name@version, name@label, or a model's name for its champion"
    )
    upload: str | None = Field(None, max_length=40, description="Uploaded weights: their id")
    freeze: Patterns = Field((), description="Layers that are not trained: names, or patterns such as dense_*")
    reinitialize: Patterns = Field((), description="Layers that begin from the seed instead: names or patterns")
    encoding: Literal["source", "fit"] | None = Field(
        None,
        description="source: columns are encoded as for the source, with its means and categories; fit: encodings are"
        " fitted on these training rows; left out: source, where the features are the source's",
    )
    artifact: str | None = Field(
        None, pattern="^[0-9a-f]{64}$", description="Written by the server: the SHA-256 of what was found"
    )

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        kind = "run" if value.startswith(RUN) else "upload" if value.startswith(UPLOAD) else "model"
        return {kind: value}

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        named = [name for name in ("run", "model", "upload") if getattr(self, name) is not None]
        if len(named) == 1 or (self.artifact is not None and named == ["run", "model"]):
            return self
        raise ValueError("give one of run, model and upload")

    @property
    def reference(self) -> str:
        """The source as the spec refers to it."""
        return str(self.model or self.run or self.upload)
