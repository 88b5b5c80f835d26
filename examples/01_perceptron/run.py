"""A perceptron draws one straight line: enough for two clouds, useless for a disc in a ring."""

from pathlib import Path

from examples.lesson import Figures, final, main, mean, spec
from fitserve.client import Client

LINE = Path(__file__).with_name("line.yaml")


def measure(client: Client) -> Figures:
    """Validation accuracy of one perceptron on three tables, mean of five seeds."""
    runs = {}
    for table in ("gauss", "circle", "xor"):
        body = spec(LINE, {"dataset": client.datasets.sample(table).name})
        runs[table] = client.runs.create(body)
    return {f"{table}: validation accuracy": mean(final(run.wait(), "val_accuracy")) for table, run in runs.items()}


def claims(figures: Figures) -> dict[str, bool]:
    """Return the lesson's claims, and whether each holds."""
    return {
        "A line parts the two clouds (accuracy above 0.97).": figures["gauss: validation accuracy"] > 0.97,
        "No line parts the disc from the ring (below 0.7).": figures["circle: validation accuracy"] < 0.7,
        "No line does an exclusive or (below 0.7).": figures["xor: validation accuracy"] < 0.7,
    }


if __name__ == "__main__":
    main(measure, claims)
