"""A text's encoding is the declared one or the one that its words show, else it is asked for: never a silent guess."""

from __future__ import annotations

import unicodedata

import pytest

from tests.datasets.conftest import Api
from tests.datasets.uploads import codes, refusal, stored

TEXTS = {
    "chinese": ("姓名,城市,备注", "张伟,北京,很好", "王芳,上海,一般", "李娜,广州,需要改进"),
    "taiwan": ("姓名,城市,備註", "陳怡君,臺北市,很好", "林志明,高雄市,普通", "黃淑芬,臺中市,需要改進"),
    "japanese": ("氏名,都市,備考", "山田太郎,東京,とても良い", "佐藤花子,大阪,ふつう", "鈴木一郎,名古屋,改善が必要"),
    "korean": ("이름,도시,금액", "김철수,서울,12", "이영희,부산,8", "박민수,대구,3"),
    "russian": ("имя,город,сумма", "Иван Петров,Москва,12", "Анна Смирнова,Казань,8", "Олег Кузнецов,Самара,3"),
    "ukrainian": ("ім'я,місто,сума", "Іван Шевченко,Київ,12", "Олена Бойко,Львів,8"),
    "greek": ("όνομα,πόλη,ποσό", "Γιώργος,Αθήνα,12", "Μαρία,Θεσσαλονίκη,8"),
    "german": ("name,preis,klasse", "Café – 0,günstig,a", "Müller „gut“,teuer €,b", "Straße,günstig,a"),
    "french": ("nom,ville,prix", "Élodie,Besançon,12", "François,Évreux,8", "Zoë,Nîmes,3"),
    "spanish": ("nombre,ciudad,año", "José,Málaga,2020", "Íñigo,A Coruña,2021"),
    "kanji": ("都道府県,市,金額", "東京都,新宿区,1", "大阪府,堺市,2", "京都府,宇治市,3"),
    "euro": ("nom,prix,n", "Éléonore œuvre,12 € HT,1", "Zoë,8 € TTC,2"),
    "polish": ("imię,miasto,kwota", "Łukasz,Łódź,12", "Żaneta,Gdańsk,8", "Świętosław,Kraków,3"),
    "czech": ("jméno,město,n", "Jiří Dvořák,Plzeň,1", "Šárka Řezníčková,České Budějovice,2"),
    "turkish": ("isim,şehir,n", "Ayşe,İstanbul,1", "Çağrı,Eskişehir,2", "Gökhan,Muğla,3"),
}
KNOWN = [
    *(("chinese", name) for name in ("gb18030", "gbk", "gb2312", "utf-16-le", "utf-16-be")),
    *(("taiwan", name) for name in ("big5", "cp950")),
    *(("japanese", name) for name in ("shift_jis", "cp932", "euc_jp", "utf-16-be")),
    ("kanji", "euc_jp"),
    ("euro", "iso8859-15"),
    *(("korean", name) for name in ("euc_kr", "cp949")),
    *(("russian", name) for name in ("cp1251", "koi8-r", "cp866", "iso8859-5", "utf-16-le")),
    *(("ukrainian", name) for name in ("cp1251", "koi8-u")),
    *(("greek", name) for name in ("cp1253", "iso8859-7")),
    *(("german", name) for name in ("cp1252", "utf-16-le", "utf-16-be", "utf-32-le")),
    *(("french", name) for name in ("cp1252", "latin-1")),
    *(("spanish", name) for name in ("cp1252", "latin-1")),
    *(("polish", name) for name in ("cp1250", "iso8859-2")),
    ("czech", "cp1250"),
    ("turkish", "cp1254"),
]


def lines(language: str, count: int, far: bool) -> list[str]:
    header, *rows = TEXTS[language]
    ascii_rows = ["plain,ascii,text"] * (3_000 if far else 0)
    return [header if not far else "a,b,c", *ascii_rows, *(rows[at % len(rows)] for at in range(count))]


@pytest.mark.parametrize(("language", "encoding"), KNOWN)
@pytest.mark.parametrize(("count", "far"), [(3, False), (300, False), (3, True)], ids=["short", "long", "far"])
def test_encodings_are_recognised_by_the_words(api: Api, language: str, encoding: str, count: int, far: bool) -> None:
    if language == "german" and encoding == "utf-32-le" and far:
        count = 4
    text = lines(language, count, far)
    body, rows = stored(api, ("\n".join(text) + "\n").encode(encoding))
    shown = [",".join(str(cell) for cell in row) for row in rows]
    assert shown[-3:] == text[-3:]
    assert body["notices"][0]["code"] == "encoding_recognised"
    assert body["notices"][0]["option"] == "encoding=..."


