import dataclasses
import json

import fake_run
import numpy as np
import pytest

from agentrl import types
from agentrl.chat import tokenizer
from agentrl.reporting import metrics
from agentrl.transcripts import episodes, tokens

TEXT = (
    'Action:\nget 1 "na\u00efve" stick, caf\u00e9 '
    "\N{SNOWMAN}  two  spaces \N{GRINNING FACE}!"
)


@pytest.fixture(scope="module")
def pieces():
    words = [f"get {i} stick and craft plank {i} now" for i in range(200)]
    return tokenizer.SentencePieceTokenizer.train(words, 300)


@pytest.mark.parametrize("repeats", [1, 9])
def test_lengths_cut_the_text_at_its_tokens(pieces, repeats):
    for used in (pieces, tokenizer.ByteTokenizer()):
        ids = [*used.encode(TEXT * repeats), used.stop_id]
        text = used.decode(ids)
        lengths = tokens.measure(ids, text, used.decode)
        assert len(lengths) == len(ids) and sum(lengths) == len(text)
        assert lengths[-1] == 0
        at = 0
        for token, length in zip(ids, lengths, strict=True):
            shown, at = text[at : at + length], at + length
            alone = used.decode([token])
            if shown and "\ufffd" not in alone:
                assert shown.strip() == alone.strip()


def test_lengths_never_reach_beyond_the_text():
    used = tokenizer.ByteTokenizer()
    assert sum(tokens.measure(used.encode("abcdef"), "abc", used.decode)) == 3
    assert tokens.measure([], "", used.decode) == []


def test_the_first_episodes_of_an_iteration_are_stored_token_by_token(tmp_path):
    settings = dataclasses.replace(fake_run.make_settings(), token_episodes=2)
    stage = settings.stages[1]
    _, played = fake_run.make_iteration(stage, 8)
    by_token = np.linspace(-1, 1, played[1].num_action_tokens)
    signals = [
        types.Signal(advantages=0.123456, rl_weights=1.0),
        types.Signal(advantages=by_token, rl_weights=by_token > 0),
        *[types.Signal()] * (len(played) - 2),
    ]
    used = tokenizer.ByteTokenizer()
    with metrics.Writer(tmp_path, settings, decode=used.decode) as writer:
        for iteration in (1, 2):
            writer.hold(signals[: len(played)])
            progress = types.Progress(
                stage=1, stage_name=stage.name, iteration=iteration
            )
            writer.write(progress, step=iteration, values={}, trajectories=played)
    path = tmp_path / episodes.FOLDER / f"{stage.name}.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]

    kept = [record["turns"][0].get("tokens") for record in lines]
    assert [numbers is not None for numbers in kept] == ([True] * 2 + [False] * 2) * 2
    assert kept[0]["advantages"] == 0.123 and kept[0]["weights"] == 1
    assert sum(kept[0]["lengths"]) == len(played[0].turns[0].action)
    assert kept[1]["advantages"][0] == -1 and kept[1]["weights"][-1] == 1
    assert len(kept[1]["advantages"]) == len(kept[1]["logprobs"])
    (first, *_) = episodes.read(path)
    assert first.turns[0].tokens == kept[0]


def test_tokens_that_were_put_in_have_no_part_in_the_streams():
    whole = fake_run.make_trajectory(actions=("go",))
    (turn,) = whole.turns
    sampled = np.arange(len(turn.action_tokens)) != 2  # the third one was put in
    count = int(sampled.sum())
    turn = dataclasses.replace(
        turn, sampled=sampled, action_logprobs=np.full(len(sampled), -0.5, np.float32)
    )
    episode = dataclasses.replace(whole, turns=(turn,))
    signal = types.Signal(advantages=np.arange(1.0, count + 1), rl_weights=1.0)
    later = tokens.Hindsight(np.full(count, -0.5 + np.log(1.5)), np.full(count, 0.25))

    (numbers,) = tokens.describe(
        episode, tokenizer.ByteTokenizer().decode, signal, later
    )

    assert numbers["advantages"][:4] == [1, 2, 0, 3]
    assert numbers["weights"][:4] == [1, 1, 0, 1]
    assert numbers["ratios"][:4] == [1.5, 1.5, 1, 1.5]
    assert numbers["entropies"][:4] == [0.25, 0.25, 0, 0.25]
    assert len(numbers["ratios"]) == len(turn.action_tokens)


def test_without_a_tokenizer_or_a_limit_nothing_is_kept(tmp_path):
    settings = dataclasses.replace(fake_run.make_settings(), token_episodes=0)
    assert tokens.keep([fake_run.make_trajectory()], str, 0) == [None]
    fake_run.write_iterations(tmp_path, settings, last=10)
    stored = (tmp_path / episodes.FOLDER / "textcraft.jsonl").read_text()
    assert '"tokens"' not in stored
