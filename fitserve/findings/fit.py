"""Rules on the fit: too close, not close enough, not finished."""

from __future__ import annotations

import math
from itertools import pairwise

from fitserve.findings import spec_edit
from fitserve.findings.finding import Evidence, Operation, rule
from fitserve.findings.record import RISE, RunRecord, mean

# Limits that separate a diagnosis from noise; the rules below state them in `threshold`.
FAR_BEHIND = 0.70  # share of the network's validation loss at which boosted trees are far better
BEHIND_LINEAR = 1.15  # multiple of the linear model's loss from which the network is worse than a straight line
NEGLIGIBLE = 0.02  # share of the trivial baseline's loss below which there is nothing left to learn
UNFINISHED = 0.08  # share of the loss's whole fall in the last fifth of the epochs: it was still falling
EASIER = 0.80  # share of the training loss below which a lower validation loss is no chance
PATIENCE = 10  # epochs of patience if the spec states none: several times a loss's usual jitter


@rule(
    "Overfitting",
    "warning",
    threshold=f"the validation loss of the kept weights is over {1 + RISE:g} times its lowest (plus twice its usual"
    " jitter), as in the last three epochs, while the training loss fell",
    source="Prechelt, Early stopping - but when?, 1998; Goodfellow, Bengio and Courville, Deep Learning, 2016, section"
    " 7.8",
    answer="stop early and keep the weights of the best epoch",
)
def overfitting(record: RunRecord) -> Evidence | None:
    trial, final = record.trial, record.kept_epoch_index
    if trial is None or final is None or (turning := trial.turning_point) is None:
        return None
    lowest, loss = trial.validation[turning], trial.validation[final]
    if final <= turning or not trial.train[final] < trial.train[turning] or not loss > (1 + RISE) * lowest:
        return None
    return Evidence(
        f"The validation loss was lowest in epoch {trial.epochs[turning]} ({lowest:.3g}) and rose to {loss:.3g} while"
        f" the training loss fell to {trial.train[final]:.3g}: the network memorised its training rows.",
        (trial.epochs[turning], trial.epochs[final]),
        {"lowest_validation": lowest, "kept_validation": loss, "kept_train": trial.train[final]},
        (_early_stopping(record),),
    )


def _early_stopping(record: RunRecord) -> Operation:
    current = record.training.get("early_stopping") or {"patience": PATIENCE}
    stopping = {**current, "monitor": "val_loss", "mode": "auto", "restore_best_weights": True}
    return spec_edit.set_value("/training/early_stopping", stopping)


@rule(
    "Underfitting",
    "warning",
    threshold=f"the training loss is over {NEGLIGIBLE:.0%} of the trivial baseline's, and the validation loss of"
    f" boosted trees below {FAR_BEHIND:.0%} of it; or the network is {BEHIND_LINEAR - 1:.0%} behind the linear model on"
    " both parts",
    source="Goodfellow, Bengio and Courville 2016, section 5.2",
    answer="wider layers (or hidden layers where there are none), weaker regularizers, less dropout",
    means_underfitting=True,
)
def underfitting(record: RunRecord) -> Evidence | None:
    trial, final = record.trial, record.kept_epoch_index
    train, validation = record.mean_loss("network", "train"), record.mean_loss("network", "validation")
    if trial is None or final is None or train is None or validation is None or train <= 0:
        return None
    if record.training.get("class_weight") or record.training.get("sample_weight"):
        return None  # the network was trained on another loss than the one compared here
    trivial = record.mean_loss("baseline", "train")
    if trivial is not None and train < NEGLIGIBLE * trivial:
        return None  # other models may fit a table to the last digit, which nobody needs
    trees, linear = record.mean_loss("trees", "validation"), record.mean_loss("linear", "validation")
    linear_train = record.mean_loss("linear", "train")
    far_behind_trees = trees is not None and trees < FAR_BEHIND * train and validation > 0.8 * train
    behind_linear = (
        linear is not None
        and linear_train is not None
        and train > BEHIND_LINEAR * linear_train
        and BEHIND_LINEAR * linear < validation < 1.3 * train
    )
    if not far_behind_trees and not behind_linear:
        return None
    reference, reached = ("boosted trees reach", trees) if far_behind_trees else ("a linear model reaches", linear)
    patch = [*spec_edit.reduce_penalties(record.spec, 0.01), *spec_edit.reduce_dropout(record.spec)]
    if spec_edit.hidden_layers(record.spec):
        patch += spec_edit.widen(record.spec, 8, 64, below=64)
    else:
        patch += spec_edit.add_hidden_layers(record.spec, (64, 32))
    return Evidence(
        f"The network's loss on its own training rows is {train:.3g}; {reference} {reached:.3g} on unseen rows. It is"
        " too small, or too strongly regularised, for what there is to learn.",
        (trial.epochs[final],),
        {"train": train, "validation": validation, "trees": trees, "linear": linear},
        tuple(patch),
    )


