r"""Prints a script that completes commands, flags and their values in a shell.

  agentrl completion bash > ~/.local/share/bash-completion/completions/agentrl
  agentrl completion zsh > "${fpath[1]}/_agentrl"
  agentrl completion fish > ~/.config/fish/completions/agentrl.fish

For this session alone: source <(agentrl completion bash). The script is made from the
commands' own flags; make it again after an update.
"""

import dataclasses
import difflib
import importlib
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence

from absl import app, flags

from agentrl import errors
from agentrl.envs import registry
from agentrl.experiment import catalog, packaged
from agentrl.launch import console

_ENVIRONMENT_FLAGS = ("env", "envs")
_WITHOUT_FILES = ("list", "completion")  # commands whose arguments are words of ours


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag of a command."""

    name: str
    summary: str  # one line
    takes_value: bool
    values: tuple[str, ...]  # to choose from; empty if they are not known


def flags_of(command: str) -> list[Flag]:
    """Returns the flags that a command defines.

    Commands share names of flags, which absl keeps in one table: those of a command are
    taken out again once they have been read.
    """
    name = f"{__package__}.{command}"
    sys.modules.pop(name, None)  # so that it defines its flags now
    before = set(flags.FLAGS)
    importlib.import_module(name)
    found = []
    for flag in flags.FLAGS.flags_by_module_dict().get(name, []):
        values = tuple(getattr(flag.parser, "enum_values", None) or ())
        if flag.name in _ENVIRONMENT_FLAGS:
            values = registry.names()
        summary = " ".join((flag.help or "").split()).partition(". ")[0]
        found.append(Flag(flag.name, summary, not flag.boolean, values))
    for added in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, added)
    return sorted(found, key=lambda flag: flag.name)


def words_of(command: str) -> tuple[str, ...]:
    """Returns what may stand behind a command without being a flag."""
    known: Mapping[str, Sequence[str]] = {
        "train": list(packaged.names()),
        "list": list(catalog.KINDS),
        "completion": list(SHELLS),
    }
    return tuple(known.get(command, ()))


def bash(commands: Mapping[str, Sequence[Flag]]) -> str:
    """Returns the script for bash; it needs nothing else."""
    names, values, words = [], [], []
    for command, found in commands.items():
        spelled = [f"--{f.name}{'=' * f.takes_value}" for f in found]
        names.append(f"    {command}) names={shlex.quote(' '.join(spelled))} ;;")
        words.append(
            f"    {command}) words={shlex.quote(' '.join(words_of(command)))} ;;"
        )
        values += [
            f"    '{command} --{f.name}') values={shlex.quote(' '.join(f.values))} ;;"
            for f in found
            if f.values
        ]
    lines = "\n".join
    return f"""\
_agentrl() {{
  local cur="${{COMP_WORDS[COMP_CWORD]}}" prev="${{COMP_WORDS[COMP_CWORD-1]}}"
  local command="${{COMP_WORDS[1]}}" flag="" names="" words="" values=""
  COMPREPLY=()
  if [ "$COMP_CWORD" = 1 ]; then
    compopt +o nospace
    COMPREPLY=($(compgen -W {shlex.quote(" ".join(commands))} -- "$cur"))
    return
  fi
  case "$command" in
{lines(names)}
  esac
  case "$command" in
{lines(words)}
  esac
  # `=` is a word of its own in most settings of COMP_WORDBREAKS.
  if [ "$cur" = "=" ]; then flag="$prev"; cur="";
  elif [ "$prev" = "=" ]; then flag="${{COMP_WORDS[COMP_CWORD-2]}}"; fi
  if [ -n "$flag" ]; then
    case "$command $flag" in
{lines(values)}
    esac
    compopt +o nospace
    if [ -n "$values" ]; then COMPREPLY=($(compgen -W "$values" -- "$cur"));
    else compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur")); fi
  elif [[ "$cur" == -* ]]; then
    COMPREPLY=($(compgen -W "$names" -- "$cur"))
  else
    compopt +o nospace -o filenames
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
    case "$command" in {"|".join(_WITHOUT_FILES)}) ;;
    *) COMPREPLY+=($(compgen -f -- "$cur")) ;;
    esac
  fi
}}
complete -o nospace -F _agentrl agentrl"""


def zsh(commands: Mapping[str, Sequence[Flag]]) -> str:
    """Returns the script for zsh, a function of the name `_agentrl`."""
    listed = "\n".join(
        f"    {shlex.quote(f'{name}:{console.COMMANDS[name]}')}" for name in commands
    )
    cases = []
    for command, found in commands.items():
        lines = [f"    {command})", "      _arguments \\"]
        for flag in found:
            what = "" if not flag.takes_value else f":{flag.name}:{_zsh_values(flag)}"
            equals = "=" if flag.takes_value else ""
            summary = flag.summary.translate(str.maketrans("[]:", "() "))
            spec = f"*--{flag.name}{equals}[{summary}]{what}"
            lines.append(f"        {shlex.quote(spec)} \\")
        words = " ".join(words_of(command))
        files = "" if command in _WITHOUT_FILES else " 'files:file:_files'"
        action = f"{{_alternative 'words:word:({words})'{files}}}"
        lines.append(f"        {shlex.quote(f'*:argument:{action}')} ;;")
        cases.append("\n".join(lines))
    return f"""\
#compdef agentrl
_agentrl() {{
  local -a commands=(
{listed}
  )
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  local command=$words[2]
  shift words
  (( CURRENT-- ))
  case $command in
{chr(10).join(cases)}
  esac
}}
if [ "$funcstack[1]" = _agentrl ]; then _agentrl "$@"; else compdef _agentrl agentrl; fi"""


def _zsh_values(flag: Flag) -> str:
    return f"({' '.join(flag.values)})" if flag.values else "_files"


def fish(commands: Mapping[str, Sequence[Flag]]) -> str:
    """Returns the script for fish."""
    lines = ["complete -c agentrl -e"]
    for name in commands:
        summary = shlex.quote(console.COMMANDS[name])
        lines.append(
            f"complete -c agentrl -n __fish_use_subcommand -f -a {name} -d {summary}"
        )
    for command, found in commands.items():
        start = f"complete -c agentrl -n '__fish_seen_subcommand_from {command}'"
        if words := words_of(command):
            no_files = "-f " if command in _WITHOUT_FILES else ""
            lines.append(f"{start} {no_files}-a {shlex.quote(' '.join(words))}")
        for flag in found:
            line = f"{start} -l {flag.name} -d {_fish_quote(flag.summary)}"
            if flag.values:
                line += f" -x -a {shlex.quote(' '.join(flag.values))}"
            elif flag.takes_value:
                line += " -r"
            lines.append(line)
    return "\n".join(lines)


def _fish_quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


SHELLS: Mapping[str, Callable[[Mapping[str, Sequence[Flag]]], str]] = {
    "bash": bash,
    "zsh": zsh,
    "fish": fish,
}


def main(argv: Sequence[str]) -> None:
    """Prints the script for the shell that the first argument names."""
    if len(argv) != 2:
        raise errors.UsageError(f"name a shell: {', '.join(SHELLS)}.")
    shell = argv[1]
    if shell not in SHELLS:
        close = difflib.get_close_matches(shell, SHELLS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        sys.exit(
            f"launch.completion: no script for {shell!r}.{hint} There are "
            f"{', '.join(SHELLS)}."
        )
    own = [flag for flag in console.COMMANDS if flag != "completion"]
    commands = {name: flags_of(name) for name in own}
    print(SHELLS[shell]({**commands, "completion": []}))


if __name__ == "__main__":
    app.run(main)
