"""What stops the agent, drawn as a tree. Each error knows its exit code.

    AgentError                1   anything unexpected
    ├── UsageError            2   the command line asks for what cannot be
    ├── DeviceError          69   the microphone cannot be opened or has gone
    │   ├── DeviceAwayError  69   it is not there now, but may come: it is waited for
    │   └── DeviceHungError  74   PortAudio does not come back: leave by `os._exit`
    ├── CalibrationError     69   the microphone hears no sound calibrator (`calibrate`)
    ├── BrokerError          69   the MQTT broker refuses, where that is fatal (`watch`, `replay --publish`)
    ├── ClusterError         69   no Dask cluster, or it does not go on (`replay --dask`)
    ├── DownloadError        69   a file cannot be fetched from the web (`urbansound-model fetch`)
    ├── RecordingError       74   a recording cannot be read (`replay`, `classify`: 3, some files failed)
    ├── OutputError          74   standard output cannot be written
    ├── DatabaseError        74   a file of the agent's own, such as the spool, cannot be used
    │   ├── DatabaseUnwritableError  74  it cannot be written now, but may be: messages wait in memory
    │   └── DatabaseCorruptError     74  it is damaged, and set aside
    ├── ConfigError          78   the configuration is wrong; systemd must not restart
    └── ModelError           78   the model folder is not what its card says

A message names the thing, the value and what was expected. Expected trouble (a gap, a broker that is away for a
while) is not here: it is a value that is counted.
"""


class AgentError(Exception):
    """Stops the agent; `str(error)` is one line for a person."""

    exit_code = 1


class UsageError(AgentError):
    """The command line asks for what cannot be."""

    exit_code = 2


class DeviceError(AgentError):
    """The microphone cannot be opened, or has gone."""

    exit_code = 69


class DeviceAwayError(DeviceError):
    """The microphone is not there now, but may come."""


class DeviceHungError(DeviceError):
    """PortAudio does not come back. Leave by `os._exit`: its clean-up at exit would hang as well."""

    exit_code = 74


class CalibrationError(AgentError):
    """The microphone hears no sound calibrator."""

    exit_code = 69


class BrokerError(AgentError):
    """The MQTT broker cannot be reached or refuses, where that is fatal."""

    exit_code = 69


class ClusterError(AgentError):
    """There is no Dask cluster, or it does not go on."""

    exit_code = 69


class DownloadError(AgentError):
    """A file cannot be fetched from the web."""

    exit_code = 69


class RecordingError(AgentError):
    """A recording cannot be read."""

    exit_code = 74


class OutputError(AgentError):
    """Standard output cannot be written; nobody reads it any more, or the disk is full."""

    exit_code = 74


class DatabaseError(AgentError):
    """A file of the agent's own, such as the spool, cannot be opened, read or written."""

    exit_code = 74


class DatabaseUnwritableError(DatabaseError):
    """The file cannot be written now: the disk is full, read-only, or fails. It may pass."""


class DatabaseCorruptError(DatabaseError):
    """The file is damaged; its owner sets it aside."""


class ConfigError(AgentError):
    """The configuration is wrong."""

    exit_code = 78


class ModelError(AgentError):
    """The model folder is not what its card says."""

    exit_code = 78
