"""The one kind of error that a user can mend."""


class InputError(ValueError):
    """A file, setting or checkpoint cannot be used; the message names it and the mend.

    Commands print the message alone; every other exception is a defect and keeps its traceback.
    """
