"""What all launchers need to know of a run, and when it is started again."""

import dataclasses
import re
import shlex

from agentrl import errors

# Ends of `launch.train` after which the same command goes on where it stopped.
RESTART_CODES = (errors.HOST_LOST_CODE, errors.INTERRUPTED_CODE)
# A refusal, and a traceback: the next try would end the same way.
STOP_CODES = (1, 2)
PORT = 8476  # of the coordinator, where nothing else names one
_LABEL = re.compile(r"[a-z]([a-z0-9-]{0,45}[a-z0-9])?")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One run on several hosts."""

    name: str
    hosts: int
    arguments: tuple[str, ...]  # of launch.train: experiment, --workdir, --set ...
    max_restarts: int = 100

    def __post_init__(self):
        """Raises `ConfigError` if a field cannot work."""
        if not _LABEL.fullmatch(self.name):
            raise errors.ConfigError(
                f"--name={self.name!r} names machines and pods: at most 47 small letters, "
                "digits and '-', a letter first and no '-' last."
            )
        if not any(word.startswith("--workdir") for word in self.arguments):
            raise errors.ConfigError(
                "the command has no --workdir; give launch.train's arguments behind '--', "
                "such as -- demo --workdir=/mnt/runs/demo."
            )
        for flag in ("--coordinator", "--host_index", "--num_hosts"):
            if any(word.startswith(flag) for word in self.arguments):
                raise errors.ConfigError(
                    f"{flag} is the launcher's to give; leave it out of the command."
                )

    def command(self, python: str, *more: str) -> list[str]:
        """Returns the words of the command that every host runs.

        Args:
          python: the interpreter.
          *more: flags that tell a host of the others.
        """
        return [python, "-m", "agentrl.launch.train", *more, *self.arguments]

    def shell_command(self, python: str, *more: str) -> str:
        """Returns that command for a shell; `more` may hold variables of it."""
        words = [python, "-m", "agentrl.launch.train", *more]
        return " ".join([*words, *map(shlex.quote, self.arguments)])
