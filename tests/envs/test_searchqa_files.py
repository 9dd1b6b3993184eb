"""Questions and corpora in the forms that people have them; splits without leaks."""

import gzip
import json
import os
import pathlib

import pytest

from agentrl.envs import base, filecache, registry, searchqa
from agentrl.envs.searchqa import dataset, passage_files, records

PASSAGES = [
    ("m", "Moon", "The Moon is the only natural satellite of the Earth."),
    ("e", "Earth", 'The "third" planet from the Sun.'),
]
MUSIQUE = {
    "id": "3hop1__12_34_56",
    "question": "Who founded it?",
    "answer": "Ann",
    "answer_aliases": ["Anne", "Ann"],
    "question_decomposition": [{}, {}, {}],
}
SCHEMES = {
    "nq_open": ({"question": "Who?", "answer": ["Ann", "Anne"]}, ("Ann", "Anne"), 1),
    "triviaqa": (
        {
            "question": "Who?",
            "question_id": "tc_1",
            "answer": {
                "aliases": ["Anne", "A."],
                "matched_wiki_entity_name": "",
                "normalized_aliases": ["anne"],
                "type": "WikipediaEntity",
                "value": "Ann",
            },
        },
        ("Ann", "Anne", "A."),
        1,
    ),
    "triviaqa_first_release": (
        {"Question": "Who?", "Answer": {"Value": "Ann", "Aliases": ["Anne"]}},
        ("Ann", "Anne"),
        1,
    ),
    "popqa": (
        {"question": "Who?", "obj": "Ann", "possible_answers": '["Ann", "Anne"]'},
        ("Ann", "Anne"),
        1,
    ),
    "2wikimultihopqa": (
        {"_id": "a", "question": "Who?", "answer": "Ann", "supporting_facts": []},
        ("Ann",),
        2,
    ),
    "musique": (MUSIQUE, ("Ann", "Anne"), 3),
    "musique_flashrag": (
        {
            "id": "dev_0",
            "question": "Who?",
            "golden_answers": ["Ann"],
            "metadata": MUSIQUE,
        },
        ("Ann", "Anne"),
        3,
    ),
    "bamboogle": ({"Question": "Who?", "Answer": "Ann"}, ("Ann",), 2),
    "squad": (
        {"question": "Who?", "answers": {"text": ["Ann", "Ann"], "answer_start": [1]}},
        ("Ann",),
        1,
    ),
    "search_r1": (
        {
            "id": "train_0",
            "question": "Who?",
            "golden_answers": None,
            "metadata": None,
            "reward_model": {"ground_truth": {"target": ["Ann"]}, "style": "rule"},
        },
        ("Ann",),
        1,
    ),
    "null_beside_a_good_answer": (
        {"question": "Who?", "golden_answers": None, "answer": "Ann"},
        ("Ann",),
        1,
    ),
    "empty_beside_a_good_answer": (
        {"question": "Who?", "golden_answers": [], "answer": ["Ann", ""]},
        ("Ann",),
        1,
    ),
}


def write_lines(path, items):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


@pytest.fixture(autouse=True)
def corpus(tmp_path, monkeypatch):
    """A corpus of two passages; an empty cache."""
    monkeypatch.setenv("AGENTRL_CACHE", str(tmp_path / "cache"))
    lines = [{"id": i, "contents": f'"{t}"\n{text}'} for i, t, text in PASSAGES]
    return str(write_lines(tmp_path / "space.jsonl", lines))


@pytest.mark.parametrize("name", SCHEMES)
def test_each_data_sets_answers_are_read(tmp_path, name):
    record, answers, hops = SCHEMES[name]
    (question,) = records.read_questions(
        write_lines(tmp_path / f"{name}.jsonl", [record])
    )
    assert (question.answers, question.hops) == (answers, hops)


@pytest.mark.parametrize(
    "answer", [{"value": None}, {"aliases": ["Ann"]}, {"start": 1}, "", [], None, 7]
)
def test_a_record_without_answers_is_refused(tmp_path, answer):
    path = write_lines(tmp_path / "a.jsonl", [{"question": "Who?", "answer": answer}])
    with pytest.raises(base.MissingDataError, match="record 0 is not a question"):
        records.read_questions(path)


