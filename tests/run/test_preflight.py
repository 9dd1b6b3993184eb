"""Mistakes in any stage are found before anything is written."""

import dataclasses
import json

import fake_run
import pytest
import recall_env

from agentrl import config, errors, preflight, session
from agentrl.chat import renderer, tokenizer
from agentrl.envs import base, pool, registry, tasks
from agentrl.experiment import fields, files
from agentrl.experiments.demo import demo

clear_specs = registry.get_spec.cache_clear  # a test may replace the function itself


@pytest.fixture
def settings(monkeypatch):
    """Three stages on the recall game, the last of which differs in single tests."""
    monkeypatch.setitem(registry._MODULES, "recall", "recall_env")
    monkeypatch.setenv("AGENTRL_ENVS", "recall=recall_env")  # of workers
    clear_specs()
    mixture = config.MixtureConfig(environments=(("recall", 1.0),))
    fake = fake_run.make_settings()
    yield dataclasses.replace(
        fake,
        environments={"recall": base.EnvConfig()},
        tokenizer=config.TokenizerConfig(kind="bytes"),
        learner=config.LearnerConfig(rows_per_microbatch=8),
        stages=tuple(dataclasses.replace(s, mixture=mixture) for s in fake.stages),
    )
    clear_specs()


def change_last_stage(settings, **fields):
    *stages, last = settings.stages
    return dataclasses.replace(
        settings, stages=(*stages, dataclasses.replace(last, **fields))
    )


def refuse(settings, workdir, message, error=errors.ConfigError):
    with pytest.raises(error, match=message):
        preflight.check(settings, workdir)
    assert not workdir.exists()


def test_a_good_run_passes_and_nothing_is_written(settings, tmp_path):
    found = preflight.check(settings, tmp_path / "run")
    assert found.notes == [] and found.chat.frame == "bare"
    assert list(found.demonstrations) == ["warm"] and found.demonstrations["warm"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"split": "tset"}, "no split 'tset'. Did you mean 'test'"),
        ({"subsets": ("recall/al",)}, "no subset 'al'. Did you mean 'all'"),
        ({"tier": "hard"}, "no task is left"),
        (
            {"tier": "hard", "tier_file": "/nowhere"},
            "cannot read the task file /nowhere",
        ),
        ({"item_file": ("/nowhere",)}, "cannot read the task file /nowhere"),
    ],
)
@pytest.mark.parametrize("where", ["stage", "evaluation"])
def test_a_mistake_in_a_panel_is_found(settings, tmp_path, fields, message, where):
    if where == "stage":
        last = settings.stages[-1]
        mixture = dataclasses.replace(last.mixture, **fields)
        settings = change_last_stage(settings, mixture=mixture)
    else:
        evaluation = dataclasses.replace(settings.evaluation, **fields)
        settings = dataclasses.replace(settings, evaluation=evaluation)
    refuse(settings, tmp_path / "run", message, tasks.TaskSelectionError)


def test_names_and_files_of_selections_are_checked_without_loading_tasks(
    settings, tmp_path, monkeypatch
):
    spec = registry.get_spec("recall")
    loaded = dataclasses.replace(spec, panel=lambda *_: pytest.fail("loads tasks"))
    monkeypatch.setattr(recall_env, "SPEC", loaded)
    registry.get_spec.cache_clear()
    twice = tmp_path / "ids"
    twice.write_text("recall_1\nrecall_1\n")
    preflight.check_selections(settings)
    mixture = dataclasses.replace(settings.stages[-1].mixture, item_file=str(twice))
    with pytest.raises(errors.ConfigError, match=r"stage .both.: ids .*more than once"):
        preflight.check_selections(change_last_stage(settings, mixture=mixture))
    evaluation = dataclasses.replace(settings.evaluation, item_file=("/nowhere",))
    with pytest.raises(errors.ConfigError, match="evaluation: cannot read"):
        preflight.check_selections(dataclasses.replace(settings, evaluation=evaluation))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "train_sentencepiece"}, r"kind = 'train_sentencepiece'.*'bytes'"),
        ({"kind": "bytes", "few_shot": 2}, r"few_shot = 2 .*'recall' has none; give 0"),
        (
            {"kind": "bytes"},
            r"'warm': a warm start.*conversations=FILE",
        ),
    ],
)
def test_what_needs_an_oracle_says_so(settings, monkeypatch, fields, message):
    preflight.check_oracles(settings)
    bare = dataclasses.replace(registry.get_spec("recall"), oracles={})
    monkeypatch.setattr(recall_env, "SPEC", bare)
    clear_specs()
    settings = dataclasses.replace(settings, tokenizer=config.TokenizerConfig(**fields))
    with pytest.raises(errors.ConfigError, match=message):
        preflight.check_oracles(settings)


