"""The rule on random restarts: local minima show where trials end in different places."""

from __future__ import annotations

from fitserve.findings import spec_edit
from fitserve.findings.finding import Found, Operation, Rule
from fitserve.findings.record import Record

TRIALS = 3
APART = 0.25


def disagree(record: Record) -> Found | None:
    """The lowest losses of the trials, against the baseline's."""
    ended = [(trial, trial.best) for trial in record.trials]
    found = [(t.number, (t.validation or t.train)[best]) for t, best in ended if best is not None]
    if len(found) < TRIALS:
        return None
    low, high = min(value for _, value in found), max(value for _, value in found)
    scale = record.baseline or high
    if scale <= 0 or high - low < APART * scale:
        return None
    patch: list[Operation] = []
    name, arguments = record.optimizer
    if name == "SGD" and not arguments.get("momentum"):
        patch += [
            spec_edit.replace("/training/optimizer/SGD/momentum", 0.9),
            spec_edit.replace("/training/optimizer/SGD/nesterov", True),
        ]
    patch += spec_edit.wider(record.spec, 8, 16, below=16)
    if not patch:
        patch.append(spec_edit.replace("/training/restarts", 2 * len(record.trials)))
    return Found(
        f"From different initial weights the {len(found)} trials ended between {low:.3g} and {high:.3g}: some stayed"
        f" in a"
        " local minimum or on a plateau.",
        (),
        {"losses": {str(number): value for number, value in found}, "scale": scale},
        tuple(patch),
    )


RULES = (
    Rule(
        "restarts_disagree",
        "Restarts that disagree",
        "info",
        f"{TRIALS} or more trials whose lowest losses lie apart by {APART:.0%} of the trivial baseline's",
        "Goodfellow, Bengio and Courville 2016, section 8.2.2; Sutskever et al., On the importance of initialization"
        " and"
        " momentum in deep learning, ICML 2013",
        "momentum, where plain descent has none, and wider layers, which have fewer bad minima; else more restarts",
        disagree,
    ),
)
