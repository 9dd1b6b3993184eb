"""Questions about the default corpus, from the relations of its fields.

Every relation that `agentrl.envs.searchqa.relations` can read off an entry is a fact. A fact may
be used in a question if a search of one line finds its passage among the first three. A
chain starts at a country, or at a value that only one country has, goes on from country
to country and ends at a country or a value. Its question is left out if it contains a
name or value that is to be found.

Splits go by entry: about a fifth are held out. A test question has one of them in its
chain; a train question does not even name one, nor do its answers.
"""  # noqa: E501

import collections
import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from agentrl.envs import base
from agentrl.envs.searchqa import factbook, index, records, relations, scoring

HELD_OUT_SHARE = 0.2
MAX_HOPS = 3

_WORD = re.compile(r"\w+")
_FOUND_WITHIN = 3  # passages
_QUOTA = {"train": 4000, "test": 500}  # of questions with two hops, and with three
_MAX_LISTED = 3  # values taken from a list of one entry
_SUMMARIES = ("ee", "um", "xx")  # entries that are no country or territory


@dataclasses.dataclass(frozen=True)
class _Fact:
    """What one line says; may be found by country, by value, or both ways."""

    entry: factbook.Entry
    relation: relations.Relation
    values: relations.Values
    passage: str
    by_country: bool
    by_value: bool


@dataclasses.dataclass(frozen=True)
class _Path:
    """A chain on its way: the facts so far, and the country they lead to."""

    chain: relations.Chain
    facts: tuple[_Fact, ...]
    countries: tuple[factbook.Entry, ...]  # all met, in order
    answers: relations.Values


def make_questions(
    entries: Sequence[factbook.Entry], search_index: index.Index
) -> list[records.Question]:
    """All questions, by number of hops, then in the order of a hash of their text."""
    book = _Book(entries, search_index)
    lengths = range(1, MAX_HOPS + 1)
    return [question for hops in lengths for question in _choose(book, hops)]


def _choose(book: "_Book", hops: int) -> Iterator[records.Question]:
    """All questions with one hop; of longer ones each split's quota, by hash."""
    left: dict[str, float] = dict(_QUOTA)
    if hops == 1:
        left = dict.fromkeys(_QUOTA, math.inf)
    paths = [(path.chain.phrase(), path) for path in book.paths(hops)]
    for text, path in sorted(
        paths, key=lambda p: base.stable_hash("searchqa-order", p[0])
    ):
        question = book.make_question(path, text)
        if question and left[question.split] > 0:
            left[question.split] -= 1
            yield question
        if not any(left.values()):
            return


def is_held_out(entry: factbook.Entry) -> bool:
    """Whether only test questions may be about this entry."""
    return base.stable_hash("searchqa-split", entry.code) < HELD_OUT_SHARE * 2**64


