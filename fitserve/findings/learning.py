"""Rules on the speed of learning: the learning rate, and a loss that never leaves the trivial baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fitserve.findings import spec_edit
from fitserve.findings.finding import Found, Rule
from fitserve.findings.record import Record, Trial, mean

ABOVE_BASELINE = 1.2
RISING = 0.35
THROWN = 0.5
RISE = 0.08
SLOW_MOVE = 0.01
AIMED_MOVE = 0.03
STRAIGHT = 0.35
AT_BASELINE = 0.97
REACHABLE = 0.95


def too_high(record: Record) -> Found | None:
    """A loss that is no number, that stays above the baseline's, or that jumps up again and again."""
    trial = record.trial
    if record.failed == "diverged" or (trial is not None and not all(map(math.isfinite, trial.train))):
        at = (
            next((e for e, v in zip(trial.epochs, trial.train, strict=True) if not math.isfinite(v)), None)
            if trial
            else None
        )
        return Found(
            "The loss became NaN or infinite: the steps are too large.",
            (at,) if at is not None else (),
            {},
            tuple(spec_edit.slower(record.spec)),
        )
    if trial is None or len(trial.train) < 4:
        return None
    scale = record.baseline or max(trial.train[0], 1e-12)
    above = _above_baseline(record, trial)
    if above:
        worst = max(trial.train[1:])
        return Found(
            f"In {len(above)} of {len(trial.train) - 1} epochs after the first the training loss was over"
            f" {ABOVE_BASELINE:g}"
            f" times what always saying the same would cost ({scale:.3g}): steps overshoot.",
            tuple(above),
            {"largest_loss": worst, "baseline": scale},
            tuple(spec_edit.slower(record.spec)),
        )
    thrown = _thrown(record, trial)
    if thrown is not None:
        return Found(
            f"The learning rate is far above a usual one, and the weights change by {thrown:.0%} of their size an"
            f" epoch:"
            " they are thrown about.",
            tuple(look.epoch for look in trial.looks),
            {"move": thrown},
            tuple(spec_edit.slower(record.spec)),
        )
    rises = [
        (epoch, new - old)
        for epoch, old, new in zip(trial.epochs[1:], trial.train, trial.train[1:], strict=False)
        if new > old
    ]
    if len(rises) < RISING * (len(trial.train) - 1) or mean(rise for _, rise in rises) < RISE * scale:
        return None
    return Found(
        f"The training loss rose in {len(rises)} of {len(trial.train) - 1} epochs, by {mean(r for _, r in rises):.2g}"
        " on average: steps jump across the valley.",
        tuple(epoch for epoch, _ in rises),
        {"rising_epochs": len(rises), "mean_rise": mean(rise for _, rise in rises), "scale": scale},
        tuple(spec_edit.slower(record.spec)),
    )


def _thrown(record: Record, trial: Trial) -> float | None:
    """By what share of their size the weights move in the first looks, where that and the rate are excessive."""
    known = spec_edit.learning_rate(record.spec)
    if known is None or known[0] <= 100 * spec_edit.sane_rate(record.spec):
        return None
    later = [float(one["ratio"]) for look in trial.looks[:2] for one in look.weighted if one.get("ratio") is not None]
    moved = mean(later)
    return moved if moved > THROWN else None


def _above_baseline(record: Record, trial: Trial) -> Sequence[int]:
    if record.baseline is None or _moved(trial) < SLOW_MOVE:
        return ()
    limit = ABOVE_BASELINE * record.baseline
    # A loss that still falls is no sign of large steps.
    above = [
        epoch
        for index, (epoch, value) in enumerate(zip(trial.epochs, trial.train, strict=True))
        if index and value > limit and value > 0.98 * min(trial.train[:index])
    ]
    return above if len(above) >= (len(trial.train) - 1) / 2 else ()