@pytest.mark.parametrize(
    "fields, split",
    [
        ({"extra_info": {"index": 0, "split": "test"}}, "test"),
        ({"extra_info": {"index": 0, "split": "train"}, "id": "train_0"}, "train"),
        ({"id": "test_17"}, "test"),
        ({"id": "train_17"}, "train"),
        ({"id": "dev_17"}, "test"),
        ({"split": "validation"}, "test"),
        ({"metadata": {"split": "train"}, "id": "test_0"}, "train"),
        ({"id": 17, "extra_info": None}, ""),
        ({}, ""),
    ],
)
def test_the_split_that_a_record_names_is_kept(tmp_path, fields, split):
    record = {"question": "Who?", "answer": "Ann"} | fields
    (question,) = records.read_questions(write_lines(tmp_path / "a.jsonl", [record]))
    assert question.split == split


@pytest.mark.parametrize(
    "name, subset",
    [
        ("musique/dev.jsonl", "musique"),
        ("hotpotqa/train.jsonl", "hotpotqa"),
        ("nq/test.json.gz", "nq"),
        ("any/bamboogle.jsonl", "bamboogle"),
    ],
)
def test_a_file_named_after_a_split_is_of_its_folders_set(tmp_path, name, subset):
    path = tmp_path / name
    path.parent.mkdir()
    text = json.dumps([{"question": "Who?", "answer": "Ann"}])
    text = text if ".json." in name else text[1:-1]
    raw = text.encode()
    path.write_bytes(gzip.compress(raw, mtime=0) if name.endswith(".gz") else raw)
    (question,) = records.read_questions(path)
    assert (question.subset, question.hops) == (subset, 1 if subset == "nq" else 2)


# Panels.


def panel(split, **options):
    return searchqa.make_panel(split, base.EnvConfig(options=options))


def test_search_r1s_rows_stay_in_their_splits(tmp_path, corpus):
    rows = [
        {
            "id": f"{split}_{n}",
            "question": f"{split} question {n}",
            "answer": "Ann",
            "extra_info": {"split": split},
        }
        for n in range(40)
        for split in ("train", "test")
    ]
    path = write_lines(tmp_path / "both.jsonl", rows)
    for split in ("train", "test"):
        found = panel(split, corpus=corpus, questions=str(path)).item_ids
        assert len(found) == 40
        assert {rows[int(i[9:])]["extra_info"]["split"] for i in found} == {split}


def test_one_file_for_each_split_counts_the_test_questions_first(tmp_path, corpus):
    for split, count in (("train", 5), ("test", 3)):
        rows = [{"question": f"{split} {n}", "answer": "Ann"} for n in range(count)]
        write_lines(tmp_path / f"{split}.jsonl", rows)
    options = {
        "train_questions": str(tmp_path / "train.jsonl"),
        "test_questions": str(tmp_path / "test.jsonl"),
        "corpus": corpus,
    }
    assert panel("test", **options).item_ids == tuple(f"searchqa_{k}" for k in range(3))
    train = panel("train", **options)
    assert train.item_ids == tuple(f"searchqa_{k}" for k in range(3, 8))
    env = registry.make("searchqa", base.EnvConfig(options=options))
    assert env.reset("searchqa_2") == "Question: test 2"
    assert env.reset("searchqa_3") == "Question: train 0"
    assert "test" in train.version and "train" in train.version


def test_no_training_task_is_a_test_question(tmp_path, corpus):
    test = [{"question": f"Who is the number {n}?", "answer": "Ann"} for n in range(9)]
    train = [{"question": f"who is number {n}", "answer": "Ann"} for n in range(20)]
    options = {
        "train_questions": str(write_lines(tmp_path / "a.jsonl", train)),
        "test_questions": str(write_lines(tmp_path / "b.jsonl", test)),
        "corpus": corpus,
    }
    assert len(panel("test", **options).item_ids) == 9
    assert len(panel("train", **options).item_ids) == 11


def test_several_files_are_read_one_after_the_other(tmp_path, corpus):
    paths = [
        write_lines(tmp_path / f"{name}.jsonl", [{"question": name, "answer": "Ann"}])
        for name in ("nq", "bamboogle")
    ]
    options = {
        "test_questions": ",".join(map(str, paths)),
        "train_questions": str(
            write_lines(tmp_path / "t.jsonl", [{"question": "t", "answer": "Ann"}])
        ),
        "corpus": corpus,
    }
    config = base.EnvConfig(options=options)
    subsets = [
        searchqa.find_subset(i, config) for i in panel("test", **options).item_ids
    ]
    assert subsets == ["nq", "bamboogle"]
    assert searchqa.find_tier("searchqa_1", config) == "hard"


