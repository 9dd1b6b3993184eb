"""Why episodes failed, read off their transcripts by rules: no model judges anything.

`MEANINGS` says what each tag stands for. An episode can carry several; the first is
the main one: the tag of the act that ended the episode, else the tag of most turns,
else the one that `MEANINGS` lists earlier. Confirmation bias, fabrication and state
inconsistency follow Xi et al. 2026, https://arxiv.org/abs/2603.12011. Not every rule can
see every environment: `find_undetectable` names the tags whose absence says nothing.
"""

import collections
import dataclasses
import itertools
import re
from collections.abc import Sequence

from agentrl import types
from agentrl.envs import parsing
from agentrl.transcripts import actions, episodes, household, unchecked

MEANINGS = {
    "confirmation_bias": "acted on a belief that the text speaks against or that it left "
    "unchecked: bought above the price limit, without a requested option or what it had "
    "read no more of than the title, answered without a search or by repeating the "
    "question, focused on the wrong thing, placed or took a thing of another kind or "
    "colour than asked",
    "fabrication": "named something that no observation had shown, or wrote a search "
    "result itself",
    "state_inconsistency": "acted on something the state contradicts: not there any "
    "more, not held, not reachable from here, open already",
    "foreign_action": "wrote an action of another environment",
    "wrong_plan": "asked for what has to be made first (TextCraft: `get` of what a given "
    "recipe crafts)",
    "format_error": "gave an answer without exactly one action in the environment's "
    "format; an answer that the token limit cut off is none",
    "repeat_loop": "did the same with the same result three times or more",
    "invalid_action": "did what the environment refused, for none of the reasons above",
    "premature_stop": "ended the task by its own act, unsolved, for none of the above",
    "timeout": "reached the limit on turns or tokens",
    "other": "none of these",
}
TAGS = tuple(MEANINGS)
_LOOP = 3  # equal exchanges that make a loop
_NOT_THE_POLICY = (types.Ending.ENV_ERROR, types.Ending.ENV_TIMEOUT)

_Marks = dict[str, set[int]]  # tag -> turns


def tag(episode: episodes.StoredEpisode) -> episodes.StoredEpisode:
    """The episode with its failure tags filled in."""
    return dataclasses.replace(episode, failures=find_tags(episode))


def find_tags(episode: episodes.StoredEpisode) -> tuple[str, ...]:
    """Failure tags of an episode, the main one first.

    None for a success, and none where the environment itself broke or hung.
    """
    if episode.success or episode.ending in _NOT_THE_POLICY:
        return ()
    episode = without_cut_off(episode)
    marks = _mark_turns(episode)
    last = len(episode.turns) - 1
    by_itself = episode.ending is types.Ending.FAILED
    ended = {t for t in marks if by_itself and last in marks[t]}
    found = sorted(marks, key=lambda t: (t not in ended, -len(marks[t]), TAGS.index(t)))
    if by_itself and not ended:
        return ("premature_stop", *found)
    if episode.ending.truncated:
        return (*found, "timeout")
    return tuple(found) or ("other",)


def find_undetectable(env: str) -> frozenset[str]:
    """Tags that no rule can find in an environment; a share of 0 would mislead."""
    known = {
        "confirmation_bias": unchecked.is_detectable(env),
        "fabrication": actions.names_are_known(env),
        "state_inconsistency": env in (*_CONTRADICTIONS, *_STATE_IS_SHOWN, "alfworld"),
        "foreign_action": bool(actions.verbs_of(env)),
        "wrong_plan": env == "textcraft",
    }
    return frozenset(name for name, detectable in known.items() if not detectable)


def without_cut_off(episode: episodes.StoredEpisode) -> episodes.StoredEpisode:
    """Leaves out a last answer that the token limit cut off.

    Half an answer is never sent to the environment, so what it answered last is still what
    was shown before that turn. What it had answered before, word for word, is a whole one.
    """
    if episode.ending is not types.Ending.MAX_TOKENS or not episode.turns:
        return episode
    *turns, last = episode.turns
    is_whole = any(turn.action == last.action for turn in turns)
    if last.valid or is_whole or episode.final_observation != last.observation:
        return episode
    return dataclasses.replace(
        episode, turns=tuple(turns), final_observation=last.observation
    )


