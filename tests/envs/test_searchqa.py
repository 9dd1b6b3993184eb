import functools
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys

import hypothesis
import hypothesis.strategies as st
import pytest

from agentrl.envs import base, registry, searchqa
from agentrl.envs.searchqa import (
    dataset,
    factbook,
    generate,
    oracles,
    records,
    relations,
    scoring,
)

ROOT = pathlib.Path(__file__).parents[2]
STRICT = base.EnvConfig()
AGENTGYM = base.EnvConfig(profile="agentgym")
PROFILES = pytest.mark.parametrize(
    "config", [STRICT, AGENTGYM], ids=["strict", "agentgym"]
)

PASSAGES = [
    ("m", "Moon", "The Moon is the only natural satellite of the Earth."),
    ("e", "Earth", "The third planet from the Sun."),
    ("p", "Phobos", "Phobos is a satellite of Mars."),
    ("d", "Deimos", "Deimos is a satellite of Mars."),
]
QUESTIONS = [
    {"question": "What circles the Earth?", "answer": ["Moon", "the Moon"]},
    {"question": "Which letter comes first?", "answer": ["A"]},
]


def write_lines(path, items):
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


@pytest.fixture(scope="module", autouse=True)
def builds(tmp_path_factory):
    """Two processes ask for the default corpus at once; what they print.

    All tests share the cache folder they build, and leave the user's alone.
    """
    cache = tmp_path_factory.mktemp("cache")
    (cache / f"{dataset.FOLDER}.partial").mkdir()  # of a killed process
    code = (
        "from agentrl.envs import registry; env = registry.make('searchqa'); "
        "print(env.reset('searchqa_9')); print(env.step('<search>a</search>'))"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AGENTRL_CACHE", str(cache))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *sys.path]))
        running = [
            subprocess.Popen(
                [sys.executable, "-c", code],
                env=os.environ | {"PYTHONHASHSEED": seed},
                stdout=subprocess.PIPE,
            )
            for seed in ("1", "2")
        ]
        yield cache, [(p.communicate()[0], p.returncode) for p in running]


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Options with a corpus of four passages and two questions; an empty cache."""
    monkeypatch.setenv("AGENTRL_CACHE", str(tmp_path / "cache"))
    corpus = [{"id": i, "contents": f'"{t}"\n{text}'} for i, t, text in PASSAGES]
    return {
        "corpus": str(write_lines(tmp_path / "space.jsonl", corpus)),
        "questions": str(write_lines(tmp_path / "quiz.jsonl", QUESTIONS)),
    }


def start(options, profile="strict", item=0, **fields):
    env = registry.make(
        "searchqa", base.EnvConfig(profile=profile, options=options, **fields)
    )
    return env, env.reset(f"searchqa_{item}")


@functools.cache
def default_questions():
    return dataset.load(STRICT).questions


def play(config, item_id, kind):
    """The results of an oracle's episode."""
    env = registry.make("searchqa", config)
    observation = env.reset(item_id)
    oracle = searchqa.SPEC.oracles[kind](env)
    results = []
    while not results or not results[-1].done:
        results.append(env.step(oracle.act(observation)))
        observation = results[-1].observation
    return results


# Rules.


def test_a_search_shows_the_best_passages(small):
    env, first = start(small)
    assert first == "Question: What circles the Earth?"

    result = env.step("<think>Hm.</think>\n<search> satellites of mars </search>")

    assert result.observation == (
        "<information>Doc 1(Title: Phobos) Phobos is a satellite of Mars.\n"
        "Doc 2(Title: Deimos) Deimos is a satellite of Mars.\n"
        "Doc 3(Title: Moon) The Moon is the only natural satellite of the Earth."
        "</information>"
    )
    assert (result.reward, result.done) == (0, False)
    assert result.info.parsed_action == "search[satellites of mars]"
    assert result.info.valid_action and not result.info.success


def test_a_search_without_matches_finds_nothing(small):
    env, _ = start(small)
    result = env.step("<search>xyzzy</search>")
    assert result.observation == "<information></information>"
    assert result.info.valid_action


def test_top_k_limits_what_is_shown(small):
    for top_k in (1, 2, 3):
        env, _ = start(small | {"top_k": top_k})
        text = env.step("<search>satellite</search>").observation
        assert re.findall(r"Doc (\d)\(", text) == [str(k + 1) for k in range(top_k)]


@pytest.mark.parametrize("answer", ["Moon", " the  MOON. ", "A Moon"])
@pytest.mark.parametrize("profile", base.PROFILES)
def test_a_right_answer_wins(small, profile, answer):
    env, _ = start(small, profile)
    result = env.step(f"<think>I know.</think><answer>{answer}</answer>")
    assert result.observation == (
        "Congratulations! You have answered the question correctly."
    )
    assert (result.reward, result.terminated) == (1.0, True)
    info = result.info
    assert (info.success, info.score, info.progress) == (True, 1.0, 1.0)


@pytest.mark.parametrize("answer", ["Mars", "Moon or Sun", "Moons", "Moon\nEarth"])
def test_a_wrong_answer_ends_the_episode(small, answer):
    env, _ = start(small)
    result = env.step(f"<answer>{answer}</answer>")
    assert result.observation == "Sorry, your answer is incorrect."
    assert (result.reward, result.terminated, result.info.success) == (0, True, False)
    with pytest.raises(base.CallOrderError):
        env.step("<answer>Moon</answer>")


NOT_ONE = (
    "Invalid: write exactly one action, <search>query</search> or "
    "<answer>answer</answer>."
)
EMPTY = "Invalid: there is nothing between the tags."


@pytest.mark.parametrize(
    "text, reply",
    [
        ("", NOT_ONE),
        ("Moon", NOT_ONE),
        ("<answer>Moon", NOT_ONE),
        ("Moon</answer>", NOT_ONE),
        ("<search>Moon</answer>", NOT_ONE),
        ("<answer>Moon</answer><answer>Moon</answer>", NOT_ONE),
        ("<search>Moon</search><answer>Moon</answer>", NOT_ONE),
        ("<answer>Mars<answer>Moon</answer>", NOT_ONE),
        ("<think><answer>Moon</answer></think>", NOT_ONE),
        ("<information><answer>Moon</answer></information>", NOT_ONE),
        ("<information><answer>Moon</answer>", NOT_ONE),
        ("<search> \n </search>", EMPTY),
        ("<answer></answer>", EMPTY),
    ],
)
def test_strict_refuses_all_but_one_action(small, text, reply):
    env, _ = start(small)
    result = env.step(text)
    assert result.observation == reply
    assert (result.reward, result.done) == (0, False)
    assert result.info.parse_error and not result.info.valid_action
    assert env.step("<answer>Moon</answer>").info.success


def test_information_of_the_agents_own_is_not_read(small):
    env, _ = start(small)
    result = env.step(
        "<search>Phobos</search><information>Doc 1(Title: x) "
        "<answer>Mars</answer></information>"
    )
    assert result.info.parsed_action == "search[Phobos]"


@pytest.mark.parametrize("answer", ["the", ".", "an", "_"])
def test_an_answer_of_nothing_does_not_match_an_article(small, answer):
    """`A` is a gold answer here, and normalized it is empty."""
    env, _ = start(small, item=1)
    assert not env.step(f"<answer>{answer}</answer>").info.success


def test_agentgym_keeps_upstreams_holes(small):
    env, first = start(small, "agentgym")
    assert first.endswith(" Question: What circles the Earth?")
    assert "<answer> Beijing </answer>" in first

    wrong = env.step("<answer>Mars</answer>")
    assert wrong.observation == ("Sorry, your answer is incorrect. Please try again.")
    assert not wrong.done
    invalid = env.step("Moon")
    assert invalid.observation == (
        "Your previous action is invalid. If you want to search, you should put the "
        "query between <search> and </search>. If you want to give the final answer, "
        "you should put the answer between <answer> and </answer>. Please try again."
    )
    assert not invalid.info.valid_action
    searched = env.step("<search>Mars</search><answer>Moon</answer>")
    assert searched.observation.startswith("<information>Doc 1(Title: ")
    assert env.step("<answer>Mars</answer><answer>Moon</answer>").info.success


def test_turns_are_limited(small):
    for profile, limit in (("strict", 4), ("agentgym", 5)):
        env, _ = start(small, profile)
        results = [env.step("<search>Moon</search>") for _ in range(limit)]
        assert [r.truncated for r in results] == [False] * (limit - 1) + [True]


def test_a_closed_book_has_no_search(small):
    for profile in base.PROFILES:
        env, first = start(small | {"closed_book": True}, profile)
        assert "<search>" not in env.instruction + first
        result = env.step("<search>Moon</search>")
        assert result.observation == (
            "Invalid: there is no search here; write <answer>answer</answer>."
        )
        assert not result.info.valid_action and not result.info.parse_error
        assert env.step("<answer>Moon</answer>").info.success


def test_progress_counts_facts_found():
    number, question = next(
        (n, q) for n, q in enumerate(default_questions()) if q.hops == 3
    )
    results = play(STRICT, f"searchqa_{number}", "privileged")
    assert [r.info.progress for r in results] == [0.25, 0.5, 0.75, 1.0]

    env, _ = start({}, item=number)
    for _ in range(2):  # finding a passage again counts for nothing
        result = env.step(f"<search>{question.queries[0]}</search>")
        assert result.info.progress == 0.25


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
@hypothesis.given(
    st.lists(
        st.one_of(
            st.sampled_from(
                ["<search>", "</search>", "<answer>", "</answer>", "<information>"]
            ),
            st.text(max_size=6),
        ),
        max_size=6,
    ).map("".join)
)
def test_refused_text_changes_nothing(text):
    number = next(n for n, q in enumerate(default_questions()) if q.hops == 1)
    for profile in base.PROFILES:
        env, _ = start({}, profile, item=number, max_turns=3)
        result = env.step(text)
        assert not result.info.success and result.reward == 0
        assert result.observation == base.clean_text(result.observation)
        if not result.info.valid_action:
            answer = default_questions()[number].answers[0]
            assert env.step(f"<answer>{answer}</answer>").info.success


def test_instances_with_different_options_do_not_mix(small):
    mine, _ = start(small)
    _, first = start({})
    assert first == f"Question: {default_questions()[0].text}"
    assert mine.reset("searchqa_1") == "Question: Which letter comes first?"
    with pytest.raises(base.UnknownItemError, match="searchqa_0 to searchqa_1"):
        mine.reset("searchqa_2")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"top_k": 0}, "top_k = 0"),
        ({"top_k": True}, "top_k = True"),
        ({"top_k": 21}, "from 1 to 20"),
        ({"closed_book": "yes"}, "closed_book = 'yes'"),
        ({"closedbook": True}, r"Did you mean \['closed_book'\]"),
    ],
)
def test_options_that_cannot_work_are_refused(options, message):
    with pytest.raises(base.EnvConfigError, match=message):
        registry.make("searchqa", base.EnvConfig(options=options))


