"""The one error of the embedded runtime."""


class EmbeddedError(Exception):
    """Something is missing or in the way. The text is a plain sentence with the remedy, meant for people."""