def _mark_turns(episode: episodes.StoredEpisode) -> _Marks:
    marks: _Marks = collections.defaultdict(set)
    results = episode.results()
    exchanges = collections.defaultdict(set)
    contradictions = _find_contradictions(episode)
    for index, (turn, result) in enumerate(zip(episode.turns, results, strict=True)):
        action = actions.read_action(episode.env, turn.action)
        exchanges[action if action is not None else turn.action, result].add(index)
        if episode.env == "searchqa" and "<information>" in turn.action:
            marks["fabrication"].add(index)
        elif not turn.valid:
            inconsistent = index in contradictions
            found = _classify_refusal(episode, index, action, inconsistent=inconsistent)
            marks[found].add(index)
        elif action is not None and _is_unseen_answer(episode, index, action):
            marks["fabrication"].add(index)
    for repeated in exchanges.values():
        if len(repeated) >= _LOOP:
            marks["repeat_loop"] |= repeated
    biased = unchecked.find(episode)
    if biased is not None:
        marks["confirmation_bias"].add(biased)
    return dict(marks)


def _classify_refusal(
    episode: episodes.StoredEpisode,
    index: int,
    action: str | None,
    *,
    inconsistent: bool,
) -> str:
    env, turn = episode.env, episode.turns[index]
    if actions.is_foreign(env, turn.action):
        return "foreign_action"
    if action is None or not _is_one_action(env, turn.action):
        return "format_error"
    names, seen = actions.named_things(env, action), _seen(episode, index)
    unseen = [name for name in names if not actions.shows(env, seen, [name])]
    if unseen and not _is_asked_for(env, seen[0], unseen):
        return "fabrication"
    if env == "textcraft" and _gets_what_is_crafted(seen, action, names):
        return "wrong_plan"
    if inconsistent:
        return "state_inconsistency"
    view = unchecked.find_view(episode, index)
    if env in _STATE_IS_SHOWN and not actions.shows(env, [view], names):
        return "state_inconsistency"
    return "invalid_action"


def _is_one_action(env: str, text: str) -> bool:
    """Whether a refused answer holds one action, where `read_action` takes the first.

    SearchQA with AgentGym's rules accepts several, so `read_action` has to read them.
    """
    return env != "searchqa" or parsing.parse_tagged_action(text) is not None


# Refusals that say the state lacks what the action needs.
_CONTRADICTIONS = {
    "textcraft": r"Could not find enough items",
    "babyai": r"You cannot (?!.*no path)",
    "webshop": r"Invalid action: this page has no search box",
}
# Environments whose observation shows all that can be acted on.
_STATE_IS_SHOWN = ("babyai", "webshop")


def _find_contradictions(episode: episodes.StoredEpisode) -> set[int]:
    """Refused turns that go against the state, as replies or earlier turns tell it."""
    results = episode.results()
    if episode.env != "alfworld":
        pattern = _CONTRADICTIONS.get(episode.env, r"(?!)")
        return {i for i, result in enumerate(results) if re.match(pattern, result)}
    if not episode.turns:
        return set()
    found, state = set(), household.Household(episode.turns[0].observation)
    for index, (turn, result) in enumerate(zip(episode.turns, results, strict=True)):
        action = actions.read_action("alfworld", turn.action) or ""
        if turn.valid:
            state.accept(action, result)
        elif state.contradicts(action):
            found.add(index)
    return found


# What the kinds of things are called that a goal may ask for.
_KINDS = {"babyai": r"\b(ball|box|door|key)$", "alfworld": r"^[a-z]{3,}$"}


def _is_asked_for(env: str, first_observation: str, names: Sequence[str]) -> bool:
    """Whether the goal names these things; numbers that nothing has shown aside."""
    if env == "webshop":
        wanted = map(actions.normalize, unchecked.read_options(first_observation))
        return set(names).issubset(wanted)
    goal = re.search(r"Your (?:goal|task is to): (.*)", first_observation)
    if goal is None or env not in _KINDS:
        return False
    kinds = [re.sub(r" \d+$", "", name) for name in names]
    are_things = all(re.search(_KINDS[env], kind) for kind in kinds)
    return are_things and actions.shows(env, [goal[1]], kinds)


def _gets_what_is_crafted(
    seen: Sequence[str], action: str, names: Sequence[str]
) -> bool:
    crafted = re.findall(r"^craft \d+ (.+?) using", "\n".join(seen), re.MULTILINE)
    makes = {actions.normalize(name) for name in crafted}
    return action.lower().startswith("get") and not makes.isdisjoint(names)


def _seen(episode: episodes.StoredEpisode, index: int) -> list[str]:
    """Observations up to turn `index`; refusals left out, for they echo the action."""
    turns = episode.turns[: index + 1]
    pairs = itertools.pairwise(turns)
    later = [turn.observation for before, turn in pairs if before.valid]
    return [turns[0].observation, *later]


def _is_unseen_answer(episode: episodes.StoredEpisode, index: int, action: str) -> bool:
    answer = re.fullmatch(r"answer\[(.*)\]", action, re.DOTALL)
    if episode.env != "searchqa" or answer is None:
        return False
    words = actions.normalize(answer[1])
    if words in unchecked.PLAIN_ANSWERS:
        return False
    return not actions.shows("searchqa", _seen(episode, index), [words])
