"""What a request names of a model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Selector:
    """What a request names: a model, and a version or a label or neither."""

    model: str
    version: int | None = None
    label: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether the service may choose who answers."""
        return self.version is None and self.label is None


OPEN = Selector("")  # names nothing: no model, no version, no label
