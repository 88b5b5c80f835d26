"""A trial that was trained apart from its run: one file with how it fared and what is kept of its network.

The format is a checkpoint's, so there is no pickle in it, and it names the spec, the rows and the release that it
is of: a run takes over what it would have trained to the bit, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from workers.trainer.engine import checkpoint
from workers.trainer.engine.checkpoint import Checkpoint, Unusable
from workers.trainer.trials.trial import Kept, Trial

_KIND = "apart"


@dataclass(frozen=True, slots=True)
class Apart:
    """A trial that is over. The rest is empty where it failed."""

    trial: Trial
    best: Mapping[str, np.ndarray] = field(default_factory=dict)  # as `checkpoint.variables`
    kept: Kept = field(default_factory=dict)
    copies: Kept = field(default_factory=dict)  # for insight: `Watch.copies`

    def write(self, path: Path, fingerprint: str) -> None:
        """Durably."""
        body = {"kind": _KIND, "fingerprint": fingerprint, "trial": asdict(self.trial)}
        arrays = {f"best/{name}": value for name, value in self.best.items()}
        arrays |= checkpoint.of_epochs("kept", self.kept) | checkpoint.of_epochs("copies", self.copies)
        Checkpoint(body, arrays).write(path)

    @classmethod
    def read(cls, path: Path, fingerprint: str, index: int) -> Apart:
        """Trial `index`. Raises Unusable where the file is of anything else."""
        found = Checkpoint.read(path)
        if found.body.get("kind") != _KIND or found.body.get("fingerprint") != fingerprint:
            raise Unusable("it belongs to another spec, dataset or release")
        trial = Trial(**found.body["trial"])
        if trial.index != index:
            raise Unusable(f"it is trial {trial.index + 1}")
        best = {name.removeprefix("best/"): a for name, a in found.arrays.items() if name.startswith("best/")}
        kept, copies = (checkpoint.by_epoch(group, found.arrays) for group in ("kept", "copies"))
        return cls(trial, best, kept, copies)
