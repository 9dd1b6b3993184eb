"""The facts that lead sections of Wikipedia say, and questions about them.

A relation reads one value off an article. It asks for the value (`Who directed the film
Psycho?`), or for the article (`Which chemical element has the atomic number 8?`), and
where the answer is something that has an article, too, it has a phrase that stands for
it in another question: `In which year was | the director of the film Psycho | born?`

Questions are made of hops, which are facts read in one direction; `parse_question`
takes them apart again.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from agentrl.envs.searchqa import scoring, wikipedia

Article = wikipedia.Article
Docs = Sequence[tuple[str, str]]  # title and text of passages
Target = Literal["", "person", "country"]

_YEAR = "[year]"

_DEMONYM = re.compile(
    r"Albanian|Algerian|American|Argentine|Australian|Austrian|Azerbaijani|"
    r"Bangladeshi|Belgian|Brazilian|British|Burmese|Cambodian|Canadian|Catalan|"
    r"Chilean|Chinese|Colombian|Congolese|Cuban|Czech|Danish|Dutch|Egyptian|"
    r"English|Estonian|Finnish|Flemish|French|Georgian|German|Ghanaian|Greek|"
    r"Haitian|Hungarian|Icelandic|Indian|Iranian|Iraqi|Irish|Italian|Jamaican|"
    r"Japanese|Kenyan|Lebanese|Mexican|Nepalese|Nigerian|Norwegian|Pakistani|"
    r"Palestinian|Persian|Peruvian|Polish|Portuguese|Romanian|Russian|Scottish|"
    r"Senegalese|Serbian|Soviet|Spanish|Sudanese|Swedish|Swiss|Syrian|Taiwanese|"
    r"Turkish|Ukrainian|Venetian|Venezuelan|Vietnamese|Welsh"
)
_SHORT_NAMES = {
    "US": "United States",
    "U.S.": "United States",
    "UK": "United Kingdom",
    "Federal Republic of Nigeria": "Nigeria",
}
_WORKS = {  # kind: what its maker did, twice, is called, and what happened in its year
    "film": ("directed", "directed", "director", "released"),
    "novel": ("wrote", "written", "author", "published"),
    "novella": ("wrote", "written", "author", "published"),
    "play": ("wrote", "written", "author", "first performed or published"),
    "tragedy": ("wrote", "written", "author", "first performed or published"),
    "poem": ("wrote", "written", "author", "published"),
    "book": ("wrote", "written", "author", "published"),
    "essay": ("wrote", "written", "author", "published"),
    "treatise": ("wrote", "written", "author", "published"),
    "painting": ("painted", "painted", "painter", "painted"),
    "opera": ("composed", "composed", "composer", "first performed"),
    "ballet": ("composed", "composed", "composer", "first performed"),
    "symphony": ("composed", "composed", "composer", "first performed"),
    "sculpture": ("made", "made", "sculptor", "made"),
    "album": ("recorded", "recorded", "artist", "released"),
    "song": ("recorded", "recorded", "artist", "released"),
}
_MADE = (
    *("discovered", "invented", "founded", "designed", "formulated", "introduced"),
    *("created", "developed", "proposed"),
)
_OFFICES = (
    *("King", "Queen", "Emperor", "Empress", "President", "Prime Minister", "Sultan"),
    *("Chancellor", "Shah", "Tsar", "Dictator", "Leader", "Ruler"),
)
_PLACES = (
    r"city|town|metropolis|river|lake|mountain|volcano|desert|island|peninsula|province"
    r"|state|region|university|museum|palace|temple|mosque|cathedral|church|castle"
    r"|fortress|tower|bridge|building|monument|mausoleum|stadium|park|canal|dam|site"
)
_EVENTS = (
    r"battle|war|wars|conflict|siege|attack|conquest|revolution|massacre|earthquake"
    r"|disaster|eruption|accident|invasion|uprising|rebellion|revolt|coup|mutiny|fire"
    r"|flood|famine|assassination|crisis"
)

_COUNTRY = re.compile(
    r"(?!.*\ba country)(?:Country|[A-Z][\w-]+(?: [a-z-]+)*? country)(?: of islands)?"
    r"(?: (?:in|on|within|spanning|primarily)\b[^()]*)?"
)
_LIFE = re.compile(r"(.+) \((\d{3,4})[-\u2013](\d{3,4})\)")
_PERSON = re.compile(r"\b(?:he|she|his|her|him)\b", re.IGNORECASE)
_NOT_PEOPLE = re.compile(  # or whose years need not be those of a life
    r"\(.*\(|\b(?:band|caliphate|company|conglomerate|dynasty|empire|era|expansion"
    r"|kingdom|monarchy|movement|period|state|territory|war"
    r"|archbishop|caliph|duke|emperor|empress|inquisitor|king|patriarch|pope|president"
    r"|prime minister|queen|shah|sultan|tsar)\b",
    re.IGNORECASE,
)
_REIGN = re.compile(r"([A-Z][\w ]*?) of (?:the )?(.+?) from (?:AD )?\d{3,4} to \d{3,4}")
_CAPITAL = re.compile(
    r"Capital(?: city)?(?:(?:,| and)[\w ]+ city)? of (?:the )?([^,;()]+)"
)
_REGION = re.compile(
    r"(?:[\w-]+ )?country (?:primarily )?in (?:the )?((?:(?!and\b)[\w-]+ ?)+)",
    re.IGNORECASE,
)
_PLACE = re.compile(
    rf"(?:[\w-]+ )*?(?:{_PLACES})\b[\w ]*? (?:in|of|on) (?:[^;()]*, )?(?:the )?([^,;()]+)",
    re.IGNORECASE,
)
_UNIT = re.compile(r"((?:SI )?(?:base |derived )?unit of [\w ]+)")
_ELEMENT = re.compile(r"has symbol ([A-Z][a-z]?) and atomic number (\d+)")
_EVENT = re.compile(rf"(\d{{3,4}}) (?:[\w\u2013-]+ )*?(?:{_EVENTS})\b.*", re.IGNORECASE)
_FOUNDED = re.compile(
    r"(?:(?:^|[.] )(?:Founded|Established)|"
    r"\b(?:It|It|university|company|museum|organization) was (?:founded|established))"
    r" in (\d{4})\b"
)
_FAMILY = re.compile(
    r"\b(?:in|of|to) the (?:[\w ]{1,25} )?family ([A-Z]\w+(?:idae|aceae))\b"
)

_WORD = r"[A-Z][\w'\u2019-]+"
_NAME = rf"(?:(?:[A-Z]\.|{_WORD}|de|von|van|der|la|le|of|di|da|ibn|al) )*{_WORD}"
_ADJECTIVES = r"(?:(?:the )?(?:[A-Z][\w-]+ )?(?:[a-z]+(?:-[a-z]+)? )+)?"
_ALONE = (  # what follows is no further name
    r"(?=[.;:)]|$|,(?! (?:and |or |[A-Z]))"
    r"| (?:in|at|on|as|from|while|during|between|to|for|with|who|that)\b)"
)
_CREATED = re.compile(rf"(?:\d{{4}} )?[A-Za-z][\w -]+ by ({_NAME})")
_A_WORK = re.compile(rf"\b(?:{'|'.join(_WORKS)}) by|(?:ed|en|out) by", re.IGNORECASE)
_NAMED = re.compile(
    rf"\bnamed (?:after|for|in honou?r of) {_ADJECTIVES}({_NAME}){_ALONE}"
)
_FLOWS = re.compile(
    r"\b(?:flows|flowing|empties|emptying|drains|draining|discharges)\b[^.;,]{0,60}? "
    rf"(?:into|to) the ({_NAME})(?=[.;,]|$| (?:in|at|on|near|through|via)\b)"
)


@dataclasses.dataclass(frozen=True)
class Relation:
    """One kind of fact. Texts that it cannot be used in are empty."""

    name: str
    read: Callable[[Article], str]  # the value, empty if the article does not say it
    keywords: str  # find the article, together with its name or with the value
    ask: str = ""  # asks for the value; {} is the article
    refer: str = ""  # names what the value is
    identify: str = ""  # asks for the article; {} is the value, [year] its year
    describe: str = ""  # names what the article is about
    year: Callable[[Article], str] = lambda article: ""  # of what the article is about
    target: Target = ""  # what the value names
    in_kind: bool = False  # texts say what the article is, before its bare name


def is_person(article: Article) -> bool:
    """Whether an article is about one person, of whom it tells the years."""
    described = article.description
    return (
        _LIFE.fullmatch(described) is not None
        and _PERSON.search(article.text) is not None
        and _NOT_PEOPLE.search(described) is None
    )


def is_country(article: Article) -> bool:
    """Whether an article is about a country of today."""
    return _COUNTRY.fullmatch(article.description) is not None


# Readers.


def _life(part: int) -> Callable[[Article], str]:
    def read(article: Article) -> str:
        found = _LIFE.fullmatch(article.description)
        return found[part] if found and is_person(article) else ""

    return read


def _nationality(article: Article) -> str:
    first, _, more = article.description.partition(" ")
    known = _DEMONYM.fullmatch(first) and not more.startswith(("and ", "or "))
    return first if known and is_person(article) else ""


def _identity(article: Article) -> str:
    """`English philosopher who lived from 1711 to 1776`."""
    found = _LIFE.fullmatch(article.description)
    if not found or not _nationality(article):
        return ""
    return f"{found[1]} who lived from {found[2]} to {found[3]}"


def _reign(article: Article) -> str:
    found = _REIGN.fullmatch(article.description)
    return article.description if found and found[1] in _OFFICES else ""


def _land(office: str) -> Callable[[Article], str]:
    def read(article: Article) -> str:
        found = _REIGN.fullmatch(article.description)
        return _full_name(found[2]) if found and found[1] == office else ""

    return read


def _work(kind: str, part: str) -> Callable[[Article], str]:
    """The "year" or the "maker" of a work."""
    described = re.compile(
        rf"(?:(?P<year>\d{{4}}) )?(?i:(?:[\w-]+ )*?{kind})(?: \w+)? by (?P<maker>{_NAME})"
    )
    told = re.compile(
        rf"[^.]{{2,70}} is (?:an?|the) (?:(?P<year>\d{{4}}) )?(?:[\w-]+ )*?{kind}"
        rf"(?: (?:\w+ and )?(?:written|directed|composed|painted|created|recorded))?"
        rf" by {_ADJECTIVES}(?P<maker>{_NAME}){_ALONE}.*"
    )

    def read(article: Article) -> str:
        found = described.fullmatch(article.description) or told.fullmatch(article.text)
        return (found[part] or "") if found else ""

    return read


def _made(verb: str) -> Callable[[Article], str]:
    pattern = re.compile(
        rf"(?:^[^.;]{{2,150}}?|[.] It was (?:first )?(?:[a-z]+ and )?)\b{verb}"
        rf"(?: and [a-z]+)?(?: in \d{{4}})? by {_ADJECTIVES}({_NAME}){_ALONE}"
    )

    told = _search(pattern)

    def read(article: Article) -> str:
        described = _CREATED.fullmatch(article.description)
        if verb != "created" or not described:
            return told(article)
        return "" if _A_WORK.search(article.description) else described[1]

    return read


def _search(pattern: re.Pattern[str], group: int = 1) -> Callable[[Article], str]:
    """What a pattern finds in the text of articles on things, if it is one value."""

    def read(article: Article) -> str:
        found = {match[group] for match in pattern.finditer(article.text)}
        return found.pop() if len(found) == 1 and not is_person(article) else ""

    return read


def _describe(pattern: re.Pattern[str]) -> Callable[[Article], str]:
    """What a pattern takes out of a whole description."""

    def read(article: Article) -> str:
        found = pattern.fullmatch(article.description)
        return _full_name(found[1].strip()) if found else ""

    return read


def _region(article: Article) -> str:
    """A part of the world that description and text name alike."""
    value = _describe(_REGION)(article)
    return value if value in article.text else ""


def _full_name(name: str) -> str:
    return _SHORT_NAMES.get(name, name)


def _make_work_relations() -> Iterable[Relation]:
    for kind, (did, done, maker, happened) in _WORKS.items():
        yield Relation(
            f"{maker} of {kind}",
            _work(kind, "maker"),
            keywords=kind,
            ask=f"Who {did} the {kind} {{}}?",
            refer=f"the {maker} of the {kind} {{}}",
            identify=f"Which {kind} of [year] was {done} by {{}}?",
            year=_work(kind, "year"),
            target="person",
            in_kind=True,
        )
        yield Relation(
            f"year of {kind}",
            _work(kind, "year"),
            keywords=kind,
            ask=f"In which year was the {kind} {{}} {happened}?",
            in_kind=True,
        )


def _make_relations() -> Iterable[Relation]:
    for verb in _MADE:
        yield Relation(
            verb,
            _made(verb),
            keywords=f"{verb} by",
            ask=f"Who {verb} {{}}?",
            refer=f"the person who {verb} {{}}",
            target="person",
        )
    for office in _OFFICES:
        yield Relation(
            f"land of {office}",
            _land(office),
            keywords=office,
            ask=f"Of which country was {{}} {office}?",
            refer=f"the country of which {{}} was {office}",
            target="country",
        )


RELATIONS = (
    Relation("birth", _life(2), keywords="", ask="In which year was {} born?"),
    Relation("death", _life(3), keywords="", ask="In which year did {} die?"),
    Relation(
        "nationality",
        _nationality,
        keywords="",
        ask="What was the nationality of {}?",
    ),
    Relation(
        "identity",
        _identity,
        keywords="",
        identify="Who was the {}?",
        describe="the {}",
    ),
    Relation("reign", _reign, keywords="", identify="Who was {}?"),
    Relation(
        "capital",
        _describe(_CAPITAL),
        keywords="capital city of",
        ask="Of which country is {} the capital?",
        refer="the country whose capital is {}",
        identify="Which city is the capital of {}?",
        target="country",
    ),
    Relation(
        "region",
        _region,
        keywords="country officially",
        ask="In which part of the world is {}?",
    ),
    Relation(
        "location",
        _describe(_PLACE),
        keywords="",
        ask="In which country is {}?",
        refer="the country in which {} is",
        target="country",
    ),
    Relation(
        "symbol",
        _search(_ELEMENT),
        keywords="chemical element symbol",
        ask="What is the chemical symbol of {}?",
        identify="Which chemical element has the symbol {}?",
    ),
    Relation(
        "number",
        _search(_ELEMENT, 2),
        keywords="chemical element atomic number",
        ask="What is the atomic number of {}?",
        identify="Which chemical element has the atomic number {}?",
        describe="the chemical element with the atomic number {}",
    ),
    Relation(
        "unit", _describe(_UNIT), keywords="", identify="What is the name of the {}?"
    ),
    Relation(
        "event",
        _describe(_EVENT),
        keywords="",
        ask="In which year did {} take place?",
    ),
    Relation(
        "founding", _search(_FOUNDED), keywords="", ask="In which year was {} founded?"
    ),
    Relation(
        "family",
        _search(_FAMILY),
        keywords="family",
        ask="What is the biological family of {}?",
    ),
    Relation(
        "namesake",
        _search(_NAMED),
        keywords="named after",
        ask="After whom was {} named?",
        refer="the person after whom {} was named",
        target="person",
    ),
    Relation(
        "mouth",
        _search(_FLOWS),
        keywords="river flows into",
        ask="Into which body of water does {} flow?",
    ),
    *_make_work_relations(),
    *_make_relations(),
)


@dataclasses.dataclass(frozen=True)
class Hop:
    """One fact in one direction: from an article to its value, or back."""

    relation: Relation
    forward: bool = True
    year: str = ""  # of what the hop leads to, where the question tells it

    @property
    def question(self) -> str:
        """Asks for where the hop leads; {} is where it starts."""
        if self.forward:
            return self.relation.ask
        return self.relation.identify.replace(_YEAR, self.year or _YEAR)

    @property
    def phrase(self) -> str:
        """Names where the hop leads; {} is where it starts."""
        return self.relation.refer if self.forward else self.relation.describe

    def make_query(self, known: str) -> str:
        """The search for the fact, from where the hop starts."""
        return f"{known} {self.relation.keywords}".strip()

    def find(self, known: str, docs: Docs) -> str:
        """Reads off passages where the hop leads; empty if they do not say it."""
        wanted = scoring.normalize(known)
        for title, text in docs:
            article = Article.from_passage(title, text)
            value = self.relation.read(article)
            names = (article.mention, article.name) if self.forward else (value,)
            if self.year and self.relation.year(article) != self.year:
                continue
            if value and wanted in map(scoring.normalize, names):
                return value if self.forward else article.name
        return ""


@dataclasses.dataclass(frozen=True)
class Chain:
    """Facts to be found one after the other, from what the question names."""

    start: str
    hops: tuple[Hop, ...]

    def phrase(self) -> str:
        """The question for where the last hop leads."""
        known = self.start
        for hop in self.hops[:-1]:
            known = hop.phrase.format(known)
        return self.hops[-1].question.format(known)


_HOPS = tuple(Hop(r, forward) for r in RELATIONS for forward in (True, False))


def parse_question(text: str) -> Chain | None:
    """The chain that `Chain.phrase` gave this text to, None if there is none."""
    for last in _HOPS:
        before, _, after = last.question.partition(_YEAR)
        if after and text.startswith(before):
            year = text[len(before) :].partition(" ")[0]
            last = dataclasses.replace(last, year=year)
        inner = _match(last.question, text)
        if inner is None:
            continue
        for first in _HOPS:
            start = _match(first.phrase, inner)
            if start is not None and _is_value(first, start):
                return Chain(start, (first, last))
        if _is_value(last, inner):
            return Chain(inner, (last,))
    return None


def _match(template: str, text: str) -> str | None:
    """What stands in the place of {}."""
    before, found, after = template.partition("{}")
    if not found or not (text.startswith(before) and text.endswith(after)):
        return None
    return text[len(before) : len(text) - len(after)] or None


def _is_value(hop: Hop, text: str) -> bool:
    """Whether a text can be a value of the hop; what identifies people has years."""
    return hop.relation.name != "identity" or " who lived from " in text
