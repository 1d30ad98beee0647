"""What can go wrong, each with the exit code that the command line answers with."""


class HarnessError(Exception):
    """Base of all expected failures: a message of one or two lines that names the argument, the value and the remedy."""

    exit_code = 1


class UserError(HarnessError):
    """A user's mistake, noticed before anything was written."""

    exit_code = 2


class UnknownName(UserError):
    """A model, task, split rule or option that does not exist."""


class BadData(UserError):
    """A file that cannot be read as what it should hold."""


class DataMissing(UserError):
    """A data set or checkpoint that is not on this machine; the message says how to get it."""


class ChecksumMismatch(UserError):
    """A file whose sha256 is not the published one."""


class CheckpointMismatch(UserError):
    """Weights of another architecture; the message says how many tensors matched. ``whole`` if all that the model expects did."""

    def __init__(self, message: str = "", whole: bool = False) -> None:
        super().__init__(message)
        self.whole = whole


class DownloadFailed(HarnessError):
    """No network, or a server that did not give the file."""


class RunFailed(HarnessError):
    """Training or evaluation broke down; the run's record holds the reason."""
