"""TPU VMs: a script that gets a slice, trains on all of its hosts, and gets it again."""

import dataclasses
import shlex

from agentrl import errors
from agentrl.clusters import job

_HOSTS_OF_EIGHT = ("v5e", "v6e")  # up to eight chips are one host; else it has four
_TYPES = {  # kind -> (accelerator type, units of its number in a chip, image)
    "v4": ("v4", 2, "tpu-ubuntu2204-base"),
    "v5e": ("v5litepod", 1, "v2-alpha-tpuv5-lite"),
    "v5p": ("v5p", 2, "v2-alpha-tpuv5"),
    "v6e": ("v6e", 1, "v2-alpha-tpuv6e"),
}

_UNREADY = 78  # a host's own word that it cannot be made ready
_TRIES = 3  # of what a lost connection may fail

_SCRIPT = """\
#!/bin/bash
# Trains {name} on a TPU slice, {type}, from nothing: asks for it, copies the
# committed state of this checkout to every host, starts the run there, shows its log, and
# gets another slice when this one is preempted. It may be stopped and started again at any
# time: the run goes on meanwhile.
set -euo pipefail
name={name}
place=({place})
setup={prelude}
command -v gcloud >/dev/null || {{
  echo "gcloud is not installed here" >&2
  exit 1
}}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
git archive --format=tar.gz --output="$folder/agentrl.tar.gz" HEAD
cat >"$folder/agentrl.sh.new" <<'EOF'
{remote}EOF
printf '%s\\n' "$setup" >"$folder/agentrl.setup"

# This script is the input of bash: no command may read the rest of it.
cloud() {{
  gcloud compute tpus "$@" </dev/null
}}

# The state of the request. It is MISSING only if gcloud says so; else gcloud could not
# ask, as without a connection, and nothing is known.
state() {{
  cloud queued-resources describe "$name" "${{place[@]}}" \\
    --format='value(state.state)' 2>"$folder/errors" && return
  if grep -q NOT_FOUND "$folder/errors"; then
    echo MISSING
  else
    cat "$folder/errors" >&2
    echo UNKNOWN
  fi
}}

create() {{
  cloud queued-resources create "$name" "${{place[@]}}" --node-id="$name" \\
    --accelerator-type={type} --runtime-version={image}{spot}
}}

delete() {{
  cloud queued-resources delete "$name" "${{place[@]}}" --force --quiet
}}

# Ends this script with a code and the reason.
leave() {{
  echo "$name $2; the slice is kept, and costs money while it is there." >&2
  exit "$1"
}}

# Waits for the slice, and asks for it if it is not there or was preempted.
acquire() {{
  local found failures=0
  while true; do
    found=$(state)
    case $found in
      ACTIVE) return ;;
      MISSING)
        create && continue
        failures=$((failures + 1)) # perhaps it is there: the next look tells
        [ "$failures" -lt {tries} ] || exit 1
        ;;
      SUSPENDED) delete && continue ;;
      FAILED)
        echo "the request for $name has failed:" >&2
        cloud queued-resources describe "$name" "${{place[@]}}" >&2
        exit 1
        ;;
      *) echo "$name: $found" ;;
    esac
    sleep {poll_s}
  done
}}

on_hosts() {{
  cloud tpu-vm ssh "$name" "${{place[@]}}" --worker="$1" --command="$2"
}}

copy() {{
  cloud tpu-vm scp "$folder/agentrl.tar.gz" "$folder/agentrl.sh.new" \\
    "$folder/agentrl.setup" "$name": "${{place[@]}}" --worker=all
}}

# Copies the checkout, installs it and runs --setup, on no host where the run is alive.
prepare() {{
  local seen
  seen=$(on_hosts all {look}) || return
  case $seen in
    *host:bare*) copy || return ;;
    *host:alive*) ;; # the others wait for one that was started anew: it stays as it is
    *) copy || return ;;
  esac
  on_hosts all {setup}
}}

# Starts the run on all hosts, where it is not under way.
start() {{
  on_hosts all {start}
}}

# Shows the first host's log until the run ends, or the connection.
follow() {{
  on_hosts 0 {follow} || true
}}

# The code with which the run has ended; nothing if it goes on, or is not known of.
ended() {{
  on_hosts 0 'cat agentrl.code 2>/dev/null' || true
}}

give_back() {{
  for _ in $(seq {tries}); do
    if delete || [ "$(state)" = MISSING ]; then return; fi
    sleep {poll_s}
  done
  leave 1 "has ended and cannot be deleted"
}}

restarts=0
failures=0
code=
started= # here, and no end of it is known
while true; do
  acquire
  problem=0
  [ -z "$started" ] || code=$(ended) # perhaps while the connection was lost
  if [ -z "$code" ]; then
    {{ prepare && start; }} || problem=$?
  fi
  if [ "$problem" -eq {unready} ]; then
    failures=$((failures + 1))
    [ "$failures" -lt {tries} ] || leave 1 "cannot be started on its hosts"
  elif [ "$problem" -eq 0 ] && [ -z "$code" ]; then
    failures=0
    started=yes
    follow
    code=$(ended)
  fi
  case $code in
    0) break ;;
    {stop}) leave "$code" "ended with code $code, as it would again" ;;
  esac
  restarts=$((restarts + 1))
  [ "$restarts" -le {max_restarts} ] || leave "${{code:-1}}" "was started too often"
  if [ "$code" ]; then
    code=
    started=
    sleep {pause_s}
  else
    echo "$name is not reached, or has started anew; looking again" >&2
    sleep {poll_s}
  fi
done
{finish}
"""

