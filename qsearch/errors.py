"""The exceptions that qsearch raises for its users."""


class QsearchError(Exception):
    """Root of every exception that qsearch raises on purpose.

    >>> import qsearch
    >>> issubclass(qsearch.InputError, qsearch.QsearchError)
    True
    """


class InputError(QsearchError):
    """Bad input: a study, a file, an option or an argument that cannot be used.

    The message is one sentence that names the file or field, the value, and what is
    allowed; the command line prints it without a traceback and exits with code 2.

    >>> import qsearch
    >>> qsearch.load_study("missing")
    Traceback (most recent call last):
    qsearch.errors.InputError: missing: there is no such directory
    """


class StudyBusyError(InputError):
    """Another process is running the study in this directory."""


class EvaluationError(QsearchError):
    """One configuration could not be evaluated; the study continues without it."""


class ObjectiveError(QsearchError):
    """An objective raised an exception, or returned what is not a finite loss.

    >>> study.tell(study.ask(), float("nan"))
    Traceback (most recent call last):
    qsearch.errors.ObjectiveError: a loss must be finite, not nan
    """


class DamagedFileError(InputError):
    """A file of a study is not what was written; the message says what to do."""