@pytest.mark.parametrize("encoding", ["cp850", "mac_roman"])
def test_where_two_readings_are_as_likely_it_is_asked(api: Api, encoding: str) -> None:
    data = ("\n".join(TEXTS["french"]) + "\n").encode(encoding)
    problem = refusal(api, data)
    assert "encoding=" in problem["fix"]
    assert f"{encoding} (" in problem["fix"]
    assert stored(api, data, encoding=encoding)[1][0] == ["Élodie", "Besançon", 12]


def test_a_blank_that_does_not_break_is_a_blank(api: Api) -> None:
    text = "question,answer\n" + "knowledge\xa0of food,Not much\xa0\n" * 30
    body, rows = stored(api, text.encode("mac_roman"))
    assert (rows[0][0], body["source"]["encoding"]) == ("knowledge\xa0of food", "mac_roman")
    assert "cp1252 ('knowledge\\xa0of" in refusal(api, text.encode("cp1252"))["fix"]  # or 'knowledgeáof', in cp850


@pytest.mark.parametrize(
    "field",
    [
        "23 °C",
        "Größe [m²]",
        "£12",
        "12 €",
        "1\xa0234",
        "±3",
        "12 µg",
        "don’t",
        "“quoted”",
        "x – y",
        "5½",
        "Nº",
        "« mot »",
    ],
)
def test_a_sign_in_its_place_is_no_letter_of_another_encoding(api: Api, field: str) -> None:
    """Read as others, they are `23蚓`, `Ł12`, `ą3`, `don稚`, `1á234`."""
    body, _ = stored(api, f"{field},b\n1,2\n3,4\n".encode("cp1252"), header="true")
    assert (body["source"]["encoding"], body["columns"][0]["name"]) == ("cp1252", field)


@pytest.mark.parametrize(
    ("words", "encoding"),
    [
        (["naïve", "crème brûlée", "Sœur"], "cp1252"),
        (["Curaçao", "São Paulo"], "cp1252"),
        (["Dvořák", "Český", "Jiří"], "cp1250"),
        (["Łódź", "Gdańsk"], "cp1250"),
    ],
)
def test_letters_of_one_language_stand_together(api: Api, words: list[str], encoding: str) -> None:
    _, rows = stored(api, ("word,n\n" + "".join(f"{word},1\n" for word in words)).encode(encoding))
    assert [row[0] for row in rows] == words


@pytest.mark.parametrize("content_type", ["text/csv; charset=koi8-r", 'text/csv; charset="KOI8-R"'])
def test_a_declared_charset_is_obeyed(api: Api, content_type: str) -> None:
    data = "а,б\nмир,1\n".encode("koi8-r")
    body, rows = stored(api, data, content_type)
    assert (rows, body["notices"], body["source"]["encoding"]) == ([["мир", 1]], [], "koi8-r")
    files = {"file": ("t.csv", "в,г\nмир,1\n".encode("koi8-r"), content_type)}
    answer = api.ann.post("/datasets", files=files)
    assert (answer.status_code, answer.json()["columns"][0]["name"]) == (201, "в")


def test_a_declared_charset_that_does_not_fit_is_an_error(api: Api) -> None:
    problem = refusal(api, "а,б\nмир,1\n".encode("koi8-r"), encoding="utf-8")
    assert (problem["errors"][0]["line"], problem["errors"][0]["expected"]) == (1, "utf-8, as declared")
    assert refusal(api, b"a,b\n1,2\n", encoding="punycode")["status"] == 400


def test_a_damaged_byte_does_not_make_utf8_another_encoding(api: Api) -> None:
    data = b"stadt,n\n" + "Zürich,1\nGenève,2\n".encode() * 20 + b"Bern\xff,3\n"
    problem = refusal(api, data)
    assert problem["errors"][0]["line"] == 42
    assert "latin-1" not in str(problem)


