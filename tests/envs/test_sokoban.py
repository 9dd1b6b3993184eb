"""Sokoban: rules by hand, warehouses that can be solved, splits without repeats."""

import collections

import pytest

from agentrl.envs import base, registry, sokoban

DRAWN = """\
######
#@$ .#
# $  #
#  . #
######"""


def start(drawing=DRAWN, **fields):
    env = registry.make("sokoban", base.EnvConfig(**fields))
    env.reset("sokoban_1")
    env.warehouse, env.state = sokoban.read(drawing)
    env._first = env.state
    return env


def act(env, action):
    return env.step(f"Thought:\nSo.\n\nAction:\n{action}")


def test_a_drawing_is_read_as_it_was_drawn():
    assert sokoban.draw(*sokoban.read(DRAWN)) == DRAWN


def test_boxes_are_pushed_not_pulled_and_stop_at_walls():
    env = start()
    assert act(env, "move right right").observation.startswith("######\n#  @*#")
    result = act(env, "move right")
    assert result.observation.startswith("The way right is blocked.\n######")
    assert not result.info.valid_action and result.info.progress == 0.5
    result = act(env, "move left, up, left")  # walks on until it is blocked
    assert result.observation.startswith("The way up is blocked.\n######\n# @ *#")
    assert result.info.valid_action


def test_boxes_do_not_push_boxes():
    env = start("#######\n#@$$..#\n#######")
    result = act(env, "move right")
    assert not result.info.valid_action and env.state == env._first


def test_solving_pays_once_and_ends():
    env = start()
    result = act(env, "move right, right, left, left, down")
    assert (result.reward, result.terminated, result.info.progress) == (0, False, 0.5)
    result = act(env, "move right up right down left")
    assert (result.reward, result.terminated, result.info.success) == (1, True, True)
    assert result.observation.endswith("Boxes on goals: 2 of 2.")


def test_restart_puts_everything_back():
    env = start()
    act(env, "move right")
    result = act(env, "restart")
    assert result.observation.startswith(DRAWN) and result.info.valid_action


@pytest.mark.parametrize(
    "action",
    [
        *("move", "move north", "move up up up up up up", "up", "Move up", "move upup"),
        *("restart now", "push up", "", "move 3"),
    ],
)
def test_what_is_no_action_changes_nothing(action):
    env = start()
    result = act(env, action)
    assert not result.info.valid_action and env.state == env._first


def test_every_warehouse_can_be_solved_within_the_limit():
    steps = collections.defaultdict(list)
    for index in (*range(30), *range(sokoban.NUM_TRAIN, sokoban.NUM_TRAIN + 30)):
        warehouse, state = sokoban.make_task(index)
        solution = sokoban.solve(warehouse, state)
        steps[len(state.boxes)].append(len(solution))
        for direction in solution:
            state = sokoban.move(warehouse, state, direction)
        assert state.boxes == warehouse.goals
    assert set(steps) == {1, 2, 3}
    assert max(map(max, steps.values())) <= sokoban.MAX_STEPS * sokoban.MAX_TURNS


def test_a_box_in_a_corner_has_no_solution_and_the_planner_restarts():
    assert sokoban.solve(*sokoban.read("#####\n#$@.#\n#   #\n#####")) is None
    env = registry.make("sokoban")
    env.reset("sokoban_0")
    answer = sokoban.Planner(env).act("#####\n#$@.#\n#   #\n#####\nBoxes on goals: 0")
    assert answer.endswith("restart")


def test_turned_and_mirrored_warehouses_are_the_same_task():
    rows = DRAWN.split("\n")
    turned = "\n".join("".join(column) for column in zip(*rows[::-1], strict=True))
    mirrored = "\n".join(row[::-1] for row in rows)
    views = {
        sokoban._identify(*sokoban.read(view)) for view in (DRAWN, turned, mirrored)
    }
    assert len(views) == 1
