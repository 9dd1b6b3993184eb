"""Evaluations in environments that break: what is lost is no failure of the policy.

The episodes are played in real workers; only the answers are scripted, and win always.
"""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import types as pytypes

import fake_run
import jax
import numpy as np
import pytest

from agentrl import actor, config, errors, loop, types
from agentrl.envs import base, pool, random_policy, registry, tasks
from agentrl.evaluation import calibrate, chance, evaluator
from agentrl.reporting import tables, tiers
from agentrl.run import assemble
from agentrl.statistics import results, summaries
from agentrl.transcripts import episodes

HERE = pathlib.Path(__file__).parents[1]
SAMPLES = 2


@pytest.fixture(scope="module", autouse=True)
def shaky():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        patch.setitem(registry._MODULES, "shaky", "shaky_env")
        patch.setenv("AGENTRL_ENVS", "shaky=shaky_env")
        registry.get_spec.cache_clear()
        yield
    registry.get_spec.cache_clear()


class Collector:
    """Plays as `rollout.Collector` does, with one answer for everything."""

    def __init__(self, envs):
        self.envs = envs
        self.calls = []  # {(item, sample): stream} of each

    def collect(self, params, tasks, *, key, policy_step, streams):
        names = [(task.item_id, task.sample) for task in tasks]
        self.calls.append(dict(zip(names, streams, strict=True)))
        slots = {slot: task.item_id for slot, task in enumerate(tasks)}
        self.envs.send_reset(slots)
        replies = self.envs.receive(list(slots))
        started = [slot for slot, reply in replies.items() if reply.result is not None]
        self.envs.send_step(dict.fromkeys(started, "Action: win"))
        replies |= self.envs.receive(started)
        return [
            self.to_trajectory(task, replies[slot], policy_step)
            for slot, task in enumerate(tasks)
        ], None

    def to_trajectory(self, task, reply, policy_step):
        ending, info = types.Ending.SOLVED, base.StepInfo()
        if reply.result is None:
            late = reply.timed_out
            ending = types.Ending.ENV_TIMEOUT if late else types.Ending.ENV_ERROR
        else:
            info = reply.result.info
        tokens = np.zeros(3, np.int32)
        turn = types.Turn(tokens, tokens, np.zeros(3, np.float32), "", "win", 1.0, True)
        return types.Trajectory(
            task=task,
            turns=(turn,),
            ending=ending,
            policy_step=policy_step,
            success=info.success,
            score=info.score,
            error=reply.error or "",
        )


@contextlib.contextmanager
def open_run(max_fraction=0.1, timeout_s=60.0, num_workers=2, **options):
    """A run on the shaky environment; numbers of test tasks start at 100."""
    env = base.EnvConfig(options=options)
    settings = dataclasses.replace(
        fake_run.make_settings(),
        environments={"shaky": env},
        max_env_error_fraction=max_fraction,
        evaluation=config.EvaluationConfig(samples=SAMPLES, random_policy=False),
    )
    with pool.EnvPool(
        {"shaky": env}, num_workers=num_workers, call_timeout_s=timeout_s
    ) as envs:
        collector = Collector(envs)

        def panel(name, split, **chosen):
            return tasks.select_tasks(name, split, env, **chosen)

        yield pytypes.SimpleNamespace(
            config=settings,
            environments=("shaky",),
            key=jax.random.key(0),
            panel=panel,
            pool=envs,
            chat=pytypes.SimpleNamespace(
                tokenizer=pytypes.SimpleNamespace(decode=lambda tokens: "")
            ),
            rollout_params=lambda params: params,
            scripted=collector,
            collector=lambda settings, params=None: collector,
        )


def run_evaluation(run, workdir, **changes):
    (result,) = evaluator.evaluate(
        run,
        None,
        dataclasses.replace(run.config.evaluation, **changes),
        stage="warm",
        after_iteration=8,
        step=3,
        workdir=workdir,
    )
    return result


def test_what_a_stage_achieved_before_it_grew_stays(tmp_path):
    with open_run() as run:
        before = run_evaluation(run, tmp_path, tasks=10)
        run_evaluation(run, tmp_path, tasks=10)  # the same policy again
        grown = dataclasses.replace(before, after_iteration=12, step=5)
        settings = dataclasses.replace(run.config.evaluation, tasks=10)
        (after,) = evaluator.evaluate(
            run, None, settings, stage="warm", after_iteration=12, step=5,
            workdir=tmp_path,
        )  # fmt: skip
    assert after == grown
    kept = dataclasses.replace(before, stage="warm@8")
    assert results.load_all(tmp_path) == [kept, grown]
    names = [path.name for path in sorted((tmp_path / "episodes").iterdir())]
    assert names == ["evaluation.warm.shaky.jsonl", "evaluation.warm@8.shaky.jsonl"]
    table = tables.format_table([kept, grown])
    assert "warm@8" in table


