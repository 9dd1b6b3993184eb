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
        if self.in_store and self.hosts > 1:
            raise errors.ConfigError(
                f"--workdir={self.workdir}: a run of {self.hosts} hosts needs a working "
                "directory that all of them share: mount a network disk on every host and "
                "give its path (docs/howto_bucket.md says which can hold a run)."
            )
        for flag in ("--coordinator", "--host_index", "--num_hosts"):
            if any(word.startswith(flag) for word in self.arguments):
                raise errors.ConfigError(
                    f"{flag} is the launcher's to give; leave it out of the command."
                )

    @property
    def workdir(self) -> str:
        """The working directory, as launch.train will read it from the command.

        Raises:
          ConfigError: if the command names none.
        """
        value = None
        for word, following in zip(
            self.arguments, (*self.arguments[1:], ""), strict=True
        ):
            flag, equals, given = word.partition("=")
            if flag in ("--workdir", "-workdir"):
                value = given if equals else following  # the last one counts
        if value is None:
            raise errors.ConfigError(
                "the command has no --workdir; give launch.train's arguments behind '--', "
                "such as -- demo --workdir=/mnt/runs/demo."
            )
        if not value or value.startswith("-"):
            raise errors.ConfigError(
                "--workdir has no value; write --workdir=/mnt/runs/demo."
            )
        return value

    @property
    def in_store(self) -> bool:
        """Whether the working directory is an address in an object store."""
        return "://" in self.workdir

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
