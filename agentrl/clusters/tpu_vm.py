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

_SCRIPT = """\
#!/bin/bash
# Trains {name} on a TPU slice, {type}, from nothing: asks for it, copies the
# committed state of this checkout to every host, starts the run there, shows its log, and
# gets another slice when this one is preempted. It may be stopped and started again at any
# time: the run goes on meanwhile.
set -euo pipefail
name={name}
place=({place})

# This script is the input of bash: no command may read the rest of it, as ssh does.
cloud() {{
  gcloud compute tpus "$@" </dev/null
}}

state() {{
  cloud queued-resources describe "$name" "${{place[@]}}" \\
    --format='value(state.state)' 2>/dev/null || echo MISSING
}}

create() {{
  cloud queued-resources create "$name" "${{place[@]}}" --node-id="$name" \\
    --accelerator-type={type} --runtime-version={image}{spot}
}}

delete() {{
  cloud queued-resources delete "$name" "${{place[@]}}" --force --quiet
}}

# Waits for the slice, and asks for it if it is not there or was preempted.
acquire() {{
  while true; do
    found=$(state)
    case $found in
      ACTIVE) return ;;
      MISSING) create ;;
      SUSPENDED) delete ;;
      FAILED)
        echo "the request for $name has failed:" >&2
        cloud queued-resources describe "$name" "${{place[@]}}" >&2
        exit 1
        ;;
      *)
        echo "$name: $found"
        sleep {poll_s}
        ;;
    esac
  done
}}

on_hosts() {{
  cloud tpu-vm ssh "$name" "${{place[@]}}" --worker="$1" --command="$2"
}}

# Copies the checkout to all hosts and installs it.
prepare() {{
  folder=$(mktemp -d)
  git archive --format=tar.gz --output="$folder/agentrl.tar.gz" HEAD
  cat >"$folder/agentrl.sh" <<'EOF'
{remote}EOF
  cloud tpu-vm scp "$folder/agentrl.tar.gz" "$folder/agentrl.sh" "$name": \\
    "${{place[@]}}" --worker=all
  rm -r "$folder"
  on_hosts all {setup}
}}

# Starts the run on all hosts, where it is not under way.
start() {{
  on_hosts all {start}
}}

# Shows the first host's log until the run ends, with its exit code.
follow() {{
  on_hosts 0 {follow}
}}

restarts=0
acquire
on_hosts 0 'test -e agentrl/.venv/.installed' || prepare
start
while true; do
  code=0
  follow || code=$?
  case $code in
    0) break ;;
    {stop})
      echo "$name ended with code $code, as it would again; the slice is kept." >&2
      exit "$code"
      ;;
  esac
  restarts=$((restarts + 1))
  [ "$restarts" -le {max_restarts} ] || exit "$code"
  sleep {pause_s} # code 255: the connection is lost, the run goes on
  if [ "$(state)" != ACTIVE ]; then
    acquire
    prepare
  fi
  start
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
# The images have Ubuntu 22.04 with Python 3.10 and without venv: uv brings a Python.
_SETUP = """\
set -o pipefail
fail() {
  echo "$(hostname): cannot $1; the lines before this one say why" >&2
  exit 78
}
[ ! -e agentrl/.venv/.installed ] || exit 0
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
touch .venv/.installed"""
_START = """\
if ! kill -0 "$(cat agentrl.pid 2>/dev/null)" 2>/dev/null; then
  rm -f agentrl.code
  setsid nohup bash agentrl.sh >>agentrl.log 2>&1 </dev/null &
  echo $! >agentrl.pid
fi"""
# Without a code the host itself has ended: as a lost connection, which is tried again.
_FOLLOW = """\
tail --pid="$(cat agentrl.pid)" -n 20 -F agentrl.log
exit "$(cat agentrl.code 2>/dev/null || echo 255)\""""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SliceRequest:
    """Which slice to ask for."""

    kind: str  # such as v5e
    chips: int
    zone: str
    project: str = ""  # "" takes gcloud's own
    spot: bool = False
    keep: bool = False  # the slice, when the run has ended
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
        spot=" --spot" if wanted.spot else "",
        poll_s=wanted.poll_s,
        pause_s=wanted.pause_s,
        remote=render_remote(run, wanted),
        setup=shlex.quote(_SETUP),
        start=shlex.quote(_START),
        follow=shlex.quote(_FOLLOW),
        stop=" | ".join(map(str, job.STOP_CODES)),
        max_restarts=run.max_restarts,
        finish='echo "the run has ended; the slice is kept."'
        if wanted.keep
        else "delete",
    )


def render_remote(run: job.Job, wanted: SliceRequest) -> str:
    """Returns the script that every host runs."""
    return _REMOTE.format(
        max_restarts=run.max_restarts,
        command=run.shell_command(".venv/bin/python", f"--num_hosts={run.hosts}"),
        restart=" | ".join(map(str, job.RESTART_CODES)),
        pause_s=wanted.pause_s,
    )
