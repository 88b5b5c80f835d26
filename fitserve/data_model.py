"""The base of every data model: specs, facts of datasets, and what travels over the wire."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class DataModel(BaseModel):
    """A Pydantic model whose validator is built when it is first used.

    There are over two hundred of them, and a process needs few: the client is imported in three quarters of the time.
    """

    model_config = ConfigDict(defer_build=True)
