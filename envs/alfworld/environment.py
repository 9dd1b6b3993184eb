"""The household as an environment; see the package for its data sheet."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from agentrl.envs import base, parsing
from agentrl.envs.alfworld import files, games, generate, world

TURN_LIMIT = 30  # in both profiles

_REFUSAL = "Nothing happens."
_INSTRUCTION = """\
You are in a room and have a task to do there. Every turn you read what you see, and
answer with one action. The actions are:

go to R
open R
close R
take O from R
{put}
use O
heat O with R
cool O with R
clean O with R
slice O with O
examine R
examine O
inventory
look

R is a piece of furniture or an appliance, such as cabinet 1, and O an object, such as
apple 2. You act on what is where you stand. You see what lies on R when you go there,
but have to open what is closed. You carry one object at a time. You heat with a
microwave, cool with a fridge, clean with a sinkbasin and use lamps. If the answer is
"Nothing happens.", the action was not possible; choose another one.

Answer in this form:
Thought:
I think ...

Action:
go to cabinet 1"""


class AlfWorld(base.Environment):
    """Household tasks: finding, treating and placing things."""

    name = "alfworld"
    turn_limits: ClassVar[Mapping[base.Profile, int]] = dict.fromkeys(
        base.PROFILES, TURN_LIMIT
    )
    native_list = "first"
    synonyms: ClassVar = {
        **{"go to": "walk to", "open": "unseal", "close": "shut", "take": "grab"},
        **{"put": "place", "move": "shift", "use": "operate", "heat": "warm"},
        **{"cool": "chill", "clean": "wash", "slice": "cut", "examine": "inspect"},
        **{"inventory": "pockets", "look": "observe"},
    }
    option_names = ("data_dir", "mappings")

    game: games.Game
    _world: world.World

    def __init__(self, config: base.EnvConfig | None = None):
        super().__init__(config)
        self._load = choose_games(self.config)

    @property
    def default_instruction(self) -> str:
        """The rules, in our own words."""
        put = "move O to R" if self.config.profile == "strict" else "put O in/on R"
        if self.config.options.get("data_dir"):  # each file has its own wording
            put = "move O to R\nput O in/on R"
        return _INSTRUCTION.format(put=put)

    def available_actions(self) -> Sequence[str]:
        """The admissible commands, sorted."""
        return self._world.admissible()

    def _start(self, index: int) -> str:
        self.game = self._load(index)
        self._world = world.World(self.game)
        return f"{self._world.overview()}\nYour task is to: {self.game.goal.text}."

    def _apply(self, text: str) -> base.StepResult:
        action = parsing.parse_last_action(text, self.config.profile).action
        reply = self._world.act(action)
        progress = self._world.progress()
        won = progress == 1.0
        info = base.StepInfo(
            success=won,
            score=float(won),
            valid_action=reply is not None,
            parse_error=not action,
            parsed_action=action,
            progress=progress,
        )
        return base.StepResult(
            _REFUSAL if reply is None else reply,
            reward=float(won),
            terminated=won,
            info=info,
        )


def choose_games(config: base.EnvConfig) -> Callable[[int], games.Game]:
    """The function from task numbers to games that a configuration asks for."""
    found = files.open_files(config)
    if found is not None:
        return found.load
    wording = games.MOVE if config.profile == "strict" else games.PUT
    return functools.partial(generate.generate, wording=wording)
