"""Rules on the data: columns that carry it all, that leak, classes that are rare, targets on another scale."""

from __future__ import annotations

from fitserve.findings import spec_edit
from fitserve.findings.finding import Found, Rule
from fitserve.findings.record import Record

MANY_COLUMNS = 8
FEW = 0.34
CARRIED = 0.95
STILL_WEIGHTED = 0.3
GAP = 1.25
NEGLIGIBLE = 0.02
L1 = 0.003
RARE = 0.2
MISSED = 0.5
LEAK = 0.93
LARGE, SMALL = 10.0, 0.01


def few_columns(record: Record) -> Found | None:
    """Permutation importance gathered in a few columns, while the first layer still weighs the others."""
    entries = (record.insight or {}).get("importance") or []
    train, validation = record.fit_of("network", "train"), record.fit_of("network", "validation")
    layers = spec_edit.first_layers(record.spec)
    partial = bool((record.insight or {}).get("importance_left_out"))
    if len(entries) < MANY_COLUMNS or partial or train is None or validation is None or not layers:
        return None
    if all(spec_edit.has_penalty(place, ("L1", "L1L2")) for place in layers):
        return None
    if validation < max(GAP * train, train + NEGLIGIBLE * (record.fit_of("baseline", "validation") or 0.0)):
        return None
    ordered = sorted(entries, key=lambda entry: -float(entry["importance"]))
    total = sum(max(0.0, float(entry["importance"])) for entry in ordered)
    carried, few = 0.0, []
    for entry in ordered:
        if total <= 0 or carried >= CARRIED * total:
            break
        carried += max(0.0, float(entry["importance"]))
        few.append(entry)
    rest = ordered[len(few) :]
    if not few or len(few) > FEW * len(ordered):
        return None
    weight = sum(float(e.get("weight") or 0.0) for e in rest) / len(rest)
    theirs = sum(float(e.get("weight") or 0.0) for e in few) / len(few)
    if not theirs or weight < STILL_WEIGHTED * theirs:
        return None
    names = ", ".join(str(entry["column"]) for entry in few)
    return Found(
        f"{len(few)} of {len(ordered)} columns carry {carried / total:.0%} of what the network knows ({names}), and"
        f" it still"
        f" weighs the others, with {weight / theirs:.0%} of the weight. L1 lets it drop them.",
        (),
        {"columns": [entry["column"] for entry in few], "share": carried / total, "weight_of_others": weight / theirs},
        tuple(spec_edit.replace(f"{place.here}/kernel_regularizer", {"L1": {"l1": L1}}) for place in layers),
    )


def imbalance(record: Record) -> Found | None:
    """A rare label that the network mostly misses."""
    target = record.target
    if target is None or target.get("task") not in ("binary", "multiclass") or record.training.get("class_weight"):
        return None
    facts = record.facts.by_name.get(target["columns"][0])
    if facts is None or not facts.label_counts or facts.labels is None:
        return None
    total, places = sum(facts.label_counts), len(facts.label_counts)
    share = {label: count / total for label, count in zip(facts.labels, facts.label_counts, strict=True)}
    evaluation = (record.insight or {}).get("evaluation") or {}
    figures = evaluation.get("validation") or evaluation.get("test") or {}
    rare = []
    for entry in figures.get("by_label") or []:
        own = share.get(entry["label"], 1.0)
        if own < RARE * 2 / places and entry["support"] >= 5 and entry["recall"] < MISSED:
            rare.append((str(entry["label"]), own, float(entry["recall"])))
    if not rare:
        return None
    label, own, recall = min(rare, key=lambda item: item[2])
    return Found(
        f"{own:.1%} of the rows are {label!r}, and the network finds only {recall:.0%} of them: it pays to say the"
        f" common"
        " labels. Accuracy hides it; look at recall and balanced accuracy.",
        (),
        {"labels": {name: {"share": s, "recall": r} for name, s, r in rare}},
        (spec_edit.replace("/training/class_weight", "balanced"),),
    )


