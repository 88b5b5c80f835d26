"""Dropout trains another half of the network in every batch; with few rows, it generalises better."""

from pathlib import Path

from examples.lesson import Figures, final, main, mean, spec
from fitserve.client import Client

DROPOUT = Path(__file__).with_name("dropout.yaml")
PLAIN = [layer for layer in spec(DROPOUT)["network"] if "Dropout" not in layer]


def measure(client: Client) -> Figures:
    """Loss on training and on new rows, with and without, mean of five seeds."""
    client.datasets.sample("xor", "xor-noise", noise=25, rows=300)
    runs = {
        "without dropout": client.runs.create(spec(DROPOUT, {"network": PLAIN})),
        "with dropout of 0.5": client.runs.create(spec(DROPOUT)),
    }
    figures = {}
    for name, run in runs.items():
        run.wait()
        figures[f"{name}: training loss"] = mean(final(run, "loss"))
        figures[f"{name}: validation loss"] = mean(final(run, "val_loss"))
        figures[f"{name}: validation accuracy"] = mean(final(run, "val_accuracy"))
    return figures


def claims(figures: Figures) -> dict[str, bool]:
    """Return the lesson's claims, and whether each holds."""
    loss, val_loss, accuracy, d_loss, d_val_loss, d_accuracy = figures.values()
    return {
        "With dropout the training loss is higher: training is made harder.": d_loss > loss,
        "The loss on new rows is at least a quarter lower.": d_val_loss < 0.75 * val_loss,
        "The accuracy on new rows is no worse (0.02 at most).": d_accuracy > accuracy - 0.02,
    }


if __name__ == "__main__":
    main(measure, claims)
