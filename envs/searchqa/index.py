"""BM25 search over a corpus, by tantivy: an index on disk, mapped by all processes.

Queries are plain text: lower-cased, without accents and English stop words, stemmed, as
the passages were. A passage matches if it shares a word with the query. Equal scores
are ordered by position in the corpus.

An index ranks in one of two ways. By "contents", title and text are one text, as in the
BM25 of Search-R1 and AgentGym; a query is a plain disjunction of words, which is what
tantivy can cut short. By "fields", a word counts once, in the title or in the text, where
it weighs more; the questions of the default corpus were chosen by that ranking. On
200,000 passages it takes several times as long.
"""

import collections
import functools
import pathlib
import typing
from collections.abc import Iterable
from typing import Literal

import tantivy

from agentrl.envs.searchqa import passage_files

Ranking = Literal["contents", "fields"]

MAX_QUERY_CHARS = 1000  # of a longer query, the rest is not looked at

_ANALYZER = "passage_files"
_TITLE_WEIGHT = 3.0  # what a passage is about counts more than what it mentions
_WRITER_BYTES = 256 << 20
_CACHED_QUERIES = 4096
_TIES = 16  # looked at beyond the passages asked for


class Index:
    """Answers queries from the index in a folder, which was built for `ranking`."""

    def __init__(self, folder: pathlib.Path, ranking: Ranking):
        index = tantivy.Index.open(str(folder))
        self._schema = index.schema
        self._searcher = index.searcher()
        self._analyzer = _make_analyzer()
        self._match = self._match_contents
        if ranking == "fields":
            self._match = self._match_fields
        self.search = functools.lru_cache(_CACHED_QUERIES)(self._search)

    def _search(self, query: str, count: int) -> tuple[passage_files.Passage, ...]:
        """The `count` passages that match best, best first; fewer if fewer match."""
        tokens = self._analyzer.analyze(query[:MAX_QUERY_CHARS])
        terms = [
            tantivy.Query.boost_query(self._match(token), times)
            for token, times in collections.Counter(tokens).items()
        ]
        wanted = tantivy.Query.boolean_query(
            [(tantivy.Occur.Should, term) for term in terms]
        )
        hits = self._searcher.search(wanted, limit=count + _TIES, count=False).hits
        addresses = [address for _, address in hits]
        numbers = self._searcher.fast_field_values("number", addresses)
        scores = [-score for score, _ in hits]
        order = zip(scores, typing.cast(list[int], numbers), addresses, strict=True)
        ranked = sorted(order, key=lambda hit: hit[:2])[:count]
        return tuple(self._fetch(address) for *_, address in ranked)

    def _match_contents(self, token: str) -> tantivy.Query:
        return tantivy.Query.term_query(self._schema, "contents", token)

    def _match_fields(self, token: str) -> tantivy.Query:
        """Counts a word once, where it weighs more: in the title or in the text."""
        title = tantivy.Query.term_query(self._schema, "title", token)
        text = tantivy.Query.term_query(self._schema, "text", token)
        return tantivy.Query.disjunction_max_query(
            [tantivy.Query.boost_query(title, _TITLE_WEIGHT), text]
        )

    def _fetch(self, address: tantivy.DocAddress) -> passage_files.Passage:
        stored = self._searcher.doc(address).to_dict()
        return passage_files.Passage(
            *(_to_text(stored[key][0]) for key in ("id", "title", "text"))
        )


def _to_text(value: str | bytes | list[int]) -> str:
    return value if isinstance(value, str) else bytes(value).decode()


def build(
    folder: pathlib.Path, passages: Iterable[passage_files.Passage], ranking: Ranking
) -> None:
    """Writes the index of `passages` into the empty folder `folder`.

    One thread writes, so that equal corpora give equal ranks.
    """
    index = tantivy.Index(_make_schema(ranking), path=str(folder))
    index.register_tokenizer(_ANALYZER, _make_analyzer())
    writer = index.writer(_WRITER_BYTES, num_threads=1)
    for number, passage in enumerate(passages):
        document = tantivy.Document(number=number, id=passage.id)
        if ranking == "fields":
            document.add_text("title", passage.title)
            document.add_text("text", passage.text)
        else:
            document.add_bytes("title", passage.title.encode())
            document.add_bytes("text", passage.text.encode())
            document.add_text("contents", f"{passage.title}\n{passage.text}")
        writer.add_document(document)
    writer.commit()
    writer.wait_merging_threads()


def _make_schema(ranking: Ranking) -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    searched = ("title", "text") if ranking == "fields" else ("contents",)
    for field in searched:
        builder.add_text_field(
            field,
            stored=ranking == "fields",
            tokenizer_name=_ANALYZER,
            index_option="freq",
        )
    if ranking == "contents":
        for field in ("title", "text"):
            builder.add_bytes_field(field, stored=True)
    builder.add_text_field("id", stored=True, tokenizer_name="raw")
    builder.add_integer_field("number", fast=True)
    return builder.build()


def _make_analyzer() -> tantivy.TextAnalyzer:
    return (
        tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
        .filter(tantivy.Filter.lowercase())
        .filter(tantivy.Filter.ascii_fold())
        .filter(tantivy.Filter.stopword("english"))
        .filter(tantivy.Filter.stemmer("english"))
        .build()
    )