def too_low(record: Record) -> Found | None:
    """A loss that falls steadily along a straight line, by little, while the weights hardly move."""
    trial = record.trial
    if trial is None or len(trial.train) < 5 or not all(map(math.isfinite, trial.train)):
        return None
    first, last = trial.train[0], trial.train[-1]
    fall = first - last
    floor = record.best_reference("train")
    if fall <= 0 or last < 0.6 * (record.baseline or first) or (floor is not None and last < 1.1 * floor):
        return None
    half = trial.train[len(trial.train) // 2] - last
    moved = _moved(trial)
    if half < STRAIGHT * fall or not moved < SLOW_MOVE:
        return None
    factor = 10.0 ** min(4, max(1, math.ceil(math.log10(AIMED_MOVE / max(moved, 1e-9)))))
    return Found(
        f"The weights change by {moved:.1e} of their size an epoch and the loss falls in a straight line, from"
        f" {first:.3g} to {last:.3g} in {len(trial.train)} epochs: steps are far too small.",
        trial.epochs[:1] + trial.epochs[-1:],
        {"first_loss": first, "last_loss": last, "second_half_share": half / fall, "move": moved},
        tuple(spec_edit.faster(record.spec, factor)),
    )


def _moved(trial: Trial) -> float:
    """By what share of their size the weights move in an epoch, in the first looks; NaN where nobody looked."""
    looks = trial.looks[:3]
    return mean(float(one["ratio"]) for look in looks for one in look.weighted if one.get("ratio") is not None)


def stuck(record: Record) -> Found | None:
    """A training loss that never falls below the baseline's, although simpler models do."""
    trial, baseline = record.trial, record.baseline
    if trial is None or baseline is None or len(trial.train) < 5:
        return None
    lowest = min((value for value in trial.train if math.isfinite(value)), default=math.nan)
    if not lowest > AT_BASELINE * baseline:
        return None
    reference, trivial = record.best_reference("validation"), record.fit_of("baseline", "validation")
    if reference is not None and trivial is not None and reference > REACHABLE * trivial:
        return None  # nobody finds anything in these columns
    cause, patch = _way_out(record, trial)
    return Found(
        f"The training loss never fell below what always saying the same costs ({baseline:.3g}): it stayed at"
        f" {lowest:.3g}. {cause}",
        trial.epochs,
        {"baseline": baseline, "lowest_loss": lowest, "reference": reference},
        tuple(patch),
    )


def _way_out(record: Record, trial: Trial) -> tuple[str, list[dict[str, object]]]:
    spec = record.spec
    eased = list(spec_edit.gentler_penalties(spec, 0.001))
    if eased and trial.penalty > 0.05 * (record.baseline or 1.0):
        return "The regularizers press the weights towards 0.", eased
    if not spec_edit.hidden(spec):
        return "A network without hidden layers draws straight lines alone.", list(
            spec_edit.with_hidden_layers(spec, (32, 16))
        )
    narrow = [place for place in spec_edit.hidden(spec) if int(place.arguments["units"]) < 8]
    if narrow:
        return "Its layers are very narrow.", list(spec_edit.wider(spec, 8, 32, below=8))
    bent = list(spec_edit.activations(spec, None, spec_edit.SATURATING, "relu", "HeNormal"))
    if bent:
        return "Sigmoid and tanh slow it down.", bent
    dropped = list(spec_edit.gentler_dropout(spec, 0.25, 0.2))
    if dropped and any(float(p.arguments.get("rate", 0)) >= 0.5 for p in spec_edit.dropouts(spec)):
        return "Dropout takes most of what it sees.", dropped
    return "Larger steps may free it.", list(spec_edit.faster(spec, 10.0))


RULES = (
    Rule(
        "learning_rate_too_high",
        "Learning rate too high",
        "critical",
        f"the loss is no number; or in half of the epochs it is over {ABOVE_BASELINE:g} times the trivial baseline's"
        f" without falling; or it rises in {RISING:.0%} of the epochs by {RISE:.0%} of the baseline on average; or"
        f" the rate is"
        f" over a hundred times a usual one and weights move by over {THROWN:.0%} of their size an epoch",
        "LeCun et al., Efficient BackProp, 1998; Bengio, Practical recommendations for gradient-based training of deep"
        " architectures, 2012",
        "a tenth of the learning rate; a usual one where it is more than ten times that",
        too_high,
        ("stuck_at_baseline", "underfitting", "overfitting", "dead_relus", "saturated_units", "stopped_too_early"),
    ),
    Rule(
        "learning_rate_too_low",
        "Learning rate too low",
        "warning",
        f"weights move by less than {SLOW_MOVE:.0%} of their size in the first epochs, and at least {STRAIGHT:.0%}"
        f" of the"
        " fall of the loss came in the second half of the training",
        "Bengio 2012; Smith, Cyclical learning rates for training neural networks, 2017",
        "a learning rate under which weights would move by some percent of their size an epoch",
        too_low,
        ("stuck_at_baseline", "underfitting", "stopped_too_early"),
    ),
    Rule(
        "stuck_at_baseline",
        "Stuck at the trivial baseline",
        "critical",
        f"the training loss never below {AT_BASELINE:.0%} of the trivial baseline's, while the linear model or boosted"
        f" trees reach {REACHABLE:.0%} of it or less",
        "Karpathy, A recipe for training neural networks, 2019 (verify the loss at the start, beat the dumb baseline)",
        "what holds it there: weaker regularizers, hidden layers, wider layers, ReLU, less dropout, larger steps",
        stuck,
        ("underfitting", "stopped_too_early"),
    ),
)
