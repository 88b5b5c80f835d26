"""Rules on the data: a few columns that carry everything, leaking columns, rare classes, the target's scale."""

from __future__ import annotations

from fitserve.findings import spec_edit
from fitserve.findings.finding import Evidence, rule
from fitserve.findings.record import RunRecord
from fitserve.states import FailureCause

MANY_COLUMNS = 8
FEW = 0.34  # share of the columns
CARRIED = 0.95  # share of the importance
STILL_WEIGHTED = 0.3
GAP = 1.25
NEGLIGIBLE = 0.02
L1 = 0.003
RARE = 0.2
MISSED = 0.5
LEAK = 0.93
LARGE, SMALL = 10.0, 0.01


@rule(
    "A few columns carry everything",
    "info",
    threshold=f"there are {MANY_COLUMNS} or more columns; at most {FEW:.0%} of them carry {CARRIED:.0%} of the"
    f" permutation importance; the others have over {STILL_WEIGHTED:.0%} of their weight in a first layer without L1;"
    f" the validation loss is {GAP:g} times the training loss, and {NEGLIGIBLE:.0%} of the trivial baseline's above it",
    source="Tibshirani, Regression shrinkage and selection via the lasso, 1996; Ng, Feature selection, L1 vs. L2"
    " regularization, and rotational invariance, ICML 2004",
    answer=f"L1 of {L1:g} on the kernels of the first layers",
)
def few_columns(record: RunRecord) -> Evidence | None:
    insight = record.insight or {}
    entries = insight.get("importance") or []
    train, validation = record.mean_loss("network", "train"), record.mean_loss("network", "validation")
    layers = spec_edit.first_layers(record.spec)
    if len(entries) < MANY_COLUMNS or insight.get("importance_left_out") or train is None or validation is None:
        return None
    if all(spec_edit.has_kernel_penalty(layer, ("L1", "L1L2")) for layer in layers):
        return None
    if validation < max(GAP * train, train + NEGLIGIBLE * (record.mean_loss("baseline", "validation") or 0.0)):
        return None
    ordered = sorted(entries, key=lambda entry: -float(entry["importance"]))
    total = sum(max(0.0, float(entry["importance"])) for entry in ordered)
    carried, few = 0.0, []
    for entry in ordered:
        if carried >= CARRIED * total:
            break
        carried += max(0.0, float(entry["importance"]))
        few.append(entry)
    if not few or len(few) > FEW * len(ordered):
        return None
    others = ordered[len(few) :]
    weight_of_few = sum(float(entry.get("weight") or 0.0) for entry in few) / len(few)
    weight_of_others = sum(float(entry.get("weight") or 0.0) for entry in others) / len(others)
    if not weight_of_few or weight_of_others < STILL_WEIGHTED * weight_of_few:
        return None
    names, ratio = [entry["column"] for entry in few], weight_of_others / weight_of_few
    return Evidence(
        f"{len(few)} of {len(ordered)} columns carry {carried / total:.0%} of what the network knows"
        f" ({', '.join(map(str, names))}), yet it still gives the others {ratio:.0%} of their weight. L1 lets it drop"
        " them.",
        (),
        {"columns": names, "share": carried / total, "weight_of_others": ratio},
        tuple(
            spec_edit.set_value(f"{layer.arguments_pointer}/kernel_regularizer", {"L1": {"l1": L1}}) for layer in layers
        ),
    )


