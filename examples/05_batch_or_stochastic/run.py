"""Many rough steps beat one careful step: the same number of passes over the data, in batches of all, 16 and 1."""

import itertools
from pathlib import Path

from examples.lesson import Figures, final, main, mean, spec
from fitserve.client import Client

DESCENT = Path(__file__).with_name("descent.yaml")
SIZES = ("full", 16, 1)


def rises(run) -> int:
    """Return how many epochs, of all trials, ended with a higher training loss than the one before."""
    history = run.history()
    curves = [[value for _, value in history.curve("loss", trial)] for trial in history.trials]
    return sum(new > old for curve in curves for old, new in itertools.pairwise(curve))


def measure(client: Client) -> Figures:
    """Training loss after twenty epochs, and how often it rose, five seeds each."""
    table = client.datasets.sample("breast_cancer").name
    bodies = {size: spec(DESCENT, {"dataset": table, "training.batch_size": size}) for size in SIZES}
    runs = {size: client.runs.create(body) for size, body in bodies.items()}
    figures = {f"batch size {size}: training loss": mean(final(run.wait(), "loss")) for size, run in runs.items()}
    return {**figures, **{f"batch size {size}: epochs in which it rose": rises(run) for size, run in runs.items()}}


def claims(figures: Figures) -> dict[str, bool]:
    """Return the lesson's claims, and whether each holds."""
    full, mini, single, full_rises, _, single_rises = figures.values()
    return {
        "After as many epochs, batches of 16 have at most half the loss of full batches.": mini < 0.5 * full,
        "Single rows have at most half as well.": single < 0.5 * full,
        "Full batches go downhill in every epoch.": full_rises == 0,
        "Single rows do not: their path is noisy.": single_rises > 5,
    }


if __name__ == "__main__":
    main(measure, claims)
