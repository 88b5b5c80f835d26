"""Four ways to enlarge a network: more units in a layer, more layers, more inputs, more outputs."""

from pathlib import Path

from examples.lesson import Figures, final, main, mean, spec
from fitserve.client import Client

HERE = Path(__file__).parent
NETWORK, OUTPUTS = HERE / "network.yaml", HERE / "outputs.yaml"


def layers(*units: int, activation: str = "tanh") -> list[dict]:
    """Return hidden layers of these sizes."""
    return [{"Dense": {"units": count, "activation": activation}} for count in units]


def spiral(table: str, *units: int) -> dict:
    """Return the spec of the spiral, with ReLU, smaller steps and more epochs."""
    network = layers(*units, activation="relu")
    changes = {"dataset": table, "network": network, "training.epochs": 120}
    return spec(NETWORK, {**changes, "training.optimizer.Adam.learning_rate": 0.01})


def squares(client: Client, circle: str) -> str:
    """Upload the circle with two more columns: the squares of x1 and x2."""
    rows = client.datasets.get(circle).iter_rows()
    lines = [f"{r['x1']},{r['x2']},{r['x1'] ** 2},{r['x2'] ** 2},{r['label']}" for r in rows]
    table = "\n".join(["x1,x2,x1_squared,x2_squared,label", *lines]).encode()
    return client.datasets.upload(table, "circle-squares", kinds={"label": "categorical"}).name


def measure(client: Client) -> Figures:
    """Validation accuracy of small networks and of larger ones, mean of five seeds."""
    circle, rolled, iris = (client.datasets.sample(table).name for table in ("circle", "spiral", "iris"))
    bodies = {
        "circle, 2 units": spec(NETWORK, {"dataset": circle}),
        "circle, 8 units (wider)": spec(NETWORK, {"dataset": circle, "network": layers(8)}),
        "spiral, 16 units": spiral(rolled, 16),
        "spiral, 16-16-16 units (deeper)": spiral(rolled, 16, 16, 16),
        "circle, squares too, no hidden layer (more inputs)": spec(
            NETWORK, {"dataset": squares(client, circle), "network": []}
        ),
        "iris, three labels (more outputs)": spec(OUTPUTS, {"dataset": iris}),
    }
    runs = {name: client.runs.create(body) for name, body in bodies.items()}
    figures = {name: mean(final(run.wait(), "val_accuracy")) for name, run in runs.items()}
    return {
        **figures,
        "iris: units of the output layer": client.runs.validate(spec(OUTPUTS, {"dataset": iris}))
        .summary[-1]
        .output_shape[-1],
    }


def claims(figures: Figures) -> dict[str, bool]:
    """Return the lesson's claims, and whether each holds."""
    narrow, wide, shallow, deep, squared, iris, units = figures.values()
    return {
        "Wider: eight units close the circle that two leave open (0.05 better).": wide > narrow + 0.05,
        "Deeper: three layers learn the spiral that one does not (0.15 better).": deep > shallow + 0.15,
        "More inputs: with squares, a network without hidden layers draws the circle.": squared > 0.95,
        "More outputs: three labels, three units, above 0.9.": units == 3 and iris > 0.9,
    }


if __name__ == "__main__":
    main(measure, claims)
