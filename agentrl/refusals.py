"""What commands tell in one line in place of a traceback."""

from agentrl import errors
from agentrl.envs import base, pool, tasks

# Whatever a person can type, name, damage or leave out. Anything else is a fault of the
# library, of which a traceback is wanted.
EXPECTED = (
    errors.ConfigError,
    errors.CheckpointError,
    errors.DamagedFileError,
    errors.EnvWorkerError,
    errors.TrainingError,
    base.EnvConfigError,
    base.MissingDataError,
    base.UnknownItemError,
    pool.PoolError,
    tasks.TaskSelectionError,
    OSError,
)
