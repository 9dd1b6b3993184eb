"""SearchQA's files: forms of questions and passages, indexes, the built corpus."""

import json
import pathlib
import sys

import pytest
import small_corpus

from agentrl.envs import base
from agentrl.envs.searchqa import dataset, records

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
    path = small_corpus.write_lines(tmp_path / "file.jsonl", [FORMS[form]] * 2)
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
        small_corpus.start(small)


def test_passages_are_cleaned(small):
    line = {"id": 7, "contents": '"Odd\x00 title"\nwords\x1b\ud800'}
    small_corpus.write_lines(pathlib.Path(small["corpus"]), [line])
    env, _ = small_corpus.start(small)
    assert env.step("<search>words</search>").observation == (
        "<information>Doc 1(Title: Odd\ufffd title) words\ufffd\ufffd</information>"
    )


def test_a_changed_corpus_is_indexed_anew(small):
    query = "<search>planets</search>"
    env, _ = small_corpus.start(small)
    assert env.step(query).observation.count("Title") == 1
    path = pathlib.Path(small["corpus"])
    path.write_text(path.read_text() + '{"id": "x", "contents": "X\\nA planet."}\n')
    dataset._load.cache_clear()
    env, _ = small_corpus.start(small)
    assert env.step(query).observation.count("Title") == 2


def test_a_damaged_index_is_named(small, tmp_path):
    small_corpus.start(small)
    (index,) = (tmp_path / "cache").glob("*/index")
    (index / "meta.json").write_text("{}")
    dataset._load.cache_clear()
    dataset._open_index.cache_clear()
    with pytest.raises(base.MissingDataError, match="delete the folder"):
        small_corpus.start(small)


def test_changed_questions_are_noticed(tmp_path, monkeypatch):
    folder = tmp_path / dataset.FOLDER
    folder.mkdir()
    (folder / "questions.jsonl").write_text(json.dumps(small_corpus.QUESTIONS[0]))
    monkeypatch.setenv("AGENTRL_CACHE", str(tmp_path))
    dataset._load.cache_clear()
    with pytest.raises(base.MissingDataError, match="damaged or changed"):
        small_corpus.start({})
    dataset._load.cache_clear()


def test_processes_that_start_at_once_build_one_same_corpus(factbook_builds):
    """Each build is checked against the recorded digests, under any hash seed."""
    cache, ((first, first_code), (second, second_code)) = factbook_builds
    assert (first_code, second_code) == (0, 0)
    assert first == second and b"Question: " in first
    # Other modules' tests keep what they build in the same cache.
    assert sorted(path.name for path in cache.glob("searchqa*")) == [
        dataset.FOLDER,
        f"{dataset.FOLDER}.lock",
    ]
