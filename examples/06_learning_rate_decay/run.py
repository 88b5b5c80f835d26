"""Large steps are fast but overshoot the minimum, small steps are slow; a decaying rate is neither."""

import itertools
from pathlib import Path

from examples.lesson import Figures, final, main, mean, spec
from fitserve.client import Client

DECAY = Path(__file__).with_name("decay.yaml")
RATE = "training.optimizer.SGD.learning_rate"


def measure(client: Client) -> Figures:
    """Training loss, and the mean change of the loss from epoch to epoch over the last ten, five seeds each."""
    client.datasets.sample("xor", "xor-noisy", noise=20)
    bodies = {
        "large rate (2)": spec(DECAY, {RATE: 2.0}),
        "small rate (0.003)": spec(DECAY, {RATE: 0.003}),
        "decaying rate (2, halved every 300 batches)": spec(DECAY),
    }
    runs = {name: client.runs.create(body) for name, body in bodies.items()}
    figures = {f"{name}: training loss": mean(final(run.wait(), "loss")) for name, run in runs.items()}
    return {**figures, **{f"{name}: jitter": jitter(run) for name, run in runs.items()}}


def jitter(run) -> float:
    """Return the mean change of the training loss between epochs at the end of training."""
    history = run.history()
    ends = [[value for _, value in history.curve("loss", trial)][-10:] for trial in history.trials]
    return mean([abs(new - old) for end in ends for old, new in itertools.pairwise(end)])


def claims(figures: Figures) -> dict[str, bool]:
    """Return the lesson's claims, and whether each holds."""
    large, small, decaying, large_jitter, _, decaying_jitter = figures.values()
    return {
        "Decay ends lower than the large rate that it began with.": decaying < 0.8 * large,
        "And lower than the small rate.": decaying < 0.8 * small,
        "It has come to rest: a fifth of the jitter, or less.": decaying_jitter < 0.2 * large_jitter,
    }


if __name__ == "__main__":
    main(measure, claims)
