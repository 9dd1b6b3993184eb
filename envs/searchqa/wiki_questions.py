"""Questions with one and two hops about lead sections of Wikipedia.

A fact may be used in a question if a search of one line finds its article among the
first three, and if what the question starts from means one article only. Two facts make
a question with two hops where the first leads to an article that the second is about, in
the manner of the bridges of HotpotQA, https://arxiv.org/abs/1809.09600. A question that
shares a telling word with what is to be found is left out.

Splits go by article: a fifth are held out. A test question has one of them on its way or
as its answer, a training question none.
"""

import collections
import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping, Sequence

from agentrl.envs import base
from agentrl.envs.searchqa import index, records, scoring, wiki_relations, wikipedia

HELD_OUT_SHARE = 0.2
NUM_QUESTIONS: Mapping[str, int] = {"train": 4000, "test": 400}
TWO_HOP_SHARE = 0.5  # of each split, at most

_FOUND_WITHIN = 3  # passages
_TELLING = 4  # letters of a word that would give something away
_WORD = re.compile(r"\w+")
_LIST_OR_PLURAL = re.compile(r",|(?:Islands|Mountains|Falls|Alps)$")


@dataclasses.dataclass(frozen=True)
class _Fact:
    """What one article says, from one end to the other."""

    hop: wiki_relations.Hop
    article: wikipedia.Article  # says it
    start: str  # as the question names it
    known: str  # as a search names it
    answers: tuple[str, ...]
    starts_at: wikipedia.Article | None  # the article of what is known
    leads_to: wikipedia.Article | None  # the article of the answer


def make_questions(
    articles: Sequence[wikipedia.Article], search_index: index.Index
) -> list[records.Question]:
    """All questions: those with one hop first, then in the order of a hash."""
    book = _Book(articles, search_index)
    candidates = [q for facts in book.chains() for q in book.make_question(facts)]
    chosen: list[records.Question] = []
    for split, count in NUM_QUESTIONS.items():
        ranked = _spread([c for c in candidates if c[1].split == split])
        longer = [q for q in ranked if q.hops == 2][: int(count * TWO_HOP_SHARE)]
        chosen += [q for q in ranked if q.hops == 1][: count - len(longer)] + longer
    return sorted(chosen, key=lambda q: (q.hops, _order(q)))


def is_held_out(article: wikipedia.Article) -> bool:
    """Whether only test questions may be about this article."""
    return base.stable_hash("wikipedia-split", article.title) < HELD_OUT_SHARE * 2**64


def _order(question: records.Question) -> int:
    return base.stable_hash("wikipedia-order", question.text)


def _spread(candidates: list[tuple[str, records.Question]]) -> list[records.Question]:
    """Orders questions so that no kind of them crowds out the others."""
    seen = collections.Counter[str]()
    ranked = []
    for kind, question in sorted(candidates, key=lambda c: _order(c[1])):
        seen[kind] += 1
        ranked.append((seen[kind], _order(question), question))
    return [question for *_, question in sorted(ranked, key=lambda r: r[:2])]


