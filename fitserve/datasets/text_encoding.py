"""Guess the character encoding of a text that does not declare one: the one that makes its words most plausible.

Every encoding of a short list decodes the distinct fields of the whole file that are not ASCII. The result is rated by
the letters (those of its languages, frequent ones more), by where capitals, symbols and other scripts stand in words,
and by the commonest characters of Chinese, Japanese and Korean. Where two readings are about as likely, none is chosen.
charset-normalizer was tried first: on a table's short fields it is wrong about every third time.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fitserve.blobs import CHUNK

MAX_BYTES = 48 * 1024  # bytes of distinct fields that are rated
FIELDS_OF_A_CHUNK = 400
MARGIN = 0.06  # least lead of the best reading over the next; below it, the encoding is not guessed
MARGIN_OF_OLD = 0.3  # the same for code pages of the 1980s, under which almost every byte is some letter
LEAST = 0.25  # least rating of an accepted reading
IN_PLACE = 1.02  # rating of a sign in a plausible position, above that of any letter
# A field with a non-ASCII byte. Matched only at the beginning of a field, so that the time is linear.
_FIELD = re.compile(rb"(?<![^\r\n,;\t|\"])[^\x80-\xff\r\n,;\t|\"]*+[\x80-\xff][^\r\n,;\t|\"]*+")
# Non-ASCII letters by language: French, German, Spanish, Portuguese, Italian, Swedish, Danish, Dutch,
# Catalan; Polish, Czech, Slovak, Hungarian, Romanian, Croatian; Turkish; Lithuanian, Latvian, Estonian.
_WESTERN = (
    *("éèêëàâîïôûùüçœæÿ", "äöüß", "áéíóúñü", "áâãàçéêíóôõúü", "àèéìòù", "åäöé", "æøåé", "éëïöüè"),
    "àçéèíïóòúü",
)
_CENTRAL = ("ąćęłńóśźż", "áčďéěíňóřšťúůýž", "áäčďéíĺľňóôŕšťúýž", "áéíóöőúüű", "ăâîşţ", "čćđšž", "äöüßé")
_LANGUAGES = {
    "cp1252": _WESTERN,
    "iso8859-15": _WESTERN,
    "cp850": _WESTERN,
    "mac_roman": _WESTERN,
    "cp1250": _CENTRAL,
    "iso8859-2": _CENTRAL,
    "cp852": _CENTRAL,
    "cp1254": ("çğıİöşüâîû",),
    "cp1257": ("ąčęėįšųūž", "āčēģīķļņšūž", "äõöüšž"),
    "cp1258": ("áàảãạăắằẳẵặâấầẩẫậéèẻẽẹêếềểễệíìỉĩịóòỏõọôốồổỗộơớờởỡợúùủũụưứừửữựýỳỷỹỵđ",),
}
LATIN = frozenset(_LANGUAGES)
# For each central European language, the letters that no western one has; long texts contain at least half.
_CENTRAL_ALONE = [alone for one in _CENTRAL if (alone := frozenset(one) - frozenset("".join(_WESTERN)))]
ENOUGH_LETTERS = 40
_RUSSIAN = "оеаинтсрвлкмдпуяыьгзбчйхжшюцщэфъё"
_GREEK = "αοιετσνηυρπκμλςόίέάήύγδωώθχφβζξψϊϋΐΰ"
_OLD = {"cp850", "mac_roman", "cp852"}
_CYRILLIC = {"cp1251", "koi8-r", "koi8-u", "cp866", "iso8859-5", "mac_cyrillic"}
_WIDE = {"gb18030", "big5hkscs", "cp932", "euc_jp", "cp949"}
_SINGLE = ("cp1253", "cp1255", "cp1256", "cp874")
# Several of these often decode the bytes to the same text; the first one is reported.
CANDIDATES = (
    *("cp1252", "iso8859-15", "gb18030", "big5hkscs", "cp932", "cp949", "euc_jp"),
    *("cp1251", "koi8-r", "koi8-u", "cp866", "cp1250"),
    *("iso8859-2", "cp1254", "cp1253", "cp1255", "cp1256", "cp874", "cp1257", "cp1258", "mac_roman"),
    *("iso8859-5", "mac_cyrillic", "cp850", "cp852"),
)
# Rare nowadays: the rating must exceed the others by this much.
_RARE = {"cp850": 0.12, "mac_roman": 0.12, "cp852": 0.15, "iso8859-5": 0.05, "mac_cyrillic": 0.05, "iso8859-2": 0.03}
_RARE |= {"koi8-u": 0.01, "cp1257": 0.03, "cp1254": 0.01, "euc_jp": 0.01, "cp1258": 0.05}
# Frequent characters of Chinese (simplified) and of Japanese, including those in place names and table headers.
_FREQUENT = {
    "gb18030": frozenset(
        "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动同工也能下过子说产种"
        "面而方后多定行学法所民得经十三之进着等部度家电力里如水化高自二理起小物现实加量都两体制机当使点从业本"
        "去把性好应开它合还因由其些然前外天政四日那社义事平形相全表间样与关各重新线内数正心反你明看原又么利比"
        "或但质气第向道命此变条只没结解问意建月公无系军很情者最立代想已通并提直题党程展五果料象员革位入常文总"
        "次品式活设及管特件长求老头基资边流路级少图山统接知较将组见计别她手角期根论运农指几九区强放决西被干做"
        "必战先回则任取据处队南给色光门即保治北造百规热领七海口东导器压志世金增争济油思术极交受联认六共权收证"
        "改清己美再采转更单风切打白教速花带安场身车例真务具万每目至达走积示议声报完类八离华名确才科张信马节话"
        "米整空元况今集温传土许步群广石记需段研界拉林律叫究观越织装影算低持音众书布复容儿须际商非验连断深难近"
        "矿千周委素技备半办青省列习响约支般史感劳便团往酸历市克何除消构府称太准精值号率族维划选标写存候毛亲快"
        "效院查江型眼王按格养易置派层片始却专状育厂京识适属圆包火住调满县局照参红细引听该铁价姓备注"
    ),
    "euc_jp": frozenset(
        "日一国会人年大十二本中長出三同時政事自行社見月分議後前民生連五発間対上部東者党地合市業内相方四定今回"
        "新場金員九入選立開手米力学問高代明実円関決子動京全目表戦経通外最言氏現理調体化田当八六約主題下首意法"
        "不来作性的要用制治度務強気小七成期公持野協取都和統以機平総加山思家話世受区領多県続進正安設保改数記院"
        "女初北午指権心界支第産結百派点教報済書府活原先共得解名交資予川向際査勝面委告軍文反元重近千考判認画海"
        "参売利組知案道信策集在件団別物側任引使求所次水半品昨論計死官増係感特情投示変打男基私各始島直両朝革価"
        "式確村提運終挙果西勢減台広容必応演電歳住争談能無再位置企真流格有疑口過局少放税検藤町常校料沢裁状工建"
        "語球営空職証土与急止送援供可役構木割聴身費付施切由説転食比難防補車優夫研収断井何南石足違消境神番規術"
        "護展態導備宅害配副算視条幹独警宮究育席輸訪楽起万着乗店述残想線率病農州武声質念待試族象銀域助労例然早"
        "張映限親額監環験追商葉義伝働形景落好退準賀訴辺造英被株頭技低毎医復仕去姿味負閣渡失移差衆個門写評課末"
        "守若種美岡影命含福蔵量望松非撃佐核観察整段横型白深字答夜製票況音申様財港識注呼道埼玉奈阪神兵庫熊鹿児"
        "崎縄徳愛媛香城栃群茨宿堺名古屋札幌仙横浜円備考番号氏区分単位合計商品顧客住所電話"
    ),
}
COMPOSED = "cp1258"  # its accents are separate characters after their letters, so they are composed
_THORN = b"\xfe"  # in Latin code pages; some files use it to separate or surround fields
_SCRIPTS = ("LATIN", "CYRILLIC", "GREEK", "HEBREW", "ARABIC", "THAI", "CJK", "HIRAGANA", "KATAKANA", "HANGUL")
TYPOGRAPHY = frozenset("–—‘’“”„‚€£°§«»…©®±×·¿¡²³µ¥½¼¾ºª\xa0™†•´№Ø")
# A sign in a plausible position, with its neighbours (a blank at the field's end): units, money, quotes, dashes.
_IN_PLACE = re.compile(
    r"[\d\s(\[/]°[\s\dCFKNSEW).,/\]]|[\s(]±[\s\d.]|\d±[\s\d.]|\d[½¼¾][\s\w).,-]|\s[½¼¾][\s).,-]|[\s\d(\[/]µ[A-Za-z]"
    r"|[\s\d(\[/kKM+-][€£¥][\s\d).,/\]-]|[A-Za-z)\d][²³][\s).,/\]-]|[\d\s]×[\d\s]|[\s(/]Ø[\s\d]|[\dMN][ºª][\s.,)]"
    r"|[A-Za-z]’[A-Za-z\s.,)]|[\s(]’[\ds]|[\s(][“‘„«¿¡]\S|\S[”’»][\s.,;:!?)]|[\s\d)][–—][\s\d(]|[\w\s.]…[\s.,)]"
    r"|[\w\s)][®™†][\s).,]|[\s(]©[\s\d]|[\s(]§[\s\d§]|\s[•·]\s|l·l|[\s(]«\s|\s»[\s.,;:!?)]|[\s(]№[\s\d]|[^a-zA-Z]\xa0[^a-zA-Z]"
)
_WORDS_OF_ONE_LETTER = frozenset("àèéóíáåöæâÀÈÉÓÍÁÅÖÆÂ")


_Rated = tuple[float, str, list[str]]  # a rating, an encoding, and the fields as they read under it


@dataclass(frozen=True)
class Guess:
    """An encoding, with one field decoded by it as an example."""

    encoding: str
    example: str


def guess(path: Path) -> tuple[Guess | None, list[Guess]]:
    """Return the likeliest encoding of a file that is not UTF-8 (None if others are as likely), and the others."""
    fields = _fields(path)
    if _has_thorns(path) and (read := _decoded(fields, "cp1252")) is not None:
        return Guess("cp1252", max(read[:20], key=len).strip()[:30]), []
    rated: list[_Rated] = []
    has_euro = _has_euro(fields)
    for name in CANDIDATES:
        if name == ("cp1252" if has_euro else "iso8859-15"):
            continue
        texts = _decoded(fields, name)
        if texts is not None:
            rated.append((_rate(texts, name) - _RARE.get(name, 0), name, texts))
    rated.sort(key=lambda item: (-item[0], CANDIDATES.index(item[1])))
    rated = _of_distinct_texts(rated)
    guesses = [Guess(name, max(texts[:20], key=len).strip()[:30]) for _, name, texts in rated[:3]]
    if not rated or rated[0][0] < LEAST:
        return None, guesses
    best, _, texts = rated[0]
    rivals = [item for item in rated[1:] if best - item[0] < _margin(rated[0][1], item[1])]
    return (None if rivals else guesses[0]), guesses


def _has_euro(fields: list[bytes]) -> bool:
    """Return whether the bytes at which ISO 8859-15 differs from cp1252 read better under it: € for ¤, œ for ½."""
    if any(0x80 <= byte < 0xA0 for field in fields for byte in field):  # cp1252 alone has characters there
        return False
    pairs = [(field.decode("cp1252"), field.decode("iso8859-15")) for field in fields]
    ours, others = ([pair[at] for pair in pairs if pair[0] != pair[1]] for at in (0, 1))
    return bool(ours) and _rate(others, "iso8859-15") > _rate(ours, "cp1252")


def _of_distinct_texts(rated: list[_Rated]) -> list[_Rated]:
    """Keep one reading of each text: the best rating, and the commonest encoding that gives this text."""
    by_texts: dict[tuple[str, ...], _Rated] = {}
    for rating, name, texts in rated:
        best, commonest, _ = by_texts.get(tuple(texts), (rating, name, texts))
        by_texts[tuple(texts)] = (best, min(commonest, name, key=CANDIDATES.index), texts)
    return list(by_texts.values())


def _margin(one: str, other: str) -> float:
    return MARGIN_OF_OLD if {one, other} <= _OLD else MARGIN


def _fields(path: Path) -> list[bytes]:
    """Return distinct fields with bytes beyond ASCII, of the whole file."""
    fields: dict[bytes, None] = {}
    size = 0
    for chunk in _chunks_beyond_ascii(path):
        taken = 0
        for match in _FIELD.finditer(chunk):
            if match[0] in fields:
                continue
            fields[match[0]] = None
            size += len(match[0])
            taken += 1
            if size > MAX_BYTES:
                return list(fields)
            if taken >= FIELDS_OF_A_CHUNK:
                break
    return list(fields)


def _chunks_beyond_ascii(path: Path) -> Iterator[bytes]:
    """Yield whole lines at a time."""
    rest = b""
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            cut = data.rfind(b"\n") + 1
            if not cut:
                rest = (rest + data)[-CHUNK:]
                continue
            lines, rest = rest + data[:cut], data[cut:]
            if not lines.isascii():
                yield lines
    if rest and not rest.isascii():
        yield rest


def _has_thorns(path: Path) -> bool:
    """Return whether thorns separate or surround fields: as many in each line, and hardly another byte beyond ASCII."""
    with path.open("rb") as file:
        lines = [line for line in file.read(CHUNK).split(b"\n")[:-1] if line.strip()]
    counts = {line.count(_THORN) for line in lines}
    others = sum(byte >= 0x80 for line in lines[:100] for byte in line)
    return len(lines) > 2 and len(counts) == 1 and 0 < others < 2 * counts.pop() * min(len(lines), 100)


def _decoded(fields: list[bytes], name: str) -> list[str] | None:
    try:
        texts = [field.decode(name) for field in fields]
        return [unicodedata.normalize("NFC", text) for text in texts] if name == COMPOSED else texts
    except UnicodeDecodeError:
        return None


def _rate(texts: list[str], name: str) -> float:
    """Rate how plausible texts are, at most about 1: the mean over bytes beyond ASCII."""
    total = weight = 0.0
    letters: Counter[str] = Counter()
    for text in texts:
        for index, character in enumerate(text):
            if character < "\x80":
                continue
            bytes_taken = 2.0 if name in _WIDE and character > "\xff" and not "\uff61" <= character <= "\uff9f" else 1.0
            before, after = text[index - 1] if index else " ", text[index + 1] if index + 1 < len(text) else " "
            is_in_place = bool(_IN_PLACE.match(before + character + after))
            total += bytes_taken * (IN_PLACE if is_in_place else _rate_character(character, before, after, name))
            weight += bytes_taken
            letters[character] += name in _LANGUAGES and character.isalpha() and not is_in_place
    if name in _LANGUAGES:
        total += max(_rate_letters(letters, language, name) for language in _LANGUAGES[name])
        if _LANGUAGES[name] is _CENTRAL and letters.total() >= ENOUGH_LETTERS:
            used = {letter.lower() for letter in letters}
            if not any(2 * len(alone & used) >= len(alone) for alone in _CENTRAL_ALONE):
                total -= 0.1 * weight  # such as Spanish, of which ñ alone is another letter there
    if name == COMPOSED and not any("\u1ea0" <= letter <= "\u1ef9" for letter in letters):
        total -= 0.3 * weight  # Vietnamese has letters with two accents, or a dot below
    if name in _FREQUENT:  # the same bytes are characters of both standards
        beyond = "".join(character for text in texts for character in text if character > "\u3000")
        if not any("\u3040" <= character <= "\u30ff" for character in beyond):  # with kana, it is Japanese
            other = "euc_jp" if name == "gb18030" else "gb18030"
            share = _frequent(beyond, name)
            rival = _frequent(beyond.encode(name, "ignore").decode(other, "ignore"), other)
            total += (0.2 * share - (0.1 if name == "euc_jp" or rival > share else 0.0)) * weight
    return total / weight if weight else 0.0


def _frequent(text: str, name: str) -> float:
    """Return the share of characters that are frequent in an encoding's language."""
    return sum(character in _FREQUENT[name] for character in text) / max(1, len(text))


