"""Full-text search over a catalogue: BM25 by tantivy, the best fifty products.

Keywords are plain text. They are tokenized as the products were, and a product matches
if it shares a word with them; there is no query syntax that could be misused. Lucene,
used upstream, ranks by BM25 too, with other constants, so that ranks differ in detail.

The index lives in memory, once per process and catalogue: building it takes tens of
milliseconds per thousand products.
"""

import collections
import functools
import typing
from collections.abc import Sequence

import tantivy

from agentrl.envs.webshop import catalogue

MAX_RESULTS = 50

_ANALYZER = "shop"
_WRITER_BYTES = 64 << 20
_CACHED_QUERIES = 4096
_MAX_QUERY_CHARS = 1000


class SearchIndex:
    """Answers queries over the products of one catalogue."""

    def __init__(self, products: Sequence[catalogue.Product]):
        self._products = products
        self._analyzer = _make_analyzer()
        builder = tantivy.SchemaBuilder()
        builder.add_text_field("text", tokenizer_name=_ANALYZER, index_option="freq")
        builder.add_integer_field("number", fast=True)
        self._schema = builder.build()
        index = tantivy.Index(self._schema)
        index.register_tokenizer(_ANALYZER, _make_analyzer())
        writer = index.writer(_WRITER_BYTES, num_threads=1)  # one thread: one order
        for number, product in enumerate(products):
            writer.add_document(
                tantivy.Document(text=product.searched_text, number=number)
            )
        writer.commit()
        writer.wait_merging_threads()
        index.reload()
        self._searcher = index.searcher()
        self._search = functools.lru_cache(_CACHED_QUERIES)(self._search_anew)

    def search(self, keywords: str) -> tuple[catalogue.Product, ...]:
        """The products that match best, best first; ties go by catalogue order."""
        return self._search(keywords[:_MAX_QUERY_CHARS])

    def _search_anew(self, keywords: str) -> tuple[catalogue.Product, ...]:
        counts = collections.Counter(self._analyzer.analyze(keywords.lower()))
        terms = [
            tantivy.Query.boost_query(
                tantivy.Query.term_query(self._schema, "text", token), count
            )
            for token, count in counts.items()
        ]
        query = tantivy.Query.boolean_query(
            [(tantivy.Occur.Should, term) for term in terms]
        )
        hits = self._searcher.search(query, limit=MAX_RESULTS, count=False).hits
        addresses = [address for _, address in hits]
        numbers = self._searcher.fast_field_values("number", addresses)
        scores = [-score for score, _ in hits]
        ranked = sorted(zip(scores, typing.cast(list[int], numbers), strict=True))
        return tuple(self._products[number] for _, number in ranked)


@functools.lru_cache(maxsize=4)
def get_index(shop: catalogue.Catalogue) -> SearchIndex:
    """The index of a catalogue, built at its first use in this process."""
    return SearchIndex(shop.products)


def _make_analyzer() -> tantivy.TextAnalyzer:
    """Words of letters and digits, English stop words dropped, stemmed."""
    return (
        tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
        .filter(tantivy.Filter.lowercase())
        .filter(tantivy.Filter.stopword("english"))
        .filter(tantivy.Filter.stemmer("english"))
        .build()
    )
