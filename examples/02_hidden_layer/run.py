"""A hidden layer of four units bends the border around a disc and along an exclusive or."""

from pathlib import Path

from examples.lesson import Figures, last, main, mean, spec
from fitserve.client import Client

HERE = Path(__file__).parent


def measure(client: Client) -> Figures:
    """Validation accuracy without and with a hidden layer, mean of five seeds; and of what a finding proposes."""
    runs = {}
    tables = {table: client.datasets.sample(table).name for table in ("circle", "xor")}
    for table, name in tables.items():
        for kind in ("without", "with"):
            body = spec(HERE / f"{kind}.yaml", {"dataset": name, "training.restarts": 5})
            runs[f"{table}, {kind} a hidden layer"] = client.runs.create(body)
    alone = client.runs.create(spec(HERE / "without.yaml", {"dataset": tables["circle"]})).wait()
    said = next(finding for finding in alone.findings() if finding.rule in ("stuck_at_baseline", "underfitting"))
    answered = client.runs.get(alone.apply_finding(said.n).id).wait()
    found = {f"{name}: validation accuracy": mean(last(run.wait(), "val_accuracy")) for name, run in runs.items()}
    return {**found, f"circle, what the finding {said.rule} proposes": mean(last(answered, "val_accuracy"))}


def claims(found: Figures) -> dict[str, bool]:
    """What the lesson says."""
    *pairs, answered = found.values()
    circle, bent_circle, xor, bent_xor = pairs
    return {
        "Four hidden units lift the disc by more than 0.3.": bent_circle > circle + 0.3,
        "They lift the exclusive or by more than 0.3.": bent_xor > xor + 0.3,
        "Both reach 0.9.": min(bent_circle, bent_xor) > 0.9,
        "So does the finding's own answer.": answered > 0.9,
    }


if __name__ == "__main__":
    main(measure, claims)