@pytest.mark.parametrize("option", ["corpus", "questions"])
def test_files_that_do_not_exist_are_named(option):
    config = base.EnvConfig(options={option: "/nowhere.jsonl"})
    with pytest.raises(base.MissingDataError, match=f"{option} = '/nowhere.jsonl'"):
        registry.make("searchqa", config)


# Exact match.


@pytest.mark.parametrize(
    "answer, normalized",
    [
        ("The Beatles", "beatles"),
        ("  U.S.A. ", "usa"),
        ("an apple a day", "apple day"),
        ("theatre", "theatre"),
        ("1,234.5", "12345"),
        ("Côte  d'Ivoire", "côte divoire"),
        ("A", ""),
    ],
)
def test_answers_are_normalized_as_in_squad(answer, normalized):
    assert scoring.normalize(answer) == normalized
    assert scoring.is_correct(answer, ["other", normalized])


# Files of questions and passages.

FORMS = {
    "nq": {"question": "Who?", "answer": ["Ann", "Anne"]},
    "flashrag": {"id": "test_0", "question": "Who?", "golden_answers": ["Ann", "Anne"]},
    "search_r1": {
        "id": "train_0",
        "question": "Who?",
        "data_source": "nq",
        "reward_model": {"ground_truth": {"target": ["Ann", "Anne"]}, "style": "rule"},
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_questions_are_read_from_json_lines(tmp_path, form):
    path = write_lines(tmp_path / "file.jsonl", [FORMS[form]] * 2)
    (question, _) = records.read_questions(path)
    assert (question.text, question.answers) == ("Who?", ("Ann", "Anne"))
    assert question.hops == 1
    assert question.subset == ("nq" if form == "search_r1" else "file")


def test_hotpotqa_is_read_from_a_json_list(tmp_path):
    record = {
        "_id": "5a8b",
        "question": "Were A and B born in one city?",
        "answer": "no",
        "supporting_facts": [["A", 0], ["B", 0]],
        "context": [],
    }
    path = tmp_path / "hotpotqa" / "dev.json"
    path.parent.mkdir()
    path.write_text(json.dumps([record]))
    (question,) = records.read_questions(path)
    assert (question.answers, question.hops) == (("no",), 2)
    assert question.subset == "hotpotqa"  # not the name of the split


def test_search_r1_is_read_from_parquet(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "train.parquet"
    hotpot = FORMS["search_r1"] | {"data_source": "hotpotqa"}
    parquet.write_table(arrow.Table.from_pylist([FORMS["search_r1"], hotpot]), path)
    first, second = records.read_questions(path)
    assert (first.text, first.answers, first.hops) == ("Who?", ("Ann", "Anne"), 1)
    assert (second.subset, second.hops) == ("hotpotqa", 2)


def test_parquet_without_its_library_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(base.MissingDataError, match="pip install pyarrow"):
        records.read_questions(tmp_path / "train.parquet")


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "holds no question"),
        ('{"question": "Who?"}', "record 0"),
        ('{"question": "Who?", "answer": []}', "record 0"),
        ('{"question": "Who?", "answer": [1]}', "record 0"),
        ('{"question": "", "answer": "Ann"}', "record 0"),
        ('["Who?"]', "record 0"),
        ('{"question": "Who?", "answer": "Ann"}\n{"quest', ":2 is not JSON"),
    ],
)
def test_files_that_hold_no_questions_are_refused(tmp_path, content, message):
    path = tmp_path / "file.jsonl"
    path.write_text(content)
    with pytest.raises(base.MissingDataError, match=message):
        records.read_questions(path)


