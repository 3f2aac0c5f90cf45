"""Every error a user can cause, as one tree.

PipelineError
├── ConfigError          a setting is wrong; the message lists what is valid
├── SourceError          a folder or list cannot be read
├── EmptyDatasetError    curation kept nothing
├── NotFoundError        a dataset, version, run or image reference names nothing here
│   └── WithdrawnError   it names a version of which photographs were forgotten; the message names its successor
├── IntegrityError       stored bytes differ from their recorded hash, or cannot be read
├── FormatError          a newer version of likeness wrote a file
├── RoomError            a disk has no room for what is to be written
├── DeviceError          the compute device asked for is not here
├── TrainingError        training ended without its result
│   └── KilledError      a signal ended it: its settings are as good as before
└── ServiceError         a server or a port is not usable

Each message is one sentence naming the file, URL, shard, run or field. Entry points print it and exit with
status 1; anything else that escapes is a bug and keeps its traceback.
"""


class PipelineError(Exception):
    """An error the user can act on; its message is one clear sentence."""


class ConfigError(PipelineError):
    """A setting is wrong; the message lists what is valid."""


class SourceError(PipelineError):
    """A folder or list of photographs cannot be read."""


class EmptyDatasetError(PipelineError):
    """Curation kept nothing; the message names the threshold and the distribution seen."""


class NotFoundError(PipelineError):
    """A dataset, version, run or image reference names nothing here."""


class WithdrawnError(NotFoundError):
    """A version was withdrawn, since photographs of it were forgotten; the message names its successor."""


class IntegrityError(PipelineError):
    """Stored bytes differ from their recorded hash, or cannot be read."""


class FormatError(PipelineError):
    """A newer version of likeness wrote a file; it is whole, and nothing that mends damage may touch it."""


class RoomError(PipelineError):
    """A disk has no room for what is to be written."""


class DeviceError(PipelineError):
    """The compute device asked for is not here."""


class TrainingError(PipelineError):
    """Training ended without its result."""


class KilledError(TrainingError):
    """A signal ended training, as of a machine that ran out of memory; nothing is wrong with what was asked for."""


class ServiceError(PipelineError):
    """A server or a port is not usable."""