def _rate_character(character: str, before: str, after: str, name: str) -> float:
    category, script = _kind(character)
    if category in ("Cc", "Co", "Cn"):
        return -3.0
    if name in _WIDE:
        return _rate_wide(character, script, before, after, name)
    if category[0] != "L" and category[0] != "M":
        return _rate_sign_out_of_place(character, before.isalpha() and after.isalpha())
    for neighbour in (before, after):
        if neighbour.isalpha() and _kind(neighbour)[1] != script:
            return -1.5
    # A capital after a small letter is not how words are written.
    value = (-0.6 if before.islower() else -0.25 if before.isupper() else 0.0) if category == "Lu" else 0.0
    if before.isdigit() or after.isdigit():
        value -= 0.8
    elif not before.isalpha() and not after.isalpha() and character not in _WORDS_OF_ONE_LETTER:
        value -= 0.35  # a one-letter word
    if name in _CYRILLIC:
        place = _RUSSIAN.find(character.lower())
        value += (1.0 - 0.02 * place) if place >= 0 else 0.75 if character.lower() in "іїєґў" else -0.5
        return value if script == "CYRILLIC" else -0.5
    if name in _LANGUAGES:  # `_rate_letters` rates the letter itself
        # Most letters of a Latin word are ASCII; a capital stands at its beginning.
        value -= 0.7 if not before.isascii() and not after.isascii() and before.isalpha() and after.isalpha() else 0.0
        return value - (0.3 if category == "Lu" and after.islower() and before.isalpha() else 0.0)
    if category == "Mn" and _kind(before)[1] != script:
        return -1.5
    if name == "cp1253":
        place = _GREEK.find(character.lower())
        return value + (1.0 - 0.02 * place if place >= 0 else -0.5)
    expected = {"cp1255": "HEBREW", "cp1256": "ARABIC", "cp874": "THAI"}[name]
    return value + 0.9 if script == expected else -0.6


