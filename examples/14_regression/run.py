"""Drop the last sigmoid and a network predicts numbers. Inside, ReLU folds flat pieces where a sigmoid draws curves."""

from pathlib import Path

from examples.lesson import Figures, last, main, mean, spec
from fitserve.client import Client

HERE = Path(__file__).parent


def hidden(table: str, activation: str) -> dict:
    """Hills and dales with that activation in two hidden layers."""
    layers = [{"Dense": {"units": 16, "activation": activation}} for _ in range(2)]
    return spec(HERE / "linear.yaml", {"dataset": table, "network": layers, "training.epochs": 60})


def straight(run) -> float:
    """The share of the surface that does not bend: second differences along x, against the steepest."""
    grid = run.surface("x1", "x2").values
    bends = [abs(a - 2 * b + c) for line in grid for a, b, c in zip(line, line[1:], line[2:], strict=False)]
    return mean([bend < 0.02 * max(bends) for bend in bends])


def measure(client: Client) -> Figures:
    """Losses (mean squared error) with and without the last sigmoid, with ReLU and with sigmoid inside."""
    plane, hills = (client.datasets.sample(table).name for table in ("plane", "multi-gauss"))
    bodies = {kind: spec(HERE / f"{kind}.yaml", {"dataset": plane}) for kind in ("sigmoid", "linear")}
    runs = {kind: client.runs.create(body) for kind, body in bodies.items()}
    inside = {activation: client.runs.create(hidden(hills, activation)) for activation in ("relu", "sigmoid")}
    found = {f"plane, {kind} output: validation loss": mean(last(run.wait(), "val_loss")) for kind, run in runs.items()}
    for name, run in inside.items():
        found[f"hills, {name} inside: validation loss"] = mean(last(run.wait(), "val_loss"))
        found[f"hills, {name} inside: share of the surface that is straight"] = straight(run)
    return found


def claims(found: Figures) -> dict[str, bool]:
    """What the lesson says."""
    squeezed, free, relu, relu_straight, sigmoid, sigmoid_straight = found.values()
    return {
        "Without the last sigmoid the loss is less than a tenth.": free < 0.1 * squeezed,
        "ReLU inside learns the hills faster: less than half the loss.": relu < 0.5 * sigmoid,
        "Its surface is made of flat pieces, the sigmoid's is curved.": relu_straight > 1.5 * sigmoid_straight,
    }


if __name__ == "__main__":
    main(measure, claims)