@pytest.mark.parametrize(
    "line, message",
    [
        ('{"id": "0"}', "space.jsonl:1: expected"),
        ('{"id": "0", "contents": 1}', "space.jsonl:1: expected"),
        ("{", "space.jsonl:1 is not JSON"),
        (json.dumps({"id": "long", "contents": "x" * 30_000}), "'long' has 30000"),
    ],
)
def test_files_that_hold_no_passages_are_refused(small, line, message):
    pathlib.Path(small["corpus"]).write_text(line + "\n")
    with pytest.raises(base.MissingDataError, match=message):
        start(small)


def test_passages_are_cleaned(small):
    line = {"id": 7, "contents": '"Odd\x00 title"\nwords\x1b\ud800'}
    write_lines(pathlib.Path(small["corpus"]), [line])
    env, _ = start(small)
    assert env.step("<search>words</search>").observation == (
        "<information>Doc 1(Title: Odd\ufffd title) words\ufffd\ufffd</information>"
    )


def test_a_changed_corpus_is_indexed_anew(small):
    query = "<search>planets</search>"
    env, _ = start(small)
    assert env.step(query).observation.count("Title") == 1
    path = pathlib.Path(small["corpus"])
    path.write_text(path.read_text() + '{"id": "x", "contents": "X\\nA planet."}\n')
    dataset._load.cache_clear()
    env, _ = start(small)
    assert env.step(query).observation.count("Title") == 2