def test_options_that_contradict_each_other_are_refused(tmp_path, corpus):
    path = str(write_lines(tmp_path / "a.jsonl", [{"question": "t", "answer": "Ann"}]))
    for options, message in (
        ({"questions": path, "test_questions": path}, "the one or the others"),
        ({"corpus": corpus, "retriever": "http://localhost:1"}, "give one of them"),
        ({"corpus": f"{corpus},{corpus}"}, "names 2 files"),
        ({"retriever": "localhost"}, "must look like http://"),
        ({"retriever_timeout_s": 0}, "above 0"),
        ({"retriever_retries": 1.5}, "from 0 to 10"),
    ):
        with pytest.raises(base.EnvConfigError, match=message):
            registry.make("searchqa", base.EnvConfig(options=options))


# Corpora.

CONTENTS = [{"id": i, "contents": f'"{t}"\n{text}'} for i, t, text in PASSAGES]
TITLED = [{"id": i, "title": t, "text": text} for i, t, text in PASSAGES]
TSV = (
    "id\ttext\ttitle\n"
    f'm\t"{PASSAGES[0][2]}"\tMoon\n'
    'e\t"The ""third"" planet from the Sun."\tEarth\n'
)


def lines_of(items):
    return "".join(json.dumps(item) + "\n" for item in items)


@pytest.mark.parametrize(
    "name, text",
    [
        ("c.jsonl", lines_of(CONTENTS)),
        ("c.jsonl", "\ufeff" + lines_of(CONTENTS).replace("\n", "\r\n")),
        ("c.jsonl.gz", lines_of(CONTENTS)),
        ("c.jsonl", lines_of(TITLED)),
        ("c.jsonl", lines_of(TITLED).replace('"id"', '"_id"')),
        ("c.tsv", TSV),
        ("c.tsv.gz", "\ufeff" + TSV),
        ("c.tsv", TSV.partition("\n")[2]),
    ],
)
def test_corpora_come_in_several_forms(tmp_path, name, text):
    raw = text.encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(raw, mtime=0) if name.endswith(".gz") else raw)
    found = [(p.id, p.plain_title, p.text) for p in passage_files.read_passages(path)]
    assert found == PASSAGES


TRUNCATED = gzip.compress(b"x" * 999, mtime=0)[:-12]  # the same in each process


@pytest.mark.parametrize(
    "name, raw, message",
    [
        ("c.tsv", b"id\ttext\ttitle\nm\ttext\n", "c.tsv:2: 2 columns"),
        ("c.jsonl.gz", b"not compressed", "cannot read .*c.jsonl.gz"),
        (
            "c.jsonl.gz",
            gzip.compress(b"x" * 999, mtime=0)[:-12],
            "cannot read .*c.jsonl.gz",
        ),
        ("c.jsonl", b'{"id": 1, "title": "t"}', "c.jsonl:1: expected"),
    ],
)
def test_damaged_corpora_are_told(tmp_path, name, raw, message):
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(base.MissingDataError, match=message):
        list(passage_files.read_passages(tmp_path / name))


def search(profile, path, questions):
    options = {"corpus": str(path), "questions": str(questions)}
    dataset._load.cache_clear()
    env = registry.make("searchqa", base.EnvConfig(profile, options=options))
    env.reset("searchqa_0")
    return env.step("<search>natural satellite</search>").observation


def test_titles_keep_their_quotation_marks_in_agentgym(tmp_path, corpus):
    quiz = write_lines(tmp_path / "q.jsonl", [{"question": "Who?", "answer": "Ann"}])
    assert 'Doc 1(Title: "Moon") The Moon is' in search("agentgym", corpus, quiz)
    assert "Doc 1(Title: Moon) The Moon is" in search("strict", corpus, quiz)


def test_an_index_belongs_to_the_content_of_a_corpus(tmp_path, corpus):
    quiz = write_lines(tmp_path / "q.jsonl", [{"question": "Who?", "answer": "Ann"}])
    path = pathlib.Path(corpus)

    def list_indexes():
        return {
            p.name
            for p in filecache.get_folder().glob("searchqa-*-index*")
            if p.is_dir()
        }

    search("strict", path, quiz)
    (first,) = list_indexes()
    os.utime(path, (1, 1))  # another time of change, the same content
    search("strict", path, quiz)
    assert list_indexes() == {first}

    stat = path.stat()
    path.write_text(path.read_text().replace("only", "sole"))
    os.utime(
        path, (stat.st_atime, stat.st_mtime)
    )  # the other way round: same time, size
    other = path.with_name("copy") / path.name  # the same name, size and time elsewhere
    other.parent.mkdir()
    other.write_text(path.read_text())
    os.utime(other, (stat.st_atime, stat.st_mtime))
    assert "sole natural satellite" in search("strict", other, quiz)
    assert len(list_indexes()) == 2