def test_a_list_of_subsets_may_serve_stages_on_other_environments():
    settings = demo.get_config()
    preflight.check_selections(settings)
    evaluation = dataclasses.replace(settings.evaluation, subsets=("alfworld/easy",))
    with pytest.raises(errors.ConfigError, match="'alfworld', which is not played"):
        preflight.check_selections(dataclasses.replace(settings, evaluation=evaluation))


def test_a_run_takes_its_tasks_from_lists_of_ids(settings, tmp_path):
    ids = tmp_path / "ids.json"
    ids.write_text('["recall_3", "recall_5"]')
    stored = files.to_json(settings)
    for part in (stored["stages"][-1]["mixture"], stored["evaluation"]):
        part["item_file"] = [str(ids)]  # as JSON stores a tuple
    listed = files.from_json(stored)
    for override in ("stages.both.mixture", "evaluation"):
        settings = fields.override(settings, f"{override}.item_file=('{ids}',)")
    assert listed == settings
    (panel,) = (
        panel for _, _, panel in preflight._panels_of(listed, listed.stages[-1])
    )
    assert panel.item_ids == ("recall_3", "recall_5")
    assert preflight.check(listed, tmp_path / "run").notes == []


def test_tasks_without_room_for_an_action_are_refused(settings, tmp_path):
    # "letter a." and the marker that opens the answer are 10 tokens.
    room = dataclasses.replace(settings.stages[-1].rollout, max_tokens=10)
    refuse(
        change_last_stage(settings, rollout=room),
        tmp_path / "run",
        r"stage 'both': 16 of 16 tasks of 'recall' .* = 10; recall_0 needs 11 tokens",
    )
    # With the first action, of 10 tokens.
    room = dataclasses.replace(room, max_tokens=19)
    refuse(
        change_last_stage(settings, rollout=room),
        tmp_path / "run",
        r"stage 'both': 16 of 16 demonstrations of 'recall' .*max_tokens = 19, and no "
        r"answer of any; the shortest needs 20 tokens. Raise rollout.max_tokens",
    )
    # With both actions and "which?" with its marker, 37 tokens: one action may score, too.
    for limit, num_notes in ((36, 1), (37, 0)):
        room = dataclasses.replace(room, max_tokens=limit)
        changed = change_last_stage(settings, rollout=room)
        notes = preflight.check(changed, tmp_path).notes
        assert len(notes) == num_notes
        assert all("16 of 16 demonstrations" in n and "37 tokens" in n for n in notes)


def test_actions_that_no_answer_fits_into_are_refused(settings, tmp_path):
    short = dataclasses.replace(settings.stages[-1].rollout, max_action_tokens=9)
    refuse(
        change_last_stage(settings, rollout=short),
        tmp_path / "run",
        r"stage 'both': 16 of 16 demonstrations of 'recall' .*max_action_tokens = 9, and "
        r"no answer of any; the shortest needs 10 tokens. Raise rollout.max_action_tokens",
    )


def make_played(lengths):
    return [
        fake_run.make_trajectory(actions=("Action:\n" + "x" * (length - 8),))
        for length in lengths
    ]


@pytest.mark.parametrize(
    ("limit", "cut", "notes"), [(19, "end", 1), (20, "end", 0), (19, "play", 0)]
)
def test_some_answers_that_do_not_fit_are_noted(limit, cut, notes):
    rollout = config.RolloutConfig(max_action_tokens=limit, cut_actions=cut)
    found = preflight.check_answers(
        "stage 'a'", rollout, "craft", make_played([20, 10])
    )
    assert len(found) == notes
    for note in found:
        assert "stage 'a': 1 of 2 demonstrations of 'craft'" in note
        assert "they need up to 20 tokens" in note


def test_without_demonstrations_nothing_is_said_of_answers():
    rollout = config.RolloutConfig(max_action_tokens=1)
    assert preflight.check_answers("stage 'a'", rollout, "craft", []) == []


def test_thoughts_count_where_all_that_was_learned_has_them(settings):
    warm = settings.stages[0]

    def changed(**fields):
        algorithm = dataclasses.replace(config.Supervised(), **fields)
        return dataclasses.replace(warm, algorithm=algorithm)

    terse, stored = changed(thoughts=False), changed(conversations="file.jsonl")
    assert preflight._thinks([warm], "recall")
    for learned in ([], [stored], [warm, terse], settings.stages[1:]):
        assert not preflight._thinks(learned, "recall")
    assert not preflight._thinks([warm], "craft")