def test_a_panel_is_played_at_random_once_and_shown_beside_the_policy(
    tmp_path, monkeypatch
):
    played = []
    monkeypatch.setattr(
        random_policy,
        "play",
        lambda envs, ids, k: (
            played.append(k)
            or [random_policy.Outcome(i % 4 == 0, 0.5, 1) for i in range(len(ids) * k)]
        ),
    )
    with open_run() as run:
        for _ in range(2):
            result = run_evaluation(run, tmp_path, tasks=10, random_policy=True)
    assert played == [SAMPLES]

    by_chance = results.load_random(tmp_path)
    (stored,) = by_chance.values()
    assert stored.item_ids == result.item_ids and stored.mean == 0.25
    assert results.load_all(tmp_path) == [result]  # no stage of the run
    halves = tuple((0.5,) * SAMPLES for _ in result.item_ids)
    result = dataclasses.replace(result, score=halves)
    table = tables.format_table([result], by_chance)
    success, score = (
        next(line for line in part.splitlines() if line.strip().startswith("random"))
        for part in table.split("avg@2 of the score")
    )
    assert "25.0  [" in success and "50.0" in score

    none = dict.fromkeys(by_chance)
    assert "no random policy" in tables.format_table([result], none)
    assert "random" not in tables.format_table([result])


def test_a_large_panel_is_played_at_random_with_fewer_samples(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        random_policy, "play", lambda envs, ids, k: asked.append((len(ids), k))
    )
    settings = config.EvaluationConfig(samples=8)
    for size in (100, 500, 5000):
        ids = tuple(f"shaky_{i}" for i in range(size))
        panel = base.TaskPanel("shaky", "test", "shaky-1", ids)
        chance.measure(None, panel, settings, tmp_path)
    assert asked == [(100, 8), (500, 4), (5000, 1)]


def test_a_list_of_ids_takes_the_place_of_the_panel_and_is_named_with_its_digest(
    tmp_path,
):
    ids = ["shaky_150", "shaky_7", "textcraft_3"]
    path, more = tmp_path / "ids.json", tmp_path / "more.txt"
    path.write_text(json.dumps([{"item_id": item_id} for item_id in ids]))
    more.write_text("shaky_101\n")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    with open_run() as run:
        result = run_evaluation(run, tmp_path, item_file=(str(path), str(more)))
    assert result.item_ids == ("shaky_150", "shaky_7", "shaky_101")
    assert f"ids of ids.json {digest} and more.txt " in result.panel_version
    assert f"ids.json {digest}" in tables.format_table([result])


def test_an_evaluation_may_have_a_turn_limit_and_a_list_of_actions_of_its_own(
    tmp_path, monkeypatch
):
    opened = []

    @contextlib.contextmanager
    def open_pool(settings):
        opened.append(settings.environments["shaky"])
        yield run.pool

    monkeypatch.setattr(assemble, "open_pool", open_pool)
    with open_run() as run:
        fields = {"config", "pool", "chat", "key", "environments", "scripted"}
        run = RunLike(**{k: v for k, v in vars(run).items() if k in fields})
        usual = run_evaluation(run, tmp_path, tasks=4)
        assert not opened
        other = run_evaluation(
            run, tmp_path, tasks=4, max_turns=1, list_actions="always"
        )
        noisy = {"irrelevant_text": 1.0}
        noised = run_evaluation(run, tmp_path / "noisy", tasks=4, env_options=noisy)
    assert opened == [
        base.EnvConfig(max_turns=1, list_actions="always"),
        base.EnvConfig(options=noisy),
    ]
    assert noised.panel_version == f"{usual.panel_version}, irrelevant_text 1.0"
    assert other.item_ids == usual.item_ids
    assert other.panel_version == (
        f"{usual.panel_version}, max_turns 1, list_actions always"
    )
    assert other.panel_digest != usual.panel_digest
    (path,) = episodes.paths(tmp_path)
    kept = list(episodes.read(path))
    assert kept[-1].config["max_turns"] == 1
    assert kept[-1].config["list_actions"] == "always"


