"""Searching 200,000 passages: building the index, and long queries.

    pytest tests/envs/test_searchqa_speed.py -s

prints the figures.
"""

import itertools
import random
import statistics
import time

import pytest
import tantivy

from agentrl.envs.searchqa import index, passage_files

COUNT = 200_000
WORDS = 100  # of a passage
VOCABULARY = 50_000


@pytest.fixture(scope="module")
def corpus():
    """Passages of words that are as unevenly common as those of a language."""
    rng = random.Random(0)
    names = [f"w{number:x}q" for number in range(VOCABULARY)]
    weights = itertools.accumulate(1 / (rank + 10) for rank in range(VOCABULARY))
    drawn = rng.choices(names, cum_weights=list(weights), k=COUNT * WORDS)
    return [
        passage_files.Passage(
            str(at), " ".join(drawn[at : at + 3]), " ".join(drawn[at + 3 : at + WORDS])
        )
        for at in range(0, COUNT * WORDS, WORDS)
    ]


def measure(search, queries):
    """Seconds of the median query, and what one in ten exceeds."""
    taken = []
    for query in queries:
        start = time.perf_counter()
        search(query)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken), statistics.quantiles(taken, n=10)[-1]


@pytest.mark.slow
def test_long_queries_are_as_fast_as_plain_terms(corpus, tmp_path):
    start = time.perf_counter()
    index.build(tmp_path, corpus, "contents")
    took = time.perf_counter() - start
    print(f"\n{COUNT} passages: indexed in {took:.1f} s")
    assert took < 30

    found = index.Index(tmp_path, "contents")
    plain = tantivy.Index.open(str(tmp_path))
    searcher, schema = plain.searcher(), plain.schema

    def search_terms(query):
        tokens = set(found._analyzer.analyze(query))
        terms = [tantivy.Query.term_query(schema, "contents", t) for t in tokens]
        wanted = [(tantivy.Occur.Should, term) for term in terms]
        hits = searcher.search(tantivy.Query.boolean_query(wanted), limit=19).hits
        for _, address in hits[:3]:
            searcher.doc(address)

    rng = random.Random(1)
    for length in (8, 10):
        queries = [
            " ".join(rng.sample(rng.choice(corpus).text.split(), length))
            for _ in range(300)
        ]
        measure(search_terms, queries)  # reads the index once
        terms = measure(search_terms, queries)
        ours = measure(lambda query: found._search(query, 3), queries)
        print(
            f"{length} words, median and p90 in ms: plain terms "
            f"{terms[0] * 1e3:.2f} {terms[1] * 1e3:.2f}, "
            f"ours {ours[0] * 1e3:.2f} {ours[1] * 1e3:.2f}"
        )
        assert ours[0] <= 1.2 * terms[0] + 1e-4
        assert ours[1] <= 1.2 * terms[1] + 1e-4
