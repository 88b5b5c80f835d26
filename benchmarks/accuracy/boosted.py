"""LightGBM or CatBoost with its own defaults, in an environment of its own: `python boosted.py FOLDER`.

The folder holds train.parquet, test.parquet, target.parquet and request.json; predictions.npy is written into it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd


def model_of(request: dict[str, Any], categories: list[str]) -> Any:
    """Return the library's model, not fitted yet."""
    regression, seed = not request["labels"], request["seed"]
    if request["library"] == "lightgbm":
        import lightgbm

        cls = lightgbm.LGBMRegressor if regression else lightgbm.LGBMClassifier
        return cls(random_state=seed, verbose=-1)
    import catboost

    cls = catboost.CatBoostRegressor if regression else catboost.CatBoostClassifier
    return cls(random_seed=seed, verbose=False, cat_features=categories, allow_writing_files=False)


def main(folder: Path) -> None:
    request = json.loads((folder / "request.json").read_text())
    train, test = (pd.read_parquet(folder / f"{part}.parquet") for part in ("train", "test"))
    target, categories = pd.read_parquet(folder / "target.parquet")["y"], request["categories"]
    if request["library"] == "lightgbm":
        for name in categories:
            known = sorted(train[name].unique())
            train[name], test[name] = (pd.Categorical(part[name], categories=known) for part in (train, test))
        names = {name: f"column_{at}" for at, name in enumerate(train.columns)}  # which it takes without spaces
        train, test = train.rename(columns=names), test.rename(columns=names)
    model = model_of(request, categories)
    model.fit(train, target)
    if not request["labels"]:
        predicted = model.predict(test)
    else:
        known = [request["labels"].index(str(label)) for label in model.classes_]
        predicted = np.zeros((len(test), len(request["labels"])))
        predicted[:, known] = model.predict_proba(test)
    np.save(folder / "predictions.npy", np.asarray(predicted, np.float64))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
