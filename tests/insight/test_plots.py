"""Every plot as PNG and SVG: a valid image that is not blank and shows its figures."""

from __future__ import annotations

import io
import re
from typing import Any, get_args
from xml.etree import ElementTree

import httpx2
import numpy as np
import pytest
from PIL import Image

from services.control.insight.plot_routes import Kind

pytestmark = pytest.mark.xdist_group("server")

# Texts that each plot must contain, and its least number of curves, bars, cells or points.
EXPECTED: dict[str, tuple[list[str], int]] = {
    "complexity": (["Model complexity: overfitting", "epoch", "training", "validation turned", "kept epoch"], 5),
    "layers": (["weights", "gradients", "ratio", "dead or saturated", "epoch", "dense", "dense_1", "label"], 9),
    "histograms": (["dense", "dense_1", "label"], 3),
    "confusion": (["Confusion matrix", "predicted", "actual", "yes", "no"], 1),
    "roc": (["ROC (area)", "false positive", "true positive"], 2),
    "pr": (["Precision and recall (area)", "recall", "precision"], 1),
    "calibration": (["Calibration", "predicted", "observed"], 2),
    "importance": (["Permutation importance", "rise of the loss", "a", "b", "c", "city"], 4),
    "surface": (["Epoch 60", "probability of yes"], 1),
    "units": (["dense 0", "dense 35"], 36),
    "predicted": (["Predicted against actual", "actual", "predicted"], 48),
    "residuals": (["Residuals by tenth of the predictions", "predicted less actual"], 10),
}


def render(kind: str, data: Any, form: str) -> bytes:
    """Draw in this process. Only the process of these tests imports matplotlib."""
    from services.control.insight import plots

    return plots.render(kind, data, form)


def test_every_kind_has_expectations() -> None:
    from services.control.insight.plots import DRAWERS

    assert set(EXPECTED) == set(DRAWERS) == set(get_args(Kind))


@pytest.fixture(scope="module")
def figures(api: httpx2.Client, run: str, restarted: str) -> dict[str, Any]:
    """Data of the JSON routes by kind of plot."""

    def read(name: str, of: str = run, **params: Any) -> Any:
        return api.get(f"/runs/{of}/{name}", params=params).raise_for_status().json()

    layers, surface = read("layers"), read("surface", points=30, units=True)
    found = {"complexity": read("complexity"), "layers": layers, "histograms": layers["final"]}
    found |= dict.fromkeys(("confusion", "roc", "pr", "calibration"), read("evaluation")["test"]["label"])
    found |= dict.fromkeys(("predicted", "residuals"), read("evaluation", restarted)["test"]["amount"])
    return {**found, "importance": read("importance"), "surface": surface, "units": surface}


@pytest.mark.parametrize("kind", EXPECTED)
def test_a_plot_shows_its_figures(figures: dict[str, Any], kind: str) -> None:
    picture = Image.open(io.BytesIO(render(kind, figures[kind], "png")))
    assert (picture.format, picture.size) == ("PNG", (864, 540))
    pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    ink = (pixels < 240).any(axis=1).mean()
    assert 0.01 < ink < 0.95
    assert len(np.unique(pixels, axis=0)) > 20
    words, marks = EXPECTED[kind]
    svg = render(kind, figures[kind], "svg").decode()
    root = ElementTree.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    written = [text.strip() for text in re.findall(r"<!--(.*?)-->", svg, re.DOTALL)]
    assert [word for word in words if word not in written] == []
    assert "$" not in "".join(written)  # Matplotlib's formulas are not rendered in SVG
    assert _count_marks(root) >= marks


def _count_marks(root: ElementTree.Element) -> int:
    """Count curves, bars, points and images within the axes, without frames, ticks and texts."""
    space = "{http://www.w3.org/2000/svg}"
    images = len(list(root.iter(f"{space}image")))  # a mesh is one image, which is clipped
    clipped = [one for one in root.iter() if "clip-path" in one.attrib and one.tag in (f"{space}path", f"{space}g")]
    return images + sum(max(1, len(list(one.iter(f"{space}use")))) for one in clipped)


def test_names_are_drawn_literally(figures: dict[str, Any]) -> None:
    data = {"items": [{"column": "$x^2$ <b>&amp;", "importance": 1.0, "low": 0.5, "high": 1.5}]}
    ElementTree.fromstring(render("importance", data, "svg"))
    assert render("importance", data, "png").startswith(b"\x89PNG")


def test_the_api_draws_the_data_of_its_json_routes(api: httpx2.Client, run: str, figures: dict[str, Any]) -> None:
    png = api.get(f"/runs/{run}/plots/complexity.png").raise_for_status()
    assert png.headers["content-type"] == "image/png"
    same = np.asarray(Image.open(io.BytesIO(png.content)))
    assert np.array_equal(same, np.asarray(Image.open(io.BytesIO(render("complexity", figures["complexity"], "png")))))
    svg = api.get(f"/runs/{run}/plots/roc.svg").raise_for_status()
    assert svg.headers["content-type"].startswith("image/svg+xml")
    assert svg.content == render("roc", figures["roc"], "svg")
    again = api.get(f"/runs/{run}/plots/roc.svg", headers={"If-None-Match": svg.headers["etag"]})
    assert again.status_code == 304
    assert api.get(f"/runs/{run}/plots/residuals.png").status_code == 404