class _Book:
    """The facts, and what can be asked about them."""

    def __init__(
        self, articles: Sequence[wikipedia.Article], search_index: index.Index
    ):
        self._index = search_index
        self._by_name = _unique((scoring.normalize(a.name), a) for a in articles)
        self._facts = [
            fact
            for relation in wiki_relations.RELATIONS
            for fact in self._read(relation, articles)
        ]
        self._from = collections.defaultdict[str, list[_Fact]](list)
        for fact in self._facts:
            if fact.starts_at is not None:
                self._from[fact.starts_at.title].append(fact)

    def chains(self) -> Iterator[tuple[_Fact, ...]]:
        """All single facts, and all pairs of which one leads to the other."""
        for fact in self._facts:
            if fact.hop.question:
                yield (fact,)
        for first in self._facts:
            if first.leads_to is None or not first.hop.phrase:
                continue
            for second in self._from[first.leads_to.title]:
                same = second.article == first.article
                if second.hop.question and not same and second.hop != first.hop:
                    yield first, second

    def _read(
        self, relation: wiki_relations.Relation, articles: Sequence[wikipedia.Article]
    ) -> Iterator[_Fact]:
        read = [(article, relation.read(article)) for article in articles]
        said = [(article, value) for article, value in read if value]
        owners = _unique(
            (f"{scoring.normalize(value)} {relation.year(a)}", a) for a, value in said
        )
        for article, value in said:
            target = self._find_target(relation, value)
            if relation.target and target is None and not relation.in_kind:
                continue
            facts = [*self._forward(relation, article, value, target)]
            if f"{scoring.normalize(value)} {relation.year(article)}" in owners:
                facts += self._back(relation, article, value, target)
            yield from filter(self._is_admitted, facts)

    def _find_target(
        self, relation: wiki_relations.Relation, value: str
    ) -> wikipedia.Article | None:
        found = self._by_name.get(scoring.normalize(value))
        suits = {
            "person": wiki_relations.is_person,
            "country": wiki_relations.is_country,
            "": lambda article: False,
        }[relation.target]
        return found if found is not None and suits(found) else None

    def _forward(
        self,
        relation: wiki_relations.Relation,
        article: wikipedia.Article,
        value: str,
        target: wikipedia.Article | None,
    ) -> Iterator[_Fact]:
        start = article.name if relation.in_kind else article.mention
        if not relation.in_kind and not _is_telling(article):
            return
        hop = wiki_relations.Hop(relation)
        yield _Fact(hop, article, start, article.name, (value,), article, target)

    def _back(
        self,
        relation: wiki_relations.Relation,
        article: wikipedia.Article,
        value: str,
        target: wikipedia.Article | None,
    ) -> Iterator[_Fact]:
        start = target.mention if target is not None else value
        year = relation.year(article)
        if "[year]" in relation.identify and not year:
            return
        hop = wiki_relations.Hop(relation, forward=False, year=year)
        yield _Fact(hop, article, start, value, (article.name,), target, article)

    def _is_admitted(self, fact: _Fact) -> bool:
        """Whether a fact has a use, is of one article only, and is found."""
        hop = fact.hop
        if not (hop.question or hop.phrase):
            return False
        if self._by_name.get(scoring.normalize(fact.article.name)) != fact.article:
            return False
        found = self._index.search(hop.make_query(fact.known), _FOUND_WITHIN)
        return fact.article.title in [passage.id for passage in found]

    def make_question(
        self, facts: tuple[_Fact, ...]
    ) -> Iterator[tuple[str, records.Question]]:
        """Yields the question of a chain with its kind, if it does not tell too much."""
        hops = tuple(fact.hop for fact in facts)
        chain = wiki_relations.Chain(facts[0].start, hops)
        text = chain.phrase()
        hidden = [a for fact in facts for a in fact.answers]
        if _gives_away(text, hidden) or wiki_relations.parse_question(text) != chain:
            return
        met = [fact.article for fact in facts]
        met += [fact.leads_to for fact in facts if fact.leads_to is not None]
        met += [fact.starts_at for fact in facts if fact.starts_at is not None]
        answers = facts[-1].answers
        answers += tuple(a.partition(",")[0] for a in answers)  # "Tripoli, Libya"
        answers += tuple(map(scoring.without_accents, answers))
        kind = " ".join(f"{hop.relation.name} {hop.forward}" for hop in hops)
        yield (
            kind,
            records.Question(
                text,
                tuple(dict.fromkeys(answers)),
                hops=len(hops),
                subset=f"hop_{len(hops)}",
                split="test" if any(map(is_held_out, met)) else "train",
                entities=tuple(dict.fromkeys(article.title for article in met)),
                passages=tuple(fact.article.title for fact in facts),
                queries=tuple(fact.hop.make_query(fact.known) for fact in facts),
            ),
        )


def _is_telling(article: wikipedia.Article) -> bool:
    """Whether a bare name says what is meant, and is of one thing."""
    return (
        article.name == article.title and _LIST_OR_PLURAL.search(article.name) is None
    )


def _gives_away(text: str, hidden: Sequence[str]) -> bool:
    """Whether a question has a telling word of what is to be found in it."""
    asked = set(_words(text))
    for name in hidden:
        words = _words(name)
        telling = [w for w in words if len(w) >= _TELLING] or words
        if asked & set(telling):
            return True
    return False


@functools.lru_cache(maxsize=100_000)
def _words(text: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(scoring.without_accents(text).lower()))


def _unique(
    pairs: Iterator[tuple[str, wikipedia.Article]],
) -> dict[str, wikipedia.Article]:
    """What only one article is called, with that article."""
    counts = collections.Counter[str]()
    owners = {}
    for name, article in pairs:
        counts[name] += 1
        owners[name] = article
    return {name: owner for name, owner in owners.items() if counts[name] == 1}
