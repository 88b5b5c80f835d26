"""Rules on the fit: too close, not close enough, not finished."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from fitserve.findings import spec_edit
from fitserve.findings.finding import Found, Operation, Rule
from fitserve.findings.record import Record, mean, median

RISEN = 0.10
FAR_BEHIND = 0.70
BEHIND_LINEAR = 1.15
NEGLIGIBLE = 0.02
UNFINISHED = 0.08
EASIER = 0.80
PATIENCE = 10


def turn(validation: Sequence[float]) -> int | None:
    """The index after which the validation loss only got worse, by more than chance; None where it did not turn."""
    finite = [value if math.isfinite(value) else math.inf for value in validation]
    if len(finite) < 3:
        return None
    lowest = min(range(len(finite)), key=lambda index: finite[index])
    noise = median(abs(new - old) for old, new in itertools.pairwise(finite))
    noise = noise if math.isfinite(noise) else 0.0
    tail = finite[lowest + 1 :][-3:]
    if not tail or not all(value > (1 + RISEN) * finite[lowest] + 2 * noise for value in tail):
        return None
    return lowest


def overfitting(record: Record) -> Found | None:
    """Validation loss of the kept weights above its lowest, while the training loss went on falling."""
    trial, kept = record.trial, record.kept_index
    if trial is None or kept is None or not trial.validation:
        return None
    turned = turn(trial.validation)
    if turned is None or kept <= turned or not trial.train[kept] < trial.train[turned]:
        return None
    lowest, ours = trial.validation[turned], trial.validation[kept]
    if not ours > (1 + RISEN) * lowest:
        return None
    return Found(
        f"The validation loss was lowest in epoch {trial.epochs[turned]} ({lowest:.3g}) and rose to {ours:.3g} while"
        f" the"
        f" training loss fell to {trial.train[kept]:.3g}: the network learned its training rows by heart.",
        (trial.epochs[turned], trial.epochs[kept]),
        {"lowest_validation": lowest, "kept_validation": ours, "kept_train": trial.train[kept]},
        tuple(_early_stopping(record)),
    )


def _early_stopping(record: Record) -> list[Operation]:
    given = record.training.get("early_stopping")
    stopping = dict(given) if given else {"monitor": "val_loss", "patience": PATIENCE}
    return [
        spec_edit.replace(
            "/training/early_stopping",
            {**stopping, "monitor": "val_loss", "mode": "auto", "restore_best_weights": True},
        )
    ]


def underfitting(record: Record) -> Found | None:
    """A network whose own training loss is far above what simpler models reach on rows that they never saw."""
    trial, kept = record.trial, record.kept_index
    train, validation = record.fit_of("network", "train"), record.fit_of("network", "validation")
    if trial is None or kept is None or train is None or validation is None or train <= 0:
        return None
    if record.training.get("class_weight") or record.training.get("sample_weight"):
        return None  # it was trained for another loss than it would be compared by
    trivial = record.fit_of("baseline", "train")
    if trivial is not None and train < NEGLIGIBLE * trivial:
        return None  # some models fit some tables to the last digit; nobody needs that
    trees, linear = record.fit_of("trees", "validation"), record.fit_of("linear", "validation")
    linear_train = record.fit_of("linear", "train")
    far = trees is not None and trees < FAR_BEHIND * train and validation > 0.8 * train
    behind = linear is not None and linear_train is not None and train > BEHIND_LINEAR * linear_train
    behind = behind and linear is not None and BEHIND_LINEAR * linear < validation < 1.3 * train
    if not far and not behind:
        return None
    who, theirs = ("boosted trees reach", trees) if far else ("a linear model reaches", linear)
    patch: list[Operation] = list(spec_edit.gentler_penalties(record.spec, 0.01))
    patch += spec_edit.gentler_dropout(record.spec, 0.25, 0.2)
    if not spec_edit.hidden(record.spec):
        patch += spec_edit.with_hidden_layers(record.spec, (64, 32))
    else:
        patch += spec_edit.wider(record.spec, 8, 64, below=64)
    return Found(
        f"On its own training rows the network's loss is {train:.3g}; {who} {theirs:.3g} on rows that they never"
        " saw: it is too small, or held down too hard, for what there is to learn.",
        (trial.epochs[kept],),
        {"train": train, "validation": validation, "trees": trees, "linear": linear},
        tuple(patch),
    )


def stopped_too_early(record: Record) -> Found | None:
    """A loss that was still falling clearly when training ended."""
    trial = record.trial
    if trial is None or len(trial.epochs) < 4:
        return None
    values = trial.validation or trial.train
    if not all(map(math.isfinite, values)) or trial.best is None:
        return None
    window = max(1, len(values) // 5)
    early, late = values[: max(1, window // 2)], values[-window:]
    fall = mean(early) - min(values)
    recent = values[-window - 1] - values[-1]
    patience = (record.training.get("early_stopping") or {}).get("patience")
    ran_out = trial.epochs[-1] >= int(record.training["epochs"])
    impatient = not ran_out and patience is not None and patience < 3
    if not ran_out and not impatient:
        return None
    still = (
        recent > UNFINISHED * fall
        and recent > 0.02 * abs(values[-1])
        and trial.best >= len(values) - max(1, window // 2) - 1
    )
    if impatient:
        known = [new - old for old, new in zip(trial.train, trial.train[1:], strict=False)][-window:]
        still = bool(known) and -mean(known) > 0.01 * abs(trial.train[-1])
    if not still:
        return None
    patch = [] if impatient else [spec_edit.replace("/training/epochs", int(record.training["epochs"]) * 10)]
    if trial.validation:
        stopping = dict(record.training.get("early_stopping") or {"monitor": "val_loss", "restore_best_weights": True})
        patience = max(3 * int(patience or 0), PATIENCE)
        patch.append(spec_edit.replace("/training/early_stopping", {**stopping, "patience": patience}))
    return Found(
        f"In the last {window} of {len(values)} epochs the loss still fell by {recent:.2g}, to {values[-1]:.3g}:"
        " training ended before the network had learned what it can.",
        trial.epochs[-window:],
        {"recent_fall": recent, "whole_fall": fall, "last": mean(late)},
        tuple(patch),
    )


def validation_easier(record: Record) -> Found | None:
    """A validation loss well below the training loss: dropout and noise are switched off in validation."""
    trial = record.trial
    noisy = [
        p
        for p in spec_edit.dropouts(record.spec)
        if float(p.arguments.get("rate", p.arguments.get("stddev", 0)) or 0) > 0
    ]
    if trial is None or not noisy or len(trial.validation) < 4:
        return None
    late = range(len(trial.epochs) // 2, len(trial.epochs))
    train, validation = mean(trial.train[i] for i in late), mean(trial.validation[i] for i in late)
    # The network itself, without dropout: where it too finds the validation rows easier, they are easier.
    own = record.fit_of("network", "train")
    clearly = train - validation > 0.1 * (record.baseline or train)
    if not clearly or not validation < EASIER * train or (own is not None and own > EASIER * train):
        return None
    return Found(
        f"In the later half the validation loss ({validation:.3g}) was well below the training loss ({train:.3g}):"
        f" dropout"
        " makes the training rows harder than they are. Less of it would let the network learn more.",
        tuple(trial.epochs[i] for i in late),
        {"train": train, "validation": validation, "ratio": validation / train},
        (
            *spec_edit.gentler_dropout(record.spec, 0.25, 0.2),
            *(() if record.training.get("early_stopping") else _early_stopping(record)),
        ),
    )


RULES = (
    Rule(
        "overfitting",
        "Overfitting",
        "warning",
        f"the kept weights' validation loss over {1 + RISEN:g} times its lowest (and twice its usual jitter more),"
        f" the last"
        " three epochs as well, while the training loss fell",
        "Prechelt, Early stopping - but when?, 1998; Goodfellow, Bengio and Courville, Deep Learning, 2016, section"
        " 7.8",
        "stop early and keep the weights of the best epoch",
        overfitting,
    ),
    Rule(
        "underfitting",
        "Underfitting",
        "warning",
        f"a training loss over {NEGLIGIBLE:.0%} of the trivial baseline's, and boosted trees' validation loss below"
        f" {FAR_BEHIND:.0%} of it; or the network {BEHIND_LINEAR - 1:.0%} behind the linear model on both parts",
        "Goodfellow, Bengio and Courville 2016, section 5.2",
        "wider layers (or hidden layers, where there are none), weaker regularizers, less dropout",
        underfitting,
    ),
    Rule(
        "stopped_too_early",
        "Stopped too early",
        "info",
        f"over {UNFINISHED:.0%} of the whole fall of the loss, and over 2% of the loss, in the last fifth of the"
        f" epochs; or a"
        " patience below 3 while the training loss fell by over 1% an epoch",
        "Prechelt 1998",
        "ten times as many epochs, with early stopping; or more patience",
        stopped_too_early,
        ("underfitting",),
    ),
    Rule(
        "validation_easier",
        "Validation easier than training",
        "info",
        f"over the later half of the epochs, the validation loss below {EASIER:.0%} of the training loss with"
        f" dropout or"
        " noise, and the network without them fits the training rows as well",
        "Srivastava et al., Dropout, JMLR 2014; Keras FAQ (why is my training loss much higher than my testing loss?)",
        "a quarter of the dropout, 0.2 at most, with early stopping",
        validation_easier,
    ),
)