def test_a_damaged_index_is_named(small, tmp_path):
    start(small)
    (index,) = (tmp_path / "cache").glob("*/index")
    (index / "meta.json").write_text("{}")
    dataset._load.cache_clear()
    dataset._open_index.cache_clear()
    with pytest.raises(base.MissingDataError, match="delete the folder"):
        start(small)


def test_changed_questions_are_noticed(tmp_path, monkeypatch):
    folder = tmp_path / dataset.FOLDER
    folder.mkdir()
    (folder / "questions.jsonl").write_text(json.dumps(QUESTIONS[0]))
    monkeypatch.setenv("AGENTRL_CACHE", str(tmp_path))
    dataset._load.cache_clear()
    with pytest.raises(base.MissingDataError, match="damaged or changed"):
        start({})
    dataset._load.cache_clear()


def test_processes_that_start_at_once_build_one_same_corpus(builds):
    """Each build is checked against the recorded digests, under any hash seed."""
    cache, ((first, first_code), (second, second_code)) = builds
    assert (first_code, second_code) == (0, 0)
    assert first == second and b"Question: " in first
    assert sorted(path.name for path in cache.iterdir()) == [
        dataset.FOLDER,
        f"{dataset.FOLDER}.lock",
    ]


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
    path = write_lines(tmp_path / "many.jsonl", many)
    config = base.EnvConfig(options=small | {"questions": str(path)})
    train, test = (searchqa.make_panel(split, config) for split in ("train", "test"))
    assert len(train.item_ids) + len(test.item_ids) == 500
    assert 25 < len(test.item_ids) < 80
    assert test.version.startswith("searchqa-2 many ") and "space" in test.version
    assert searchqa.find_tier(test.item_ids[0], config) == "easy"

    reordered = write_lines(tmp_path / "reordered.jsonl", many[::-1])
    other = base.EnvConfig(options=small | {"questions": str(reordered)})
    moved = {f"searchqa_{499 - int(i.split('_')[1])}" for i in test.item_ids}
    assert set(searchqa.make_panel("test", other).item_ids) == moved


