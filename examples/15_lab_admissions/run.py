"""Lab: who is admitted, from test score, grades and the rank of the school. Fifty test rows are few.

    python -m examples.15_lab_admissions.run student_data.csv

The table is the course's: 400 rows of admit, gre, gpa, rank. Without it, a similar table is generated.
"""

import csv
import functools
import io
import math
import random
import statistics
import sys
from pathlib import Path

from examples.lesson import Figures, final, main, mean, spec
from fitserve.client import Client

PUBLISHED = Path(__file__).with_name("published.yaml")
TEST_ROWS = 50
PUBLISHED_ACCURACY = 0.68
STANDARD_ERROR = math.sqrt(PUBLISHED_ACCURACY * (1 - PUBLISHED_ACCURACY) / TEST_ROWS)  # 0.066


def made() -> list[dict[str, str]]:
    """Return 400 rows like the course's, a third of them admitted."""
    draw = random.Random(6)
    rows = []
    for _ in range(400):
        gre, gpa, rank = draw.randrange(300, 801, 20), round(draw.uniform(2.4, 4.0), 2), draw.choice((1, 2, 2, 3, 3, 4))
        score = (gre - 590) / 80 + (gpa - 3.3) / 0.35 - 0.8 * (rank - 2) - 0.6
        admit = int(draw.random() < 1 / (1 + math.exp(-score)))
        rows.append({"admit": str(admit), "gre": str(gre), "gpa": str(gpa), "rank": str(rank)})
    return rows


def upload(client: Client, path: str | Path | None) -> None:
    """Upload the table with two more columns that assign each row to a part of the split.

    `part` tests on the first 50 rows; `watched` validates on them after every epoch, for many seeds.
    """
    rows = list(csv.DictReader(Path(path).read_text().splitlines())) if path else made()
    text = io.StringIO()
    writer = csv.DictWriter(text, [*rows[0], "part", "watched"])
    writer.writeheader()
    for number, row in enumerate(rows):
        first = number < TEST_ROWS
        writer.writerow({**row, "part": "test" if first else "train", "watched": "validation" if first else "train"})
    client.datasets.upload(text.getvalue().encode(), "lab-admissions", kinds={"rank": "categorical"})


def measure(client: Client, path: str | Path | None = None) -> Figures:
    """Accuracy of one run as published, and of ten seeds after the last epoch: the test rows select nothing."""
    upload(client, path)
    one = client.runs.create(spec(PUBLISHED))
    ten = client.runs.create(spec(PUBLISHED, {"split": {"column": "watched"}, "training.restarts": 10, "model": None}))
    one.wait()
    seeds = final(ten.wait(), "val_accuracy")
    answer = client.models.classify("lab-admissions", [{"gre": 780, "gpa": 3.9, "rank": "1"}])
    return {
        "the course's table (0: one made like it)": float(path is not None),
        "one run: training accuracy": one.scores("train")["accuracy"],
        "one run: test accuracy": one.scores("test")["accuracy"],
        "ten seeds: test accuracy, mean": mean(seeds),
        "ten seeds: test accuracy, standard deviation": statistics.stdev(seeds),
        "ten seeds: test accuracy, lowest": min(seeds),
        "ten seeds: test accuracy, highest": max(seeds),
        "gre 780, gpa 3.9, rank 1: probability of admission": answer[0]["1"],
    }


def claims(figures: Figures) -> dict[str, bool]:
    """Return the lesson's claims, and whether each holds."""
    real, train, one, ten, *_, strong = figures.values()
    where = f"within a standard error ({STANDARD_ERROR:.3f}) of the published {PUBLISHED_ACCURACY}, or above"
    return {
        f"Ten seeds: {where}.": ten > PUBLISHED_ACCURACY - STANDARD_ERROR,
        "One run: within two.": one > PUBLISHED_ACCURACY - 2 * STANDARD_ERROR,
        "Training accuracy is higher: part of what it knows is noise.": train > ten or not real,
        "A strong application is more likely admitted than not.": strong > 0.5,
    }


if __name__ == "__main__":
    main(functools.partial(measure, path=sys.argv[1] if len(sys.argv) > 1 else None), claims)
