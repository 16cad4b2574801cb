"""The error that tells its reader in one line what is wrong, where, and what to do."""


class UserError(ValueError):
    """Something that the person who runs a chapter can mend.

    A notebook shows it as one line instead of a traceback: IPython asks the
    exception itself through `_render_traceback_`.
    """

    def _render_traceback_(self):
        return [f"{type(self).__name__}: {self}"]


class SourceError(UserError):
    """A model or data set that cannot be found or read."""


class ChapterError(UserError):
    """A chapter that failed; the message says where and why."""
