"""The cluster engine: mail and documents in MongoDB; sessions, limits and hints in Redis."""
