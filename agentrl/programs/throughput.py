"""Seconds of an iteration, by the roofline of each compiled program.

A phase takes at least what its products, its memory traffic or its messages take at the
peak rates of the device, whichever is longest: what it is bound by. Nothing overlaps
between calls, hosts and environments cost nothing. So this is a lower bound, which says
what a faster program could gain, not a prediction.
"""

import dataclasses
import math
from collections.abc import Mapping

from agentrl import config
from agentrl.hardware import devices
from agentrl.programs import hlo


@dataclasses.dataclass(frozen=True, kw_only=True)
class Demand:
    """What an iteration has to play and to learn from."""

    tasks: int = 64  # P
    group: int = 8  # G
    turns: int = 8  # of an episode
    observation: int = 192  # tokens that a turn appends
    action: int = 64  # tokens that a turn samples
    updates: int = 1
    fill: float = 0.9  # share of packed rows that is no padding

    @property
    def episodes(self) -> int:
        """Episodes of an iteration."""
        return self.tasks * self.group

    @property
    def episode_tokens(self) -> int:
        """Tokens of an episode."""
        return self.turns * (self.observation + self.action)

    @property
    def tokens(self) -> int:
        """Tokens of an iteration."""
        return self.episodes * self.episode_tokens


def of_stage(stage: config.StageConfig) -> Demand:
    """Returns the demand of a stage whose episodes take all of their tokens.

    How many turns these are, nobody knows before; actions take half of the tokens.
    """
    rollout = stage.rollout
    turns = max(rollout.max_tokens // (2 * rollout.max_action_tokens), 1)
    return Demand(
        tasks=rollout.tasks_per_iteration,
        group=rollout.group_size,
        turns=turns,
        observation=rollout.max_tokens // turns - rollout.max_action_tokens,
        action=rollout.max_action_tokens,
        updates=stage.updates_per_iteration,
    )


@dataclasses.dataclass(frozen=True)
class Phase:
    """Cost of a phase of an iteration on each device."""

    name: str
    cost: hlo.Cost
    tokens: int  # over all devices, that the phase samples, appends or learns from

    def seconds(self, device: devices.Device) -> Mapping[str, float]:
        """Returns the seconds by what a phase may be bound by, the longest first."""
        found = {
            "compute": self.cost.flops / device.flops,
            "memory bandwidth": self.cost.bytes / device.bandwidth,
            "interconnect": self.cost.sent / device.interconnect,
        }
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def duration(self, device: devices.Device) -> float:
        """Returns the seconds of the phase."""
        return max(self.seconds(device).values())


def phases(
    demand: Demand,
    *,
    update: hlo.ProgramCost,
    turn: hlo.ProgramCost,
    chunk: int,
    slots: int,
    row_tokens: int,
    rows: int,
) -> list[Phase]:
    """Returns the phases of an iteration.

    Args:
      demand: what is played and learned.
      update: cost of the learner step; a trip is a microbatch.
      turn: cost of a turn; a trip is a token of every slot.
      chunk: tokens of a prefill chunk.
      slots: live episodes, over all devices.
      row_tokens: of a packed row.
      rows: of a microbatch, over all devices.
    """
    waves = math.ceil(demand.episodes / slots)
    appends = waves * demand.turns * math.ceil((demand.observation + 1) / chunk)
    steps = waves * demand.turns * demand.action
    microbatches = math.ceil(demand.tokens / demand.fill / (row_tokens * rows))
    sampled = demand.episodes * demand.turns * demand.action
    return [
        Phase("append", turn.once * appends, demand.tokens - sampled),
        Phase("decode", turn.trip * steps, sampled),
        Phase(
            "update",
            update.once * demand.updates + update.trip * microbatches,
            demand.tokens,
        ),
    ]


def describe(found: list[Phase], device: devices.Device, demand: Demand) -> list[str]:
    """Returns the lines of a table of phases, and of their sum."""
    lines = [
        f"  {'phase':8} {'PFLOP':>9} {'TB read':>9} {'GB sent':>9} {'seconds':>9} "
        f"{'tokens/s':>10}  bound by"
    ]
    total = 0.0
    for phase in found:
        seconds = phase.duration(device)
        total += seconds
        lines.append(
            f"  {phase.name:8} {phase.cost.flops / 1e15:9.3f} "
            f"{phase.cost.bytes / 1e12:9.3f} {phase.cost.sent / 1e9:9.2f} "
            f"{seconds:9.2f} {phase.tokens / max(seconds, 1e-9):10,.0f}  "
            f"{next(iter(phase.seconds(device)))}"
        )
    lines.append(
        f"  an iteration takes at least {total:.1f} s, {demand.tokens / total:,.0f} "
        "tokens/s over all devices"
    )
    return lines
