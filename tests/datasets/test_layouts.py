"""Unusual CSV files are read, with one notice of why; or one sentence names the option that reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fitserve.datasets.readers.csv_rewrites import end_lines_as_usual
from fitserve.settings import MB
from tests.datasets.conftest import Api
from tests.datasets.uploads import codes, names, refusal, stored

ROWS = [[number, number * 1.5, "xyz"[number % 3]] for number in range(20)]
BODY = "".join(f"{a},{b},{c}\n" for a, b, c in ROWS)
TABLE = "a,b,c\n" + BODY
HALVES = "".join(BODY.splitlines(True)[:10]), "".join(BODY.splitlines(True)[10:])
SEMICOLONS = TABLE.replace(",", ";")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("# made by a program\n# on a day\n" + TABLE, ["comments_skipped"]),
        (TABLE + "# a note, here\n", ["comments_skipped"]),
        ("a,b,c\n" + HALVES[0] + "a,b,c\n" + HALVES[1], ["header_repeated"]),
        ("\ufeff\ufeff" + TABLE, []),
        ("#a,b,c\n" + BODY, ["comments_skipped", "header_in_comment"]),
        ("##version\n#a,b,c\n" + BODY, ["comments_skipped", "header_in_comment"]),
        ("Sales of May\nPrinted 2024-06-02\n\n" + TABLE, ["preamble_skipped"]),
        ("Account;Test Person\nFrom;2024-06-02\n\n" + SEMICOLONS, ["preamble_skipped"]),
        ("Title,,\nDate,2024,\n,,\n" + TABLE, ["preamble_skipped"]),
        ("This, is, a, long, title\n" + TABLE, ["preamble_skipped"]),
        ("\n\n" + TABLE, []),
        (",,\n" + TABLE, ["empty_record_skipped"]),
        ("sep=;\r\n" + SEMICOLONS.replace("\n", "\r\n"), ["sep_line"]),
        ('"sep=,"\n' + TABLE, ["sep_line"]),
        ("a,b,c\n" + BODY.replace("\n", ",\n"), ["trailing_delimiter"]),
        (TABLE.replace("\n", ",\n"), ["trailing_delimiter"]),
        ("a,b,c,\n" + BODY, ["trailing_delimiter"]),
        (TABLE + "(20 rows)\n", ["footer_skipped"]),
        (TABLE + "\n20 records selected.\n", ["footer_skipped"]),
        (TABLE + "Total,190,\n", ["footer_skipped"]),
        (TABLE + ",,\nTotal,190,\n" + ",,\n" * 40, ["footer_skipped"]),
        (TABLE + "\nSource: the office of records\n", ["footer_skipped"]),
        (TABLE + "Fuente: la oficina,,\n", ["footer_skipped"]),
        (TABLE + "EOF\n", ["footer_skipped"]),
        (TABLE + "*****\n*** END OF REPORT ***\n", ["footer_skipped"]),
        (TABLE + "TRAILER,20\n", ["footer_skipped"]),
        (TABLE.replace("\n10,", "\n\ufeff10,"), []),
        ("\ufeffa,b,c\n" + HALVES[0] + "\ufeffa,b,c\n" + HALVES[1], ["header_repeated"]),
        (TABLE + "   \n  ", []),
        (TABLE + "\x1a", ["end_of_file_mark"]),
        (TABLE + "\0" * 100, ["end_of_file_mark"]),
        (TABLE.replace("\n", "\r\n") + "\x1a", ["end_of_file_mark"]),
        (TABLE.replace("\n", "\r"), []),
        (TABLE.replace(",", "^"), []),
        (TABLE.replace(",", "\x01"), []),
        (TABLE.replace(",", "::"), ["delimiter_of_two"]),
        (TABLE.replace(",", "||"), ["delimiter_of_two"]),
        (TABLE.replace(",", ",\t"), ["delimiter_of_two"]),
        (TABLE.replace(",", "þ"), ["unusual_delimiter"]),
        (TABLE.replace(",", "，"), ["unusual_delimiter"]),
        ("".join(f"þ{line}þ\r\n".replace(",", "þ\x14þ") for line in TABLE.splitlines()), ["unusual_delimiter"]),
        ("".join(f"a={a}, b={b}, c={c}\n" for a, b, c in ROWS), ["fields_name_columns"]),
        ("".join(f'a={a} b={b} c="{c}"\n' for a, b, c in ROWS), ["fields_name_columns"]),
        (TABLE.replace("\n", "\x85"), ["unusual_line_ends"]),
        (TABLE.replace("\n", "\u2028"), ["unusual_line_ends"]),
        (TABLE.replace("\n", "\x1e").replace(",", "\x1f"), ["unusual_line_ends"]),
        ("".join(f'"{line}"\n' for line in TABLE.splitlines()), ["lines_quoted"]),
        (TABLE.replace(",", " "), []),
        (TABLE.replace(",", "    "), []),
        (TABLE.replace("x", "'x'").replace("y", "'y'").replace("z", "'z'"), ["quote"]),
    ],
)
def test_a_file_that_is_off_is_read_and_that_is_said(api: Api, text: str, found: list[str]) -> None:
    body, rows = stored(api, text.encode())
    assert names(body) == ["a", "b", "c"]
    assert rows == ROWS
    assert codes(body) == found


def test_the_cases_of_a_bank_statement(api: Api) -> None:
    head = "Account holder;Test Person\nStart Date;2024-06-02\nEnd Date;2024-06-29\n\nBooked;Valued;Reference;Amount\n"
    lines = "".join(f"2024-06-{day:02d};2024-07-{day:02d};{5483035614 + day};{day}.35;\n" for day in range(1, 29))
    body, rows = stored(api, (head + lines).encode())
    assert names(body) == ["Booked", "Valued", "Reference", "Amount"]
    assert (len(rows), rows[0][2:], codes(body)) == (
        28,
        [5483035615, 1.35],
        ["preamble_skipped", "trailing_delimiter"],
    )
    assert body["notices"][0]["option"] == "skip_rows=0"
    assert "line 5" in body["notices"][0]["message"]


def test_row_names_of_r_and_the_index_of_pandas_are_named_and_ignored(api: Api) -> None:
    r = '"mpg","cyl"\n' + "".join(f'"Car {n}",{20 + n / 10},{4 + n % 3}\n' for n in range(30))
    body, rows = stored(api, r.encode())
    assert (names(body), rows[1]) == (["row_name", "mpg", "cyl"], ["Car 1", 20.1, 5])
    assert (body["columns"][0]["kind"], codes(body)) == ("ignored", ["column_set_aside"])
    pandas = ",a,b\n" + "".join(f"{n},{n / 2},{n % 3}\n" for n in range(30))
    body, _ = stored(api, pandas.encode())
    assert (names(body), body["columns"][0]["kind"]) == (["index", "a", "b"], "ignored")
    body, _ = stored(api, pandas.encode(), **{"kinds.index": "numeric"})
    assert (body["columns"][0]["kind"], codes(body)) == ("numeric", [])


def test_headers_that_are_empty_or_repeated_are_named_once(api: Api) -> None:
    body, _ = stored(api, b"a,,c,a\n" + BODY.replace("\n", ",1\n").encode())
    assert names(body) == ["a", "column_2", "c", "a_2"]
    assert codes(body) == ["headers_renamed"]


def test_a_header_over_two_lines_is_a_name(api: Api) -> None:
    text = 'x,y,"Yield\n(kg/ha)"\r\n' + "".join(f"{n},{'ab'[n % 2]},{n / 4}\r\n" for n in range(40))
    body, rows = stored(api, text.encode())
    assert (names(body), rows[2]) == (["x", "y", "Yield\n(kg/ha)"], [2, "a", 0.5])


def test_years_may_name_columns(api: Api) -> None:
    head = '"Data Source","Indicators",\n\n"Last Updated","2024-01-01",\n\n'
    text = head + '"Country","Code","1960","1961",\n' + "".join(f'"C{n}","X{n}","{n * 1.5}","",\n' for n in range(20))
    body, _ = stored(api, text.encode())
    assert names(body) == ["Country", "Code", "1960", "1961"]


def test_a_blank_before_a_quote_does_not_hide_it(api: Api) -> None:
    text = "a, b, c\n" + "".join(f'{n}, "x, {n}", {n}\n' for n in range(20))
    assert stored(api, text.encode())[1] == [[n, f"x, {n}", n] for n in range(20)]


def test_escaped_quotes_are_quotes(api: Api) -> None:
    text = "a,b\n" + "".join(f'{n},"he said \\"x, {n}\\""\n' for n in range(20))
    assert stored(api, text.encode())[1] == [[n, f'he said "x, {n}"'] for n in range(20)]


@pytest.mark.parametrize("far", [0, 60_000], ids=["at the beginning", "beyond the sample"])
def test_quotes_that_are_text_join_no_rows(api: Api, far: int) -> None:
    plain = [[n, f"plain text {n}", n] for n in range(far)]
    odd = [[n, f'"unclosed {n}' if n % 7 == 3 else f'{n}" pipe', n] for n in range(40)]
    text = "a\tb\tc\n" + "".join(f"{a}\t{b}\t{c}\n" for a, b, c in [*plain, *odd])
    body, rows = stored(api, text.encode())
    assert body["rows"] == far + 40
    assert codes(body) == ["quote"]
    page = api.ann.get(f"/datasets/{body['id']}/rows", params={"offset": far}).json()["rows"]
    assert page == odd
    assert rows[0] == [*plain, *odd][0]


@pytest.mark.parametrize("far", [0, 120_000], ids=["at the beginning", "beyond the sample"])
def test_quotes_within_quotes_are_kept(api: Api, far: int) -> None:
    plain = "".join(f'{n},"plain, {n}",{n}\n' for n in range(far))
    odd = (
        '1,"The "Wave" Ltd",2\n3,"said ""hi"" there",4\n5,"Weird" Al,6\n7,5" pipe,8\n9,"a, b",10\n11,"so "quoted"",12\n'
    )
    body, _ = stored(api, f"a,b,c\n{plain}{odd}".encode())
    assert codes(body) == ["stray_quotes"]
    (notice,) = body["notices"]
    assert notice["message"].startswith("3 fields have ")
    assert notice["evidence"] == f'the first, on line {far + 2}: "The "Wave" Ltd"'
    page = api.ann.get(f"/datasets/{body['id']}/rows", params={"offset": far}).json()["rows"]
    kept = ['The "Wave" Ltd', 'said "hi" there', '"Weird" Al', '5" pipe', "a, b", 'so "quoted"']
    assert page == [[2 * n + 1, text, 2 * n + 2] for n, text in enumerate(kept)]


def test_a_quote_that_is_never_closed_joins_no_rows(api: Api) -> None:
    usual = "".join(f'{n},"x, {n}",{n}\n' if n else '0,5" pipe,0\n' for n in range(10))
    text = f'a,b,c\n{usual}11,"John, Doe,25\n12,"Bob",35\n13,"Joe",45\n'
    (error,) = refusal(api, text.encode())["errors"]
    assert (error["row"], error["line"], error["received"]) == (11, 12, '11,"John, Doe,25')
    (error,) = refusal(api, f'a,b,c\n{usual}11,12" pipe,25,1\n'.encode())["errors"]  # quotes that join nothing
    assert (error["row"], error["line"]) == (11, 12)
    body, rows = stored(api, text.encode(), lenient="true")
    assert (body["rows"], rows[-2:]) == (12, [[12, "Bob", 35], [13, "Joe", 45]])


def test_a_quote_of_another_kind_is_kept_too(api: Api) -> None:
    text = "a;b;c\n" + "".join(f"{n};'it's so';'x; y'\n" for n in range(10))
    body, rows = stored(api, text.encode())
    assert (codes(body), rows[0]) == (["quote", "stray_quotes"], [0, "it's so", "x; y"])


def test_lines_within_quotes_stay_one_value(api: Api) -> None:
    text = "a\tb\tc\n" + "".join(f'{n}\t"one\ntwo\t{n}"\t{n}\n' for n in range(40))
    assert stored(api, text.encode())[1] == [[n, f"one\ntwo\t{n}", n] for n in range(40)]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("| a | b |\n|---|---|\n| 1 | x |\n", "drawn with lines"),
        (" a | b \n---+---\n 1 | x\n(1 row)\n", "drawn with lines"),
        ("+---+---+\n| a | b |\n+---+---+\n| 1 | x |\n+---+---+\n", "drawn with lines"),
        ("-- a dump\nINSERT INTO t VALUES (1,'x');\nINSERT INTO t VALUES (2,'y');\n", "SQL script"),
        ("% iris\n@relation iris\n@attribute a numeric\n@data\n1\n", "ARFF"),
        ("1 1:0.5 3:0.2\n-1 2:0.7 3:0.1\n", "LIBSVM"),
        ("\n<!doctype html><html></html>\n", "web page"),
        ("a    b\n---- -----\n1    2\n", "drawn with lines"),
        ("-----------\n|Material|\n-----------\n|10001   |\n", "drawn with lines"),
        ("<OFX>\n<STMTTRN><TRNAMT>-12.34</STMTTRN>\n</OFX>\n", "XML"),
        (">seq1\nACGT\n>seq2\nGGCC\n", "FASTA"),
        ("%%MatrixMarket matrix coordinate real general\n3 3 1\n1 1 5.0\n", "Matrix Market"),
        ("\\begin{tabular}{lr}\n1 & 2\n\\end{tabular}\n", "LaTeX"),
        ("[s]\na=1\nb=2\n", "settings"),
        ("// made by hand\n[{}]\n", "JSON with comments"),
        ("[1, 2, 3]", "one list of values"),
        ("t.csv" + "\0" * 252 + "ustar\0" + "\0" * 249 + TABLE, "tar archive"),
    ],
)
def test_what_only_looks_like_csv_is_named(api: Api, text: str, what: str) -> None:
    assert what in refusal(api, text.encode())["detail"]


@pytest.mark.parametrize(
    ("second", "code", "expected"),
    [
        ("x,y,z\nkg,cm,-\n", "units_skipped", ["x", "y", "z"]),
        ("x,y,z\n[kg],[cm],[kind]\n", "units_skipped", ["x", "y", "z"]),
        ("x,y,z\nint,float,text\n", "units_skipped", ["x", "y", "z"]),
        ("Size,Size,Kind\nmin,max,\n", "names_joined", ["Size min", "Size max", "Kind"]),
        ("x,y,z\n---,-,----\n", "rule_skipped", ["x", "y", "z"]),
        ("x,y,z\n==,==,==\n", "rule_skipped", ["x", "y", "z"]),
    ],
)
def test_a_second_line_of_the_header_is_no_row(api: Api, second: str, code: str, expected: list[str]) -> None:
    rows = "".join(f"{n},{n * 1.5},{'ab'[n % 2]}\n" for n in range(30))
    body, read = stored(api, (second + rows).encode())
    assert (names(body), codes(body), len(read), read[1]) == (expected, [code], 30, [1, 1.5, "b"])
    if code == "rule_skipped":
        return
    problem = refusal(api, (second + rows).encode(), header="true")
    assert all("part of the header" in error["fix"] for error in problem["errors"])


def test_missing_values_in_the_first_row_are_no_drawn_line(api: Api) -> None:
    assert len(stored(api, b"a,b\n--,--\n1,--\n2,3\n")[1]) == 3


def test_columns_at_the_same_places_may_have_empty_fields(api: Api) -> None:
    lines = [f"{n:<3} {'' if n % 3 else 'Ann Lee':<14} {n * 1.5:>5}\n" for n in range(30)]
    head = "id  full name      price\n"
    body, rows = stored(api, (head + "".join(lines)).encode())
    assert (names(body), codes(body)) == (["id", "full name", "price"], ["columns_at_places"])
    assert rows[:2] == [[0, "Ann Lee", 0.0], [1, None, 1.5]]
    far = head + "".join(lines) * 10 + "300 Ann Lee, a longer name 4.5\n" + "".join(lines)
    assert [error["row"] for error in refusal(api, far.encode())["errors"]] == [301]


def test_a_text_that_stands_often_in_its_column_is_no_name(api: Api) -> None:
    assert stored(api, b"Alice,Street A,gold\nBob,Street B,gold\nEve,Street C,tin\n")[1][0][0] == "Alice"
    text = "person,street,kind\n" + "".join(f"p{n},s{n},{'kind' if n == 7 else 'gold'}\n" for n in range(9))
    assert len(stored(api, text.encode())[1]) == 9


def test_a_first_row_of_odd_values_is_a_row(api: Api) -> None:
    body, rows = stored(api, b"site,a,b\nS1,BDL,ND\nS2,1,2\nS3,2,3\nS4,4,5\nS5,6,7\n")
    assert (len(rows), codes(body)) == (5, [])
    text = ",a,a,b\n,mean,std,mean\nkey,,,\n" + "".join(f"k{n},{n},{n * 2},{n * 3.5}\n" for n in range(6))
    body, rows = stored(api, text.encode())  # as pandas writes what it aggregated
    assert (names(body), rows[1]) == (["key", "a mean", "a std", "b mean"], ["k1", 1, 2, 3.5])


@pytest.mark.parametrize(
    ("header", "row", "is_header"),
    [
        ("0,1,2", "{0}.5,{0}.25,x", True),
        (",0,1,2", "{0},4,4,4", True),
        ("2015,2016,2017", "{0}.5,{0}.1,0.1", True),
        ("400.5,401,401.5,402,402.5,403,403.5,404,404.5,405,y", "1,{0},2,1,2,1,2,1,2,1,0", True),
        ("0,1,2", "{0},4,4", False),
        ("2015,2016,2017", "201{0},2017,2018", False),
        ("1.5,2.5,3.5", "{0}.5,4.5,4.5", False),
    ],
)
def test_numbers_name_columns_where_no_row_is_like_them(api: Api, header: str, row: str, is_header: bool) -> None:
    text = "\n".join([header, *(row.format(n) for n in range(9))])
    body, rows = stored(api, text.encode())
    assert len(rows) == 10 - is_header
    assert ("numbers_name_columns" in codes(body)) == is_header
    assert len(stored(api, text.encode(), header="false")[1]) == 10


@pytest.mark.parametrize(
    ("text", "expected", "rows"),
    [
        ("Report\n\n" + BODY, "column_1", 20),
        ("some text\n\nmore of it\n" + "".join(f"ann {n},doe,0{n}001\n" for n in range(6)), "column_1", 6),
        ("some notes...\nmore notes, and so on\nnumber,text,date\n345.0,TEST4,2000-12-13\n", "number", 1),
        ('"Konto";"DE02"\n""\n"Stand:";"1,5"\n""\n"a";"b";"c"\n"1";"2";"x"\n"3";"4";"y"\n', "a", 2),
        ("Sample:\tS1\nInjection:\t10 µL\n\nTime\tValue\n" + "".join(f"0,0{n}\t0,1{n}\n" for n in range(5)), "Time", 5),
        ("Station 1\nlat 5, lon 6\n\nYEAR MO DY\n2020 1 1\n2020 1 2\n2020 1 3\n", "YEAR", 3),
    ],
)
def test_lines_of_text_before_a_short_table_are_no_rows(api: Api, text: str, expected: str, rows: int) -> None:
    body, read = stored(api, text.encode())
    assert (names(body)[0], len(read), "preamble_skipped" in codes(body)) == (expected, rows, True)


def test_two_tables_are_not_one_with_a_preamble(api: Api) -> None:
    refusal(api, ("a,b\n1,2\n3,4\n\nx,y,z\n" + TABLE).encode())


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("x,y,z\nq,r,s\n" + TABLE + "u,v,w\n", {"skip_rows": 2, "footer": 1}),
        ("% x\n" + TABLE + "%5,5,5\n", {"comment": "%"}),
        (TABLE.replace(",", "!"), {"delimiter": "!"}),
    ],
)
def test_options_say_where_the_table_is(api: Api, text: str, options: dict[str, Any]) -> None:
    body, rows = stored(api, text.encode(), **options)
    assert names(body) == ["a", "b", "c"]
    assert all(row in ROWS for row in rows)


def test_options_refuse_what_would_be_recognised(api: Api) -> None:
    text = "name,n\n" + "".join(f"{c},{a}\n" for a, _, c in ROWS) + "Total,190\n"
    assert stored(api, text.encode(), footer=0)[1][-1] == ["Total", 190]
    assert stored(api, text.encode())[0]["rows"] == 20
    assert stored(api, b'a\tb\n1\t"x"\n2\t"y"\n', quote="none")[1] == [[1, '"x"'], [2, '"y"']]
    assert stored(api, b"a,b\n#1,2\n#2,3\n3,4\n", comment="none")[1] == [["#1", 2], ["#2", 3], ["3", 4]]
    assert names(stored(api, b"#,b\n1,2\n3,4\n")[0]) == ["#", "b"]


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("a,b,c,d,e\n" + BODY, "The first record has 5 fields; of the 20 records after it, 20 have 3."),
        (TABLE + "1,2\n" * 30 + BODY, "At least 20 rows have 2 fields; the header has 3. (20 problems.)"),
        (TABLE + "north", "Row 21 has 1 fields; the header has 3."),
        ("a,b\n" + BODY, None),
    ],
)
def test_what_is_no_table_is_described_once(api: Api, text: str, detail: str | None) -> None:
    if detail is None:  # a name is missing: the rows have names
        assert names(stored(api, text.encode())[0]) == ["row_name", "a", "b"]
        return
    problem = refusal(api, text.encode())
    assert problem["detail"] == detail
    assert len(problem["errors"]) <= 4
    assert any("skip_rows" in error["fix"] or "quote" in error["fix"] for error in problem["errors"])


def test_a_table_that_becomes_wider_is_not_a_preamble(api: Api) -> None:
    narrow = "".join(f"x{n},y{n}\n" for n in range(12))
    wide = "".join(f"x{n},y{n},z{n}\n" for n in range(50))
    refusal(api, ("a,b\n" + narrow + wide).encode())
    refusal(api, ("a,b\n" + narrow + wide).encode(), lenient="true")
    body, rows = stored(api, b"c0\nv0\na;b\n")
    assert (names(body), rows) == (["c0"], [["v0"], ["a;b"]])


def test_a_single_column_of_sentences_is_one_column(api: Api) -> None:
    assert stored(api, b"text\nhello world\nfoo bar, baz\nthis is it\n")[1] == [
        ["hello world"],
        ["foo bar, baz"],
        ["this is it"],
    ]


def test_lines_are_counted_in_the_file(api: Api) -> None:
    text = "Title of it\n\n# a comment\n" + TABLE + BODY + "oops,1,x\n"
    problem = refusal(api, text.encode())["errors"][0]
    assert (problem["row"], problem["line"], problem["column"]) == (41, 45, "a")


@pytest.mark.parametrize(
    "value",
    [
        {"data": [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}], "count": 2},
        {"a": [1, 2], "b": ["x", "y"]},
        {"a": {"0": 1, "1": 2}, "b": {"0": "x", "1": "y"}},
        {"0": {"a": 1, "b": "x"}, "1": {"a": 2, "b": "y"}},
        {"columns": ["a", "b"], "index": [0, 1], "data": [[1, "x"], [2, "y"]]},
    ],
    ids=["rows in a member", "lists", "columns of pandas", "index of pandas", "split of pandas"],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_one_json_object_may_hold_a_table(api: Api, value: dict[str, Any], indent: int | None) -> None:
    body, rows = stored(api, json.dumps(value, indent=indent).encode())
    assert (names(body), rows, codes(body)) == (["a", "b"], [[1, "x"], [2, "y"]], ["rows_in_object"])


@pytest.mark.parametrize("text", ['[["a","b"],[1,"x"],[2,"y"]]', '["a","b"]\n[1,"x"]\n[2,"y"]\n'])
def test_lists_in_json_are_rows(api: Api, text: str) -> None:
    body, rows = stored(api, text.encode())
    assert (names(body), rows, codes(body)) == (["a", "b"], [[1, "x"], [2, "y"]], ["rows_in_object"])
    assert names(stored(api, b'[[1, "x"], [2, "y"], [3, "z"]]')[0]) == ["column_1", "column_2"]


def test_what_is_nearly_json_is_named(api: Api) -> None:
    for text in ("{'a': 1}\n{'a': 2}\n", "{a: 1}\n{a: 2}\n", "[{'a': 1}, {'a': 2}]"):
        assert "not in double quotes" in refusal(api, text.encode())["detail"]
    assert "write null" in refusal(api, b'{"a": NaN}\n{"a": 1}\n')["errors"][0]["fix"]
    assert refusal(api, b"- a: 1\n  b: x\n- a: 2\n  b: y\n")["detail"] == "This is YAML."


@pytest.mark.parametrize(
    ("text", "expected", "found"),
    [
        ("1::Toy Story: part 2::A|B\n2::Heat::A\n3::Up::B|C\n", [1, "Toy Story: part 2", "A|B"], "delimiter_of_two"),
        ("name       age  city\nAnn Lee     31  Rome\nBo          4   New York\nCy Young    52  Rome\n",
         ["Ann Lee", 31, "Rome"], "aligned_columns"),
        ('"a,b"\n"1,""x, y"""\n"2,z"\n', [1, "x, y"], "lines_quoted"),
    ],
)  # fmt: skip
def test_lines_are_written_anew_where_no_one_character_separates_fields(
    api: Api, text: str, expected: list[Any], found: str
) -> None:
    body, rows = stored(api, text.encode())
    assert rows[0] == expected
    assert found in codes(body)


