import json

import chat_families
import hypothesis
import hypothesis.strategies as st
import pytest
import tokenizers as tokenizer_files

from agentrl import errors
from agentrl.chat import tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("qwen3")
    chat_families.make_family("qwen3").save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def loaded(folder):
    return tokenizer.load("huggingface", folder)


@hypothesis.given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_text_survives_the_round_trip(loaded, text):
    ids = loaded.encode(text)
    assert all(0 <= i < loaded.vocab_size for i in ids)
    assert loaded.decode(ids) == text


def test_special_tokens_are_not_read_from_text_but_added_words_are(loaded):
    ids = loaded.encode("<|im_end|><think>")
    assert loaded.stop_id not in ids
    assert ids[-1] == loaded.vocab_size - 2  # the first of two added words
    assert loaded.decode([loaded.start_id, *ids, loaded.stop_id]) == "<|im_end|><think>"


def test_markers_come_from_the_template(loaded):
    special = chat_families.make_family("qwen3").convert_tokens_to_ids
    assert loaded.start_id == special("<|im_start|>")
    assert loaded.stop_id == special("<|im_end|>")


def test_saved_tokenizer_loads(loaded, tmp_path):
    loaded.save(tmp_path)
    again = tokenizer.load("huggingface", tmp_path)
    assert again.encode("get 1 oak logs") == loaded.encode("get 1 oak logs")
    assert again.delimiters == loaded.delimiters


def test_padding_and_truncation_of_the_folder_are_left_out(tmp_path):
    made = chat_families.make_family("smollm2")
    made.backend_tokenizer.enable_truncation(3)
    made.backend_tokenizer.enable_padding(length=50, pad_token="<|endoftext|>")
    made.save_pretrained(tmp_path)
    text = "get 1 oak logs from the forest"
    loaded = tokenizer.load("huggingface", tmp_path)
    assert loaded.decode(loaded.encode(text)) == text


def test_tokenizer_larger_than_the_embedding_is_refused(folder, loaded, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"vocab_size": loaded.vocab_size - 1}))
    with pytest.raises(errors.ConfigError, match=r"380 ids.*vocab_size = 379"):
        tokenizer.load("huggingface", tmp_path)
    config.write_text(
        json.dumps({"vocab_size": 512})
    )  # padded, as published models are
    assert tokenizer.load("huggingface", tmp_path).vocab_size == 380


@pytest.mark.parametrize("file", ["chat_template.jinja", "tokenizer_config.json"])
def test_a_template_that_raises_is_named_by_its_file(tmp_path, file):
    made = chat_families.make_family("smollm2")
    made.chat_template = "{{ raise_exception('not today') }}"
    made.save_pretrained(tmp_path)
    if file == "tokenizer_config.json":  # where releases before kept it
        (tmp_path / "chat_template.jinja").unlink()
        fields = json.loads((tmp_path / file).read_text())
        fields["chat_template"] = made.chat_template
        (tmp_path / file).write_text(json.dumps(fields))
    with pytest.raises(
        errors.ConfigError, match=f"{tmp_path / file} raises.*not today"
    ):
        tokenizer.load("huggingface", tmp_path)


def test_folders_without_a_tokenizer_are_named(tmp_path):
    with pytest.raises(errors.ConfigError, match="holds no tokenizer"):
        tokenizer.load("huggingface", tmp_path)
    with pytest.raises(errors.ConfigError, match=r"no model .*absent"):
        tokenizer.load("huggingface", tmp_path / "absent")


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def copied(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


@pytest.mark.parametrize("name", ["Qwen2TokenizerFast", "LlamaTokenizerFast", None])
def test_ids_are_those_of_the_file_whatever_class_is_named(copied, loaded, name):
    # transformers 5 would build these classes with rules of their own.
    edit(copied / "tokenizer_config.json", tokenizer_class=name)
    (copied / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    file = tokenizer_files.Tokenizer.from_file(str(copied / "tokenizer.json"))
    for text in ("It's  e\u0301, 12 logs \n\n  \U0001f600", "don't   go\tnorth"):
        assert tokenizer.load("huggingface", copied).encode(text) == (
            file.encode(text, add_special_tokens=False).ids
        )


def test_files_that_change_the_ids_are_refused(copied):
    words = {"400": {"content": "north", "special": False}}
    edit(copied / "tokenizer_config.json", added_tokens_decoder=words)
    with pytest.raises(errors.ConfigError, match=r"'north' with id .* in one"):
        tokenizer.load("huggingface", copied)


def test_code_that_comes_with_a_folder_is_neither_run_nor_asked_about(
    copied, monkeypatch
):
    (copied / "evil.py").write_text("raise SystemExit('ran')")
    code = {"AutoTokenizer": [None, "evil.Evil"]}
    edit(copied / "tokenizer_config.json", auto_map=code, tokenizer_class="Evil")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on stdin"))
    assert tokenizer.load("huggingface", copied).encode("go")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, ["<|im_end|>"]),
        ({"config.json": 0}, ["<|im_end|>", 0]),
        ({"generation_config.json": [2, 0], "config.json": 5}, ["<|im_end|>", 2, 0]),
    ],
)
def test_all_tokens_that_end_an_answer_of_the_model_end_it(copied, files, expected):
    for name, ids in files.items():
        (copied / name).write_text(json.dumps({"eos_token_id": ids}))
    names = chat_families.make_family("qwen3").convert_tokens_to_ids
    ids = [names(e) if isinstance(e, str) else e for e in expected]
    assert tokenizer.load("huggingface", copied).stop_ids == tuple(dict.fromkeys(ids))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("generation_config.json", '{"eos_token_id": 151645}', "no token 151645"),
        ("generation_config.json", '{"eos_token_id": ["x"]}', "no token 'x'"),
        ("generation_config.json", "{", "generation_config.json cannot be read"),
        ("config.json", "[]", "config.json cannot be read .*holds a list"),
        ("tokenizer.json", "{", "no tokenizer that transformers can read"),
        ("tokenizer_config.json", "{", "no tokenizer that transformers can read"),
    ],
)
def test_damaged_files_are_named(copied, name, text, message):
    (copied / name).write_text(text)
    with pytest.raises(errors.ConfigError, match=message) as error:
        tokenizer.load("huggingface", copied)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{% for i in range(10**9) %}{% endfor %}", "OverflowError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}"
            "{% endfor %}",
            "seconds of computation",
        ),
        pytest.param(
            "{{ 2 ** (2 ** 40) }}",
            "stopped while it rendered|MemoryError",
            marks=pytest.mark.slow,
        ),
        ("{{ 'a' * 2 ** 34 }}", "fills 4 GiB"),
        ("{{ 'a'.ljust(2 ** 34) }}", "fills 4 GiB"),
    ],
)
def test_templates_that_do_damage_are_refused_in_one_line(copied, template, message):
    (copied / "chat_template.jinja").write_text(template)
    with pytest.raises(errors.ConfigError, match=message) as error:
        tokenizer.load("huggingface", copied)
    assert "\n" not in str(error.value)