# Runs on every host. All start again together: a host that is lost ends the others with
# 69, and a signal ends it with more than 128.
_REMOTE = """\
#!/bin/bash
cd "$HOME/agentrl" || exit 255
for _ in $(seq 0 {max_restarts}); do
  {command}
  code=$?
  case $code in
    {restart} | 12[89] | 1[3-9]? | 2??) sleep {pause_s} ;;
    *) break ;;
  esac
done
echo "$code" >"$HOME/agentrl.code"
"""
# By its name: after a restart of the host another process may have its number.
_ALIVE = """\
alive() {
  grep -qs agentrl.sh "/proc/$(cat agentrl.pid 2>/dev/null)/cmdline"
}
"""
_LOOK = (
    _ALIVE
    + """\
if alive; then
  echo host:alive
elif [ -e agentrl/.venv/.installed ]; then
  echo host:installed
else
  echo host:bare
fi"""
)
# The images have Ubuntu 22.04 with Python 3.10 and without venv: uv brings a Python.
_SETUP = (
    _ALIVE
    + f"""\
set -o pipefail
fail() {{
  echo "$(hostname): cannot $1; the lines before this one say why" >&2
  exit {_UNREADY}
}}
if alive; then exit; fi
[ ! -e agentrl.sh.new ] || mv agentrl.sh.new agentrl.sh
wanted=$(sha256sum agentrl.tar.gz)
if [ "$(cat agentrl/.venv/.installed 2>/dev/null)" != "$wanted" ]; then
  uv=$HOME/.local/bin/uv
  if [ ! -x "$uv" ]; then
    curl -LsSf https://astral.sh/uv/install.sh |
      UV_UNMANAGED_INSTALL="$HOME/.local/bin" sh || fail "install uv"
  fi
  mkdir -p agentrl && tar -xzf agentrl.tar.gz -C agentrl || fail "unpack the checkout"
  cd agentrl && rm -rf .venv || fail "make room for Python"
  "$uv" venv --quiet --python 3.11 .venv || fail "install Python 3.11"
  "$uv" pip install --quiet --python .venv/bin/python --editable '.[tpu]' ||
    fail "install the package"
  echo "$wanted" >.venv/.installed
fi
cd "$HOME" && bash agentrl.setup </dev/null ||
  fail "run the command of --setup"
"""
)
_START = (
    _ALIVE
    + """\
if ! alive; then
  rm -f agentrl.code
  setsid nohup bash agentrl.sh >>agentrl.log 2>&1 </dev/null &
  echo $! >agentrl.pid
fi"""
)
_FOLLOW = 'tail --pid="$(cat agentrl.pid)" -n 20 -F agentrl.log'


@dataclasses.dataclass(frozen=True, kw_only=True)
class SliceRequest:
    """Which slice to ask for."""

    kind: str  # such as v5e
    chips: int
    zone: str
    project: str = ""  # "" takes gcloud's own
    spot: bool = False
    keep: bool = False  # the slice, when the run has ended
    setup: str = ""  # a shell command for every host before each start, such as a mount
    poll_s: int = 30  # between looks at the state of the request
    pause_s: int = 10  # before a restart

    def __post_init__(self):
        """Raises `ConfigError` if there are no such TPU VMs."""
        if self.kind not in _TYPES:
            raise errors.ConfigError(
                f"TPU VMs of the kind {self.kind!r} are not known here, only "
                f"{sorted(_TYPES)}; use GKE."
            )


def count_hosts(kind: str, chips: int) -> int:
    """Returns the number of hosts of a slice."""
    if kind in _HOSTS_OF_EIGHT and chips <= 8:
        return 1
    return -(-chips // 4)


def render(run: job.Job, wanted: SliceRequest) -> str:
    """Returns the script."""
    kind, units, image = _TYPES[wanted.kind]
    place = [f"--zone={wanted.zone}"]
    if wanted.project:
        place.append(f"--project={wanted.project}")
    return _SCRIPT.format(
        name=run.name,
        type=f"{kind}-{wanted.chips * units}",
        image=image,
        place=" ".join(map(shlex.quote, place)),
        prelude=shlex.quote(wanted.setup),
        spot=" --spot" if wanted.spot else "",
        poll_s=wanted.poll_s,
        pause_s=wanted.pause_s,
        remote=render_remote(run, wanted),
        look=shlex.quote(_LOOK),
        setup=shlex.quote(_SETUP),
        start=shlex.quote(_START),
        follow=shlex.quote(_FOLLOW),
        stop=" | ".join(map(str, job.STOP_CODES)),
        unready=_UNREADY,
        tries=_TRIES,
        max_restarts=run.max_restarts,
        finish='echo "the run has ended; the slice is kept."'
        if wanted.keep
        else "give_back",
    )


def render_remote(run: job.Job, wanted: SliceRequest) -> str:
    """Returns the script that every host runs."""
    return _REMOTE.format(
        max_restarts=run.max_restarts,
        command=run.shell_command(".venv/bin/python", f"--num_hosts={run.hosts}"),
        restart=" | ".join(map(str, job.RESTART_CODES)),
        pause_s=wanted.pause_s,
    )
