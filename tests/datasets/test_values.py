"""Numbers, dates, missing values and labels as people write them get the right value, or the user is asked."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.datasets.conftest import Api

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"


def lines(header: str, *rows: str, times: int = 1) -> bytes:
    return "\n".join([header, *(rows * times), ""]).encode()


@dataclass(frozen=True)
class Case:
    """A table and what a person reads in its first column: values of the first rows, kind, notices."""

    data: bytes
    values: list[Any]
    kind: str
    notices: set[str] = field(default_factory=set)
    options: dict[str, str] = field(default_factory=dict)


def euro(*values: str) -> bytes:
    return lines("a;b", *(f"{value};x" for value in values))


def us(*values: str) -> bytes:
    return lines("a,b", *(f'"{value}",x' for value in values))


NUMBERS = list(range(20, 44, 2))
TENS = [str(number) for number in NUMBERS]
HUNDRED = [f"{number}.25" for number in range(20, 120)]
TWICE = ["1.234", "5.678", "9.012"]
CASES_OF_NUMBERS = {
    "a decimal comma that one value proves": Case(euro(*TWICE, "3.049,73"), [1234, 5678, 9012, 3049.73], "numeric"),
    "a decimal comma by option": Case(euro(*TWICE), [1234, 5678, 9012], "numeric", options={"formats.a.decimal": ","}),
    "in doubt, a point": Case(euro(*TWICE), [1.234, 5.678, 9.012], "numeric", {"decimal_sign"}),
    "a comma in doubt, between commas": Case(us("1,234", "5,678"), [1234, 5678], "numeric", {"decimal_sign"}),
    "a comma in doubt, between semicolons": Case(euro("1,234", "5,678"), [1.234, 5.678], "numeric", {"decimal_sign"}),
    "thousands and a point": Case(us("1,234.5", "12", "1,234,567"), [1234.5, 12, 1234567], "numeric"),
    "Indian groups": Case(us("12,34,567", "1,00,000"), [1234567, 100000], "numeric"),
    "blanks": Case(euro("1 234,5", "12", "1 234 567"), [1234.5, 12, 1234567], "numeric"),
    "thin blanks": Case(euro("1\u202f234,5", "1\u2009000", "1\u00a0000"), [1234.5, 1000, 1000], "numeric"),
    "apostrophes": Case(euro("1'234.5", "1’000"), [1234.5, 1000], "numeric"),
    "dollars": Case(us("$1,234.50", "-$5", "$-6", "$ 7"), [1234.5, -5, -6, 7], "numeric", {"unit_left_out"}),
    "euros": Case(euro("1.234,50 €", "-5 €", "7€"), [1234.5, -5, 7], "numeric", {"unit_left_out"}),
    "codes of currencies": Case(us("USD 5", "USD 1,000"), [5, 1000], "numeric", {"unit_left_out", "decimal_sign"}),
    "per cent": Case(us("1.9%", "-3 %", "12%"), [1.9, -3, 12], "numeric", {"unit_left_out"}),
    "brackets": Case(us("(219.64)", "5", "(1)"), [-219.64, 5, -1], "numeric", {"accounting_negatives"}),
    "brackets behind a sign": Case(
        us("€(63.12)", "(€5)", "€1.5"), [-63.12, -5, 1.5], "numeric", {"unit_left_out", "accounting_negatives"}
    ),
    "a trailing minus": Case(us("5-", "6.5", "7.25-"), [-5, 6.5, -7.25], "numeric", {"accounting_negatives"}),
    "no cents": Case(euro("5,–", "6,50", "7,-"), [5, 6.5, 7], "numeric"),
    "at least so many": Case(us("1,000+", "10+"), [1000, 10], "numeric", {"decimal_sign"}, {"formats.a.units": "+"}),
    "a minus of its own": Case(us("\u22125", "6"), [-5, 6], "numeric"),
    "kilograms": Case(us("5 kg", "6 kg", "7 kg"), ["5 kg", "6 kg", "7 kg"], "categorical", {"unit_not_read"}),
    "kilograms by option": Case(us("5 kg", "6kg"), [5, 6], "numeric", options={"formats.a.units": "kg"}),
    "several units by option": Case(us("$5", "€6"), [5, 6], "numeric", options={"formats.a": '{"units": ["$", "€"]}'}),
    "two currencies": Case(us("$5", "€6", "$7"), ["$5", "€6", "$7"], "categorical", {"mixed_units"}),
    "cells of blanks": Case(us("1", "   ", "2.5"), [1, None, 2.5], "numeric"),
    "an identifier of 20 digits": Case(
        us("12345678901234567890", "1"), ["12345678901234567890", "1"], "categorical", {"digits_kept"}
    ),
    "digits lost in some": Case(
        us("1.35217E+17", "135217135789158414"), ["1.35217E+17", "135217135789158414"], "categorical", {"digits_kept"}
    ),
    "whole floats of 18 digits": Case(
        us("135217135789158414.0", "2.0"), ["135217135789158414.0", "2.0"], "categorical", {"digits_kept"}
    ),
    "19 digits": Case(
        us("1582218195625938952", "1582218195625938959"),
        [1582218195625938952, 1582218195625938959],
        "ignored",
        {"digits_kept"},
    ),
    "fullwidth digits": Case(us("１２３", "－４．５"), [123, -4.5], "numeric"),
    "Arabic digits": Case(euro("١٢٣", "٤٫٥"), [123, 4.5], "numeric"),
    "two decimal signs": Case(euro("1.5", "2,5", "3.75"), ["1.5", "2,5", "3.75"], "categorical", {"some_are_numbers"}),
    "below a limit": Case(
        us("<0.05", "0.3", "0.7", "1.2"), ["<0.05", "0.3", "0.7", "1.2"], "categorical", {"some_are_numbers"}
    ),
    "a word among many numbers": Case(
        us(*HUNDRED, "BDL", "BDL", "BDL"), [20.25, 21.25], "numeric", {"read_as_missing"}
    ),
    "a word among many numbers, often": Case(
        us(*HUNDRED, *["not measured"] * 20), [20.25, 21.25], "numeric", {"read_as_missing"}
    ),
    "limits among many numbers": Case(
        us(*HUNDRED, "<0.05", "<0.05", "~3", "5*"), ["20.25", "21.25"], "ignored", {"some_are_numbers"}
    ),
    "truth among many numbers": Case(
        us(*HUNDRED, "true", "true", "true", "true"), ["20.25", "21.25"], "ignored", {"some_are_numbers"}
    ),
    "a word among few codes": Case(
        us(*["1", "2", "3"] * 40, "G", "G", "G", "G"), ["1", "2"], "categorical", {"some_are_numbers"}
    ),
    "amounts beside words": Case(
        us("19M", "8.7M", "201k", "Varies with device"), ["19M", "8.7M"], "categorical", {"some_are_numbers"}
    ),
    "triangles of Japanese accounts": Case(
        us("1,234.5", "▲500", "△7"), [1234.5, -500, -7], "numeric", {"accounting_negatives"}
    ),
    "triangles of rises": Case(us("▲500", "▲20", "▲7"), ["▲500"], "categorical", {"number_like_text"}),
    "missing values of Stata": Case(
        us(*TENS, ".", ".a", ".z"), [*NUMBERS, None, None, None], "numeric", {"read_as_missing"}
    ),
    "thousands and millions": Case(us("1.2K", "3M", "850"), ["1.2K", "3M", "850"], "categorical", {"magnitudes"}),
    "one column of amounts": Case(lines("Value", "68,527.00", "1.50"), [68527, 1.5], "numeric"),
    "one column of decimal commas": Case(lines("foo", "12,5", "145,00"), [12.5, 145], "numeric"),
    "codes with 0x": Case(us("0x1A", "0x2B"), ["0x1A", "0x2B"], "categorical", {"number_like_text"}),
    "fractions": Case(us("3/4", "1 1/2"), ["3/4", "1 1/2"], "categorical", {"number_like_text"}),
    "powers of ten": Case(us("1.5x10^3", "2.0D+03"), ["1.5x10^3", "2.0D+03"], "categorical", {"number_like_text"}),
    "numbers marked as text": Case(us("'12", "'013"), ["'12", "'013"], "categorical", {"number_like_text"}),
    "ranges": Case(us("10-20", "20 – 30"), ["10-20", "20 – 30"], "categorical", {"number_like_text"}),
    "about so many": Case(us("~5", "<6"), ["~5", "<6"], "categorical", {"number_like_text"}),
    "ordinal numbers": Case(us("1st", "2nd"), ["1st", "2nd"], "categorical", {"number_like_text"}),
    "sizes": Case(us("1920x1080", "0.5, 0.7"), ["1920x1080", "0.5, 0.7"], "categorical", {"number_like_text"}),
    "labels with what is not seen": Case(
        us("p\u200b", "p", "q", "p"), ["p\u200b", "p"], "categorical", {"similar_labels"}
    ),
    "clock times": Case(us("08:30", "23:15"), ["08:30", "23:15"], "categorical", {"number_like_text"}),
    "durations": Case(us("1h 30m", "2h"), ["1h 30m", "2h"], "categorical", {"number_like_text"}),
    "feet and inches": Case(lines("a;b", "5'11;x", "6'2;y"), ["5'11", "6'2"], "categorical", {"number_like_text"}),
    "degrees": Case(us("48°51′24″N", "2.35° E"), ["48°51′24″N", "2.35° E"], "categorical", {"number_like_text"}),
    "millions of dollars": Case(us("$1.2bn", "$500"), ["$1.2bn", "$500"], "categorical", {"number_like_text"}),
    "a spreadsheet's zero": Case(
        us(" $ 1,234.00 ", " $ -   ", " $ (55.10)", "$3.50"),
        [1234, 0, -55.1, 3.5],
        "numeric",
        {"unit_left_out", "accounting_zero", "accounting_negatives"},
    ),
    "rupees": Case(euro("Rs. 500/-", "Rs. 1,500/-"), [500, 1500], "numeric", {"unit_left_out", "decimal_sign"}),
    "thousands of euros": Case(euro("1.500 €", "20 €"), [1500, 20], "numeric", {"unit_left_out", "decimal_sign"}),
    "codes in small letters": Case(us("usd 5", "usd 6.5"), [5, 6.5], "numeric", {"unit_left_out"}),
    "words before fractions": Case(us("lt 5.5", "lt 6"), ["lt 5.5", "lt 6"], "categorical", {"unit_not_read"}),
    "rooms": Case(us("Room 5", "Room 6"), ["Room 5", "Room 6"], "categorical"),
    "infinite in C": Case(us("1.#INF", "-1.#INF", "∞", "2.5"), ["Infinity", "-Infinity", "Infinity", 2.5], "numeric"),
    "larger than float64": Case(
        us("1e400", "1.5", "2.5", "3", "4"), ["1e400", "1.5"], "categorical", {"some_are_numbers"}
    ),
    "wons and fullwidth signs": Case(us("1,234원", "99원"), [1234, 99], "numeric", {"unit_left_out", "decimal_sign"}),
    "fullwidth yen": Case(us("￥1,234.00", "￥99.5"), [1234, 99.5], "numeric", {"unit_left_out"}),
    "ten thousands": Case(us("1万2千", "3万"), ["1万2千", "3万"], "categorical", {"number_like_text"}),
    "degrees and minutes": Case(us("48 51.408N", "40 42.766N"), ["48 51.408N"], "categorical", {"number_like_text"}),
    "ranges with an open end": Case(us("10-20", "20-30", "60+"), ["10-20"], "categorical", {"number_like_text"}),
    "shillings": Case(us("£3 4s 6d", "£1 0s 0d"), ["£3 4s 6d"], "categorical", {"number_like_text"}),
    "telephone numbers": Case(us("+491701234567", "+491707654321"), ["+491701234567"], "categorical", {"digits_kept"}),
    "telephone numbers by kind": Case(
        us("+491701234567", "+491707654321"), [491701234567], "numeric", options={"kinds.a": "numeric"}
    ),
    "signs before numbers": Case(us("+5", "-3"), [5, -3], "numeric"),
    "codes with an E": Case(us("12E3", "1300", "14E4"), [12000, 1300, 140000], "numeric", {"exponents"}),
    "exponents of programs": Case(us("1e-05", "1e5", "3.5e10"), [1e-5, 1e5, 3.5e10], "numeric"),
    "mostly a spelling of missing": Case(
        us(*["-"] * 40, "0.5", "1.5", "2.5"), [None] * 40 + [0.5, 1.5, 2.5], "numeric", {"read_as_missing"}
    ),
    "a spelling of missing beside one number": Case(us(*["-"] * 40, "0.5"), ["-"], "categorical", {"some_are_numbers"}),
    "names of one letter and a number": Case(us("S1", "S2", "S3", "S1"), ["S1", "S2"], "categorical"),
    "numbers with footnotes": Case(
        us("1,234[1]", "2,345", "345", "67*", "12¹"), ["1,234[1]", "2,345"], "categorical", {"number_like_text"}
    ),
    "squares of a footnote": Case(us("12²", "34¹", "7"), ["12²", "34¹"], "categorical", {"number_like_text"}),
    "failed formulas in German": Case(us("1", "2", "#WERT!", "4"), [1, 2, None, 4], "numeric", {"read_as_missing"}),
    "not known in Japanese": Case(us("1", "2", "不明", "4"), [1, 2, None, 4], "numeric", {"read_as_missing"}),
    "versions": Case(us("3.9", "3.10", "3.11"), [3.9, 3.1, 3.11], "numeric", {"zeros_left_out"}),
    "amounts with cents": Case(us("3.90", "3.10", "3"), [3.9, 3.1, 3], "numeric"),
    "coordinates beside commas": Case(
        lines("lat;b", "48.001;1,5", "48.123;2,5"), [48.001, 48.123], "numeric", {"decimal_sign"}
    ),
    "limits beside numbers": Case(us("≥5", "≤3", "5", "4"), ["≥5", "≤3"], "categorical", {"number_like_text"}),
    "numbers with their errors": Case(
        us("5.1 (0.1)", "6.2 (0.3)"), ["5.1 (0.1)", "6.2 (0.3)"], "categorical", {"number_like_text"}
    ),
    "ratios": Case(us("1:2", "16:9"), ["1:2", "16:9"], "categorical", {"number_like_text"}),
    "lists": Case(us("[1, 2, 3]", "[4, 5, 6]"), ["[1, 2, 3]", "[4, 5, 6]"], "categorical", {"number_like_text"}),
    "coordinates of a GPS receiver": Case(
        lines("lat,ns,b", "4807.038,N,x", "4811.420,N,y", "4159.999,S,z"),
        [4807.038, 4811.42],
        "numeric",
        {"packed_coordinates"},
    ),
    "the same, with zeros": Case(
        lines("lon,ew,b", "01131.000,E,x", "00459.250,W,y", "01131.000,E,z"),
        ["01131.000", "00459.250"],
        "categorical",
        {"packed_coordinates", "digits_kept"},
    ),
    "the same, in one text": Case(us("4807.038N", "4159.999S"), ["4807.038N"], "categorical", {"number_like_text"}),
    "hundreds of metres beside the wind": Case(lines("d,wind,b", "1275.25,N,x", "1380.5,S,y"), [1275.25], "numeric"),
    "codes that begin with zeros": Case(us("007", "12", "345"), ["007", "12", "345"], "categorical", {"digits_kept"}),
    "whole numbers in brackets": Case(us("(5)", "12", "7-"), [-5, 12, -7], "numeric", {"accounting_negatives"}),
    "ages from there on": Case(us("50-", "55-", "60-"), ["50-", "55-"], "categorical", {"number_like_text"}),
    "leads of parties": Case(us("R+27", "D+3", "R+8"), ["R+27", "D+3"], "categorical", {"number_like_text"}),
    "numbers after a name": Case(us("t=21.5", "t=22"), ["t=21.5", "t=22"], "categorical", {"number_like_text"}),
    "stars as wide as the field": Case(us(*TENS, "****", "****"), NUMBERS, "numeric", {"read_as_missing"}),
    "complex numbers": Case(us("1+2j", "3-4.5j"), ["1+2j", "3-4.5j"], "categorical", {"number_like_text"}),
    "durations of pandas": Case(
        us("0 days 02:03:04", "1 day, 2:03:04"), ["0 days 02:03:04"], "categorical", {"number_like_text"}
    ),
    "-999 far from the rest": Case(us("-999", *TENS, "-999"), [-999, *NUMBERS], "numeric", {"may_be_missing"}),
    "-999 by option": Case(
        us("-999", *TENS, "-999"), [None, *NUMBERS], "numeric", options={"formats.a.also_missing": "-999"}
    ),
    "a lone negative number": Case(us("-1", *TENS, "-1"), [-1, *NUMBERS], "numeric", {"may_be_missing"}),
    "zeros where nothing is small": Case(us("0", *TENS, "0"), [0, *NUMBERS], "numeric", {"may_be_missing"}),
    "zeros beside small numbers": Case(us("0", *map(str, range(1, 20)), "0"), [0, *range(1, 20)], "numeric"),
    "999 as the end of a range": Case(us("999", *map(str, range(100, 999, 9)), "999"), [999, 100], "numeric"),
}
CASES_OF_TIMES = {
    "blanks between": Case(us("05 01 2023", "13 01 2023 10:30"), ["2023-01-05", "2023-01-13T10:30"], "datetime"),
    "three numbers": Case(us("05 01 23", "13 01 23"), ["05 01 23", "13 01 23"], "categorical", {"number_like_text"}),
    "days first without signs": Case(us("05012023", "13012023"), ["2023-01-05", "2023-01-13"], "datetime"),
    "pandas' NaT": Case(us(*["2024-01-05"] * 4, "NaT"), ["2024-01-05"] * 4 + [None], "datetime", {"read_as_missing"}),
    "days of Excel": Case(
        lines("order_date;b", "45000;x", "45000,5;y"), ["2023-03-15", "2023-03-15T12:00"], "datetime", {"epoch"}
    ),
    "days of Excel, perhaps": Case(
        lines("created,b", "45000,x", "45000.5,y"), [45000, 45000.5], "numeric", {"looks_like_time"}
    ),
    "days of Excel by option": Case(us("45000"), ["2023-03-15"], "datetime", options={"formats.a.time": "excel"}),
    "a year and its day": Case(
        lines("obs_date,b", "2024001,x", "2024031,y", "2023365,z"),
        ["2024-01-01", "2024-01-31", "2023-12-31"],
        "datetime",
        {"epoch"},
    ),
    "a year and its day, perhaps": Case(
        lines("time,b", "2024001,x", "2024366,y"), [2024001, 2024366], "numeric", {"looks_like_time"}
    ),
    "a year and a day that it lacks": Case(
        lines("date,b", "2023001,x", "2023366,y"), [2023001, 2023366], "numeric", {"looks_like_time"}
    ),
    "a year of two digits and its day": Case(
        lines("date,b", *[f"24{n:03},x" for n in range(1, 300, 20)]), [24001], "numeric", {"looks_like_time"}
    ),
    "a year of two digits and its day, by option": Case(
        us("24001", "68366"), ["2024-01-01", "2068-12-31"], "datetime", options={"formats.a.time": "year_day"}
    ),
    "days of MATLAB": Case(
        lines("time,b", "738886.25,x", "738887.5,y"), [738886.25, 738887.5], "numeric", {"looks_like_time"}
    ),
    "days of MATLAB by option": Case(
        us("738887.25"), ["2023-01-01T06:00"], "datetime", options={"formats.a.time": "matlab"}
    ),
    "days of SAS": Case(lines("visit_date,b", "23376,x", "23400,y"), [23376, 23400], "numeric", {"looks_like_time"}),
    "days of SAS by option": Case(us("23376"), ["2024-01-01"], "datetime", options={"formats.a.time": "days_1960"}),
    "days of R by option": Case(us("19723"), ["2024-01-01"], "datetime", options={"formats.a.time": "days_1970"}),
    "Julian days": Case(lines("jd,b", "2460310.5,x", "2460312.5,y"), [2460310.5], "numeric", {"looks_like_time"}),
    "Julian days by option": Case(us("2460310.5"), ["2024-01-01"], "datetime", options={"formats.a.time": "julian"}),
    "modified Julian days by option": Case(us("60310"), ["2024-01-01"], "datetime", options={"formats.a.time": "mjd"}),
    "days of Excel below a day's name": Case(
        lines("day,b", "45000,x", "45002,y"), [45000, 45002], "numeric", {"looks_like_time"}
    ),
    "days of a trial": Case(lines("day,b", "0,x", "6000,y", "2024,z"), [0, 6000, 2024], "numeric"),
    "months without signs": Case(us("202311", "202401"), [202311, 202401], "numeric", {"looks_like_time"}),
    "months without signs by kind": Case(
        us("202311", "202401"), ["2023-11-01", "2024-01-01"], "datetime", options={"kinds.a": "datetime"}
    ),
    "the end of a day": Case(us("2024-01-05T24:00:00", "2024-01-05 10:00"), ["2024-01-06"], "datetime"),
    "a leap second": Case(us("2016-12-31T23:59:60Z", "2016-12-31T23:59:58Z"), ["2017-01-01"], "datetime"),
    "JavaScript's": Case(
        us("Thu Jan 05 2023 10:00:00 GMT+0200 (Central European Time)", "2023-01-05 10:00 UTC+2"),
        ["2023-01-05T08:00", "2023-01-05T08:00"],
        "datetime",
    ),
    "halves of a day": Case(
        us("2023/2/13 下午 3:04", "13/02/2023 10:30 p. m.", "2023-02-13 15:04 PM", "2023-02-13 00:30 AM"),
        ["2023-02-13T15:04", "2023-02-13T22:30", "2023-02-13T15:04", "2023-02-13T00:30"],
        "datetime",
    ),
    "six digits": Case(
        lines("date,b", "240115,x", "240116,y", "231213,z"),
        ["2024-01-15", "2024-01-16", "2023-12-13"],
        "datetime",
        {"epoch", "day_or_month"},
    ),
    "six digits with zeros": Case(
        lines("date,b", "040115,x", "050116,y", "991231,z"),
        ["2004-01-15", "2005-01-16", "1999-12-31"],
        "datetime",
        {"epoch"},
    ),
    "six digits without their zeros": Case(
        lines("date,b", "40115,x", "991231,y"), ["2004-01-15", "1999-12-31"], "datetime", {"epoch"}
    ),
    "six digits, days first": Case(
        lines("Datum;b", "311299;x", "130124;y"), ["1999-12-31", "2024-01-13"], "datetime", {"epoch"}
    ),
    "six digits by option": Case(
        us("010203", "040506"),
        ["1903-01-02", "1906-04-05"],
        "datetime",
        options={"formats.a": '{"time": "mmddyy", "first_year": 1900}'},
    ),
    "six digits of a code": Case(us("240115", "240116"), [240115, 240116], "numeric"),
    "eight digits with the year last": Case(
        lines("sale_date,b", "31122024,x", "1022024,y", "15112023,z"),
        ["2024-12-31", "2024-02-01", "2023-11-15"],
        "datetime",
        {"epoch"},
    ),
    "eight digits with the month first": Case(
        lines("date,b", "12312024,x", "10152024,y"), ["2024-12-31", "2024-10-15"], "datetime", {"epoch"}
    ),
    "eight digits, perhaps dates": Case(
        us("31122024", "17012023", "28022025", "15112024"), [31122024, 17012023], "numeric", {"looks_like_time"}
    ),
    "eight digits without a zero, by option": Case(
        us("31122024", "1022024"), ["2024-12-31", "2024-02-01"], "datetime", options={"formats.a.time": "ddmmyyyy"}
    ),
    "a day that does not exist": Case(
        us(*[f"202401{day}" for day in range(10, 32)], "20240231"), [20240110], "numeric", {"looks_like_time"}
    ),
    "a day that does not exist, last the year": Case(
        us(*[f"{day}012024" for day in range(10, 32)], "31022024"), [10012024], "numeric", {"looks_like_time"}
    ),
    "a short day that does not exist": Case(
        lines("date,b", *[f"{day}0124,x" for day in range(10, 32)], "310299,y"),
        [100124],
        "numeric",
        {"looks_like_time"},
    ),
    "eight digits of a count": Case(us("31122024", "99999999", "28022025", "15112024"), [31122024], "numeric"),
    "seconds before 1970": Case(
        lines("ts,b", "-1000000000,x", "-86400,y", "1500000000,z"),
        ["1938-04-24T22:13:20", "1969-12-31", "2017-07-14T02:40"],
        "datetime",
        {"epoch"},
    ),
    "milliseconds before 1970": Case(
        lines("created_at,b", "-100000000000,x", "1500000000000,y"), ["1966-10-31T14:13:20"], "datetime", {"epoch"}
    ),
    "seconds before 2001": Case(
        lines("created_at,b", "500000000,x", "400000000,y"), [500000000, 400000000], "numeric", {"looks_like_time"}
    ),
    "spans of time": Case(lines("time,b", "-5,x", "7,y"), [-5, 7], "numeric"),
    "years of emperors": Case(us("R5.11.5", "H31.1.8"), ["R5.11.5", "H31.1.8"], "categorical", {"number_like_text"}),
    "years of the Buddha": Case(us("13/01/2566", "14/01/2566"), ["2566-01-13"], "datetime", {"unusual_years"}),
    "days without a year": Case(us("Jan 5", "Feb 13"), ["Jan 5", "Feb 13"], "categorical", {"number_like_text"}),
    "dates in brackets": Case(
        us(*["[05/Jan/2023:10:00:00 +0000]"] * 2), ["[05/Jan/2023:10:00:00 +0000]"], "categorical", {"number_like_text"}
    ),
    "ranges of dates": Case(
        us("2023-01-05/2023-02-01", "2023-01-06/2023-02-01"),
        ["2023-01-05/2023-02-01"],
        "categorical",
        {"number_like_text"},
    ),
    "months behind their year": Case(
        us("2024 Jan", "2023-Dec", "1999 March"), ["2024-01-01", "2023-12-01", "1999-03-01"], "datetime"
    ),
    "month names": Case(
        us("01-JAN-2023", "2 Feb 2023", "March 3, 2023"), ["2023-01-01", "2023-02-02", "2023-03-03"], "datetime"
    ),
    "a word among many dates": Case(
        us(*[f"2024-{month:02}-{day:02}" for month in range(1, 5) for day in range(1, 26)], *["open"] * 4),
        ["2024-01-01", "2024-01-02"],
        "datetime",
        {"read_as_missing"},
    ),
    "a word that is no date": Case(
        us(*[f"2024-{month:02}-{day:02}" for month in range(1, 5) for day in range(1, 26)], "q1", "q2", "q3", "q4"),
        ["2024-01-01", "2024-01-02"],
        "ignored",
        {"some_are_times"},
    ),
    "minutes without signs": Case(
        lines("created,b", "202401151030,x", "202402161130,y"),
        ["2024-01-15T10:30", "2024-02-16T11:30"],
        "datetime",
        {"epoch"},
    ),
    "seconds without signs": Case(
        us("20240115103000", "20240216113000"), [20240115103000, 20240216113000], "numeric", {"looks_like_time"}
    ),
    "month names of others": Case(
        us("5. März 2024", "6 mai 2024", "7 de enero de 2024"), ["2024-03-05", "2024-05-06", "2024-01-07"], "datetime"
    ),
    "month names of neighbours": Case(
        us("5 января 2024", "6 września 2024", "7 února 2024"), ["2024-01-05", "2024-09-06", "2024-02-07"], "datetime"
    ),
    "dates of SAS": Case(us("01JAN2023", "02Feb2023:03:04:05"), ["2023-01-01", "2023-02-02T03:04:05"], "datetime"),
    "times of Oracle": Case(
        us("01-Jan-23 03.04.05.000000 PM", "02-Feb-23 12.00.00.500000 AM"),
        ["2023-01-01T15:04:05", "2023-02-02T00:00:00.5"],
        "datetime",
        {"two_digit_years"},
    ),
    "a word after the clock": Case(us("13.01.2023 03:04 Uhr"), ["2023-01-13T03:04"], "datetime"),
    "points at the end": Case(us("2023. 1. 13.", "2023. 2. 1."), ["2023-01-13", "2023-02-01"], "datetime"),
    "names of zones": Case(
        us("2023-01-13 03:04 EST", "2023-01-13T03:04:05+01:00[Europe/Berlin]"),
        ["2023-01-13T08:04", "2023-01-13T02:04:05"],
        "datetime",
    ),
    "a name of several zones": Case(us("2023-01-13 03:04 IST"), ["2023-01-13 03:04 IST"], "categorical"),
    "years of two digits first": Case(
        us(*(f"23/01/{day}" for day in range(10, 20))),
        ["2023-01-10", "2023-01-11"],
        "datetime",
        {"two_digit_years", "day_or_month"},
    ),
    "years of two digits last": Case(
        us(*(f"{day}/01/23" for day in range(10, 20))), ["2023-01-10", "2023-01-11"], "datetime", {"two_digit_years"}
    ),
    "a day that stands for none": Case(
        us(*(f"2023-01-{day}" for day in range(10, 30)), "9999-12-31", "9999-12-31"),
        ["2023-01-10", "2023-01-11"],
        "datetime",
        {"may_be_missing"},
    ),
    "names of times": Case(
        lines("eventTimeMs,b", "1700000000000,x", "1700000001000,y"),
        ["2023-11-14T22:13:20", "2023-11-14T22:13:21"],
        "datetime",
        {"epoch"},
    ),
    "quarters": Case(us("2023 Q1", "Q2 2023", "2023-Q3"), ["2023 Q1", "Q2 2023"], "categorical", {"number_like_text"}),
    "weeks of a year": Case(us("KW 01/2024", "KW 12/2024"), ["KW 01/2024"], "categorical", {"number_like_text"}),
    "years of the Republic": Case(us("113/01/05", "113/12/31"), ["113/01/05"], "categorical", {"number_like_text"}),
    "hours of a day": Case(
        lines("MESS_DATUM,b", "2024010107,x", "2024020712,y"),
        ["2024-01-01T07:00", "2024-02-07T12:00"],
        "datetime",
        {"epoch"},
    ),
    "minutes of a day": Case(
        lines("MESS_DATUM,b", "202401010705,x", "202402071212,y"), ["2024-01-01T07:05"], "datetime", {"epoch"}
    ),
    "seconds that are no hours": Case(
        lines("created_at,b", "2024010107,x", "2024999999,y"), ["2034-02-20T01:01:47"], "datetime", {"epoch"}
    ),
    "a time behind an underscore": Case(us("20240101_070509", "20240207 12:12"), ["2024-01-01T07:05:09"], "datetime"),
    "times of DB2": Case(
        us("2024-01-01-07.05.09.000250", "2024-02-07-12.12.09"), ["2024-01-01T07:05:09.000250"], "datetime"
    ),
    "times of git": Case(us("Mon Jan 1 07:05:09 2024 +0200"), ["2024-01-01T05:05:09"], "datetime"),
    "hours in Chinese and Korean": Case(
        us("2024年01月31日 07时05分", "2024년 2월 1일 오후 1시"), ["2024-01-31T07:05", "2024-02-01T13:00"], "datetime"
    ),
    "the year's in Russian": Case(us("7 января 2024 г.", "31.01.2024 г."), ["2024-01-07", "2024-01-31"], "datetime"),
    "days of a year": Case(us("2023-045", "2023-360"), ["2023-045", "2023-360"], "categorical", {"number_like_text"}),
    "twelve hours": Case(
        us("1/1/2023 1:00 AM", "2/2/2023 12:30 PM", "3/3/2023 12:15 AM"),
        ["2023-01-01T01:00", "2023-02-02T12:30", "2023-03-03T00:15"],
        "datetime",
    ),
    "days first by proof": Case(us("01/02/2024", "13/02/2024"), ["2024-02-01", "2024-02-13"], "datetime"),
    "months first by proof": Case(us("01/02/2024", "02/13/2024"), ["2024-01-02", "2024-02-13"], "datetime"),
    "in doubt": Case(us("01/02/2024", "03/04/2024"), ["2024-01-02", "2024-03-04"], "datetime", {"day_or_month"}),
    "in doubt, with points": Case(
        us("01.02.2024", "03.04.2024"), ["2024-02-01", "2024-04-03"], "datetime", {"day_or_month"}
    ),
    "days first by option": Case(
        us("01/02/2024", "03/04/2024"), ["2024-02-01", "2024-04-03"], "datetime", options={"dates": "dmy"}
    ),
    "years of two digits": Case(
        us("31.12.68", "01.01.69"), ["2068-12-31", "1969-01-01"], "datetime", {"two_digit_years"}
    ),
    "years of two digits by option": Case(
        us("31.12.68", "01.01.69"), ["1968-12-31", "1969-01-01"], "datetime", options={"formats.a.first_year": "1926"}
    ),
    "weeks": Case(us("2024-W05-3", "2024-W01"), ["2024-01-31", "2024-01-01"], "datetime"),
    "months": Case(us("1949-01", "1949-02"), ["1949-01-01", "1949-02-01"], "datetime"),
    "months before years": Case(us("01/2024", "12/2023"), ["2024-01-01", "2023-12-01"], "datetime"),
    "months and short years": Case(
        us("Jan-24", "Dez '23", "mar/22"), ["2024-01-01", "2023-12-01", "2022-03-01"], "datetime", {"two_digit_years"}
    ),
    "the first in French": Case(us("1er mai 2022", "2 mai 2022"), ["2022-05-01", "2022-05-02"], "datetime"),
    "numbers before years that are no months": Case(
        us("01-2024", "13-2024", "02-2024"), ["01-2024", "13-2024", "02-2024"], "categorical", {"some_are_times"}
    ),
    "seconds beside milliseconds": Case(
        lines("at,b", "1700000000,x", "1700000001000,y"),
        ["2023-11-14T22:13:20", "2023-11-14T22:13:21"],
        "datetime",
        {"epoch"},
    ),
    "seconds with a fraction": Case(
        lines("at,b", "1700000000.25,x", "1700000001.5,y"),
        ["2023-11-14T22:13:20.250000", "2023-11-14T22:13:21.500000"],
        "datetime",
        {"epoch"},
    ),
    "zones beside none": Case(
        us("2024-03-01 10:00:00", "2024-03-01 10:00:00+02:00"),
        ["2024-03-01T10:00", "2024-03-01T08:00"],
        "datetime",
        {"naive_and_zoned"},
    ),
    "signs of East Asia": Case(us("2024年1月5日", "2023年12月31日"), ["2024-01-05", "2023-12-31"], "datetime"),
    "one column of times": Case(
        lines("at", "2020-12-30 01:25:58+01", "2020-12-30 02:25:58+01"),
        ["2020-12-30T00:25:58", "2020-12-30T01:25:58"],
        "datetime",
    ),
    "a day that is none": Case(
        us("2024-02-28", "2024-02-30", "2024-03-01"),
        ["2024-02-28", "2024-02-30", "2024-03-01"],
        "categorical",
        {"some_are_times"},
    ),
    "no date": Case(
        us(*["2024-01-05"] * 4, "0000-00-00"), ["2024-01-05"] * 4 + [None], "datetime", {"read_as_missing"}
    ),
    "milliseconds": Case(
        lines("at,b", "1700000000000,x", "1700000001000,y"),
        ["2023-11-14T22:13:20", "2023-11-14T22:13:21"],
        "datetime",
        {"epoch"},
    ),
    "nanoseconds by kind": Case(
        us("1700000000000000000", "1700000001000000000"),
        ["2023-11-14T22:13:20", "2023-11-14T22:13:21"],
        "datetime",
        options={"kinds.a": "datetime"},
    ),
    "seconds by kind": Case(
        us("1700000000", "1700000001"),
        ["2023-11-14T22:13:20", "2023-11-14T22:13:21"],
        "datetime",
        options={"kinds.a": "datetime"},
    ),
    "milliseconds without a name": Case(
        us("1700000000000", "1700000001000"), [1700000000000, 1700000001000], "numeric", {"looks_like_time"}
    ),
    "seasons": Case(us("2008-09", "2009-10", "2010-11"), ["2008-09", "2009-10", "2010-11"], "categorical"),
    "two orders": Case(us("01/14/2024", "15/01/2024"), ["01/14/2024", "15/01/2024"], "categorical", {"dates_disagree"}),
}
CASES_OF_LABELS = {
    "cells of blanks": Case(us("p", " ", "q", "p"), ["p", None, "q"], "categorical", {"read_as_missing"}),
    "cells of blanks by option": Case(
        us("p", " ", "q", "p"), ["p", " ", "q"], "categorical", options={"formats.a.keep": '[" "]'}
    ),
    "NA among codes of two letters": Case(
        lines("a,b", "NA,1", "EU,2", "AS,3", times=5), ["NA", "EU", "AS"], "categorical", {"read_as_label"}
    ),
    "NA among others": Case(
        lines("a,b", "NA,1", "yes,2", "no,3", times=5), [None, "yes", "no"], "boolean", {"read_as_missing"}
    ),
    "NA by option": Case(
        lines("a,b", "NA,1", "EU,2", "AS,3", times=5),
        [None, "EU", "AS"],
        "categorical",
        options={"formats.a.missing": "NA"},
    ),
    "None among words": Case(
        lines("a,b", "None,1", "Mild,2", "Severe,3", times=5),
        ["None", "Mild", "Severe"],
        "categorical",
        {"read_as_label"},
    ),
    "None kept by option": Case(
        lines("a,b", "None,1", "x,2", "y,3", times=5),
        ["None", "x", "y"],
        "categorical",
        options={"formats.a.keep": "None"},
    ),
    "a blank in words": Case(us("1.5", "(blank)", "2.5"), [1.5, None, 2.5], "numeric", {"read_as_missing"}),
    "a database's NULL": Case(lines("a,b", r"\N,1", "x,2", "y,3", times=3), [None, "x", "y"], "categorical"),
    "a quoted Null": Case(lines("a,b", '"Null",1', "xy z,2", "Null,3", times=5), ["Null", "xy z", None], "categorical"),
    "composed and decomposed": Case(
        lines("a,b", "Caf\u00e9,1", "Cafe\u0301,2", "Th\u00e9,3", times=3),
        ["Caf\u00e9", "Cafe\u0301", "Th\u00e9"],
        "categorical",
        {"similar_labels"},
    ),
    "composed and decomposed, by option": Case(
        lines("a,b", "Caf\u00e9,1", "Cafe\u0301,2", "Caf\u00e9,3", "Th\u00e9,4"),
        ["Caf\u00e9", "Caf\u00e9", "Caf\u00e9", "Th\u00e9"],
        "categorical",
        options={"formats.a.fold_case": "true"},
    ),
    "quoted": Case(
        lines("a,b", '"NA",1', "xy z,2", "NA,3", times=5), ["NA", "xy z", None], "categorical", {"read_as_label"}
    ),
    "a dash among signs": Case(lines("a,b", "+,1", "-,2", times=5), ["+", "-"], "categorical"),
    "yes in capitals": Case(
        lines("a,b", "Yes,1", "yes,2", "No,3", "NO,4", "Yes,5", "No,6"),
        ["Yes", "Yes", "No", "No"],
        "boolean",
        {"spellings_merged"},
    ),
    "blanks around": Case(
        lines("a,b", ">50K,1", " >50K,2", "<=50K ,3", times=3),
        [">50K", ">50K", "<=50K"],
        "categorical",
        {"spellings_merged"},
    ),
    "full stops at the end": Case(
        lines("a,b", ">50K,1", ">50K.,2", "<=50K,3", times=3),
        [">50K", ">50K.", "<=50K"],
        "categorical",
        {"similar_labels"},
    ),
    "full stops at the end, by option": Case(
        lines("a,b", ">50K,1", ">50K.,2", "<=50K,3", "<=50K,4"),
        [">50K", ">50K", "<=50K", "<=50K"],
        "categorical",
        options={"formats.a.labels": '{">50K.": ">50K"}'},
    ),
    "cases that differ": Case(
        lines("a,b", "Male,1", "male,2", "Female,3", times=3),
        ["Male", "male", "Female"],
        "categorical",
        {"similar_labels"},
    ),
    "cases that differ, by option": Case(
        lines("a,b", "Male,1", "male,2", "Male,4", "Female,3"),
        ["Male", "Male", "Male", "Female"],
        "categorical",
        options={"formats.a.fold_case": "true"},
    ),
    "codes as floats": Case(lines("a,b", "1.0,x", "2.0,x", "3.0,y", times=12), [1, 2, 3], "categorical"),
    "any two values as a boolean": Case(
        lines("a,b", "-1,x", "1,y", times=3), [-1, 1], "boolean", options={"kinds.a": "boolean"}
    ),
}
ALL = CASES_OF_NUMBERS | CASES_OF_TIMES | CASES_OF_LABELS


def upload(api: Api, data: bytes, **options: str) -> dict[str, Any]:
    answer = api.ann.post("/datasets", content=data, params=options)
    assert answer.status_code in (200, 201), answer.text
    return dict(answer.json())


def first_column(api: Api, dataset: dict[str, Any], rows: int) -> list[Any]:
    body = api.ann.get(f"/datasets/{dataset['id']}/rows", params={"limit": rows}).json()
    return [row[0] for row in body["rows"]]


@pytest.mark.parametrize("name", ALL)
def test_a_value_is_read_as_a_person_reads_it(api: Api, name: str) -> None:
    case = ALL[name]
    made = upload(api, case.data, **case.options)
    column = made["columns"][0]
    values = first_column(api, made, len(case.values))
    if case.kind == "datetime":
        assert [value and datetime.fromisoformat(value).replace(tzinfo=None) for value in values] == [
            value and datetime.fromisoformat(value) for value in case.values
        ]
    else:
        assert values == case.values
    assert column["kind"] == case.kind
    assert {notice["code"] for notice in made["notices"] if notice["column"] == column["name"]} == case.notices
    assert all(notice["option"] and notice["message"] for notice in made["notices"])


@pytest.mark.parametrize("name", [name for name in ALL if ALL[name].notices])
def test_what_a_notice_offers_is_an_option_that_is_taken(api: Api, name: str) -> None:
    case = ALL[name]
    made = upload(api, case.data, **case.options)
    for notice in made["notices"]:
        option, _, value = notice["option"].partition("=")
        answer = api.ann.post("/datasets", content=case.data, params={**case.options, option: value})
        assert answer.status_code in (200, 201, 422), answer.text
        if answer.status_code == 422:  # the values are not all of that kind, and each is named
            assert answer.json()["errors"][0].get("column") == notice["column"], answer.text
        else:
            codes = {(one["code"], one["message"]) for one in answer.json()["notices"]}
            assert (notice["code"], notice["message"]) not in codes


def test_a_proof_far_below_decides_for_the_whole_table(api: Api) -> None:
    data = b"a;b;c\n" + b"1.234;5.678;x\n" * 200_000 + b"3.049,73;7.001;y\n"
    made = upload(api, data)
    facts = {column["name"]: column for column in made["columns"]}
    assert (facts["a"]["min"], facts["a"]["max"]) == (1234, 3049.73)
    assert (facts["b"]["min"], facts["b"]["max"]) == (5678, 7001)
    assert [notice["column"] for notice in made["notices"]] == ["b"]


def test_appended_rows_are_read_as_the_first_ones(api: Api) -> None:
    made = upload(api, euro("1.234", "3.049,73", "5,5"), name="appended-values")
    more = api.ann.post(f"/datasets/{made['name']}/rows", content=b"a;b\n1.500;y\n")
    assert more.status_code == 201, more.text
    assert first_column(api, more.json(), 4)[-1] == 1500
    assert more.json()["columns"][0]["format"] == made["columns"][0]["format"]
    changed = api.ann.patch(f"/datasets/{made['name']}", json={"kinds": {"b": "ignored"}})
    assert changed.json()["columns"][0]["format"] == made["columns"][0]["format"]


def test_a_format_that_contradicts_a_kind_is_refused(api: Api) -> None:
    for options in (
        {"kinds.a": "categorical", "formats.a.decimal": ","},
        {"kinds.a": "numeric", "formats.a.time": "dmy"},
        {"kinds.a": "numeric", "formats.a.fold_case": "true"},
        {"decimal": ",", "thousands": ","},
        {"formats.a": '{"decimal": ",", "time": "dmy"}'},
        {"formats.a.units": "5"},
        {"formats.a.nothing": "5"},
    ):
        answer = api.ann.post("/datasets", content=us("1", "2"), params=options)
        assert answer.status_code in (400, 422), (options, answer.text)


def test_a_kind_that_is_listed_is_accepted(api: Api) -> None:
    made = upload(api, lines("a,b,c", "1,2,x", "5,3,y", "1,4,z", times=4))
    refused = api.ann.patch(f"/datasets/{made['id']}", json={"kinds": {"b": "boolean"}})
    assert refused.status_code == 422
    assert "boolean" not in refused.json()["errors"][0]["expected"]
    accepted = api.ann.patch(f"/datasets/{made['id']}", json={"kinds": {"a": "boolean"}})
    assert accepted.json()["columns"][0]["kind"] == "boolean"


def test_a_numeric_column_lists_no_hundreds_of_labels(api: Api) -> None:
    made = upload(api, lines("a,b", *(f"{at * 3},{at % 5}" for at in range(400))))
    assert made["columns"][0]["labels"] is None
    assert made["columns"][1]["labels"] == ["0", "1", "2", "3", "4"]


def test_options_in_json_and_by_name_say_the_same(api: Api) -> None:
    data = us("1,5 kg", "2,5 kg", "3,5 kg")
    one = upload(api, data, formats=json.dumps({"a": {"decimal": ",", "units": ["kg"]}}))
    two = api.ann.post("/datasets", content=data, params={"formats.a.decimal": ",", "formats.a.units": "kg"}).json()
    assert one["id"] == two["id"]
    assert first_column(api, one, 3) == [1.5, 2.5, 3.5]


def test_names_that_begin_with_digits_are_a_header(api: Api) -> None:
    made = upload(api, lines("label,1x1,1x2,2x1", *(f"{at % 10},0,{at},255" for at in range(40))))
    assert [column["name"] for column in made["columns"]] == ["label", "1x1", "1x2", "2x1"]
    assert made["rows"] == 40