class LongPool:
    """Task k begins with k bytes; task 3 cannot be started."""

    def send_reset(self, sent):
        self.sent = sent

    def receive(self, slots):
        replies = {}
        for slot in slots:
            k = int(self.sent[slot].rpartition("_")[2])
            result = base.StepResult("x" * k) if k != 3 else None
            replies[slot] = pool.Reply(slot, "", result, None if result else "broken")
        return replies


def test_some_tasks_without_room_are_named():
    ids = tuple(f"recall_{k}" for k in range(10))
    notes = preflight.check_first_observations(
        "stage 'a'",
        config.RolloutConfig(max_tokens=8),  # k bytes, a marker, and an action
        base.TaskPanel("recall", "train", "recall-1", ids),
        chat=renderer.Chat(tokenizer.ByteTokenizer(), "bare"),
        environments=LongPool(),
    )
    (note,) = notes
    assert "stage 'a': 3 of 9 tasks of 'recall'" in note
    assert "recall_9 needs 11 tokens" in note


def test_demonstrations_that_do_not_fit_are_counted(settings, tmp_path, monkeypatch):
    monkeypatch.setitem(registry._MODULES, "recall", "rambling_env")
    monkeypatch.setenv("AGENTRL_ENVS", "recall=rambling_env")  # oracles play in workers
    clear_specs()
    first = settings.stages[0]
    algorithm = dataclasses.replace(first.algorithm, thoughts=True)
    first = dataclasses.replace(first, algorithm=algorithm)
    settings = dataclasses.replace(settings, stages=(first, *settings.stages[1:]))
    *later, note = preflight.check(settings, tmp_path).notes
    assert "stage 'both': 2 of 16 demonstrations of 'recall'" in later[-3]
    assert "stage 'warm': kept 14 of 16 demonstrations of 'recall'" in note


def test_an_environment_that_cannot_start_is_refused(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(
        preflight.pool.EnvPool,
        "receive",
        lambda self, slots, **_: {
            slot: preflight.pool.Reply(slot, error="the server is down")
            for slot in slots
        },
    )
    refuse(
        settings, tmp_path / "run", r"none of 16 tasks .* The last: the server is down"
    )


def test_a_dry_run_checks_what_a_run_checks(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    described = []
    monkeypatch.setattr(session, "check", described.append)  # of the numbers alone
    monkeypatch.setattr(session.preview, "describe", lambda *_, **__: "the run")
    monkeypatch.setattr(session.preview, "describe_compiled", lambda *_: ["memory"])
    assert session.describe(settings) == "the run\n\nmemory"
    short = dataclasses.replace(settings.stages[-1].rollout, max_action_tokens=9)
    with pytest.raises(errors.ConfigError, match="stage 'both': 16 of 16 demonstr"):
        session.describe(change_last_stage(settings, rollout=short))

    noted = preflight.Findings(None, ["a note"], {})
    monkeypatch.setattr(preflight, "check", lambda *_: noted)
    assert session.describe(settings) == "the run\n\nmemory\n\na note"
    assert len(described) == 3 and not list(tmp_path.iterdir())


def test_a_vocabulary_that_cannot_be_had_is_refused(settings, tmp_path):
    tokenizer = config.TokenizerConfig(vocab_size=5)
    settings = dataclasses.replace(settings, tokenizer=tokenizer)
    refuse(settings, tmp_path / "run", "tokenizer.vocab_size = 5 cannot be had")


def test_the_session_writes_nothing_for_a_run_that_is_refused(settings, tmp_path):
    settings = dataclasses.replace(settings, save_every=0)
    with pytest.raises(errors.ConfigError, match="save_every = 0"):
        session.train(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_damaged_evaluation_is_told_before_the_run_goes_on(settings, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"config": files.to_json(settings)}))
    fake_run.make_result("warm", 3, "recall", 0.5).save(tmp_path)
    assert session.find_changes(settings, tmp_path, ()) == []
    (path,) = (tmp_path / "evaluations").glob("*.json")
    path.write_text(path.read_text()[:50])
    with pytest.raises(errors.DamagedFileError, match=f"{path.name} is not the result"):
        session.find_changes(settings, tmp_path, ())


def test_what_is_trained_is_looked_for_before_anything_is_written(settings, tmp_path):
    settings = dataclasses.replace(settings, trainable=("nothing",))
    with pytest.raises(errors.ConfigError, match=r"'nothing'.*matches no parameter"):
        session.train(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_module_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setitem(registry._MODULES, "away", "no_such_module")
    with pytest.raises(base.EnvConfigError, match="no module 'no_such_module'"):
        registry.get_spec("away")


def test_a_folder_that_cannot_be_made_says_what_to_do(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(OSError, match=r"make room or mend the permissions.*file/run"),
        session.hold(tmp_path / "file" / "run"),
    ):
        pass