def test_fields_that_name_their_column_may_be_left_out_and_in_any_order(api: Api) -> None:
    lines = "a=1;b=x, y;c=3\n" * 300 + 'c=5;b="p;""q"""\n'
    body, rows = stored(api, lines.encode())
    assert (names(body), rows[0], rows[-1]) == (["a", "b", "c"], [1, "x, y", 3], [None, 'p;"q"', 5])
    problem = refusal(api, (lines + "a=1;d=2\n").encode())["errors"][0]  # a column that no line before it has
    assert (problem["row"], problem["line"], problem["received"]) == (302, 302, "a=1;d=2")
    assert rows_of_text(api, lines) == ["a=1", "b=x, y", "c=3"]
    assert names(stored(api, b"rule,n\nx=1,2\ny=2,3\nz=4,5\n")[0]) == ["rule", "n"]


def rows_of_text(api: Api, text: str) -> list[Any]:
    """Return the first row of a table whose delimiter is stated."""
    return stored(api, text.splitlines(True)[0].encode() * 3, delimiter=";", header="false")[1][0]


def test_a_line_end_across_two_reads_is_one(tmp_path: Path) -> None:
    text = "a" * (MB - 1) + "\x85" + "b" * (MB - 2) + "\x85c"
    (tmp_path / "in").write_text(text, encoding="utf-8")
    out = end_lines_as_usual(tmp_path / "in", tmp_path / "out", "U+0085")
    assert out.read_text("utf-8") == text.replace("\x85", "\n")