def test_each_environment_is_evaluated_in_room_of_its_own(tmp_path):
    wide = config.RolloutConfig(max_tokens=2048, cache_buckets=(2048,))
    asked = []
    with open_run() as run:
        run.collector = lambda settings, params=None: (
            asked.append(settings) or run.scripted
        )
        run_evaluation(run, tmp_path, tasks=2)
        run_evaluation(run, tmp_path, tasks=2, rollouts={"shaky": wide, "b": wide})
    assert [rollout.max_tokens for rollout in asked] == [1024, 2048]


def test_a_calibration_plays_a_list_of_ids_in_place_of_splits(tmp_path):
    ids, out = tmp_path / "ids.txt", tmp_path / "tiers.jsonl"
    ids.write_text("shaky_5\nshaky_105\nbabyai_1\n")
    with open_run() as run:
        list(
            calibrate.calibrate(
                run,
                None,
                types.Progress(stage_name="warm"),
                3,
                env="shaky",
                out=out,
                splits=["train", "test"],
                item_file=(str(ids),),
                limit=None,
                samples=SAMPLES,
                threshold=0.5,
            )
        )
    lines = list(map(json.loads, out.read_text().splitlines()))
    assert [line["item_id"] for line in lines] == ["shaky_5", "shaky_105"]


@dataclasses.dataclass
class RunLike:
    """The parts of a run that an evaluation uses."""

    config: config.RunConfig
    pool: pool.EnvPool
    chat: object
    key: jax.Array
    environments: tuple[str, ...]
    scripted: Collector

    def panel(self, name, split, **chosen):
        return tasks.select_tasks(name, split, self.config.environments[name], **chosen)

    def rollout_params(self, params):
        return params

    def collector(self, settings, params):
        return self.scripted


def numbers(count):
    return ",".join(str(100 + index) for index in range(count))


@pytest.mark.parametrize("num_broken", [0, 1, 20])
def test_what_environments_lose_counts_as_lost_and_as_nothing_else(
    tmp_path, num_broken
):
    fake_run.write_run(tmp_path)
    for path in (tmp_path / results.FOLDER).iterdir():
        path.unlink()
    with open_run(0.25, broken=numbers(num_broken)) as run:
        result = run_evaluation(run, tmp_path)

    expected = (SAMPLES,) * num_broken + (0,) * (100 - num_broken)
    assert result.mean == 1.0
    assert summaries.pass_at_k(result, SAMPLES).mean == 1.0
    assert result.lost == expected
    assert len(result.task_means) == 100 - num_broken

    (path,) = (tmp_path / results.FOLDER).iterdir()
    stored = json.loads(path.read_text())
    assert tuple(stored["lost"]) == expected
    for name in ("success", "score", "turns", "tokens"):
        assert stored[name][:num_broken] == [[None] * SAMPLES] * num_broken
        assert not any(None in row for row in stored[name][num_broken:])
    assert results.load_all(tmp_path) == [result]

    kept = list(
        episodes.read(tmp_path / episodes.FOLDER / "evaluation.warm.shaky.jsonl")
    )
    assert sum(episode.ending.lost for episode in kept) == SAMPLES * num_broken
    table = tables.format_table([result])
    lost = (
        f"shaky after stage warm: the environment lost {SAMPLES * num_broken} of 200 "
        f"samples, which do not count; {num_broken} of 100 tasks have no other"
    )
    assert "100.0  [" in table
    # The page is looked at in tests/webpage.
    assert (lost in table) == (f"{SAMPLES * num_broken} lost" in table)
    assert (lost in table) == bool(num_broken)


@pytest.mark.parametrize(("num_broken", "max_fraction"), [(20, 0.1), (100, 1.0)])
def test_an_evaluation_that_lost_too_much_is_refused(
    tmp_path, num_broken, max_fraction
):
    with open_run() as run:
        run_evaluation(run, tmp_path)  # of an earlier policy, whose place it takes
    message = (
        rf"stage 'warm' on 'shaky'.*lost {SAMPLES * num_broken} of 200.*"
        rf"max_env_error_fraction = {max_fraction}.*sample 0 of shaky_100"
        r"(.|\n)*launch.play --env=shaky --task=shaky_100"
    )
    with (
        open_run(max_fraction, broken=numbers(num_broken)) as run,
        pytest.raises(errors.EnvWorkerError, match=message),
    ):
        run_evaluation(run, tmp_path)
    assert not results.load_all(tmp_path)
    assert not list((tmp_path / episodes.FOLDER).iterdir())


