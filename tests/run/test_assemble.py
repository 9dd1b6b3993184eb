import dataclasses
import json
import pathlib
import types

import fake_run
import pytest
import recall_env

from agentrl import config, errors
from agentrl.chat import renderer, tokenizer
from agentrl.envs import base, registry
from agentrl.run import assemble

HERE = pathlib.Path(__file__).parent
BYTES = tokenizer.ByteTokenizer()


@pytest.fixture
def settings(monkeypatch):
    """A run on the recall game whose policy is shown two examples."""
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setitem(registry._MODULES, "recall", "recall_env")
    monkeypatch.setenv("AGENTRL_ENVS", "recall=recall_env")
    registry.get_spec.cache_clear()
    yield dataclasses.replace(
        fake_run.make_settings(),
        environments={"recall": base.EnvConfig()},
        tokenizer=config.TokenizerConfig(kind="bytes", few_shot=2),
    )
    registry.get_spec.cache_clear()


@pytest.fixture
def envs(settings):
    with assemble.open_pool(settings) as envs:
        yield envs


def test_examples_are_solved_training_tasks_and_one_to_spare(settings, envs):
    examples = assemble.choose_few_shot_examples(settings, envs)["recall"]
    assert len({item_id for item_id, _ in examples}) == 3
    for item_id, exchanges in examples:
        assert item_id in recall_env.panel("train", base.EnvConfig()).item_ids
        letter = recall_env.LETTERS[int(item_id.split("_")[1]) % 8]
        assert [observation for observation, _ in exchanges] == [
            f"letter {letter}.",
            "which?",
        ]
        assert all(answer.endswith(letter) for _, answer in exchanges)
    assert examples == assemble.choose_few_shot_examples(settings, envs)["recall"]


def test_an_engine_compiles_with_the_parameters_that_are_held():
    compiled = []
    made = types.SimpleNamespace(
        num_turns=1, compile=lambda params, *_: compiled.append(params)
    )
    run = types.SimpleNamespace(
        _engines={},
        make_engine=lambda settings: made,
        rollout_params=lambda zeros: "made for it",
        parameters=types.SimpleNamespace(zeros=lambda: None),
        key=None,
        pool=None,
        chat=None,
    )
    first = config.RolloutConfig()
    assemble.Run.collector(run, first, "held")
    assemble.Run.collector(run, first)  # is compiled already
    assert compiled == ["held"]
    assemble.Run.collector(run, dataclasses.replace(first, num_slots=8))
    assert compiled == ["held", "made for it"]


def test_no_examples_unless_asked_for(settings, envs):
    none = dataclasses.replace(settings, tokenizer=config.TokenizerConfig())
    assert assemble.choose_few_shot_examples(none, envs) == {}


def test_too_few_solved_tasks_are_refused(settings, envs):
    many = dataclasses.replace(settings.tokenizer, few_shot=16)  # of 16 tasks
    settings = dataclasses.replace(settings, tokenizer=many)
    with pytest.raises(
        errors.ConfigError, match=r"few_shot = 16 needs 17 .* solves only 16"
    ):
        assemble.choose_few_shot_examples(settings, envs)


def test_conversations_of_a_run_must_stay_the_same(tmp_path, capsys):
    framed = renderer.Chat(BYTES, "plain")
    assemble.check_or_write_chat_json(framed, tmp_path)
    stored = json.loads((tmp_path / "chat.json").read_text())
    assert stored["frame"] == "plain" and stored["digest"]
    assemble.check_or_write_chat_json(framed, tmp_path)
    with pytest.raises(errors.ConfigError, match=f"digest {stored['digest']}"):
        assemble.check_or_write_chat_json(renderer.Chat(BYTES, "agentgym"), tmp_path)
    assert capsys.readouterr().out == ""


def test_prompts_of_a_user_reach_conversations_through_the_workers(settings, tmp_path):
    rules = tmp_path / "rules.txt"
    options = {"instruction": f"@{rules}", "acknowledgement": "Will do."}
    settings = dataclasses.replace(
        settings,
        environments={"recall": base.EnvConfig(options=options)},
        tokenizer=config.TokenizerConfig(kind="bytes", frame="agentgym"),
    )

    def make_chat(text):
        rules.write_text(text)
        with assemble.open_pool(settings) as envs:
            return assemble.make_chat(settings, tmp_path, envs)

    first = make_chat("Repeat the letter.")
    messages = first.episode("any", [("letter a.", "")], "recall_0")
    assert messages[1] == renderer.Message("assistant", "Will do.")
    assemble.check_or_write_chat_json(first, tmp_path)
    stored = json.loads((tmp_path / "chat.json").read_text())
    assert stored["acknowledgements"] == {"recall": "Will do."}
    assert stored["given_instructions"] == {"recall": "Repeat the letter."}
    assemble.check_or_write_chat_json(make_chat("Repeat the letter."), tmp_path)
    with pytest.raises(errors.ConfigError, match="the policy would see other tokens"):
        assemble.check_or_write_chat_json(make_chat("Forget it."), tmp_path)


def test_an_environment_that_comes_later_changes_no_conversations_before(tmp_path):
    examples = {env: [(f"{env}_0", [("look", env)])] for env in ("first", "second")}

    def check(*names):
        shown = {env: examples[env] for env in names}
        chat = renderer.Chat(BYTES, "plain", few_shot=1, examples=shown)
        assemble.check_or_write_chat_json(chat, tmp_path, names)

    check("first")
    check("first", "second")
    stored = json.loads((tmp_path / "chat.json").read_text())
    assert stored["environments"] == list(stored["few_shot"]) == ["first", "second"]
    check("first", "second")
    examples["second"] = [("second_0", [("look", "elsewhere")])]
    with pytest.raises(errors.ConfigError, match="the policy would see other tokens"):
        check("first", "second")


def test_differences_from_the_template_are_printed_once(tmp_path, capsys):
    class Stripping(tokenizer.ByteTokenizer):
        delimiters = dataclasses.replace(
            BYTES.delimiters, exceptions={"whitespace": "it strips messages."}
        )

    framed = renderer.Chat(Stripping(), "plain")
    assemble.check_or_write_chat_json(framed, tmp_path)
    assert capsys.readouterr().out == "Chat template, whitespace: it strips messages.\n"
    assemble.check_or_write_chat_json(framed, tmp_path)
    assert capsys.readouterr().out == ""
    stored = json.loads((tmp_path / "chat.json").read_text())
    assert stored["template_exceptions"] == {"whitespace": "it strips messages."}


def test_a_tokenizer_larger_than_the_embedding_is_refused(settings, tmp_path):
    model = dataclasses.replace(settings.model, vocab_size=257)
    settings = dataclasses.replace(settings, model=model)
    with (
        pytest.raises(errors.ConfigError, match=r"258 ids but model\.vocab_size = 257"),
        assemble.assemble(settings, tmp_path),
    ):
        pass
