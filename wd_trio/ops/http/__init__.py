"""HTTP connections of a worker: plain requests apart, all others by h11, WebSockets by hypercorn."""
