"""Drop the last sigmoid and a network predicts numbers. Inside, ReLU folds flat pieces where a sigmoid draws curves."""

from pathlib import Path

from examples.lesson import Figures, final, main, mean, spec
from fitserve.client import Client

HERE = Path(__file__).parent


def hidden(table: str, activation: str) -> dict:
    """Return the spec of the hills with this activation in two hidden layers."""
    layers = [{"Dense": {"units": 16, "activation": activation}} for _ in range(2)]
    return spec(HERE / "linear.yaml", {"dataset": table, "network": layers, "training.epochs": 60})


def straight(run) -> float:
    """Return the flat share of the surface, by second differences along x."""
    grid = run.surface("x1", "x2").values
    bends = [abs(a - 2 * b + c) for line in grid for a, b, c in zip(line, line[1:], line[2:], strict=False)]
    return mean([bend < 0.02 * max(bends) for bend in bends])


def measure(client: Client) -> Figures:
    """Losses (mean squared error) with and without the last sigmoid, with ReLU and with sigmoid inside."""
    plane, hills = (client.datasets.sample(table).name for table in ("plane", "multi-gauss"))
    bodies = {kind: spec(HERE / f"{kind}.yaml", {"dataset": plane}) for kind in ("sigmoid", "linear")}
    runs = {kind: client.runs.create(body) for kind, body in bodies.items()}
    inside = {activation: client.runs.create(hidden(hills, activation)) for activation in ("relu", "sigmoid")}
    figures = {
        f"plane, {kind} output: validation loss": mean(final(run.wait(), "val_loss")) for kind, run in runs.items()
    }
    for name, run in inside.items():
        figures[f"hills, {name} inside: validation loss"] = mean(final(run.wait(), "val_loss"))
        figures[f"hills, {name} inside: share of the surface that is straight"] = straight(run)
    return figures


def claims(figures: Figures) -> dict[str, bool]:
    """Return the lesson's claims, and whether each holds."""
    squeezed, free, relu, relu_straight, sigmoid, sigmoid_straight = figures.values()
    return {
        "Without the last sigmoid the loss is less than a tenth.": free < 0.1 * squeezed,
        "ReLU inside learns the hills faster: less than half the loss.": relu < 0.5 * sigmoid,
        "Its surface is made of flat pieces, the sigmoid's is curved.": relu_straight > 1.5 * sigmoid_straight,
    }


if __name__ == "__main__":
    main(measure, claims)
