"""A hidden layer of four units bends the border around a disc and along an exclusive or."""

from pathlib import Path

from examples.lesson import Figures, final, main, mean, spec
from fitserve.client import Client

HERE = Path(__file__).parent


def measure(client: Client) -> Figures:
    """Validation accuracy without and with a hidden layer, mean of five seeds; and with a finding's change."""
    runs = {}
    tables = {table: client.datasets.sample(table).name for table in ("circle", "xor")}
    for table, name in tables.items():
        for kind in ("without", "with"):
            body = spec(HERE / f"{kind}.yaml", {"dataset": name, "training.restarts": 5})
            runs[f"{table}, {kind} a hidden layer"] = client.runs.create(body)
    alone = client.runs.create(spec(HERE / "without.yaml", {"dataset": tables["circle"]})).wait()
    proposal = next(one for one in alone.findings() if one.rule in ("stuck_at_baseline", "underfitting"))
    changed = client.runs.get(alone.apply_finding(proposal.n).id).wait()
    figures = {f"{name}: validation accuracy": mean(final(run.wait(), "val_accuracy")) for name, run in runs.items()}
    return {**figures, f"circle, what the finding {proposal.rule} proposes": mean(final(changed, "val_accuracy"))}


def claims(figures: Figures) -> dict[str, bool]:
    """Return the lesson's claims, and whether each holds."""
    *pairs, answered = figures.values()
    circle, bent_circle, xor, bent_xor = pairs
    return {
        "Four hidden units lift the disc by more than 0.3.": bent_circle > circle + 0.3,
        "They lift the exclusive or by more than 0.3.": bent_xor > xor + 0.3,
        "Both reach 0.9.": min(bent_circle, bent_xor) > 0.9,
        "So does the finding's own answer.": answered > 0.9,
    }


if __name__ == "__main__":
    main(measure, claims)
