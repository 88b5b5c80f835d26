"""Both penalties keep weights small; L1 makes most of them zero, L2 spreads them out."""

from pathlib import Path

from examples.lesson import Figures, main, mean, spec
from fitserve.client import Client

PENALTY = Path(__file__).with_name("penalty.yaml")
KINDS = {"none": None, "L1": {"L1": 0.01}, "L2": {"L2": 0.01}}
SEEDS = (0, 1, 2)


def first_layer(run) -> dict[str, float]:
    """What was recorded of the first layer in the last epoch: the norm of its weights, the share of zeros, ..."""
    *_, epoch = run.epochs()
    return epoch.layers["layers"][0]


def measure(client: Client) -> Figures:
    """Share of zeros and norm of the first layer's weights, and accuracy, mean of three seeds."""
    client.datasets.sample("breast_cancer")
    runs = {}
    for kind, regularizer in KINDS.items():
        layer = {"Dense": {"units": 16, "activation": "relu", "kernel_regularizer": regularizer}}
        bodies = [spec(PENALTY, {"network": [layer], "training.seed": seed}) for seed in SEEDS]
        runs[kind] = [client.runs.create(body) for body in bodies]
    found = {}
    for kind, same in runs.items():
        layers = [first_layer(run.wait()) for run in same]
        found[f"{kind}: share of weights that are zero"] = mean([layer["sparsity"] for layer in layers])
        found[f"{kind}: norm of the weights"] = mean([layer["weights"] for layer in layers])
        found[f"{kind}: test accuracy"] = mean([run.scores("test")["accuracy"] for run in same])
    return found


def claims(found: Figures) -> dict[str, bool]:
    """What the lesson says."""
    _zeros, norm, plain, l1_zeros, l1_norm, l1, l2_zeros, l2_norm, l2 = found.values()
    return {
        "L1 makes more than a third of the weights zero.": l1_zeros > 0.33,
        "At least three times as many as L2 does.": l1_zeros > 3 * l2_zeros,
        "Both make the weights smaller.": max(l1_norm, l2_norm) < 0.8 * norm,
        "Neither costs accuracy (0.03 at most).": min(l1, l2) > plain - 0.03,
    }


if __name__ == "__main__":
    main(measure, claims)
