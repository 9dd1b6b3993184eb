"""BabyAI in words: find, reach, fetch and open things in a grid of rooms.

Actions: low-level moves (`turn left`, `turn right`, `move forward`, `toggle`, `drop`)
and macro actions that walk to something in sight (`go to red ball 1`, `pickup red
ball 1`, `go through green open door 1`, `toggle and go through green closed door 1`).
A macro action is carried out step by step and stops at the first step that changes
nothing in sight; it may pass doors, but no wall, box, ball or key.
Observations: what lies in the 7 x 7 cells before the agent, nearest first, numbered by
name, then what it faces and what it carries, then the available actions.
Reward: 1 - 0.9 * steps / max_steps in low-level steps when the mission is done, else 0;
`score` is the same number, as upstream reports it.
Ending: terminated when the mission is done (or, on a few levels outside the panels,
spoilt); truncated after 20 turns or, in profile `strict`, after minigrid's own limit.

Tasks: `babyai_k` is level k % 40 of `levels.LEVELS` with seed k // 40, the same world
as upstream's for the same id. The panels take 50 seeds of each of 18 levels, 45 for
training and 5 for the test; seeds whose task the text-only oracle does not solve in 20
turns are skipped, and listed in `levels.LEFT_OUT`. No test world is also a training
world. By these rules that oracle solves all of the panels; on unselected seeds of the
same levels it solves 92 %. Random choice of listed actions solves half of the test
tasks: 70 % of the easy ones, where the list names what is wanted, and 24 % of the hard
ones, from 8 % (FindObjS7) to 44 % (OneRoomS20). To be harder the panel would have to
leave AgentGym's levels, or end after fewer turns, so read success in BabyAI beside
these figures. AgentGym's list of ids does not name its three pickup levels: Pickup,
UnblockPickup and PickupLoc are a guess.

Profile `agentgym` keeps what upstream does and `strict` mends: `then` and `after you`
in a mission become `and`; `pick up` is announced but only `pickup` is understood; any
action that contains `check` lists the actions; an episode does not end at minigrid's
step limit; success counts only if it holds after the last low-level step of a macro
action. Not kept in either profile: upstream ends no episode whose reward is 0.5 or
less and pays that reward again for every later action.

Source: the levels are minigrid's (MIT), the text layer follows AgentGym's
`agentenv-babyai` (MIT) in format and behaviour. No data files.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

from agentrl.envs import base, parsing
from agentrl.envs.babyai import levels, oracles, scene, view, world

_ACTIONS = """\
- turn right
- turn left
- move forward
- go to <obj> <id>
- {pickup} <obj> <id>
- go through <door> <id>: <door> has to be open.
- toggle and go through <door> <id>: <door> is closed, or it is locked and you carry \
the key of its color.
- toggle: open the closed or locked door right in front of you.
"""
_DROP = "- drop: put down what you carry on the free cell in front of you.\n"
_INSTRUCTION = """\
You explore rooms in a grid and have a goal to reach. Each turn you get an observation \
of what lies in front of you, and you answer with a thought and one action.

The actions are:
{actions}
<obj> and <door> are named as in the observation, <id> is the number that follows.
Your answer must have this format:
Thought:
<your thought>

