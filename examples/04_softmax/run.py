"""Softmax turns ten scores into ten probabilities; the network learns to put most of them on the right digit."""

from pathlib import Path

from examples.lesson import Figures, final, main, mean, spec
from fitserve.client import Client

DIGITS = Path(__file__).with_name("digits.yaml")
ASKED = 50


def measure(client: Client) -> Figures:
    """Accuracy over seeds, and the served network's predictions."""
    table = client.datasets.sample("digits")
    run = client.runs.create(spec(DIGITS, {"dataset": table.name})).wait()
    rows = list(table.iter_rows(ASKED))
    answer = client.models.classify("lesson-digits", [{k: v for k, v in row.items() if k != "digit"} for row in rows])
    right = [scores[str(row["digit"])] for scores, row in zip(answer, rows, strict=True)]
    return {
        "accuracy on test rows, the best of three seeds": run.scores("test")["accuracy"],
        "validation accuracy, mean of three seeds": mean(final(run, "val_accuracy")),
        "labels in an answer": len(answer[0]),
        "largest distance of the sum of an answer from 1": max(abs(sum(scores.values()) - 1) for scores in answer),
        "smallest probability in any answer": min(min(scores.values()) for scores in answer),
        "mean probability of the right digit": mean(right),
    }


def claims(figures: Figures) -> dict[str, bool]:
    """Return the lesson's claims, and whether each holds."""
    test, validation, labels, distance, smallest, right = figures.values()
    return {
        "Ten labels, ten probabilities, none negative, together 1.": labels == 10 and distance < 1e-4 and smallest >= 0,
        "The right digit gets more than 0.9 of it on average.": right > 0.9,
        "It reads more than 93 % of digits that it never saw.": min(test, validation) > 0.93,
    }


if __name__ == "__main__":
    main(measure, claims)
