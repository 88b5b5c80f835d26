"""A sigmoid passes on at most a quarter of a gradient; through eight of them next to nothing is left."""

from pathlib import Path

from examples.lesson import Figures, main, mean, spec
from fitserve.client import Client

DEEP = Path(__file__).with_name("deep.yaml")
SEEDS = (0, 1)


def activated(activation: str, seed: int) -> dict:
    """The same network with another activation."""
    layers = [{"Dense": {"units": 16, "activation": activation}} for _ in range(8)]
    return spec(DEEP, {"network": layers, "training.seed": seed})


def passed(run) -> float:
    """The root mean square gradient of the first layer over that of the last, after the first epoch."""
    first, *_, last = (layer for layer in next(iter(run.epochs())).layers["layers"] if "gradients" in layer)
    return (first["gradients"] / first["size"] ** 0.5) / (last["gradients"] / last["size"] ** 0.5)


def measure(client: Client) -> Figures:
    """What comes through of the gradient, and what the network learns, mean of two seeds."""
    client.datasets.sample("circle")
    runs = {kind: [client.runs.create(activated(kind, seed)) for seed in SEEDS] for kind in ("sigmoid", "tanh", "relu")}
    found: Figures = {}
    for kind, same in runs.items():
        found[f"{kind}: first layer's gradient over the last's"] = mean([passed(run.wait()) for run in same])
        found[f"{kind}: validation accuracy"] = mean([run.scores("validation")["accuracy"] for run in same])
    stuck = runs["sigmoid"][0]
    said = {finding.rule: finding.n for finding in stuck.findings()}
    found["sigmoid: the finding vanishing_gradients"] = float("vanishing_gradients" in said)
    answered = client.runs.get(stuck.apply_finding(said["vanishing_gradients"]).id).wait()
    return {**found, "sigmoid, what the finding proposes": answered.scores("validation")["accuracy"]}


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