Action:
<your action>"""


class BabyAI(base.Environment):
    """One agent in a minigrid world; see the module's description."""

    name = levels.NAME
    turn_limits: ClassVar = {"strict": 20, "agentgym": 20}
    native_list = "always"
    synonyms: ClassVar = {
        "turn": "rotate",
        "move": "step",
        "go to": "walk to",
        "go through": "pass through",
        "pickup": "grab",
        "pick up": "grab up",
        "toggle and go through": "unlatch and pass through",
        "toggle": "unlatch",
        "drop": "release",
    }

    @property
    def default_instruction(self) -> str:
        """The rules, with the actions by their exact names."""
        strict = self.config.profile == "strict"
        actions = _ACTIONS.format(pickup="pickup" if strict else "pick up")
        return _INSTRUCTION.format(actions=actions + (_DROP if strict else ""))

    def available_actions(self) -> Sequence[str]:
        """All macro actions that the current view offers."""
        return tuple(self._scene.actions)

    def _format_actions(self, actions: Sequence[str]) -> str:
        return '\nAvailable actions: ["' + '", "'.join(actions) + '"]'

    def _start(self, index: int) -> str:
        self.world = world.World(levels.level_of(index), levels.seed_of(index))
        self._seen = self.world.look()
        self._read()
        mission = self.world.mission
        if self.config.profile == "agentgym":
            mission = mission.replace("then", "and").replace("after you", "and")
        return f"Your goal: {mission}\n{self._scene.text}"

    def _apply(self, text: str) -> base.StepResult:
        parsed = parsing.parse_single_action(text)
        if parsed.error:
            return self._reply(parsed.error, "", parse_error=True, valid=False)
        action = parsed.action.lower()
        strict = self.config.profile == "strict"
        if strict and action.startswith("pick up "):
            action = "pickup " + action.removeprefix("pick up ")
        if action == scene.CHECK or (not strict and "check" in action):
            listed = ", ".join(self._scene.actions)
            return self._reply(f"You can take the following actions: {listed}", action)
        if action in self._scene.actions:
            return self._carry_out(action)
        if not action:
            return self._reply(_NO_CHANGE, "", parse_error=True, valid=False)
        refusal = self._scene.refusals.get(action, _UNKNOWN)
        return self._reply(refusal, action, valid=False)

    def _carry_out(self, action: str) -> base.StepResult:
        plan = self._scene.plan(self._scene.actions[action])
        if not plan:
            return self._reply(_NO_CHANGE, action)
        strict = self.config.profile == "strict"
        reward, terminated, truncated = 0.0, False, False
        for step in plan:
            before = self._seen
            reward, terminated, truncated = self.world.act(step)
            self._seen = self.world.look()
            if self._seen == before or (strict and (terminated or truncated)):
                break
        self._read()
        success = terminated and reward != 0  # minigrid pays nothing for a failure
        observation = self._scene.text
        if terminated:
            observation += _COMPLETED if success else _FAILED
        return base.StepResult(
            observation,
            reward=reward,
            terminated=terminated,
            truncated=truncated and strict and not terminated,
            info=base.StepInfo(
                success=success,
                score=reward,
                parsed_action=action,
                progress=1.0 if success else self._progress(),
            ),
        )

    def _reply(
        self, text: str, action: str, *, valid: bool = True, parse_error: bool = False
    ) -> base.StepResult:
        info = base.StepInfo(
            valid_action=valid,
            parse_error=parse_error,
            parsed_action=action,
            progress=self._progress(),
        )
        return base.StepResult(text, info=info)

    def _read(self) -> None:
        window = view.WINDOWS[self.world.heading]
        self._scene = scene.read_scene(self._seen, window)

    def _progress(self) -> float:
        """The share of the mission's parts that are done."""
        done, parts = _count_parts(self.world.env.instrs)
        return done / parts


_NO_CHANGE = "No change in state."
_UNKNOWN = "The action is not recognized. Please check valid actions."
_COMPLETED = "\n The task is completed."
_FAILED = "\n The task has failed."


def _count_parts(instruction: Any, done: bool = False) -> tuple[int, int]:
    """Counts the done and all single instructions of a minigrid mission."""
    if not hasattr(instruction, "instr_a"):
        return int(done), 1
    parts = [
        _count_parts(
            getattr(instruction, f"instr_{side}"),
            done or getattr(instruction, f"{side}_done") == "success",
        )
        for side in "ab"
    ]
    return parts[0][0] + parts[1][0], parts[0][1] + parts[1][1]


SPEC = base.EnvSpec(
    name=levels.NAME,
    make=BabyAI,
    splits=levels.SPLITS,
    panel=levels.panel,
    tier=levels.tier,
    subset=levels.subset,
    subsets=levels.subsets,
    fingerprint=world.fingerprint,
    oracles={
        "privileged": oracles.Privileged,
        "observational": oracles.Observational,
    },
    verbs=(
        "turn",
        "move",
        "go to",
        "go through",
        "pickup",
        "pick up",
        "toggle",
        "drop",
    ),
)
