"""What can go wrong with a broker of our own."""


class BrokerError(Exception):
    """The broker could not be fetched or started, or did not get ready in time; the text shows its own last words."""


class MissingPrerequisite(BrokerError):
    """This machine has neither Java 17+ with Maven nor Docker; the text says what is missing and how to get it."""