def _rate_letters(letters: Mapping[str, int], language: str, name: str) -> float:
    """Rate the letters of a text as those of one language; a table may hold words of its encoding's other ones."""
    others = "".join(_LANGUAGES[name])
    rated = (
        (0.95 if _is_in(one, language) else 0.75 if _is_in(one, others) else -0.6, n) for one, n in letters.items()
    )
    return sum(value * count for value, count in rated)


def _is_in(letter: str, language: str) -> bool:
    return letter in language or letter.lower() in language


def _rate_sign_out_of_place(character: str, in_word: bool) -> float:
    if in_word and character not in "\xa0–—":  # these separate words
        return -1.5
    if character == "\xa0":
        return 0.8
    return 0.55 if character in TYPOGRAPHY else -1.0


def _rate_wide(character: str, script: str, before: str, after: str, name: str) -> float:
    is_between_latin = before.isascii() and before.isalpha() and after.isascii() and after.isalpha()
    if is_between_latin:
        return -1.0
    if "\uff61" <= character <= "\uff9f":  # half-width katakana: single bytes, which other text is full of
        return 0.55 if _is_half_kana(before) or _is_half_kana(after) else -0.5
    if script in ("HIRAGANA", "KATAKANA"):
        return 1.0 if name in ("cp932", "euc_jp") else -0.3
    if script == "HANGUL":
        return (1.0 if _is_common(character, name) else 0.1) if name == "cp949" else -1.0
    if "\u3000" <= character <= "\u303f" or "\uff01" <= character <= "\uff60":
        return 0.6
    if script != "CJK":
        return 0.2 if character in TYPOGRAPHY or character in "★☆○●◎◇◆□■△▲▽▼→←↑↓①②③④⑤" else -0.6
    if before.isascii() and after.isascii() and character.encode(name)[-1] < 0x80:
        return 0.5  # alone, and its second byte is an ASCII letter: rather a sign and that letter
    return 0.9 if _is_common(character, name) else 0.1


def _is_half_kana(character: str) -> bool:
    return "\uff61" <= character <= "\uff9f"


@cache
def _is_common(character: str, name: str) -> bool:
    """Return whether a character is among the frequent ones of its standard: its first level."""
    if name == "gb18030":
        code = character.encode("gb2312", "ignore")
        return len(code) == 2 and 0xB0 <= code[0] <= 0xD7
    if name == "big5hkscs":
        code = character.encode("big5", "ignore")
        return len(code) == 2 and 0xA4 <= code[0] <= 0xC6
    if name == "cp949":  # Hanja are rare in today's Korean
        code = character.encode("euc_kr", "ignore")
        return len(code) == 2 and 0xB0 <= code[0] <= 0xC8
    code = character.encode("euc_jp", "ignore")
    return len(code) == 2 and 0xB0 <= code[0] <= 0xCF


@cache
def _kind(character: str) -> tuple[str, str]:
    """Return a character's general category and its script."""
    name = unicodedata.name(character, "")
    return unicodedata.category(character), next((script for script in _SCRIPTS if name.startswith(script)), "")
