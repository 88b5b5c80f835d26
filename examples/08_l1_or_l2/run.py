"""Both penalties keep weights small; L1 makes most of them zero, L2 spreads them out."""

from pathlib import Path

from examples.lesson import Figures, final, main, mean, spec
from fitserve.client import Client

PENALTY = Path(__file__).with_name("penalty.yaml")
KINDS = {"none": None, "L1": {"L1": 0.01}, "L2": {"L2": 0.01}}


def first_layer(run, trial: int) -> dict[str, float]:
    """Return the first layer's statistics in a trial's last epoch: norm of the weights, share of zeros, ..."""
    *_, epoch = run.epochs(trial)
    return epoch.layers["layers"][0]


def measure(client: Client) -> Figures:
    """Share of zeros and norm of the first layer's weights, and accuracy, mean of three seeds."""
    table = client.datasets.sample("breast_cancer").name
    runs = {}
    for kind, regularizer in KINDS.items():
        layer = {"Dense": {"units": 16, "activation": "relu", "kernel_regularizer": regularizer}}
        runs[kind] = client.runs.create(spec(PENALTY, {"dataset": table, "network": [layer]}))
    figures: Figures = {}
    for kind, run in runs.items():
        layers = [first_layer(run, trial["index"]) for trial in run.wait().result["trials"]]
        figures[f"{kind}: share of weights that are zero"] = mean([layer["sparsity"] for layer in layers])
        figures[f"{kind}: norm of the weights"] = mean([layer["weights"] for layer in layers])
        figures[f"{kind}: validation accuracy"] = mean(final(run, "val_accuracy"))
    return figures


def claims(figures: Figures) -> dict[str, bool]:
    """Return the lesson's claims, and whether each holds."""
    _zeros, norm, plain, l1_zeros, l1_norm, l1, l2_zeros, l2_norm, l2 = figures.values()
    return {
        "L1 makes more than a third of the weights zero.": l1_zeros > 0.33,
        "At least three times as many as L2 does.": l1_zeros > 3 * l2_zeros,
        "Both make the weights smaller.": max(l1_norm, l2_norm) < 0.8 * norm,
        "Neither costs accuracy (0.03 at most).": min(l1, l2) > plain - 0.03,
    }


if __name__ == "__main__":
    main(measure, claims)