def leak(record: Record) -> Found | None:
    """A column that says the target nearly by itself."""
    alone = (record.insight or {}).get("alone") or []
    if len(record.spec["features"]) < 2:
        return None
    leaking = [
        (str(entry["column"]), float(entry["explained"])) for entry in alone if float(entry["explained"]) >= LEAK
    ]
    if not leaking or len(leaking) == len(record.spec["features"]):
        return None
    name, explained = max(leaking, key=lambda item: item[1])
    return Found(
        f"The column {name!r} alone explains {explained:.0%} of the target. If it is not known yet when a prediction is"
        " asked for, it leaks the answer: the figures are too good and the network will fail in use.",
        (),
        {"explained": dict(leaking)},
        tuple(spec_edit.without_features(record.spec, [name for name, _ in leaking], record.facts)),
    )


def target_scale(record: Record) -> Found | None:
    """A regression on large or tiny numbers that is not standardised, and lags behind a linear model."""
    target = record.target
    if target is None or target.get("task") != "regression" or target.get("standardize"):
        return None
    facts = record.facts.by_name.get(target["columns"][0])
    if facts is None or facts.std is None or facts.mean is None:
        return None
    size = max(abs(facts.mean), facts.std)
    if facts.std >= SMALL and size <= LARGE:
        return None
    ours = record.fit_of("network", "validation") or record.fit_of("network", "train")
    best = record.best_reference("validation") or record.best_reference("train")
    if ours is not None and best is not None and ours < 1.15 * best:
        return None
    if ours is None and record.failed != "diverged":
        return None
    return Found(
        f"{target['name']!r} has mean {facts.mean:.3g} and standard deviation {facts.std:.3g}. Weights begin near 0 and"
        " steps have a fixed size, so that the network needs very long to reach such numbers.",
        (),
        {"mean": facts.mean, "std": facts.std, "network": ours, "reference": best},
        (spec_edit.replace("/target/0/standardize", True),),
    )


RULES = (
    Rule(
        "few_columns",
        "A few columns carry it all",
        "info",
        f"{MANY_COLUMNS} or more columns; at most {FEW:.0%} of them carry {CARRIED:.0%} of the permutation"
        f" importance; the"
        f" others have over {STILL_WEIGHTED:.0%} of their weight in a first layer without L1; validation loss"
        f" {GAP:g} times the training loss, and {NEGLIGIBLE:.0%} of the trivial baseline's above it",
        "Tibshirani, Regression shrinkage and selection via the lasso, 1996; Ng, Feature selection, L1 vs. L2"
        " regularization, and rotational invariance, ICML 2004",
        f"L1 of {L1:g} on the first layers' kernels",
        few_columns,
    ),
    Rule(
        "class_imbalance",
        "Class imbalance",
        "warning",
        f"a label with less than {RARE:.0%} of the rows (of two labels; less for more) whose recall is below"
        f" {MISSED:.0%},"
        " without class weights",
        "He and Garcia, Learning from imbalanced data, IEEE TKDE 2009; King and Zeng, Logistic regression in rare"
        " events"
        " data, 2001",
        "balanced class weights",
        imbalance,
    ),
    Rule(
        "leaking_column",
        "A leaking column",
        "warning",
        f"a small tree on one column alone explains {LEAK:.0%} of the trivial baseline's loss, out of fold on"
        f" training rows",
        "Kaufman, Rosset and Perlich, Leakage in data mining, KDD 2011",
        "the column left out",
        leak,
        ("few_columns",),
    ),
    Rule(
        "target_scale",
        "The target's scale",
        "warning",
        f"a regression target with a mean or standard deviation above {LARGE:g} (or a standard deviation below"
        f" {SMALL:g})"
        " that is not standardised, and a loss 15% above that of a linear model or boosted trees",
        "LeCun et al. 1998; Bishop, Neural Networks for Pattern Recognition, 1995, section 8.2",
        "standardise the target; predictions stay in its own units",
        target_scale,
        (
            "exploding_gradients",
            "learning_rate_too_high",
            "learning_rate_too_low",
            "stuck_at_baseline",
            "underfitting",
            "stopped_too_early",
            "dead_relus",
        ),
    ),
)
