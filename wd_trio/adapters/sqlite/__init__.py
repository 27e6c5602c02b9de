"""The embedded engine: mail, documents and limits in SQLite files on a local disk."""
