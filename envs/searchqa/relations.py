"""The relations that questions ask about: wording, reading, searching.

A relation reads one line of the Factbook. It gives a question about a known country
(`What is the capital of France?`) and either

  * a description that tells a country by the value (`the country or territory whose
    capital is Paris`), which may stand wherever a country's name can, or
  * if its value is a country, a description of that country by the first one (`the
    country that formerly ruled Haiti`), which can be nested.

All descriptions put what they depend on at their end, so that a question is read from
left to right, see `parse_question`.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence

from agentrl.envs.searchqa import scoring

Docs = Sequence[tuple[str, str]]  # title and text of passages
Values = Sequence[str]  # the preferred form first; empty if the text is unclear

ANY_COUNTRY = "the country or territory whose "
WHICH_COUNTRY = "Which country or territory's "

# Short names that the Factbook uses inside its fields.
FULL_NAMES = {
    "Cote d'Ivoire": "Côte d'Ivoire",
    "The Gambia": "Gambia",
    "UK": "United Kingdom",
    "US": "United States",
}

_TAKES_ARTICLE = re.compile(
    r"(Bahamas|Bank|Emirates|Islands|Kingdom|Lands|Maldives|Netherlands|Philippines"
    r"|Republic|States|Strip|Territory)$|^(Democratic|Isle|Republic)\b"
)

_NAME = r"[^\W_a-z][^();,:]*"  # starts with a capital letter or a digit
_NAME_AND_ALIAS = re.compile(rf"({_NAME}?)(?: \(([^()]+)\))?")
_HEIGHT = re.compile(rf"({_NAME}?)(?: \(([^()]+)\))?,? -?[\d,]+ m\b.*")
_NOT_PLACE = re.compile(r"\d (?:k?m|[NSEW]{1,3})\b|\bunnamed\b| and | than$")
_DATE = r"(\d{1,2}) ([A-Z][a-z]+) (\d{4})"
_INDEPENDENCE = re.compile(rf"{_DATE} \(from (?:the )?([^();]+)\)")
_RULED_BY = re.compile(r"none \([^();]* of (?:the )?([A-Z][^();]*)\)")
_BORDER = re.compile(r"([A-Z][^();\d]*) ([\d,.]+) km(?: \([^()]*\))?")
_PERSON = re.compile(r"[^\W\d_][^(),;/]*")
_NOT_PERSON = re.compile(r"\b(and|or|by|unknown|traditional|none|officially)\b")
_SITE_KIND = re.compile(r" \([cnm]\)$")
_ALIAS_WORD = re.compile(r"[^\W_a-z]|(?:de|del|da|do|la|le|du|of|the|al|el)$")


@dataclasses.dataclass(frozen=True)
class Relation:
    """One kind of fact. Texts that it cannot be used in are empty."""

    name: str
    label: str  # of the Factbook's lines
    read: Callable[[str], Values]  # value of a line -> value of the relation
    keywords: str  # find the line, together with a country or a value
    question: str = ""  # about a country, which takes the place of {}
    clause: str = ""  # after "whose", before a value
    link: str = ""  # before a country: another one
    many: bool = False  # values are a list, not names of one thing
    distinct: bool = False  # a value shared by countries is no good answer


# Readers.


def _read_name(text: str) -> Values:
    """A name with another one in brackets, `Kyiv (Kiev)`; remarks are left out."""
    head, *rest = text.split("; ")
    if any(not part.startswith("note") for part in rest):
        return ()
    if head == "Washington, D.C.":
        return (head,)
    found = _NAME_AND_ALIAS.fullmatch(head)
    if not found or " in " in head or "official" in head:
        return ()
    return _with_aliases(found[1], found[2])


def _read_place(text: str) -> Values:
    """The name before a height, `K2 (Mt. Godwin-Austen) 8,611 m`."""
    found = _HEIGHT.fullmatch(text)
    if not found or _NOT_PLACE.search(found[1]):
        return ()
    values = _with_aliases(found[1], found[2])
    summit, on, _ = values[0].partition(" on ")
    return (*values, summit) if on else values


def _with_aliases(name: str, bracketed: str | None) -> Values:
    """`name` and those of the alternatives that look like names."""
    others = re.split(r", |/| or ", bracketed or "")
    if "/" in name:
        others += name.split("/")
    known = (o for o in others if o and all(map(_ALIAS_WORD.match, o.split(" "))))
    return tuple(dict.fromkeys((name, *known)))


def _read_title(text: str) -> Values:
    """`"Kassaman" (We Pledge)`."""
    found = re.fullmatch(r'"([^"]+)"(?: \(([^()]+)\))?', text)
    return tuple(value for value in found.groups() if value) if found else ()


def _read_creator(part: int) -> Callable[[str], Values]:
    """One of `lyrics/music`, if both have exactly one known person."""

    def read(text: str) -> Values:
        people = text.split("/")
        if len(people) != 2 or not all(map(_PERSON.fullmatch, people)):
            return ()
        return () if _NOT_PERSON.search(text) else (people[part],)

    return read


def _read_date(text: str) -> Values:
    found = _INDEPENDENCE.fullmatch(text)
    if not found:
        return ()
    day, month, year, _ = found.groups()
    return (f"{day} {month} {year}", f"{month} {day}, {year}")


def _read_former_ruler(text: str) -> Values:
    found = _INDEPENDENCE.fullmatch(text)
    return (_full_name(found[4]),) if found else ()


def _read_administrator(text: str) -> Values:
    found = _RULED_BY.fullmatch(text)
    return (_full_name(found[1]),) if found else ()


def _read_border(choose: Callable[..., tuple[float, str]]) -> Callable[[str], Values]:
    """The neighbor with the longest or shortest border, if it is a single one."""

    def read(text: str) -> Values:
        entries = [_BORDER.fullmatch(e) for e in re.split(r"[;,] (?=[A-Z])", text)]
        borders = [(float(e[2].replace(",", "")), e[1]) for e in entries if e]
        lengths = [length for length, _ in borders]
        if len(borders) < max(2, len(entries)):
            return ()
        length, name = choose(borders)
        return (_full_name(name),) if lengths.count(length) == 1 else ()

    return read


def _read_pattern(pattern: str, unit: str = "") -> Callable[[str], Values]:
    """The group of a pattern, also with its unit."""
    compiled = re.compile(pattern)

    def read(text: str) -> Values:
        found = compiled.fullmatch(text)
        if not found:
            return ()
        return (found[1], f"{found[1]} {unit}") if unit else (found[1],)

    return read


def _read_sites(text: str) -> Values:
    sites = [_SITE_KIND.sub("", site.strip()) for site in text.split(";")]
    return tuple(s for s in sites if s and "(" not in s and len(s.split()) <= 8)


def _full_name(name: str) -> str:
    return FULL_NAMES.get(name, name)


RELATIONS = (
    Relation(
        "capital",
        "Capital, name",
        _read_name,
        keywords="capital name",
        question="What is the capital of {}?",
        clause="capital is ",
    ),
    Relation(
        "highest_point",
        "Elevation, highest point",
        _read_place,
        keywords="elevation highest point",
        question="What is the highest point of {}?",
        clause="highest point is ",
    ),
    Relation(
        "lowest_point",
        "Elevation, lowest point",
        _read_place,
        keywords="elevation lowest point",
        question="What is the lowest point of {}?",
        clause="lowest point is ",
        distinct=True,
    ),
    Relation(
        "anthem",
        "National anthem(s), title",
        _read_title,
        keywords="national anthem title",
        question="What is the national anthem of {}?",
        clause="national anthem is ",
        distinct=True,
    ),
    Relation(
        "lyrics",
        "National anthem(s), lyrics/music",
        _read_creator(0),
        keywords="anthem lyrics music",
        question="Who wrote the lyrics of the national anthem of {}?",
        clause="national anthem has lyrics by ",
    ),
    Relation(
        "music",
        "National anthem(s), lyrics/music",
        _read_creator(1),
        keywords="anthem lyrics music",
        question="Who composed the music of the national anthem of {}?",
        clause="national anthem has music by ",
    ),
    Relation(
        "independence_date",
        "Independence",
        _read_date,
        keywords="independence from",
        question="What is the date of independence of {}?",
        clause="date of independence is ",
    ),
    Relation(
        "internet_code",
        "Internet country code",
        _read_pattern(r"(\.[a-z]{2})"),
        keywords="Internet country code",
        question="What is the Internet country code of {}?",
        clause="Internet country code is ",
    ),
    Relation(
        "currency_code",
        "Exchange rates, Currency",
        _read_pattern(r"[^()]*\(([A-Z]{3})\) per US dollar.*"),
        keywords="exchange rates currency",
        question="What is the currency code of {}?",
        clause="currency code is ",
    ),
    Relation(
        "local_name",
        "Country name, local short form",
        _read_pattern(r"([^\W_a-z][^();,/]*)"),
        keywords="local short form",
        question="What is the local short name of {}?",
        clause="local short name is ",
    ),
    Relation(
        "former_name",
        "Country name, former",
        _read_pattern(r"([^\W_a-z][^();,/]*)"),
        keywords="country name former",
        question="What is the former name of {}?",
        clause="former name is ",
    ),
    Relation(
        "symbol",
        "National symbol(s)",
        _read_pattern(r"([^();,\s]+(?: [^();,\s]+){0,4})"),
        keywords="national symbol",
        question="What is the national symbol of {}?",
        clause="national symbol is the ",
        distinct=True,
    ),
    Relation(
        "area",
        "Area, total",
        _read_pattern(r"([\d,]+) sq km", "sq km"),
        keywords="total area",
        question="What is the total area, in sq km, of {}?",
    ),
    Relation(
        "coastline",
        "Coastline",
        _read_pattern(r"([1-9][\d,.]*) km", "km"),
        keywords="coastline",
        question="How long, in km, is the coastline of {}?",
    ),
    Relation(
        "heritage",
        "National heritage, selected World Heritage Site locales",
        _read_sites,
        keywords="World Heritage Site",
        clause="World Heritage Sites include ",
        many=True,
    ),
    Relation(
        "longest_border",
        "Land boundaries, border countries",
        _read_border(max),
        keywords="border countries",
        question="Which neighbor shares the longest land border with {}?",
        link="the neighbor that shares the longest land border with ",
    ),
    Relation(
        "shortest_border",
        "Land boundaries, border countries",
        _read_border(min),
        keywords="border countries",
        question="Which neighbor shares the shortest land border with {}?",
        link="the neighbor that shares the shortest land border with ",
    ),
    Relation(
        "former_ruler",
        "Independence",
        _read_former_ruler,
        keywords="independence from",
        question="From which country did {} gain independence?",
        link="the country that formerly ruled ",
    ),
    Relation(
        "administrator",
        "Independence",
        _read_administrator,
        keywords="independence",
        question="Which country administers {}?",
        link="the country that administers ",
    ),
)


@dataclasses.dataclass(frozen=True)
class Hop:
    """One fact to be found: the relation of a country, or the country with a value."""

    relation: Relation
    value: str = ""  # if given, the country is wanted that has it

    def make_query(self, country: str) -> str:
        """The search for the fact; `country` is not looked at if a value is given."""
        return f"{self.value or country} {self.relation.keywords}"

    def find(self, country: str, docs: Docs) -> str:
        """The country with the value, or the value of the country; empty if unknown."""
        wanted = scoring.normalize(self.value)
        for title, passage in docs:
            for line in passage.split("\n"):
                label, _, text = line.partition(": ")
                if label != self.relation.label:
                    continue
                values = self.relation.read(text)
                if self.value and wanted in map(scoring.normalize, values):
                    return title
                if not self.value and title == country and values:
                    return values[0]
        return ""


@dataclasses.dataclass(frozen=True)
class Chain:
    """Facts to be found one after the other; each is about what the last one gave."""

    start: str  # name of a country; empty if the first hop has a value
    hops: tuple[Hop, ...]

    def phrase(self) -> str:
        """The question for the value of the last hop."""
        *inner, last = self.hops
        if last.value:
            return f"{WHICH_COUNTRY}{last.relation.clause}{last.value}?"
        country = _add_article(self.start)
        for hop in inner:
            if hop.value:
                country = f"{ANY_COUNTRY}{hop.relation.clause}{hop.value}"
            else:
                country = f"{hop.relation.link}{country}"
        return last.relation.question.format(country)


def parse_question(text: str) -> Chain | None:
    """The chain that `Chain.phrase` gave this text to, None if there is none."""
    if text.startswith(WHICH_COUNTRY) and text.endswith("?"):
        hop = _find_clause(text[len(WHICH_COUNTRY) : -1])
        return Chain("", (hop,)) if hop else None
    for relation in RELATIONS:
        before, _, after = relation.question.partition("{}")
        if before and text.startswith(before) and text.endswith(after):
            start, inner = _parse_country(text[len(before) : -len(after)])
            return Chain(start, (*inner, Hop(relation)))
    return None


def _parse_country(text: str) -> tuple[str, tuple[Hop, ...]]:
    """The country that a description starts from, and the hops to the one it means."""
    for relation in RELATIONS:
        if relation.link and text.startswith(relation.link):
            start, inner = _parse_country(text[len(relation.link) :])
            return start, (*inner, Hop(relation))
    if text.startswith(ANY_COUNTRY):
        hop = _find_clause(text[len(ANY_COUNTRY) :])
        if hop:
            return "", (hop,)
    return text.removeprefix("the "), ()


def _add_article(name: str) -> str:
    return f"the {name}" if _TAKES_ARTICLE.search(name) else name


def _find_clause(text: str) -> Hop | None:
    for relation in RELATIONS:
        if relation.clause and text.startswith(relation.clause):
            return Hop(relation, text[len(relation.clause) :])
    return None
