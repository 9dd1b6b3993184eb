"""BabyAI's worlds, views and walks are those of minigrid and of AgentGym's server."""

import collections

import gymnasium
import hypothesis
import hypothesis.strategies as st
import minigrid.minigrid_env
import numpy as np
import pytest
from minigrid.core import constants

from agentrl.envs.babyai import generation, levels, view, world


def decode(code):
    """(type, color, state) of a cell code in minigrid's image encoding."""
    if code <= view.WALL:
        names = ("unseen", "empty", "wall")
        color = constants.COLOR_TO_IDX["grey"] if code == view.WALL else 0
        return constants.OBJECT_TO_IDX[names[code]], color, 0
    color, *state, kind = view.NAMES[code].split()
    return (
        constants.OBJECT_TO_IDX[kind],
        constants.COLOR_TO_IDX[color],
        constants.STATE_TO_IDX[state[0]] if state else 0,
    )


def make_plain(level):
    """minigrid's own environment, which is slower than ours."""
    plain = gymnasium.make(f"BabyAI-{level}-v0", disable_env_checker=True).unwrapped
    assert type(plain) in type(generation.load_prototype(level)).__mro__
    return plain


def tell_world(env):
    """All that a world holds before anybody plays in it."""
    cells = [
        cell and (*cell.encode(), cell.contains and cell.contains.encode())
        for cell in env.grid.grid
    ]
    start = (*map(int, env.agent_pos), int(env.agent_dir))
    carried = env.carrying and env.carrying.encode()
    return cells, start, carried, env.max_steps, tell_mission(env.instrs)


def tell_mission(instruction):
    """The parts of a mission, with the objects that each means."""
    told = [type(instruction).__name__.replace("_GoTo", "GoToInstr")]
    told.append(getattr(instruction, "strict", None))
    for side in "ab":
        if part := getattr(instruction, f"instr_{side}", None):
            told.append(tell_mission(part))
    for name in ("desc", "desc_move", "desc_fixed"):
        if desc := getattr(instruction, name, None):
            objects = sorted(thing.encode() for thing in desc.obj_set)
            told.append((str(desc), sorted(desc.obj_poss), objects))
    return told


@pytest.mark.parametrize("level", levels.LEVELS)
def test_generated_worlds_are_minigrids_own(level):
    plain = make_plain(level)
    plain.gen_obs = dict  # the image costs more than the world
    for seed in (*range(10), *range(10**6, 10**6 + 5)):
        plain.reset(seed=seed)
        ours = generation.generate(level, seed)
        assert ours.mission == plain.mission
        assert tell_world(ours) == tell_world(plain)


def test_draws_are_numpys():
    numpys = np.random.Generator(np.random.PCG64(1))
    ours = generation.Draws(np.random.PCG64(1))
    choice = np.random.default_rng(0)
    for _ in range(5000):
        if choice.integers(4) == 0:
            assert ours.uniform(0, 1) == numpys.uniform(0, 1)
        low = int(choice.integers(-5, 5))
        high = low + int(choice.choice([1, 2, 3, 6, 7, 3 * 10**9]))  # some are rejected
        assert ours.integers(low, high) == numpys.integers(low, high)


@pytest.mark.parametrize("level", ["KeyInBox", "PutNextS7N4Carrying", "BossLevel"])
def test_play_does_not_change_what_is_kept(level):
    kept, cells, _ = world._generate(level, 3)
    before = tell_world(kept)
    rng = np.random.default_rng(0)
    for _ in range(3):
        played = world.World(level, 3)
        assert tell_world(played.env) == before and played.cells == cells
        for action in rng.choice(6, size=200, p=[0.15, 0.15, 0.3, 0.1, 0.1, 0.2]):
            played.act(int(action))
        assert tell_world(played.env) != before
    assert tell_world(kept) == before


