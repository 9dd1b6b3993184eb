"""Environments played on running AgentGym servers.

Each module here is one of AgentGym's environments, under its own name and with its own
item ids, so that upstream's lists of ids say what is played. It takes the place of the
native environment of that name:

    export AGENTRL_ENVS=textcraft=agentrl.envs.adapters.agentgym.textcraft

with the options `server` (such as http://127.0.0.1:36001), `train_items`, `test_items`
(files with AgentGym's lists of ids) and `timeout_s`. See `server` for the protocol.

What the server does is upstream's affair in either profile; `strict` closes the holes
that can be closed from outside: an episode ends with its first success, a wrong answer
in SearchQA ends it too, and SciWorld's rewards are clipped.
"""