def test_an_episode_that_was_lost_once_is_played_again_with_its_own_randomness(
    tmp_path, capsys
):
    with open_run(0.0) as run:
        undisturbed = run_evaluation(run, tmp_path)
        assert len(run.scripted.calls) == 1
    with open_run(0.0, flaky=numbers(7), folder=str(tmp_path)) as run:
        assert run_evaluation(run, tmp_path) == undisturbed
        first, *later = run.scripted.calls
    assert "replaying them, attempt 2 of 3" in capsys.readouterr().out
    assert first == first | later[0]
    assert 7 <= len(later[0]) <= 7 * SAMPLES
    assert len(set(first.values())) == len(first)


def test_episodes_beside_one_that_hangs_are_not_lost_with_it(tmp_path):
    panel = tasks.select_tasks("shaky", "test", base.EnvConfig(), limit=10)
    hanging = panel.item_ids[4]
    options = {"num_workers": 1, "hanging": hanging.removeprefix("shaky_")}
    with open_run(0.25, timeout_s=1.0, **options) as run:
        result = run_evaluation(run, tmp_path, tasks=10)
    assert result.lost == tuple(SAMPLES * (item == hanging) for item in panel.item_ids)
    assert result.mean == 1.0


def test_a_stage_is_evaluated_where_an_earlier_session_was_refused(tmp_path, capsys):
    written = []
    recorder = pytypes.SimpleNamespace(
        workdir=tmp_path,
        writer=pytypes.SimpleNamespace(write_evaluations=written.append),
    )
    learner = pytypes.SimpleNamespace(params=None, step=np.int32(3))
    state = pytypes.SimpleNamespace(learner=learner)
    progress = types.Progress(stage_name="warm", iteration=8)
    other = fake_run.make_result("warm", 3, "textcraft", 0.5)
    other.save(tmp_path)

    def evaluate_stage(run):
        run.environments = ("textcraft", "shaky")
        loop.evaluate_after_stage(run, state, progress, recorder)

    with (
        open_run(broken=numbers(50)) as run,
        pytest.raises(errors.EnvWorkerError, match="same command"),
    ):
        evaluate_stage(run)
    assert results.load_all(tmp_path) == [other]
    with open_run() as run:
        evaluate_stage(run)
        assert {name for name, _ in run.scripted.calls[0]} <= {
            f"shaky_{index}" for index in range(100, 200)
        }
        evaluate_stage(run)  # nothing is left to play
        assert len(run.scripted.calls) == 1
    assert [r.env for r in results.load_all(tmp_path)] == ["shaky", "textcraft"]
    assert [[r.env for r in found] for found in written] == 2 * [["textcraft", "shaky"]]
    printed = capsys.readouterr().out
    assert "50.0" in printed and "100.0" in printed


def test_an_adaptive_mixture_does_not_count_lost_episodes():
    run = pytypes.SimpleNamespace(environments=("textcraft", "babyai"))
    settings = config.MixtureConfig(
        environments=(("textcraft", 1.0), ("babyai", 1.0)), kind="adaptive"
    )
    state = actor.mixture.init(settings, run.environments)
    make = fake_run.make_trajectory
    played = [
        make(),
        make(success=False),
        make(success=False, ending=types.Ending.ENV_ERROR),
        make(success=False, ending=types.Ending.ENV_TIMEOUT),
        make("babyai", success=False, ending=types.Ending.ENV_ERROR),
    ]
    state = actor.record_success(run, state, played)
    np.testing.assert_allclose(state.success, [0.5, -1.0])


def test_a_calibration_leaves_lost_episodes_out_and_refuses_too_many(tmp_path, capsys):
    ids = [f"shaky_{index}" for index in range(100)]

    def write_tiers(name, **options):
        tier_file = tiers.open_tier_file(tmp_path / name, SAMPLES, 0.5, "a policy")
        with open_run(**options) as run:
            list(calibrate.play_missing(run, None, "shaky", ids, tier_file, step=3))
            return run.scripted.calls

    write_tiers("first", broken="7,8")
    lines = list(map(json.loads, (tmp_path / "first").read_text().splitlines()))
    assert [line["item_id"] for line in lines] == ids[:7] + ids[9:]
    assert {(line["n"], line["pass_rate"]) for line in lines} == {(SAMPLES, 1.0)}
    assert "lost 4 of 200 episodes" in capsys.readouterr().out

    (call,) = write_tiers("first")  # what had no line is played once more
    assert {item_id for item_id, _ in call} == {"shaky_7", "shaky_8"}
    assert len((tmp_path / "first").read_text().splitlines()) == 100

    broken = ",".join(map(str, range(70, 81)))  # all in the second chunk
    with pytest.raises(errors.EnvWorkerError, match=r"calibration.*lost 22 of 200"):
        write_tiers("second", broken=broken)
    assert len((tmp_path / "second").read_text().splitlines()) == 64
