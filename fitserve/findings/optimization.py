"""Rules on the optimization: the learning rate, a loss that stays at the baseline's, restarts that disagree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from fitserve.findings import spec_edit
from fitserve.findings.finding import Evidence, Operation, rule
from fitserve.findings.record import RunRecord, TrialCurves, mean
from fitserve.spec.activations import SATURATING
from fitserve.states import FailureCause

ABOVE_BASELINE = 1.2
RISING_EPOCHS = 0.35
RISE = 0.08
STEADY = 0.8  # share of the epochs in which the loss falls
EXCESSIVE_MOVE = 0.5  # change per epoch as a share of the weights' size
SLOW_MOVE = 0.01
AIMED_MOVE = 0.03
STRAIGHT = 0.35
AT_BASELINE = 0.97
REACHABLE = 0.95
MIN_TRIALS = 3
APART = 0.25


@rule(
    "Learning rate too high",
    "critical",
    threshold=f"the loss is not finite; or in half of the epochs it is over {ABOVE_BASELINE:g} times the trivial"
    f" baseline's without falling; or it rises in {RISING_EPOCHS:.0%} of the epochs by {RISE:.0%} of the baseline on"
    " average; or the rate is over a hundred times a usual one and weights move by over"
    f" {EXCESSIVE_MOVE:.0%} of their size in an epoch",
    source="LeCun et al., Efficient BackProp, 1998; Bengio, Practical recommendations for gradient-based training of"
    " deep architectures, 2012",
    answer="a tenth of the learning rate; a usual one where it is more than ten times that",
    hides=("stuck_at_baseline", "underfitting", "overfitting", "dead_relus", "saturated_units", "stopped_too_early"),
    means_underfitting=True,
)
def learning_rate_too_high(record: RunRecord) -> Evidence | None:
    trial, patch = record.trial, tuple(spec_edit.lower_learning_rate(record.spec))
    losses = zip(trial.epochs, trial.train, strict=True) if trial is not None else ()
    broken = tuple(epoch for epoch, loss in losses if not math.isfinite(loss))
    if broken or record.failed == FailureCause.diverged:
        return Evidence("The loss became NaN or infinite: the steps are too large.", broken[:1], {}, patch)
    if trial is None or len(trial.train) < 4:
        return None
    scale = record.baseline or max(trial.train[0], 1e-12)
    if above := _epochs_above_baseline(record, trial):
        return Evidence(
            f"In {len(above)} of {len(trial.train) - 1} epochs after the first, the training loss was over"
            f" {ABOVE_BASELINE:g} times that of a constant prediction ({scale:.3g}): the steps overshoot.",
            tuple(above),
            {"largest_loss": max(trial.train[1:]), "baseline": scale},
            patch,
        )
    if spec_edit.learning_rate_excess(record.spec) > 100 and (move := _mean_move(trial, 2)) > EXCESSIVE_MOVE:
        return Evidence(
            f"The learning rate is far above a usual one and the weights change by {move:.0%} of their size in an"
            " epoch: nothing that they learn lasts.",
            tuple(snapshot.epoch for snapshot in trial.snapshots),
            {"move": move},
            patch,
        )
    steps = zip(trial.epochs[1:], trial.train, trial.train[1:], strict=False)
    rises = [(epoch, new - old) for epoch, old, new in steps if new > old]
    mean_rise = mean(rise for _, rise in rises)
    if len(rises) < RISING_EPOCHS * (len(trial.train) - 1) or mean_rise < RISE * scale:
        return None
    return Evidence(
        f"The training loss rose in {len(rises)} of {len(trial.train) - 1} epochs, by {mean_rise:.2g} on average: the"
        " steps jump across the minimum.",
        tuple(epoch for epoch, _ in rises),
        {"rising_epochs": len(rises), "mean_rise": mean_rise, "scale": scale},
        patch,
    )


def _epochs_above_baseline(record: RunRecord, trial: TrialCurves) -> Sequence[int]:
    # Neither weights that hardly move nor a loss that still falls is a sign of large steps.
    if record.baseline is None or _mean_move(trial, 3) < SLOW_MOVE:
        return ()
    steps = [new - old for old, new in pairwise(trial.train)]
    if sum(step < 0 for step in steps) >= STEADY * len(steps):
        return ()  # a slow, steady fall from far above is no overshoot
    limit = ABOVE_BASELINE * record.baseline
    above = [
        epoch
        for index, (epoch, value) in enumerate(zip(trial.epochs, trial.train, strict=True))
        if index and value > limit and value > 0.98 * min(trial.train[:index])
    ]
    return above if len(above) >= (len(trial.train) - 1) / 2 else ()


def _mean_move(trial: TrialCurves, snapshots: int) -> float:
    """Return how far weights move in an epoch, as a share of their size, over the first snapshots; NaN without any."""
    measured = [layer.get("ratio") for one in trial.snapshots[:snapshots] for layer in one.weighted]
    return mean(float(ratio) for ratio in measured if ratio is not None)


@rule(
    "Learning rate too low",
    "warning",
    threshold=f"weights move by less than {SLOW_MOVE:.0%} of their size in the first epochs, and at least"
    f" {STRAIGHT:.0%} of the fall of the loss comes in the second half of the training",
    source="Bengio 2012; Smith, Cyclical learning rates for training neural networks, 2017",
    answer="a learning rate with which weights would move by a few percent of their size in an epoch",
    hides=("stuck_at_baseline", "underfitting", "stopped_too_early"),
    means_underfitting=True,
)
def learning_rate_too_low(record: RunRecord) -> Evidence | None:
    trial = record.trial
    if trial is None or len(trial.train) < 5 or not all(map(math.isfinite, trial.train)):
        return None
    first, last = trial.train[0], trial.train[-1]
    fall, reference = first - last, record.best_reference("train")
    if fall <= 0 or last < 0.6 * (record.baseline or first) or (reference is not None and last < 1.1 * reference):
        return None
    second_half, move = trial.train[len(trial.train) // 2] - last, _mean_move(trial, 3)
    if second_half < STRAIGHT * fall or not move < SLOW_MOVE:
        return None
    factor = 10.0 ** min(4, max(1, math.ceil(math.log10(AIMED_MOVE / max(move, 1e-9)))))
    return Evidence(
        f"The weights change by {move:.1e} of their size in an epoch and the loss falls in a straight line, from"
        f" {first:.3g} to {last:.3g} in {len(trial.train)} epochs: the steps are far too small.",
        trial.epochs[:1] + trial.epochs[-1:],
        {"first_loss": first, "last_loss": last, "second_half_share": second_half / fall, "move": move},
        tuple(spec_edit.raise_learning_rate(record.spec, factor)),
    )


@rule(
    "Stuck at the trivial baseline",
    "critical",
    threshold=f"the training loss is never below {AT_BASELINE:.0%} of the trivial baseline's, while the linear model or"
    f" boosted trees reach {REACHABLE:.0%} of it or less",
    source="Karpathy, A recipe for training neural networks, 2019 (verify the loss at the start, beat the dumb"
    " baseline)",
    answer="remove what holds it there: weaker regularizers, hidden layers, wider layers, ReLU, less dropout, larger"
    " steps",
    hides=("underfitting", "stopped_too_early"),
    means_underfitting=True,
)
def stuck_at_baseline(record: RunRecord) -> Evidence | None:
    trial, baseline = record.trial, record.baseline
    if trial is None or baseline is None or len(trial.train) < 5:
        return None
    lowest = min((value for value in trial.train if math.isfinite(value)), default=math.nan)
    if not lowest > AT_BASELINE * baseline:
        return None
    reference, trivial = record.best_reference("validation"), record.mean_loss("baseline", "validation")
    if reference is not None and trivial is not None and reference > REACHABLE * trivial:
        return None  # simpler models find nothing in these columns either
    cause, patch = _cause_of_stagnation(record, trial)
    return Evidence(
        f"The training loss never fell below that of a constant prediction ({baseline:.3g}): its minimum is"
        f" {lowest:.3g}. {cause}",
        trial.epochs,
        {"baseline": baseline, "lowest_loss": lowest, "reference": reference},
        tuple(patch),
    )


def _cause_of_stagnation(record: RunRecord, trial: TrialCurves) -> tuple[str, list[Operation]]:
    spec = record.spec
    weaker = list(spec_edit.reduce_penalties(spec, 0.001))
    if weaker and trial.penalty > 0.05 * (record.baseline or 1.0):
        return "The regularizers press the weights towards 0.", weaker
    hidden = spec_edit.hidden_layers(spec)
    if not hidden:
        added = list(spec_edit.add_hidden_layers(spec, (32, 16)))
        return "Without hidden layers, a network can only draw straight lines.", added
    if any(int(layer.arguments["units"]) < 8 for layer in hidden):
        return "Its layers are very narrow.", list(spec_edit.widen(spec, 8, 32, below=8))
    if relu := list(spec_edit.replace_activations(spec, None, SATURATING, "relu", "HeNormal")):
        return "Sigmoid and tanh slow it down.", relu
    dropouts = spec_edit.dropout_layers(spec)
    if any(argument == "rate" and value >= 0.5 for argument, value in (layer.noise for layer in dropouts)):
        return "Dropout removes most of its input.", list(spec_edit.reduce_dropout(spec))
    return "Larger steps may free it.", list(spec_edit.raise_learning_rate(spec, 10.0))


@rule(
    "Restarts that disagree",
    "info",
    threshold=f"the lowest losses of {MIN_TRIALS} or more trials differ by {APART:.0%} of the trivial baseline's",
    source="Goodfellow, Bengio and Courville 2016, section 8.2.2; Sutskever et al., On the importance of"
    " initialization and momentum in deep learning, ICML 2013",
    answer="momentum where plain gradient descent has none, and wider layers, which have fewer bad minima; otherwise"
    " more restarts",
)
def restarts_disagree(record: RunRecord) -> Evidence | None:
    losses = {trial.number: trial.scores[trial.best] for trial in record.trials if trial.best is not None}
    # members train on different rows, so their losses differ anyway
    if len(losses) < MIN_TRIALS or record.spec.get("ensemble"):
        return None
    low, high = min(losses.values()), max(losses.values())
    scale = record.baseline or high
    if scale <= 0 or high - low < APART * scale:
        return None
    patch: list[Operation] = []
    name, arguments = record.optimizer
    if name == "SGD" and not arguments.get("momentum"):
        patch.append(spec_edit.set_value("/training/optimizer/SGD/momentum", 0.9))
        patch.append(spec_edit.set_value("/training/optimizer/SGD/nesterov", True))
    patch += spec_edit.widen(record.spec, 8, 16, below=16)
    if not patch:
        patch.append(spec_edit.set_value("/training/restarts", 2 * len(record.trials)))
    return Evidence(
        f"From different initial weights, the {len(losses)} trials ended between {low:.3g} and {high:.3g}: some got"
        " stuck in a local minimum or on a plateau.",
        (),
        {"losses": {str(number): value for number, value in losses.items()}, "scale": scale},
        tuple(patch),
    )