def test_a_row_that_lacks_numbers_is_no_header(api: Api) -> None:
    rows = "".join(
        f"10100{n},2022-01-{n},{'open' if n % 2 else 'shut'},{n % 7},{n % 5},{n / 4}\n" for n in range(10, 31)
    )
    body, read = stored(api, ("101009,2022-01-21,open, , ,\n" + rows).encode())
    assert (len(read), codes(body)) == (22, [])


def test_one_line_alone_that_may_be_a_header_is_said(api: Api) -> None:
    body, rows = stored(api, b"27 Feb 2018,UMC, 7.80\n")
    assert (len(rows), codes(body)) == (1, ["no_header"])


def test_sentences_in_quotes_are_one_column(api: Api) -> None:
    assert names(stored(api, b'"Yes, it is"\n"No, thanks"\n"Well, no"\n', header="false")[0]) == ["column_1"]
    assert names(stored(api, b"a,m,b\n" + b"1,,2\n" * 9)[0]) == ["a", "m", "b"]


def test_rows_that_begin_with_a_comments_mark_are_rows(api: Api) -> None:
    comments = "# colours\n# made by hand\n"
    body, rows = stored(api, (comments + "hex,name\n#FF0000,red\n#00FF00,green\n").encode())
    assert (names(body), rows[0], codes(body)) == (["hex", "name"], ["#FF0000", "red"], ["comments_skipped"])
    body, rows = stored(api, (comments + "hex,name\nnone,black\n#00FF00,green\nnone,x\n").encode())
    assert rows[1] == ["#00FF00", "green"]
    assert len(stored(api, (comments + "a,b\n1,2\n# 3,4\n5,6\n").encode())[1]) == 2


