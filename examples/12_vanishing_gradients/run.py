"""A sigmoid passes on at most a quarter of a gradient; through eight of them next to nothing is left."""

from pathlib import Path

from examples.lesson import Figures, last, main, mean, spec
from fitserve.client import Client

DEEP = Path(__file__).with_name("deep.yaml")


def activated(table: str, activation: str) -> dict:
    """The same network with another activation."""
    layers = [{"Dense": {"units": 16, "activation": activation}} for _ in range(8)]
    return spec(DEEP, {"dataset": table, "network": layers})


def passed(run, trial: int) -> float:
    """The root mean square gradient of the first layer over that of the last, after the first epoch."""
    layers = next(iter(run.epochs(trial))).layers["layers"]
    sizes = [layer["gradients"] / layer["size"] ** 0.5 for layer in layers if "gradients" in layer]
    return sizes[0] / sizes[-1]


def measure(client: Client) -> Figures:
    """What comes through of the gradient, and what the network learns, mean of three seeds."""
    table = client.datasets.sample("circle").name
    runs = {kind: client.runs.create(activated(table, kind)) for kind in ("sigmoid", "tanh", "relu")}
    found: Figures = {}
    for kind, run in runs.items():
        trials = [trial["index"] for trial in run.wait().result["trials"]]
        found[f"{kind}: first layer's gradient over the last's"] = mean([passed(run, trial) for trial in trials])
        found[f"{kind}: validation accuracy"] = mean(last(run, "val_accuracy"))
    said = {finding.rule: finding.n for finding in runs["sigmoid"].findings()}
    found["sigmoid: the finding vanishing_gradients"] = float("vanishing_gradients" in said)
    child = runs["sigmoid"].apply_finding(said["vanishing_gradients"])
    answered = client.runs.get(child.id).wait()
    return {**found, "sigmoid, what the finding proposes": mean(last(answered, "val_accuracy"))}


def claims(found: Figures) -> dict[str, bool]:
    """What the lesson says."""
    through, sigmoid, through_tanh, tanh, through_relu, relu, finding, answered = found.values()
    return {
        "Less than a thousandth of the gradient comes through eight sigmoids.": through < 1e-3,
        "More than a tenth comes through tanh and through ReLU.": min(through_tanh, through_relu) > 0.1,
        "Sigmoids learn nothing (below 0.7), tanh and ReLU the circle (0.95).": sigmoid < 0.7
        and min(tanh, relu) > 0.95,
        "fitserve says why, and its answer learns the circle too.": finding == 1 and answered > 0.95,
    }


if __name__ == "__main__":
    main(measure, claims)
