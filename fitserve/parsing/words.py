"""Words that stand for a truth value, a month, a currency, a unit or a zone."""

from __future__ import annotations

TRUE = frozenset({"true", "t", "yes", "y", "1", "on"})
FALSE = frozenset({"false", "f", "no", "n", "0", "off"})
# Truth values in other languages, used to order a pair of labels and to recognise spellings of the same value.
TRUE_IN_ANY_LANGUAGE = TRUE | {
    "ja",
    "oui",
    "sí",
    "si",
    "sim",
    "wahr",
    "vrai",
    "verdadero",
    "verdadeiro",
    "vero",
    "да",
    "是",
    "真",
}
FALSE_IN_ANY_LANGUAGE = FALSE | {"nein", "non", "não", "nao", "nee", "falsch", "faux", "falso", "нет", "否", "假"}

_MONTHS = (
    "january jan januar janvier janv enero ene gennaio gen janeiro januari"
    " ianuarie január styczeń stycznia sty leden ledna ocak январь января янв січня",
    "february feb februar febr février fevrier févr fevr fév febrero febbraio febbr fevereiro fev februari"
    " februarie február luty lutego lut únor února şubat февраль февраля фев лютого",
    "march mar märz maerz mär mrz mars marzo março marco maart mrt"
    " martie március marzec marca marts maret březen března mart март марта мар березня",
    "april apr avril avr abril abr aprile"
    " aprilie április kwiecień kwietnia kwi duben dubna nisan апрель апреля апр квітня",
    "may mai mayo maggio mag maio mei május maj maja květen května mayıs май мая травня",
    "june jun juni juin junio giugno giu junho"
    " iunie június czerwiec czerwca cze červen června haziran июнь июня июн червня",
    "july jul juli juillet juil julio luglio lug julho"
    " iulie július lipiec lipca lip červenec července temmuz июль июля июл липня",
    "august aug août aout agosto ago augustus"
    " augusti augusztus agustus sierpień sierpnia sie srpen srpna ağustos август августа авг серпня",
    "september sept sep septembre septiembre settembre set setembro"
    " septembrie szeptember wrzesień września wrz září eylül сентябрь сентября сен сент вересня",
    "october oct oktober okt octobre octubre ottobre ott outubro out"
    " octombrie október październik października paź říjen října ekim октябрь октября окт жовтня",
    "november nov novembre noviembre novembro noiembrie listopad listopada lis listopadu kasım ноябрь ноября ноя",
    "december dec dezember dez décembre decembre déc diciembre dic dicembre dezembro"
    " decembrie desember grudzień grudnia gru prosinec prosince aralık декабрь декабря дек грудня",
)
MONTHS = {name: number for number, names in enumerate(_MONTHS, 1) for name in names.split()}

_CODES = """AED ARS AUD BDT BGN BHD BRL CAD CHF CLP CNY COP CZK DKK EGP EUR GBP HKD HUF IDR ILS INR ISK JPY KES KRW KWD
KZT LKR MAD MXN MYR NGN NOK NZD PEN PHP PKR PLN QAR RMB RON RSD RUB SAR SEK SGD THB TND TRY TWD UAH USD UYU VND XAF XOF
ZAR"""
# Signs and codes (ISO 4217, of those in wide use) that stand before or after an amount.
CURRENCIES = frozenset(
    (
        *"$€£¥₹₽₩₺₪₫฿₴₦₱₲₡₵₸₼₾¢元円圓원￥＄￡￦",
        *("US$", "A$", "AU$", "C$", "CA$", "NZ$", "HK$", "S$", "R$", "NT$", "MX$", "Fr.", "SFr.", "Kč", "zł", "kr"),
        *("Euro", "euro", "EURO", "usd", "eur", "gbp", "chf", "inr", "₿", "лв", "лв.", "грн", "грн."),
        *("kr.", "Rs", "Rs.", "RM", "Ft", "lei", "руб.", "руб", "р.", "万元"),
        *_CODES.split(),
    )
)
PERCENT = frozenset({"%", "％", "‰", "pct", "percent"})

# Words below the column names, in lower case, when a table's second line describes its columns.
_TYPES = """bigint bool boolean category categorical char date datetime decimal double factor float float32 float64 int
int32 int64 integer nominal num number numeric object real str string text timestamp varchar"""
TYPES = frozenset(_TYPES.split())
_UNITS = """% ° °c °f a bar bpm c cm day days deg eur f ft g g/dl gbp ghz h hpa hr hrs hz in j k kg khz km km/h
kpa kw kwh l lb lbs m m/s m2 m² m3 m³ mbar mg mg/dl mg/l mhz mi min mins ml mm mm/hg mmhg mmol/l mol
month months mph mpa ms mw mwh n oz pa ppb ppm s sec t ug/l usd v w year years µg/l µg/m³ $ € £"""
UNITS = frozenset(_UNITS.split())

# Names of zones and minutes east of UTC. Names of several zones (CST, IST) are left out.
_ZONES = """Z=0 UTC=0 GMT=0 WET=0 WEST=60 BST=60 CET=60 CEST=120 MEZ=60 MESZ=120 EET=120 EEST=180 MSK=180 EST=-300
EDT=-240 CDT=-300 MST=-420 MDT=-360 PST=-480 PDT=-420 AKST=-540 AKDT=-480 HST=-600 JST=540 KST=540 HKT=480
SGT=480 AEST=600 AEDT=660 NZST=720 NZDT=780"""
ZONES = {name: int(minutes) for name, _, minutes in (zone.partition("=") for zone in _ZONES.split())}
