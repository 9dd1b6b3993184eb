"""SearchQA as an environment: rules, profiles, exact match, oracles."""

import functools
import hashlib
import re

import hypothesis
import hypothesis.strategies as st
import pytest
import small_corpus

from agentrl.envs import base, registry, searchqa
from agentrl.envs.searchqa import dataset, oracles, scoring

STRICT = base.EnvConfig()
AGENTGYM = base.EnvConfig(profile="agentgym")
PROFILES = pytest.mark.parametrize(
    "config", [STRICT, AGENTGYM], ids=["strict", "agentgym"]
)
pytestmark = pytest.mark.usefixtures("factbook_cache")


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
    env, first = small_corpus.start(small)
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
    env, _ = small_corpus.start(small)
    result = env.step("<search>xyzzy</search>")
    assert result.observation == "<information></information>"
    assert result.info.valid_action


def test_top_k_limits_what_is_shown(small):
    for top_k in (1, 2, 3):
        env, _ = small_corpus.start(small | {"top_k": top_k})
        text = env.step("<search>satellite</search>").observation
        assert re.findall(r"Doc (\d)\(", text) == [str(k + 1) for k in range(top_k)]


@pytest.mark.parametrize("answer", ["Moon", " the  MOON. ", "A Moon"])
@pytest.mark.parametrize("profile", base.PROFILES)
def test_a_right_answer_wins(small, profile, answer):
    env, _ = small_corpus.start(small, profile)
    result = env.step(f"<think>I know.</think><answer>{answer}</answer>")
    assert result.observation == (
        "Congratulations! You have answered the question correctly."
    )
    assert (result.reward, result.terminated) == (1.0, True)
    info = result.info
    assert (info.success, info.score, info.progress) == (True, 1.0, 1.0)


@pytest.mark.parametrize("answer", ["Mars", "Moon or Sun", "Moons", "Moon\nEarth"])
def test_a_wrong_answer_ends_the_episode(small, answer):
    env, _ = small_corpus.start(small)
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
    env, _ = small_corpus.start(small)
    result = env.step(text)
    assert result.observation == reply
    assert (result.reward, result.done) == (0, False)
    assert result.info.parse_error and not result.info.valid_action
    assert env.step("<answer>Moon</answer>").info.success


def test_information_of_the_agents_own_is_not_read(small):
    env, _ = small_corpus.start(small)
    result = env.step(
        "<search>Phobos</search><information>Doc 1(Title: x) "
        "<answer>Mars</answer></information>"
    )
    assert result.info.parsed_action == "search[Phobos]"


@pytest.mark.parametrize("answer", ["the", ".", "an", "_"])
def test_an_answer_of_nothing_does_not_match_an_article(small, answer):
    """`A` is a gold answer here, and normalized it is empty."""
    env, _ = small_corpus.start(small, item=1)
    assert not env.step(f"<answer>{answer}</answer>").info.success


def test_agentgym_keeps_upstreams_holes(small):
    env, first = small_corpus.start(small, "agentgym")
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
        env, _ = small_corpus.start(small, profile)
        results = [env.step("<search>Moon</search>") for _ in range(limit)]
        assert [r.truncated for r in results] == [False] * (limit - 1) + [True]


def test_a_closed_book_has_no_search(small):
    for profile in base.PROFILES:
        env, first = small_corpus.start(small | {"closed_book": True}, profile)
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

    env, _ = small_corpus.start({}, item=number)
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
        env, _ = small_corpus.start({}, profile, item=number, max_turns=3)
        result = env.step(text)
        assert not result.info.success and result.reward == 0
        assert result.observation == base.clean_text(result.observation)
        if not result.info.valid_action:
            answer = default_questions()[number].answers[0]
            assert env.step(f"<answer>{answer}</answer>").info.success


def test_instances_with_different_options_do_not_mix(small):
    mine, _ = small_corpus.start(small)
    _, first = small_corpus.start({})
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


def test_the_copying_oracle_writes_nothing_that_it_has_not_read():
    config = base.EnvConfig(options={"copying_oracle": True, "top_k": 1})
    ids = searchqa.make_panel("train", config).item_ids
    assert ids == searchqa.make_panel("train", STRICT).item_ids
    easy = [i for i in ids[::40] if searchqa.find_tier(i, config) == "easy"]
    solved = 0
    for item_id in easy:
        env = registry.make("searchqa", config)
        oracle = oracles.ObservationalOracle(env)
        question = env.reset(item_id)
        search = oracle.act(question)
        assert search.removeprefix("<search>").removesuffix("</search>") in question
        found = env.step(search)
        answer = oracle.act(found.observation)
        if "unknown" not in answer:
            label, _, value = answer.partition("</think>")[0][7:].partition(": ")
            assert label == "Title" or f"{label}: " in found.observation
            assert value in found.observation
            solved += env.step(answer).info.success
    assert solved > 0.6 * len(easy)


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
        env, first = small_corpus.start(options)
        with pytest.raises(ValueError, match="cannot answer"):
            oracles.ObservationalOracle(env).act(first)


def test_the_observational_oracle_does_not_guess():
    env, first = small_corpus.start({})
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
