"""SearchQA's own questions: read from the Factbook, split without leaks."""

import functools
import pathlib
import re

import pytest
import small_corpus

from agentrl.envs import base, searchqa
from agentrl.envs.searchqa import dataset, factbook, generate, relations, scoring

STRICT = base.EnvConfig()
pytestmark = pytest.mark.usefixtures("factbook_cache")


@functools.cache
def default_questions():
    return dataset.load(STRICT).questions


# Reading the Factbook.

READERS = [
    ("capital", "Paris", ["Paris"]),
    ("capital", "Washington, D.C.", ["Washington, D.C."]),
    ("capital", "Baku (Baki, Baky)", ["Baku", "Baki", "Baky"]),
    ("capital", "George Town (on Grand Cayman)", ["George Town"]),
    ("capital", "Santiago; note - the legislature sits elsewhere", ["Santiago"]),
    ("capital", "Gitega (political), Bujumbura (commercial)", []),
    ("capital", "Mbabane (administrative); Lobamba (royal)", []),
    ("highest_point", "K2 (Mt. Godwin) 8,611 m", ["K2", "Mt. Godwin"]),
    ("highest_point", "Fako on Mont X 4,045 m", ["Fako on Mont X", "Fako"]),
    ("highest_point", "unnamed elevation 63 m", []),
    ("highest_point", "1 km SW of The Bluff 50 m", []),
    ("lowest_point", "Lammefjord -7 m", ["Lammefjord"]),
    ("anthem", '"Kassaman" (We Pledge)', ["Kassaman", "We Pledge"]),
    ("anthem", "almost every country has one", []),
    ("lyrics", "Ann BEE/Cy DEE", ["Ann BEE"]),
    ("music", "Ann BEE/Cy DEE", ["Cy DEE"]),
    ("music", "Ann BEE/traditional", []),
    ("lyrics", "Ann BEE", []),
    ("independence_date", "4 July 1946 (from the US)", ["4 July 1946", "July 4, 1946"]),
    ("independence_date", "4 July 1946 (from the US); 1 May 1950 (again)", []),
    ("former_ruler", "4 July 1946 (from the US)", ["United States"]),
    ("administrator", "none (overseas territory of the UK)", ["United Kingdom"]),
    ("administrator", "none (part of the Kingdom of Denmark)", ["Denmark"]),
    ("administrator", "none (territory of the UK; also claimed by X)", []),
    ("longest_border", "Ghana 10 km; Togo 1,644 km", ["Togo"]),
    ("shortest_border", "Ghana 10 km; Togo 1,644 km (of which 3 km)", ["Ghana"]),
    ("longest_border", "Ghana 10 km; Togo 10 km", []),
    ("longest_border", "Ghana 10 km", []),
    ("longest_border", "China (south) 46 km; Togo 10 km", []),
    ("internet_code", ".dz", [".dz"]),
    ("currency_code", "euros (EUR) per US dollar -", ["EUR"]),
    ("area", "2,381,740 sq km", ["2,381,740", "2,381,740 sq km"]),
    ("coastline", "0 km (landlocked)", []),
    ("heritage", "Old Town (c); Blue Park (n); A (B) C", ["Old Town", "Blue Park"]),
]


@pytest.mark.parametrize("name, text, values", READERS)
def test_relations_read_what_is_clear(name, text, values):
    (relation,) = (r for r in relations.RELATIONS if r.name == name)
    assert list(relation.read(text)) == values


def test_each_question_is_taken_apart_again():
    for question in default_questions():
        chain = relations.parse_question(question.text)
        assert chain is not None and chain.phrase() == question.text
        assert len(chain.hops) == question.hops == len(question.passages)


def test_a_question_by_hand():
    chain = relations.parse_question(
        "What is the capital of the neighbor that shares the longest land border with "
        "the country that formerly ruled the Isle of Man?"
    )
    assert chain is not None and chain.start == "Isle of Man"
    assert [hop.relation.name for hop in chain.hops] == [
        "former_ruler",
        "longest_border",
        "capital",
    ]
    assert relations.parse_question("What is the capital?") is None


