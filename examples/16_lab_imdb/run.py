"""Lab: is a film review positive? A thousand words, each present or not, and 512 units.

    python -m examples.16_lab_imdb.run reviews.csv     # columns review and sentiment; may be gzipped

Without a file, `keras.datasets.imdb` is loaded, which needs Keras and a network; failing that, reviews are generated.
"""

import functools
import random
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from examples.lesson import Figures, main, spec
from fitserve.client import Client

IMDB = Path(__file__).with_name("imdb.yaml")
KIND = ["great", "wonderful", "moving", "brilliant", "superb", "charming", "delightful", "gripping"]
UNKIND = ["awful", "boring", "dull", "terrible", "waste", "clumsy", "tedious", "dreadful"]
PLAIN = ["the", "film", "a", "story", "of", "and", "plot", "actor", "scene", "it", "was", "with", "its", "ending"]


def made(count: int = 600) -> bytes:
    """Return reviews of twelve words, two or three of which show the sentiment."""
    draw = random.Random(0)
    lines = ["review,sentiment"]
    for number in range(count):
        kind = number % 2
        words = draw.choices(PLAIN, k=10) + draw.choices(KIND if kind else UNKIND, k=2)
        words += draw.choices(KIND + UNKIND, k=1)
        draw.shuffle(words)
        lines.append(f"{' '.join(words)},{kind}")
    return "\n".join(lines).encode()


def numbered(parts: dict[str, tuple[Iterable[Sequence[int]], Iterable[int]]]) -> bytes:
    """Return Keras's reviews as texts of numbers, a number per word: each number is a token."""
    lines = ["review,sentiment,part"]
    for part, (reviews, sentiments) in parts.items():
        for number, (review, sentiment) in enumerate(zip(reviews, sentiments, strict=True)):
            where = "validation" if part == "train" and number % 10 == 0 else part
            lines.append(f"{' '.join(map(str, review))},{sentiment},{where}")
    return "\n".join(lines).encode()


def from_keras() -> bytes | None:
    """Return both halves of the data set, 25,000 reviews each; None without Keras or a network."""
    try:
        from keras.datasets import imdb

        train, test = imdb.load_data(num_words=1000)
    except Exception as error:  # no Keras; and where the download fails, Keras raises a bare Exception
        print(f"keras.datasets.imdb is not to be had here ({error}): reviews are made.", file=sys.stderr)
        return None
    return numbered({"train": train, "test": test})


def measure(client: Client, path: str | Path | None = None, table: bytes | None = None) -> Figures:
    """Accuracy on reviews that neither training nor stopping has seen."""
    client.datasets.upload(Path(path) if path else table or made(), "lab-imdb", kinds={"review": "text"})
    columns = {column.name for column in client.datasets.get("lab-imdb").columns}
    body = spec(IMDB, {"split": {"column": "part"}} if "part" in columns else None)
    run = client.runs.create(body).wait()
    return {
        "test rows": float(run.result["rows"]["test"]),
        "test accuracy": run.scores("test")["accuracy"],
        "training accuracy": run.scores("train")["accuracy"],
        "epochs trained": float(run.result["epochs"]),
        "epoch that was kept": float(run.result["best_epoch"]),
    }


def claims(figures: Figures) -> dict[str, bool]:
    """Return the lesson's claims, and whether each holds."""
    _, test, train, epochs, kept = figures.values()
    return {
        "It is right about at least 85 of 100 reviews.": test >= 0.85,
        "It knows its training reviews better.": train >= test,
        "It stopped early: more passes only learn reviews by heart.": kept <= epochs,
    }


def table_of(arguments: list[str]) -> dict:
    """Return the source of the reviews."""
    return {"path": arguments[0]} if arguments else {"table": from_keras()}


if __name__ == "__main__":
    main(functools.partial(measure, **table_of(sys.argv[1:])), claims)
