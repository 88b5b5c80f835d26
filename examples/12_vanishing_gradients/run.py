"""A sigmoid passes on at most a quarter of a gradient; after eight of them almost nothing is left."""

from pathlib import Path

from examples.lesson import Figures, final, main, mean, spec
from fitserve.client import Client

DEEP = Path(__file__).with_name("deep.yaml")


def activated(table: str, activation: str) -> dict:
    """Return the same network with another activation."""
    layers = [{"Dense": {"units": 16, "activation": activation}} for _ in range(8)]
    return spec(DEEP, {"dataset": table, "network": layers})


def passed(run, trial: int) -> float:
    """The root mean square gradient of the first layer over that of the last, after the first epoch."""
    layers = next(iter(run.epochs(trial))).layers["layers"]
    sizes = [layer["gradients"] / layer["size"] ** 0.5 for layer in layers if "gradients" in layer]
    return sizes[0] / sizes[-1]


def measure(client: Client) -> Figures:
    """The share of the gradient that reaches the first layer, and the accuracy, mean of three seeds."""
    table = client.datasets.sample("circle").name
    runs = {kind: client.runs.create(activated(table, kind)) for kind in ("sigmoid", "tanh", "relu")}
    figures: Figures = {}
    for kind, run in runs.items():
        trials = [trial["index"] for trial in run.wait().result["trials"]]
        figures[f"{kind}: first layer's gradient over the last's"] = mean([passed(run, trial) for trial in trials])
        figures[f"{kind}: validation accuracy"] = mean(final(run, "val_accuracy"))
    finding = {finding.rule: finding.n for finding in runs["sigmoid"].findings()}
    figures["sigmoid: the finding vanishing_gradients"] = float("vanishing_gradients" in finding)
    child = runs["sigmoid"].apply_finding(finding["vanishing_gradients"])
    answered = client.runs.get(child.id).wait()
    return {**figures, "sigmoid, what the finding proposes": mean(final(answered, "val_accuracy"))}


def claims(figures: Figures) -> dict[str, bool]:
    """Return the lesson's claims, and whether each holds."""
    through, sigmoid, through_tanh, tanh, through_relu, relu, finding, answered = figures.values()
    return {
        "Less than a thousandth of the gradient comes through eight sigmoids.": through < 1e-3,
        "More than a tenth comes through tanh and through ReLU.": min(through_tanh, through_relu) > 0.1,
        "Sigmoids learn nothing (below 0.7), tanh and ReLU the circle (0.95).": sigmoid < 0.7
        and min(tanh, relu) > 0.95,
        "fitserve says why, and its answer learns the circle too.": finding == 1 and answered > 0.95,
    }


if __name__ == "__main__":
    main(measure, claims)
