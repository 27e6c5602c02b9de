"""The TLS holder and what the supervisor does for it: TLS here, plain octets there, and nothing else."""