# Tasks.


@functools.cache
def held_out():
    """All names of the held-out countries, and those of the others."""
    entries = factbook.load_entries()
    return [
        {
            name
            for entry in entries
            if generate.is_held_out(entry) == out
            for name in (entry.name, *entry.aliases)
        }
        for out in (True, False)
    ]


def test_panels_have_tasks_of_each_kind():
    train, test = (searchqa.make_panel(split, STRICT) for split in ("train", "test"))
    count = functools.partial(
        lambda panel, subset: sum(
            searchqa.find_subset(i, STRICT) == subset for i in panel.item_ids
        )
    )
    assert {s: count(test, s) for s in searchqa.TEST_MIX} == searchqa.TEST_MIX
    assert len(train.item_ids) > 10_000
    assert all(count(train, subset) > 3000 for subset in searchqa.TEST_MIX)
    tiers = {
        (searchqa.find_subset(i, STRICT), searchqa.find_tier(i, STRICT))
        for i in test.item_ids
    }
    assert tiers == {("hop_1", "easy"), ("hop_2", "hard"), ("hop_3", "hard")}


def test_held_out_countries_are_about_a_fifth():
    entries = factbook.load_entries()
    assert 0.15 < sum(map(generate.is_held_out, entries)) / len(entries) < 0.25


def test_no_train_question_touches_a_held_out_country():
    out, others = held_out()
    longest_first = sorted(out | others, key=len, reverse=True)
    names = re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b")
    for question in default_questions():
        if question.split == "train":
            assert out.isdisjoint(question.entities)
            said = names.findall("\n".join([question.text, *question.answers]))
            assert out.isdisjoint(said), question


def test_each_test_question_touches_a_held_out_country():
    out, _ = held_out()
    for question in default_questions():
        if question.split == "test":
            assert not out.isdisjoint(question.entities), question


def test_questions_do_not_give_themselves_away():
    for question in default_questions():
        words = scoring.normalize(question.text).split()
        for answer in question.answers:
            parts = scoring.normalize(answer).split()
            windows = zip(*(words[i:] for i in range(len(parts))), strict=False)
            assert tuple(parts) not in windows, question


def test_questions_are_asked_once():
    texts = [question.text for question in default_questions()]
    assert len(set(texts)) == len(texts)


def test_other_questions_are_split_by_hash(small, tmp_path):
    many = [{"question": f"What is {n}?", "answer": str(n)} for n in range(500)]
    path = small_corpus.write_lines(tmp_path / "many.jsonl", many)
    config = base.EnvConfig(options=small | {"questions": str(path)})
    train, test = (searchqa.make_panel(split, config) for split in ("train", "test"))
    assert len(train.item_ids) + len(test.item_ids) == 500
    assert 25 < len(test.item_ids) < 80
    assert test.version.startswith("searchqa-2 many ") and "space" in test.version
    assert searchqa.find_tier(test.item_ids[0], config) == "easy"

    reordered = small_corpus.write_lines(tmp_path / "reordered.jsonl", many[::-1])
    other = base.EnvConfig(options=small | {"questions": str(reordered)})
    moved = {f"searchqa_{499 - int(i.split('_')[1])}" for i in test.item_ids}
    assert set(searchqa.make_panel("test", other).item_ids) == moved


def test_a_file_too_small_to_split_says_so(small):
    for_tests = [question | {"split": "dev"} for question in small_corpus.QUESTIONS]
    small_corpus.write_lines(pathlib.Path(small["questions"]), for_tests)
    config = base.EnvConfig(options=small)
    assert searchqa.make_panel("test", config).item_ids == ("searchqa_0", "searchqa_1")
    with pytest.raises(base.EnvConfigError, match="use more questions"):
        searchqa.make_panel("train", config)
    with pytest.raises(base.EnvConfigError, match="no split 'dev'"):
        searchqa.make_panel("dev", STRICT)
