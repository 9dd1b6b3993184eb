"""Every number that we know of arXiv 2603.12011, to print beside ours.

The paper gives neither seeds nor intervals. Sources: `summary`, summaries of the paper in
search results and on reading sites; `note`, a reading note made from the arXiv HTML in
October 2026. Both are second-hand.
"""

from agentrl.study import spec


def _number(what: str, before: str, after: str, model: str) -> spec.Published:
    return spec.Published(
        what=what,
        before=before,
        after=after,
        model=model,
        source="arXiv 2603.12011, second-hand summary",
    )


NUMBERS = (
    _number("WebShop, hard tasks, trained on easy ones", "17.4", "77.5", "7B"),
    _number("AlfWorld, hard tasks, trained on easy ones", "14.5", "49.4", "not stated"),
    _number("BabyAI, easy>hard over easy alone", "", "+2.0", "not stated"),
    _number("BabyAI, easy>hard over hard alone", "", "+3.3", "not stated"),
    _number("BabyAI, turns", "10.76", "4.19", "3B"),
    _number("BabyAI, tokens", "624.58", "160.60", "3B"),
    _number("AlfWorld, Held-In", "13.19", "91.81", "3B"),
    _number("AlfWorld, Held-In", "", "+65.44", "7B"),
    _number("Held-Out, mean over all environments trained on", "", "+3.32", "3B"),
    _number("Held-Out, mean over all environments trained on", "", "+3.44", "7B"),
    _number("Held-Out, trained on BabyAI", "", "-3.23", "7B"),
    _number("WebShop, trained on BabyAI", "28.59", "10.25", "7B"),
    _number("TextCraft, in WebShop>TextCraft", "80.88", "82.50", "not stated"),
    _number("WebShop, kept in WebShop>TextCraft", "86.50", "86.32", "not stated"),
)