def test_a_first_line_that_is_a_row_is_said(api: Api) -> None:
    text = "ham\tGo until jurong\nspam\tFree entry now\nham\tU dun say\n"
    body, rows = stored(api, text.encode())
    assert (len(rows), codes(body), body["notices"][0]["option"]) == (3, ["no_header"], "header=true")
    assert names(stored(api, text.encode(), header="true")[0]) == ["ham", "Go until jurong"]


def test_a_name_that_is_a_number_is_told_by_how_the_texts_below_it_are_written(api: Api) -> None:
    states = ["Alabama,R+27", "Alaska,R+15", "Hawaii,D+36", "Ohio,R+7", "Iowa,R+6", "New York,D+22"]
    body, rows = stored(api, "\n".join(["state,2018", *states]).encode())
    assert (names(body), rows[0]) == (["state", "2018"], ["Alabama", "R+27"])
    body, rows = stored(api, "\n".join(states).encode())  # told by the same
    assert (len(rows), codes(body)) == (6, ["no_header"])


def test_the_first_advice_keeps_the_row(api: Api) -> None:
    text = "a,b\n" + "".join(f"{'fehlt' if n == 7 else n},{n % 3}\n" for n in range(100))
    (error,) = refusal(api, text.encode())["errors"]
    assert error["fix"].startswith("If it stands for a missing value, say so, which keeps the row:")
    option, value = error["fix"].split(": ", 1)[1].split(". Fix")[0].split("=")
    body, rows = stored(api, text.encode(), **{option: value})
    assert (body["rows"], rows[7]) == (100, [None, 1])


