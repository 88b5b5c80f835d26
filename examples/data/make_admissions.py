"""Make admissions.csv: `python make_admissions.py > admissions.csv`.

Invented students with test score, average grade, rank of the school, and whether they were admitted: the better, the
likelier. The columns are those of a table that courses on logistic regression often use; none of its rows is here.
"""

from __future__ import annotations

import csv
import math
import random
import sys


def main() -> None:
    draw = random.Random(7)
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["gre", "gpa", "rank", "admit"])
    for _ in range(400):
        rank = draw.choices([1, 2, 3, 4], [3, 7, 6, 4])[0]
        gre = min(800, max(220, round(draw.gauss(590, 110) / 20) * 20))
        gpa = min(4.0, max(2.2, round(draw.gauss(3.4, 0.38), 2)))
        merit = (gre - 590) / 60 + (gpa - 3.4) / 0.22 - 1.1 * (rank - 2.3) - 1.0
        admitted = draw.random() < 1 / (1 + math.exp(-1.6 * merit))
        table.writerow([gre, f"{gpa:.2f}", rank, int(admitted)])


if __name__ == "__main__":
    main()
