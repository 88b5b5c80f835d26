"""Small tables on which readers once failed: each gives the right values and notices, or is refused.

They lie in `cases`, beside the folder of real tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.datasets.conftest import Api
from tests.datasets.uploads import stored

N, C, B, D, I = "numeric", "categorical", "boolean", "datetime", "ignored"  # noqa: E741


@dataclass(frozen=True)
class Read:
    """How a file is to be read: kinds by column, values of the first rows, number of rows, codes of notices."""

    kinds: Mapping[str, str]
    first: list[list[Any]]
    rows: int
    notices: set[str] = field(default_factory=set)
    options: Mapping[str, str] = field(default_factory=dict)


CASES: dict[str, Read] = {
    "t01_rare.csv": Read({"a": N, "b": N, "cls": C}, [[4.177, 116.505, "spam"]], 133),
    "t04_iris123.csv": Read({"a": N, "b": N, "species": C}, [[0.944, -1.009, 1]], 150),
    "t04b_labels_10_20_30.csv": Read({"a": N, "b": N, "grade": N}, [[1.024, 0.028, 10]], 150),
    "t04c_labels_m11.csv": Read({"a": N, "b": N, "y": N}, [[-0.422, 1.681, -1]], 160),
    "t04d_labels_12.csv": Read({"a": N, "b": N, "y": N}, [[0.917, -2.209, 1]], 160),
    "t05_missing_target.csv": Read({"a": N, "b": N, "churn": B}, [[1.345, -0.504, None], [-0.526, -0.424, "yes"]], 130),
    "t05b_missing_num.csv": Read({"a": N, "b": N, "price": N}, [[0.415, 0.36, None], [0.637, 1.141, 6.03]], 130),
    "t07c_space_labels.csv": Read(
        {"age": N, "hours": N, "income": C},
        [[31, 31, "<=50K"], [31, 25, "<=50K"], [54, 45, ">50K"]],
        120,
        {"spellings_merged"},
    ),
    "t11_inf_target.csv": Read({"a": N, "b": N, "rate": N}, [[-0.359, -1.228, 1.646]], 100),
    "t18_imbalanced.csv": Read({"a": N, "b": N, "fraud": B}, [[2.539, 1.341, 1]], 1000),
    "t19b_tiny_target.csv": Read({"a": N, "b": N, "conc": N}, [[-1.742, -0.003, 1.650838e-11]], 200),
    "t19c_year_offset.csv": Read({"a": N, "b": N, "epoch": N}, [[0.818, 0.762, 1700000392]], 200),
    "t21_epoch_ms.csv": Read({"ts": D, "x": N, "y": B}, [["2023-11-14T22:13:20", 0.238, 0]], 120, {"epoch"}),
    "u01_euro.csv": Read({"umsatz": N, "einwohner": N, "gut": C}, [[3049.73, 20772, "nein"]], 60, {"decimal_sign"}),
    "u01b_euro_int.csv": Read({"quote": N, "einwohner": N, "klasse": C}, [[6.1, 7233, "a"]], 60, {"decimal_sign"}),
    "u02_us_money.csv": Read(
        {"revenue": N, "budget": N, "growth": N, "balance": N, "trend": C},
        [[22439.64, 7479.88, 1.9, 2722.61, "down"]],
        60,
        {"unit_left_out", "accounting_negatives"},
    ),
    "u03_doseof.csv": Read({"a": N, "b": N, "y": C}, [[0, 0, "z"]], 40, {"end_of_file_mark"}),
    "u04_preamble.csv": Read(
        {"Booked": D, "Valued": D, "Reference": N, "Amount": N},
        [["2024-06-01T00:00:00", "2024-07-01T00:00:00", 5483035614, 60.35]],
        40,
        {"preamble_skipped", "trailing_delimiter"},
    ),
    "u04b_trailing.csv": Read(
        {"booked": D, "reference": N, "amount": N},
        [["2024-06-01T00:00:00", 8817772542, 1.57]],
        40,
        {"trailing_delimiter"},
    ),
    "u05_na.csv": Read({"continent": C, "gdp": N, "y": B}, [["NA", 1.35, 1], ["OC", 6.97, 0]], 120, {"read_as_label"}),
    "u05c_none_target.csv": Read(
        {"dose": N, "age": N, "side_effect": C},
        [[3.8, 61, "Severe"], [5.82, 53, "Severe"], [2.99, 77, "None"]],
        120,
        {"read_as_label"},
    ),
    "u06b_naive_and_tz.csv": Read(
        {"measured_at": D, "load": N, "flag": B}, [["2024-03-01T10:15:00+00:00", 3.91, 0]], 60, {"naive_and_zoned"}
    ),
    "u06c_month_names.csv": Read(
        {"filed": D, "amount": N, "flag": B},
        [["2023-01-01T00:00:00", 2.02, 0], ["2023-02-02T00:00:00", 2.52, 1]],
        60,
    ),
    "u06e_ampm.csv": Read(
        {"at": D, "amount": N, "flag": B}, [["2023-01-01T01:00:00", 3.93, 0], ["2023-02-02T14:01:00", 4.72, 1]], 60
    ),
    "u08_ids.csv": Read(
        {"account": I, "score": N, "label": B},
        [[None, 0.897, 0], [1582218195625938952, 0.885, 1], [1582218195625938959, 0.522, 0]],
        60,
        {"digits_kept"},
    ),
    "u08b_ids_sci.csv": Read(
        {"tweet": I, "score": N, "label": B},
        [["1.35217E+17", 0.16, 0], ["135217135789158414", 0.966, 1]],
        60,
        {"digits_kept"},
    ),
    "u09_types.parquet": Read(
        {"order_id": I, "database_id": N, "amount": N, "region": C, "at": D, "day": D, "u64": I, "u8": C, "f16": N},
        [
            [
                *(1000000000000000000, 0, None, None, "bb", "2024-01-01T01:00:00+01:00", "2024-01-01", "00:00:00"),
                *(None, "9223372036854775808", 0, 0.0, 0, False),
            ]
        ],
        60,
        {"time_to_microseconds", "time_of_day_as_text", "digits_as_text", "duration_as_number", "digits_kept"},
    ),
    "u09e_pandas_index.parquet": Read({"a": N, "y": C, "index": I}, [[0, "u", 100]], 40, {"column_set_aside"}),
    "u09f_decimal_label.parquet": Read({"x": N, "label": C, "flag": B}, [[-0.31467549998983935, 0, 0]], 120),
    "u10b_header_newline_only.csv": Read({"x": N, "y": C, "Yield\n(kg/ha)": N}, [[0, "a", 7.22]], 40),
    "u13_sep.csv": Read({"alter": N, "gewicht": N, "klasse": C}, [[35, 66.2, "z"]], 40, {"sep_line"}),
    "u16_footer.csv": Read({"region": C, "units": N, "revenue": N}, [["east", 22, 412.07]], 50, {"footer_skipped"}),
    "u17b_utf16_nobom.txt": Read({"a": N, "b": C, "c": B}, [[1.19, "g", 0]], 40, {"encoding_recognised"}),
    "u17d_cp1252.csv": Read(
        {"name": C, "preis": N, "klasse": B},
        [["Café ‘0’", 0, 0], ["Café ‘1’", 1, 1]],
        40,
        {"encoding_recognised", "unit_left_out"},
    ),
    "u18_bools.csv": Read(
        {"a": B, "b": B, "c": B, "d": B, "e": B, "y": C},
        [["No", "N", "F", "on", True, "wahr"], ["No", "N", "F", "off", True, "falsch"]],
        80,
        {"spellings_merged"},
    ),
    "u20_r_rownames.csv": Read(
        {"row_name": I, "mpg": N, "cyl": N, "y": B}, [["Car 0", 21.6, 8, 0]], 60, {"column_set_aside"}
    ),
}


@pytest.fixture(scope="session")
def cases(shared_tables: Path) -> Path:
    folder = shared_tables.parent / "cases"
    if not folder.is_dir():
        pytest.skip(f"there is no {folder.name} beside {shared_tables.name}")
    return folder


@pytest.mark.parametrize("name", CASES)
def test_a_table_on_which_readers_failed(api: Api, cases: Path, name: str) -> None:
    case = CASES[name]
    body, rows = stored(api, (cases / name).read_bytes(), **case.options)
    kinds = {column["name"]: column["kind"] for column in body["columns"]}
    assert {column: kinds.get(column) for column in case.kinds} == case.kinds
    assert len(kinds) == len(rows[0])
    assert rows[: len(case.first)] == case.first
    assert (body["rows"], len(rows)) == (case.rows, case.rows)
    assert {notice["code"] for notice in body["notices"]} == case.notices


def test_each_file_is_a_case(cases: Path) -> None:
    assert {path.name for path in cases.iterdir() if path.is_file()} <= {*CASES, "README.md"}
