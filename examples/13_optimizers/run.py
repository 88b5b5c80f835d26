"""RMSprop and Adam adapt the step of each weight, so that columns of any scale work; SGD needs scaled columns."""

from pathlib import Path

from examples.lesson import Figures, final, main, mean, spec
from fitserve.client import Client

RAW = Path(__file__).with_name("raw.yaml")


def measure(client: Client) -> Figures:
    """Validation accuracy and training loss on raw columns, and of SGD on standardised ones, five seeds each."""
    table = {"dataset": client.datasets.sample("wine").name}
    names = ("SGD", "RMSprop", "Adam")
    bodies = {f"{name}, raw columns": spec(RAW, {**table, "training.optimizer": name}) for name in names}
    # Without `features`, all columns are used and numbers are standardised.
    bodies["SGD, standardised columns"] = spec(RAW, {**table, "training.optimizer": "SGD", "features": None})
    runs = {name: client.runs.create(body) for name, body in bodies.items()}
    figures: Figures = {}
    for name, run in runs.items():
        figures[f"{name}: training loss"] = mean(final(run.wait(), "loss"))
        figures[f"{name}: validation accuracy"] = mean(final(run, "val_accuracy"))
    return figures


def claims(figures: Figures) -> dict[str, bool]:
    """Return the lesson's claims, and whether each holds."""
    _, sgd, _, rmsprop, _, adam, _, scaled = figures.values()
    return {
        "On raw columns SGD hardly learns (below 0.6).": sgd < 0.6,
        "RMSprop and Adam do, 0.15 better or more.": min(rmsprop, adam) > sgd + 0.15,
        "On standardised columns SGD is as good as any (above 0.93).": scaled > 0.93,
    }


if __name__ == "__main__":
    main(measure, claims)
