"""wd-trio: a mail store whose servers keep nothing that another server needs."""

__version__ = "0.1.0"