def test_latin_1_is_never_advised_for_gbk(api: Api) -> None:
    damaged = "姓名,城市\n张伟,北京\n".encode("gbk") + b"\xff\xff\xff,1\n"
    assert "latin" not in str(refusal(api, damaged))
    by_chance_utf8 = "联通,移动\n".encode("gbk") + "张伟,北京\n李娜,上海\n".encode("gbk")
    assert stored(api, by_chance_utf8)[0]["columns"][0]["name"] == "联通"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["M\u00c3\u00bcller", "K\u00c3\u00b6ln", "J\u00c3\u00a4ger"], "encoded_twice"),
        (["M\ufffdller"], "characters_lost"),
    ],
)
def test_text_that_was_damaged_before_the_upload_is_named(api: Api, words: list[str], code: str) -> None:
    body, _ = stored(api, ("a,b\n" + "".join(f"{word},1\n" for word in words)).encode())
    assert codes(body) == [code]
    fine, _ = stored(api, "a,b\nM\u00fcller,1\nK\u00f6ln,2\nJ\u00e4ger,3\n".encode())
    assert codes(fine) == []


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Zürich,Genève,1\nKöln,Łódź,2\n", "utf-7"),
        ("北京,上海,1\n广州,天津,2\n", "hz"),
        ("東京,大阪,1\n名古屋,福岡,2\n", "iso2022_jp"),
        ("서울,부산,1\n대구,인천,2\n", "iso2022_kr"),
        ("Zürich,Köln,1\nRoma,Lima,2\n", "cp037"),
    ],
)
def test_encodings_are_recognised_by_their_marks(api: Api, text: str, encoding: str) -> None:
    body, rows = stored(api, ("a,b,n\n" + text).encode(encoding))
    assert rows == [[*line.split(",")[:2], int(line.split(",")[2])] for line in text.splitlines()]
    assert body["source"]["encoding"] == encoding
    assert codes(body)[:1] == ["encoding_recognised"]


@pytest.mark.parametrize("text", ["a,b\nx+y-z,1\nC++-,2\n", "a,b\nNa+,1\nFe+III-,2\n", "a,b\n~{x},1\ny,2\n"])
def test_signs_alone_mean_no_encoding(api: Api, text: str) -> None:
    body, rows = stored(api, text.encode())
    assert [row[0] for row in rows] == [line.split(",")[0] for line in text.splitlines()[1:]]
    assert body["source"]["encoding"] == "utf-8"


def test_vietnamese_is_recognised_and_its_accents_put_together(api: Api) -> None:
    rows = [["Nguyễn Văn An", "Hà Nội"], ["Trần Thị Bình", "Đà Nẵng"], ["Lê Hoàng", "Hải Phòng"]]
    text = "".join(",".join(row) + "\n" for row in rows)
    marks = {ord(mark): None for mark in "\u0300\u0301\u0303\u0309\u0323"}
    data = b""
    for letter in text:  # the code page has letters with one accent, and four accents that follow a letter
        parts = unicodedata.normalize("NFD", letter)
        base, accents = parts.translate(marks), "".join(mark for mark in parts if ord(mark) in marks)
        data += (unicodedata.normalize("NFC", base) + accents).encode("cp1258")
    body, read = stored(api, b"a,b\n" + data)
    assert (read, body["source"]["encoding"]) == (rows, "cp1258")


def test_much_spanish_is_not_polish(api: Api) -> None:
    stems = ["administraci", "gesti", "acci", "regi", "poblaci"]
    words = [
        "diseño",
        "niño",
        "año",
        "español",
        *(f"{stem}ón {place}" for stem in stems for place in ("mí", "té", "más", "ú")),
    ]
    body, rows = stored(api, ("word,n\n" + "".join(f"{word},{n}\n" for n, word in enumerate(words))).encode("cp1252"))
    assert ([row[0] for row in rows], body["source"]["encoding"]) == (words, "cp1252")


def test_thorns_between_fields_are_of_a_latin_code_page(api: Api) -> None:
    data = "aþbþc\n" + "".join(f"{n}þ{n / 2}þxé\n" for n in range(9))
    body, rows = stored(api, data.encode("cp1252"))
    assert (rows[1], codes(body)) == ([1, 0.5, "xé"], ["encoding_recognised", "unusual_delimiter"])


def test_nul_bytes_in_a_short_file_are_no_utf_16(api: Api) -> None:
    problem = refusal(api, b"a,b\n1,x\0\n3,z\0\n")
    assert "NUL" in problem["detail"]
