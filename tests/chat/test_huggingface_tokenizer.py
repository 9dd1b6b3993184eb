import json

import chat_families
import hypothesis
import hypothesis.strategies as st
import pytest

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
    made.backend_tokenizer.enable_padding(length=50)
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