@rule(
    "Stopped too early",
    "info",
    threshold=f"the loss fell by over {UNFINISHED:.0%} of its whole fall, and by over 2%, in the last fifth of the"
    " epochs; or the patience is below 3 while the training loss fell by over 1% an epoch",
    source="Prechelt 1998",
    answer="ten times as many epochs, with early stopping; or more patience",
    hides=("underfitting",),
    means_underfitting=True,
)
def stopped_too_early(record: RunRecord) -> Evidence | None:
    trial = record.trial
    if trial is None or len(trial.epochs) < 4 or trial.best is None or not all(map(math.isfinite, trial.scores)):
        return None
    values, epochs = trial.scores, int(record.training["epochs"])
    stopping = record.training.get("early_stopping") or {}
    patience = stopping.get("patience")
    window = max(1, len(values) // 5)
    fall = mean(values[: max(1, window // 2)]) - min(values)
    recent = values[-window - 1] - values[-1]
    if trial.epochs[-1] >= epochs:  # it ran out of epochs
        improving = trial.best >= len(values) - max(1, window // 2) - 1
        still_falls = improving and recent > UNFINISHED * fall and recent > 0.02 * abs(values[-1])
        patch = [spec_edit.set_value("/training/epochs", epochs * 10)]
    elif patience is not None and patience < 3:
        steps = [new - old for old, new in pairwise(trial.train)][-window:]
        still_falls = -mean(steps) > 0.01 * abs(trial.train[-1])
        patch = []
    else:
        return None
    if not still_falls:
        return None
    if trial.validation:
        stopping = {**(stopping or {"monitor": "val_loss", "restore_best_weights": True})}
        # The new run must not stop earlier than this one, nor in the noise of the epochs that follow.
        stopping["patience"] = max(3 * int(patience or 0), PATIENCE, len(values) // 2)
        stopping["start_from_epoch"] = max(int(stopping.get("start_from_epoch") or 0), len(values))
        patch.append(spec_edit.set_value("/training/early_stopping", stopping))
    return Evidence(
        f"In the last {window} of {len(values)} epochs the loss still fell by {recent:.2g}, to {values[-1]:.3g}:"
        " training ended before the network had learned what it can.",
        trial.epochs[-window:],
        {"recent_fall": recent, "whole_fall": fall, "last": mean(values[-window:])},
        tuple(patch),
    )


@rule(
    "Validation easier than training",
    "info",
    threshold=f"over the second half of the epochs, the validation loss is below {EASIER:.0%} of the training loss with"
    " dropout or noise, and the network without them fits the training rows as well",
    source="Srivastava et al., Dropout, JMLR 2014; Keras FAQ (why is my training loss much higher than my testing"
    " loss?)",
    answer="a quarter of the dropout, at most 0.2, with early stopping",
)
def validation_easier(record: RunRecord) -> Evidence | None:
    trial = record.trial
    noisy = any(layer.noise[1] > 0 for layer in spec_edit.dropout_layers(record.spec))
    if trial is None or not noisy or len(trial.validation) < 4:
        return None
    late = range(len(trial.epochs) // 2, len(trial.epochs))
    train, validation = mean(trial.train[i] for i in late), mean(trial.validation[i] for i in late)
    if not train - validation > 0.1 * (record.baseline or train) or not validation < EASIER * train:
        return None
    # The network itself, without dropout: if it too finds the validation rows easier, then they are.
    without_dropout = record.mean_loss("network", "train")
    if without_dropout is not None and without_dropout > EASIER * train:
        return None
    patch = list(spec_edit.reduce_dropout(record.spec))
    if not record.training.get("early_stopping"):
        patch.append(_early_stopping(record))
    return Evidence(
        f"In the second half of the epochs the validation loss ({validation:.3g}) was well below the training loss"
        f" ({train:.3g}): dropout makes the training rows harder than they are. With less of it the network would"
        " learn more.",
        tuple(trial.epochs[i] for i in late),
        {"train": train, "validation": validation, "ratio": validation / train},
        tuple(patch),
    )
