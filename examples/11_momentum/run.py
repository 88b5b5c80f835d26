"""With momentum, descent rolls through plateaus and shallow valleys."""

from pathlib import Path

from examples.lesson import Figures, final, main, mean, spec
from fitserve.client import Client

MOMENTUM = Path(__file__).with_name("momentum.yaml")
SGD = "training.optimizer.SGD"
KINDS = {
    "plain": {f"{SGD}.momentum": 0.0, f"{SGD}.nesterov": False},
    "momentum": {f"{SGD}.nesterov": False},
    "Nesterov": {},
}


def measure(client: Client) -> Figures:
    """Training loss after forty epochs from the same eight initial weights."""
    table = {"dataset": client.datasets.sample("xor").name}
    runs = {kind: client.runs.create(spec(MOMENTUM, table | changes)) for kind, changes in KINDS.items()}
    losses = {kind: final(run.wait(), "loss") for kind, run in runs.items()}
    figures = {f"{kind}: training loss, mean of eight": mean(values) for kind, values in losses.items()}
    pairs = zip(losses["plain"], losses["Nesterov"], strict=True)
    return {**figures, "starts from which Nesterov ends lower than plain": sum(n < p for p, n in pairs)}


def claims(figures: Figures) -> dict[str, bool]:
    """Return the lesson's claims, and whether each holds."""
    plain, momentum, nesterov, lower = figures.values()
    return {
        "Momentum has at most half the loss of plain descent at the same rate.": momentum < 0.5 * plain,
        "So has Nesterov momentum.": nesterov < 0.5 * plain,
        "From at least seven of eight initial weights.": lower >= 7,
    }


if __name__ == "__main__":
    main(measure, claims)