@rule(
    "Class imbalance",
    "warning",
    threshold=f"a label with less than {RARE:.0%} of the rows (of two labels; less for more) has a recall below"
    f" {MISSED:.0%}, without class weights",
    source="He and Garcia, Learning from imbalanced data, IEEE TKDE 2009; King and Zeng, Logistic regression in rare"
    " events data, 2001",
    answer="balanced class weights",
)
def class_imbalance(record: RunRecord) -> Evidence | None:
    target = record.target
    if target is None or target.get("task") not in ("binary", "multiclass") or record.training.get("class_weight"):
        return None
    facts = record.facts.by_name.get(target["columns"][0])
    if facts is None or not facts.label_counts or facts.labels is None:
        return None
    total, labels = sum(facts.label_counts), len(facts.label_counts)
    shares = {label: count / total for label, count in zip(facts.labels, facts.label_counts, strict=True)}
    evaluation = (record.insight or {}).get("evaluation") or {}
    figures = evaluation.get("validation") or evaluation.get("test") or {}
    missed = {}
    for entry in figures.get("by_label") or []:
        share, recall = shares.get(entry["label"], 1.0), float(entry["recall"])
        if share < RARE * 2 / labels and entry["support"] >= 5 and recall < MISSED:
            missed[str(entry["label"])] = {"share": share, "recall": recall}
    if not missed:
        return None
    label, worst = min(missed.items(), key=lambda item: item[1]["recall"])
    return Evidence(
        f"{worst['share']:.1%} of the rows are {label!r}, and the network recognises only {worst['recall']:.0%} of"
        " them: predicting the common labels costs less. Accuracy hides this; look at recall and balanced accuracy.",
        (),
        {"labels": missed},
        (spec_edit.set_value("/training/class_weight", "balanced"),),
    )


@rule(
    "A leaking column",
    "warning",
    threshold=f"a small tree on one column alone explains {LEAK:.0%} of the trivial baseline's loss, out of fold on"
    " training rows",
    source="Kaufman, Rosset and Perlich, Leakage in data mining, KDD 2011",
    answer="leave the column out",
    hides=("few_columns",),
)
def leaking_column(record: RunRecord) -> Evidence | None:
    single = (record.insight or {}).get("alone") or []
    leaking = {str(entry["column"]): value for entry in single if (value := float(entry["explained"])) >= LEAK}
    features = len(record.spec["features"])
    if features < 2 or not leaking or len(leaking) == features:
        return None
    name, explained = max(leaking.items(), key=lambda item: item[1])
    return Evidence(
        f"The column {name!r} alone explains {explained:.0%} of the target. If it is not known at the time of a"
        " prediction, it leaks the answer: the evaluation is too good, and the network will fail in use.",
        (),
        {"explained": leaking},
        tuple(spec_edit.drop_features(record.spec, leaking, record.facts)),
    )


@rule(
    "The target's scale",
    "warning",
    threshold=f"a regression target with a mean or standard deviation above {LARGE:g} (or a standard deviation below"
    f" {SMALL:g}) is not standardised, and the loss is 15% above that of a linear model or boosted trees",
    source="LeCun et al. 1998; Bishop, Neural Networks for Pattern Recognition, 1995, section 8.2",
    answer="standardise the target; predictions keep the target's units",
    hides=(
        "exploding_gradients",
        "learning_rate_too_high",
        "learning_rate_too_low",
        "stuck_at_baseline",
        "underfitting",
        "stopped_too_early",
        "dead_relus",
    ),
    means_underfitting=True,
)
def target_scale(record: RunRecord) -> Evidence | None:
    target = record.target
    if target is None or target.get("task") != "regression" or target.get("standardize"):
        return None
    facts = record.facts.by_name.get(target["columns"][0])
    if facts is None or facts.std is None or facts.mean is None:
        return None
    if facts.std >= SMALL and max(abs(facts.mean), facts.std) <= LARGE:
        return None
    loss = record.mean_loss("network", "validation") or record.mean_loss("network", "train")
    reference = record.best_reference("validation") or record.best_reference("train")
    if loss is not None and reference is not None and loss < 1.15 * reference:
        return None
    if loss is None and record.failed != FailureCause.diverged:
        return None
    return Evidence(
        f"{target['name']!r} has mean {facts.mean:.3g} and standard deviation {facts.std:.3g}. Weights start near 0 and"
        " steps have a fixed size, so the network takes very long to reach such numbers.",
        (),
        {"mean": facts.mean, "std": facts.std, "network": loss, "reference": reference},
        (spec_edit.set_value("/target/0/standardize", True),),
    )
