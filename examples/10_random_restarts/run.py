"""From some initial weights, descent ends in a local minimum. Start from several and keep the best."""

from pathlib import Path

from examples.lesson import Figures, final, main, mean, spec
from fitserve.client import Client

RESTARTS = Path(__file__).with_name("restarts.yaml")


def best_of(losses: list[float], count: int) -> float:
    """Return the mean over groups of `count` losses of each group's lowest."""
    groups = [losses[at : at + count] for at in range(0, len(losses), count)]
    return mean([min(group) for group in groups])


def measure(client: Client) -> Figures:
    """Losses of sixteen networks, alone and as the best of four."""
    table = client.datasets.sample("xor").name
    run = client.runs.create(spec(RESTARTS, {"dataset": table})).wait()
    losses = final(run, "val_loss")
    return {
        "lowest validation loss of sixteen": min(losses),
        "highest": max(losses),
        "one start: validation loss on average": mean(losses),
        "best of four starts: validation loss on average": best_of(losses, 4),
        "share that stays above 0.25": mean([loss > 0.25 for loss in losses]),
        "findings that restarts disagree": sum(f.rule == "restarts_disagree" for f in run.findings()),
    }


def claims(figures: Figures) -> dict[str, bool]:
    """Return the lesson's claims, and whether each holds."""
    lowest, highest, one, four, stuck, finding = figures.values()
    return {
        "Some networks stay in a local minimum, more than twice as high as the best.": highest > 2 * lowest
        and stuck > 0,
        "The best of four starts has at most 0.6 of the loss of one.": four < 0.6 * one,
        "fitserve says so: restarts disagree.": finding == 1,
    }


if __name__ == "__main__":
    main(measure, claims)