@pytest.mark.parametrize("text", ["\n", "\n\n \n", "a", "a\n", " ", "\n" * 10, "\0\0"])
def test_a_file_without_rows_is_refused(api: Api, text: str) -> None:
    assert refusal(api, text.encode())["title"] == "Table unreadable"


LEDGER = "April 15, 2023;402;25.00;4.00;16.00;Ray;pending;\n" * 18 + "April 9, 2023;678;25.00;4.00;16.00;Lonny;\n" * 2


@pytest.mark.parametrize("header", ["", "date;id;a;b;c;name;state;\n"])
def test_a_comma_in_each_date_separates_no_fields(api: Api, header: str) -> None:
    problem = refusal(api, (header + LEDGER).encode())
    assert problem["errors"][0]["detail"] == "Row 19 has 7 fields; the others have 8, the last one empty."
    body, rows = stored(api, (header + LEDGER).encode(), lenient=True)
    assert (body["rows"], rows[0][1:6]) == (18, [402, 25, 4, 16, "Ray"])


@pytest.mark.parametrize(
    ("text", "expected", "first"),
    [
        ('"mpg" "cyl" "name"\n"Mazda RX4" 21 6 "a b"\n"Datsun 710" 22.8 4 "c"\n"Valiant" 18.1 6 "d"\n',
         ["row_name", "mpg", "cyl", "name"], ["Mazda RX4", 21, 6, "a b"]),
        ("     a name\n0  1.5    x\n1  2.5    y\n2  3.5    z\n", ["row_name", "a", "name"], [0, 1.5, "x"]),
        ("#Software: X\n#Fields: day code size\n" + "2026-11-01 200 5\n" * 3, ["day", "code", "size"], None),
    ],
)  # fmt: skip
def test_rows_between_blanks_may_have_a_name_more_than_the_header(
    api: Api, text: str, expected: list[str], first: list[Any] | None
) -> None:
    body, rows = stored(api, text.encode())
    assert names(body) == expected
    assert first is None or rows[0] == first


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("CODE}AREA\n600}S. Peo\n601}N. Pike\n", "'}' stands once in 2 of 2 lines"),
        ("mpg cyl\nMazda RX4     21.0   6\nMazda RX4 Wag 21.0   6\n", "2 of 2 lines have several blanks side by side"),
        ("name\nann\nbob\n", None),
        ("day\n2024-01-05 10:00\n2024-01-06 10:00\n", None),
    ],
)
def test_one_column_is_said_where_something_may_separate_fields(api: Api, text: str, shown: str | None) -> None:
    notices = [notice for notice in stored(api, text.encode())[0]["notices"] if notice["code"] == "one_column"]
    assert [notice["evidence"].partition(";")[0] for notice in notices] == ([shown] if shown else [])


