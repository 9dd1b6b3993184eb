"""The console script `agentrl`: `agentrl NAME ...` is `python -m agentrl.launch.NAME ...`.

Each command stays a module of its own, with its own flags and help; this one finds it.
"""

import difflib
import os
import runpy
import sys

import agentrl

COMMANDS = {
    "train": "train the stages of an experiment; the same command resumes the run",
    "evaluate": "evaluate a checkpoint on fixed task panels",
    "study": "plan, train and report many chains of stages that share their work",
    "watch": "show runs in a browser while they grow",
    "report": "write report.html of a run and print its table",
    "play": "play a task by hand, watch an oracle or a trained policy, replay an episode",
    "list": "environments, subsets, algorithms, models, experiments",
    "judge": "ask a model why episodes failed, and compare it with the rules",
    "calibrate": "measure how hard each task is for a policy",
    "convert": "convert models from and to Hugging Face folders",
    "suggest": "sizes that suit a model and the tasks of an environment, with reasons",
    "plan": "whether a run fits its devices, and how long an iteration takes",
    "launch": "start a run on TPU VMs, GKE, Slurm or Kubernetes",
    "completion": "a script that completes commands and flags in bash, zsh or fish",
}
EXAMPLES = """\
  agentrl train demo --workdir=runs/demo
  agentrl train my_experiment.py --workdir=runs/mine --set=seed=1
  agentrl train demo --workdir=runs/demo --dry_run
  agentrl watch --workdir=runs/demo
  agentrl evaluate --checkpoint=runs/demo --envs=babyai --out=/tmp/babyai
  agentrl play --env=babyai --checkpoint=runs/demo
  agentrl suggest --env=webshop --model=Qwen/Qwen2.5-0.5B-Instruct
  agentrl list environments"""


def main() -> None:
    """Runs the command that the first argument names."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("help", "-h", "-help", "--help"):
        print(describe())
        return
    if arguments[0] in ("version", "-version", "--version"):
        print(f"agentrl-jax {agentrl.__version__}")
        return
    name = arguments[0]
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        sys.exit(
            f"agentrl: there is no command {name!r}.{hint} Commands: "
            f"{', '.join(COMMANDS)}; `agentrl --help` shows what they do."
        )
    sys.argv[1:] = arguments[1:]
    try:
        # As the main program, so that absl shows the command's own help.
        runpy.run_module(f"agentrl.launch.{name}", run_name="__main__", alter_sys=True)
    except BrokenPipeError:  # the reader has gone, as in `agentrl train --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def describe() -> str:
    """Returns the text of `agentrl --help`."""
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:{width}}  {COMMANDS[name]}" for name in COMMANDS)
    return (
        "Reinforcement fine-tuning of LLM agents over text environments.\n\n"
        f"usage: agentrl COMMAND [ARGUMENTS]\n\n{commands}\n\n"
        "`agentrl COMMAND --help` shows the flags of a command. Examples:\n\n"
        f"{EXAMPLES}"
    )


if __name__ == "__main__":
    main()
