"""Decisions made on the caller's behalf, and how to change them."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from fitserve.data_model import DataModel


class Notice(DataModel):
    """An interpretation that was chosen among several, or a remark: nothing is changed silently."""

    model_config = ConfigDict(from_attributes=True, frozen=True)

    code: str = Field(description="What kind of notice, such as preamble_skipped")
    message: str = Field(description="One sentence: what was done")
    column: str | None = Field(None, description="The column that it is about, if it is about one")
    evidence: str | None = Field(None, description="Why: what was seen in the data")
    option: str | None = Field(None, description="The option that decides otherwise, as a request has it: skip_rows=0")