def test_a_file_too_small_to_split_says_so(small):
    for_tests = [question | {"split": "dev"} for question in QUESTIONS]
    write_lines(pathlib.Path(small["questions"]), for_tests)
    config = base.EnvConfig(options=small)
    assert searchqa.make_panel("test", config).item_ids == ("searchqa_0", "searchqa_1")
    with pytest.raises(base.EnvConfigError, match="use more questions"):
        searchqa.make_panel("train", config)
    with pytest.raises(base.EnvConfigError, match="no split 'dev'"):
        searchqa.make_panel("dev", STRICT)


# Oracles.


@PROFILES
@pytest.mark.parametrize("kind", ["privileged", "observational"])
def test_oracles_solve_the_test_panel(config, kind):
    ids = searchqa.make_panel("test", config).item_ids
    for item_id in ids:
        results = play(config, item_id, kind)
        question = default_questions()[int(item_id.split("_")[1])]
        assert results[-1].info.success, item_id
        assert len(results) == question.hops + 1 <= 4


def test_oracles_solve_train_tasks():
    for item_id in searchqa.make_panel("train", STRICT).item_ids[::20]:
        assert play(STRICT, item_id, "privileged")[-1].info.success, item_id
        assert play(STRICT, item_id, "observational")[-1].info.success, item_id


def test_the_privileged_oracle_answers_at_once_where_it_cannot_search(small):
    for options, item in (
        (small | {"closed_book": True}, "searchqa_0"),
        (small, "searchqa_0"),
        ({"closed_book": True}, "searchqa_9000"),
    ):
        (result,) = play(base.EnvConfig(options=options), item, "privileged")
        assert result.info.success


def test_the_observational_oracle_refuses_what_it_cannot_read(small):
    for options in (small, {"closed_book": True}):
        env, first = start(options)
        with pytest.raises(ValueError, match="cannot answer"):
            oracles.ObservationalOracle(env).act(first)


def test_the_observational_oracle_does_not_guess():
    env, first = start({})
    oracle = oracles.ObservationalOracle(env)
    oracle.act(first)
    answer = oracle.act("<information>Doc 1(Title: X) nothing</information>")
    assert answer.endswith("<answer>unknown</answer>")


def test_guessing_the_commonest_answers_fails():
    """A policy that never searches gets nowhere with one answer."""
    train = [q.answers[0] for q in default_questions() if q.split == "train"]
    guess = max(set(train), key=lambda answer: (train.count(answer), answer))
    ids = searchqa.make_panel("test", STRICT).item_ids
    solved = sum(
        scoring.is_correct(guess, default_questions()[int(i.split("_")[1])].answers)
        for i in ids
    )
    assert solved / len(ids) < 0.05


# Golden first observations, in both profiles, of 20 tasks.

GOLDEN = {
    "searchqa_35": "ab0aae4d3a76",
    "searchqa_1166": "35031cd78506",
    "searchqa_2298": "69191e1dbaa7",
    "searchqa_3454": "62a261b3c056",
    "searchqa_4343": "248057a15a4d",
    "searchqa_4857": "e852dc1cf4b2",
    "searchqa_5606": "91775af841c0",
    "searchqa_8752": "a78a531e3ad6",
    "searchqa_9183": "0bf600274e19",
    "searchqa_9501": "9686ff930ce0",
    "searchqa_0": "4b78520035e7",
    "searchqa_1479": "fbe317dc048a",
    "searchqa_2906": "6976220c612b",
    "searchqa_4371": "5de10651aa29",
    "searchqa_5909": "08c9cdb6b082",
    "searchqa_7081": "9e77b035fe27",
    "searchqa_8208": "77e52f1c56f1",
    "searchqa_9816": "baf1ea60c5b3",
    "searchqa_10962": "4c6d4b196dc4",
    "searchqa_12089": "386e891d206f",
}


@pytest.mark.parametrize("item_id", GOLDEN)
def test_first_observations_stay_as_they_are(item_id):
    first = "\n".join(
        registry.make("searchqa", config).reset(item_id)
        for config in (STRICT, AGENTGYM)
    )
    assert hashlib.sha256(first.encode()).hexdigest()[:12] == GOLDEN[item_id]
