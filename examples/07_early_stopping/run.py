"""The model complexity graph: training loss keeps falling, validation loss turns. Stop at the turn."""

from pathlib import Path

from examples.lesson import Figures, main, mean, spec
from fitserve.client import Client

HERE = Path(__file__).parent
SEEDS = (0, 1, 2)


def test_loss(run) -> float:
    """Cross-entropy on the test rows, which neither training nor early stopping used."""
    return run.result["metrics"]["test"]["loss"]


def measure(client: Client) -> Figures:
    """Losses on unseen rows, with and without early stopping, mean of three seeds."""
    client.datasets.sample("xor", "xor-few", noise=25, rows=200)
    runs = {
        kind: [client.runs.create(spec(HERE / f"{kind}.yaml", {"training.seed": seed})) for seed in SEEDS]
        for kind in ("overfit", "stopped")
    }
    for run in (*runs["overfit"], *runs["stopped"]):
        run.wait()
    graphs = [run.complexity() for run in runs["overfit"]]
    return {
        "to the end: training loss": mean([run.result["metrics"]["train"]["loss"] for run in runs["overfit"]]),
        "to the end: test loss": mean([test_loss(run) for run in runs["overfit"]]),
        "stopped: training loss": mean([run.result["metrics"]["train"]["loss"] for run in runs["stopped"]]),
        "stopped: test loss": mean([test_loss(run) for run in runs["stopped"]]),
        "epoch in which validation turned": mean([graph.turned_epoch or graph.kept_epoch for graph in graphs]),
        "to the end: runs of three with the verdict overfitting": sum(g.verdict == "overfitting" for g in graphs),
        "stopped: runs of three with it": sum(run.complexity().verdict == "overfitting" for run in runs["stopped"]),
    }


def claims(figures: Figures) -> dict[str, bool]:
    """Return the lesson's claims, and whether each holds."""
    train, test, stopped_train, stopped_test, turned, overfitting, still = figures.values()
    return {
        "Trained to the end, the training loss is lower.": train < stopped_train,
        "And the test loss more than one and a half times as high.": test > 1.5 * stopped_test,
        "Validation turned before half of the 150 epochs.": turned < 75,
        "fitserve's verdict: overfitting without, and not with early stopping.": overfitting == 3 and still == 0,
    }


if __name__ == "__main__":
    main(measure, claims)