@pytest.mark.parametrize("level", levels.LEVELS)
def test_worlds_and_rules_are_minigrids_own(level):
    plain = make_plain(level)
    rng = np.random.default_rng(0)
    for seed in range(5):
        plain.reset(seed=seed)  # its own image may be of before it put things in hand
        played = world.World(level, seed).env
        np.testing.assert_array_equal(played.grid.encode(), plain.grid.encode())
        np.testing.assert_array_equal(played.agent_pos, plain.agent_pos)
        np.testing.assert_array_equal(
            minigrid.minigrid_env.MiniGridEnv.gen_obs(played)["image"],
            plain.gen_obs()["image"],
        )
        assert played.mission == plain.mission
        assert played.max_steps == plain.max_steps
        for action in rng.choice(6, size=50, p=[0.15, 0.15, 0.4, 0.1, 0.1, 0.1]):
            assert played.step(int(action))[1:] == plain.step(int(action))[1:]
            np.testing.assert_array_equal(played.agent_pos, plain.agent_pos)
            assert played.agent_dir == plain.agent_dir
        np.testing.assert_array_equal(played.grid.encode(), plain.grid.encode())


@pytest.mark.parametrize("level", ["GoToImpUnlock", "UnblockPickup", "OneRoomS20"])
def test_view_is_minigrids_own_image(level):
    """Also for who plays the same world again: views of it are shared until it changes."""
    rng = np.random.default_rng(0)
    for _ in range(2):
        played = world.World(level, 0)
        before, after = rng.choice(3, size=(2, 100))
        changes = rng.choice(6, size=100, p=[0.15, 0.15, 0.4, 0.1, 0.1, 0.1])
        for action in (*before, *changes, *after):
            played.act(int(action))
            seen = np.frombuffer(played.look(), np.uint8).reshape(7, 8)[:, :7]
            image = minigrid.minigrid_env.MiniGridEnv.gen_obs(played.env)["image"]
            expected = np.array([[decode(code) for code in row] for row in seen])
            np.testing.assert_array_equal(image.transpose(1, 0, 2), expected)


def search_naively(free, target, enter):
    """Upstream's search: one queue, a pose queued once for every way into it."""
    start = (view.AGENT // 8, view.AGENT % 8, 0)
    ahead = ((-1, 0), (0, 1), (1, 0), (0, -1))
    queue, seen, before = collections.deque([start]), set(), {}
    while queue:
        row, column, turns = pose = queue.popleft()
        seen.add(pose)
        down, right = ahead[turns]
        there = (row, column) if enter else (row + down, column + right)
        if there == divmod(target, 8):
            path = []
            while pose != start:
                pose, action = before[pose]
                path.append(action)
            return tuple(path[::-1])
        for action, after in (
            (view.FORWARD, (row + down, column + right, turns)),
            (view.LEFT, (row, column, (turns - 1) % 4)),
            (view.RIGHT, (row, column, (turns + 1) % 4)),
        ):
            inside = 0 <= after[0] < 8 and 0 <= after[1] < 8
            if inside and after not in seen and free >> (after[0] * 8 + after[1]) & 1:
                queue.append(after)
                before[after] = (pose, action)
    return None


@hypothesis.given(
    blocked=st.sets(st.integers(0, 63), min_size=16, max_size=48),
    target=st.sampled_from(view.SCAN),
    window=st.sampled_from(view.WINDOWS),
    enter=st.booleans(),
)
@hypothesis.settings(max_examples=200, deadline=None, derandomize=True)
def test_walks_are_upstreams(blocked, target, window, enter):
    blocked -= {view.AGENT, target} if enter else {view.AGENT}
    free = window & ~sum(1 << cell for cell in blocked)
    expected = search_naively(free, target, enter)

    reached = view.flood(free)

    if expected is None:
        assert not reached & (1 << target if enter else view.NEIGHBOUR_SETS[target])
        with pytest.raises(ValueError, match="no way"):
            view.find_path(free, target, enter=enter)
    else:
        assert view.find_path(free, target, enter=enter) == expected
