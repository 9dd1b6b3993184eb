"""Agreement of two readers, with numbers worked out by hand."""

import math

import pytest
from played import act, play

from agentrl.judging import judge, judged, judgements, labelled
from agentrl.statistics import agreement


def answers(both, only_first, only_second, neither):
    said = [(True, True)] * both + [(True, False)] * only_first
    said += [(False, True)] * only_second + [(False, False)] * neither
    return [(str(index), *pair) for index, pair in enumerate(said)]


@pytest.mark.parametrize(
    ("counts", "kappa"),
    [
        # p = 35 / 50; first says yes in 25, second in 30: e = .5 * .6 + .5 * .4 = .5
        ((20, 5, 10, 15), (0.7 - 0.5) / (1 - 0.5)),
        ((3, 0, 0, 4), 1.0),
        # p = 0, e = .5: as far from agreement as can be
        ((0, 5, 5, 0), -1.0),
        # Each says yes in 1 of 4, independently: p = 10 / 16 = e
        ((1, 3, 3, 9), 0.0),
        ((0, 0, 0, 8), math.nan),
        ((0, 0, 0, 0), math.nan),
    ],
)
def test_kappa_by_hand(counts, kappa):
    found = agreement.compare(answers(*counts))
    assert found.kappa == pytest.approx(kappa, abs=1e-12, nan_ok=True)
    assert (found.both, found.only_first, found.only_second, found.neither) == counts
    assert found.count == sum(counts)


def test_the_interval_is_over_tasks():
    said = answers(40, 5, 5, 50)
    alone = agreement.compare(said).share
    assert alone.mean == pytest.approx(0.9)
    # Wilson's interval of 90 of 100, with t[99] in place of the normal quantile.
    assert (alone.low, alone.high) == pytest.approx((0.824, 0.946), abs=0.002)
    together = agreement.compare((str(int(t) % 4), a, b) for t, a, b in said).share
    assert together.mean == alone.mean
    assert together.high - together.low > 1.5 * (alone.high - alone.low)
    assert agreement.compare([]).share is None


def reading(*tags, unclear=(), main=True):
    return judged.Reading(
        frozenset(tags), tags[0] if main else None, frozenset(unclear)
    )


def test_what_a_reader_does_not_know_is_not_compared():
    pairs = [
        ("a", reading("fabrication"), reading("fabrication")),
        ("b", reading("other", unclear=["fabrication"]), reading("fabrication")),
        ("c", reading("other"), reading("other", unclear=["fabrication"])),
        ("d", reading("repeat_loop"), reading("fabrication", "repeat_loop")),
    ]
    found = judged.compare(pairs)
    assert found["fabrication"].count == 2 and found["fabrication"].only_second == 1
    assert found["repeat_loop"].count == 4 and found["repeat_loop"].kappa == 1
    assert judged.compare_main(pairs).mean == 0.5
    without = [(t, reading("other", main=False), second) for t, _, second in pairs]
    assert judged.compare_main(without) is None


def test_a_limit_is_no_tag_that_readers_are_compared_on():
    view = "Your goal: go to the red ball\nThere is a red ball 1 2 steps away."
    idle = play("babyai", (view, act("turn left"), True), "Nothing.")
    rules = judged.Reading.of_rules(idle)
    assert rules.tags == {"other"} and rules.main == "other"
    label = labelled.Labelled("x", idle, frozenset({"timeout"}), frozenset())
    assert judged.Reading.of_labels(label).tags == {"other"}
    assert "timeout" not in judged.compare([("x", rules, rules)])


def test_what_may_be_a_tag_may_be_none_of_the_others():
    idle = play("babyai", ("Your goal: go", act("turn left"), True), "Nothing.")
    unclear = frozenset({"fabrication"})
    label = labelled.Labelled("x", idle, frozenset({"timeout"}), unclear)
    assert judged.Reading.of_labels(label).unclear == {"fabrication", "other"}


def test_tags_that_no_rule_can_see_are_left_out():
    crafted = play("textcraft", ("Goal: craft stick.", act("get 1 oak"), True), "Got")
    hidden = judged.Reading.of_rules(crafted).unclear
    assert "confirmation_bias" in hidden
    said = judged.Reading.of_judge(judge.Verdict(("confirmation_bias",)))
    found = judged.compare([("x", judged.Reading.of_rules(crafted), said)])
    assert found["confirmation_bias"].count == 0 and found["other"].only_first == 1


def test_the_table_of_a_run():
    view = "Your goal: go to the red ball\nThere is a red ball 1 2 steps away."
    idle = play("babyai", (view, act("turn left"), True), "Nothing.")
    drawn = [judgements.Drawn(idle, f"file:{n}") for n in range(3)]
    verdicts = [
        judge.Verdict(("other",)),
        judge.Verdict(("repeat_loop",)),
        judge.Verdict((), problem="no JSON: 'Hm'"),
    ]
    text = judged.format_run(drawn, verdicts)
    assert "rules and judge: 2 episodes that both have read" in text
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    # tag, both, only rules, only judge, neither, share with ends, kappa, episodes
    assert rows["other"][1:6] == ["1", "1", "0", "0", "50.0"]
    assert rows["other"][-2:] == ["0.00", "2"]
    assert rows["repeat_loop"][1:5] == ["0", "0", "1", "1"]
    assert rows["foreign_action"][-2:] == ["-", "2"]
    assert "the same main tag: 50.0 [" in text
    assert "no answer of use on 1 of 3 episodes, which do not count" in text
    assert "no JSON: 'Hm'" in text


def test_labelled_episodes_do_not_claim_tasks():
    """Their texts name no task, and of many there are several."""
    idle = play("babyai", ("Your goal: go", act("turn left"), True), "Nothing.")
    label = labelled.Labelled("x", idle, frozenset({"other"}), frozenset())
    text = judged.format_labelled([label], [judge.Verdict(("other",))])
    assert "over tasks" not in text
    assert "over episodes: labelled texts do not name their tasks" in text