class _Book:
    """The facts, and what can be asked about them."""

    def __init__(self, entries: Sequence[factbook.Entry], search_index: index.Index):
        self._entries = {entry.name: entry for entry in entries}
        self._index = search_index
        self._said = _collect_lines(entries)
        facts = [fact for entry in entries for fact in self._read_entry(entry)]
        facts = list(self._admit(facts))
        self._by_country = _group(
            (fact.entry.code, fact) for fact in facts if fact.by_country
        )
        self._by_value = [fact for fact in facts if fact.by_value]

    # Facts.

    def _read_entry(self, entry: factbook.Entry) -> Iterator[_Fact]:
        """What the relations read off an entry, where they read one thing."""
        for relation in relations.RELATIONS:
            lines = [line for line in entry.lines if line.label == relation.label]
            read = [(relation.read(line.value), line.passage) for line in lines]
            found = [(values, passage) for values, passage in read if values]
            if relation.many:
                listed = [([value], p) for values, p in found for value in values]
                listed.sort(key=lambda v: base.stable_hash(entry.code, v[0][0]))
                for values, passage in listed[:_MAX_LISTED]:
                    yield _Fact(entry, relation, values, passage, False, True)
            elif len(found) == 1:
                ((values, passage),) = found
                if not relation.link or values[0] in self._entries:
                    by_value = bool(relation.clause)
                    yield _Fact(entry, relation, values, passage, True, by_value)

    def _admit(self, facts: Sequence[_Fact]) -> Iterator[_Fact]:
        """Keeps how a fact can be used: it must be found, and tell countries apart."""
        for fact in facts:
            if fact.entry.code in _SUMMARIES:
                continue
            shared = self._is_shared(fact)
            country = relations.Hop(fact.relation)
            thing = relations.Hop(fact.relation, fact.values[0])
            yield dataclasses.replace(
                fact,
                by_country=fact.by_country
                and not (shared and fact.relation.distinct)
                and self._is_found(fact, country),
                by_value=fact.by_value and not shared and self._is_found(fact, thing),
            )

    def _is_shared(self, fact: _Fact) -> bool:
        """Whether another entry names the value in its line, however it reads."""
        value = _as_words(fact.values[0])
        said = self._said[fact.relation.label]
        return any(value in t for code, t in said if code != fact.entry.code)

    def _is_found(self, fact: _Fact, hop: relations.Hop) -> bool:
        query = hop.make_query(fact.entry.name)
        found = self._index.search(query, _FOUND_WITHIN)
        return fact.passage in [passage.id for passage in found]

    # Chains.

    def paths(self, hops: int) -> Iterator[_Path]:
        """All chains of a length."""
        for path in self._partial_paths(hops - 1):
            yield from self._finish(path)
        if hops == 1:
            for path in self._by_value_paths():
                yield dataclasses.replace(path, answers=_names(path.countries[-1]))

    def _partial_paths(self, hops: int) -> Iterator[_Path]:
        """Chains that lead to a country."""
        if hops == 0:
            for entry in self._entries.values():
                chain = relations.Chain(entry.name, ())
                yield _Path(chain, (), (entry,), ())
            return
        if hops == 1:
            yield from self._by_value_paths()
        for path in self._partial_paths(hops - 1):
            yield from (p for p in self._finish(path) if p.facts[-1].relation.link)

    def _by_value_paths(self) -> Iterator[_Path]:
        for fact in self._by_value:
            hop = relations.Hop(fact.relation, fact.values[0])
            chain = relations.Chain("", (hop,))
            yield _Path(chain, (fact,), (fact.entry,), ())

    def _finish(self, path: _Path) -> Iterator[_Path]:
        """Adds each fact about the last country that is not known already."""
        country = path.countries[-1]
        known = [f.relation.label for f in path.facts if f.entry is country]
        for fact in self._by_country.get(country.code, ()):
            if fact.relation.label in known:
                continue
            hops = (*path.chain.hops, relations.Hop(fact.relation))
            chain = dataclasses.replace(path.chain, hops=hops)
            countries, answers = path.countries, fact.values
            if fact.relation.link:
                target = self._entries[fact.values[0]]
                if target in countries:
                    continue
                countries, answers = (*countries, target), _names(target)
            yield _Path(chain, (*path.facts, fact), countries, answers)

    # Questions.

    def make_question(self, path: _Path, text: str) -> records.Question | None:
        """The question of a path; None if it gives itself away or fits no split."""
        hidden = path.countries[1:] if path.chain.start else path.countries
        words = _as_words(text)
        secrets = itertools.chain(path.answers, *map(_names, hidden))
        if any(_as_words(secret) in words for secret in secrets):
            return None
        split = self._find_split(path, text)
        if not split:
            return None
        answers = [*path.answers, *map(scoring.without_accents, path.answers)]
        hops = path.chain.hops
        return records.Question(
            text,
            tuple(dict.fromkeys(answers)),
            hops=len(hops),
            subset=f"hop_{len(hops)}",
            split=split,
            entities=tuple(country.name for country in path.countries),
            passages=tuple(fact.passage for fact in path.facts),
            queries=tuple(
                hop.make_query(fact.entry.name)
                for hop, fact in zip(hops, path.facts, strict=True)
            ),
        )

    def _find_split(self, path: _Path, text: str) -> str:
        if any(map(is_held_out, path.countries)):
            return "test"
        for part in (text, *path.answers):
            for name in self._name_pattern.findall(part):
                if is_held_out(self._owners[name]):
                    return ""
        return "train"

    @functools.cached_property
    def _owners(self) -> Mapping[str, factbook.Entry]:
        """Entries by each of their names."""
        return {name: e for e in self._entries.values() for name in _names(e)}

    @functools.cached_property
    def _name_pattern(self) -> re.Pattern[str]:
        """Finds names of entries in a text, the longest ones first."""
        longest_first = sorted(self._owners, key=lambda name: (-len(name), name))
        return re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b")


def _names(entry: factbook.Entry) -> relations.Values:
    return (entry.name, *entry.aliases)


def _as_words(text: str) -> str:
    """Plain words with spaces around, so that whole words can be found in it."""
    words = _WORD.findall(scoring.without_accents(text).lower())
    return f" {' '.join(words)} "


def _collect_lines(
    entries: Sequence[factbook.Entry],
) -> Mapping[str, Sequence[tuple[str, str]]]:
    """All lines as (code of the entry, words), by label."""
    lines: dict[str, list[tuple[str, str]]] = collections.defaultdict(list)
    for entry in entries:
        for line in entry.lines:
            lines[line.label].append((entry.code, _as_words(line.value)))
    return lines


def _group(pairs: Iterable[tuple[str, _Fact]]) -> Mapping[str, Sequence[_Fact]]:
    groups: dict[str, list[_Fact]] = collections.defaultdict(list)
    for key, fact in pairs:
        groups[key].append(fact)
    return groups