def test_rows_at_the_end_without_values_are_kept_and_said(api: Api) -> None:
    body, rows = stored(api, (TABLE + ",,\n" * 3).encode())
    assert (codes(body), body["notices"][0]["option"], rows[-3:]) == (["empty_rows"], "footer=3", [[None] * 3] * 3)
    body, rows = stored(api, b'a,b\n0,"x;\n; A b"\n')  # what looks like prose below the table ends a field
    assert (codes(body), rows) == ([], [[0, "x;\n; A b"]])


def test_names_lose_what_is_not_seen(api: Api) -> None:
    assert names(stored(api, "\u200ba\u200b,\u00a0b,c\n1,2,3\n4,5,6\n".encode())[0]) == ["a", "b", "c"]


def test_the_answers_of_a_survey_are_the_second_part_of_the_names(api: Api) -> None:
    head = "id,Why?,Age,,Code,Sex,\n,Open-Ended Response,18-29,30-44,Response,Female,Male\n"
    rows = "".join(
        f"{n},{'ab'[n % 2]},{'18-29,' if n % 3 else ',30-44'},{70000 + n},{'Female,' if n % 2 else ',Male'}\n"
        for n in range(20)
    )
    body, read = stored(api, (head + rows).encode())
    expected = ["id", "Why? Open-Ended Response", "Age 18-29", "Age 30-44", "Code Response", "Sex Female", "Sex Male"]
    assert (names(body), read[1]) == (expected, [1, "b", "18-29", None, 70001, "Female", None])
    assert "names_joined" in codes(body)


@pytest.mark.parametrize(
    ("header", "code", "expected"),
    [
        ('x,y,z\nHow old?,How big?,Which?\n"{""ImportId"":1}","{""ImportId"":2}","{""ImportId"":3}"\n',
         "units_skipped", ["x", "y", "z"]),
        ("x,Which of them?,\n,Size,b\n", "names_joined", ["x", "Which of them? Size", "Which of them? b"]),
    ],
)  # fmt: skip
def test_the_questions_of_a_survey_are_no_rows(api: Api, header: str, code: str, expected: list[str]) -> None:
    body, rows = stored(api, (header + "".join(f"{n},{n * 1.5},{'ab'[n % 2]}\n" for n in range(30))).encode())
    assert (names(body), codes(body), len(rows), rows[1]) == (expected, [code], 30, [1, 1.5, "b"])
    assert ("Lines 2 to 3" in body["notices"][0]["message"]) == ("ImportId" in header)
