"""Where passwords may be sent: the one rule of all protocols."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address

from wd_trio.servers.driver import Peer


def may_log_in(peer: Peer, trusted_networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    """Whether passwords may be sent over this connection: on TLS, on a Unix socket, or from a trusted network."""
    if peer.secure or peer.ip == "unix":
        return True
    address = ip_address(peer.ip)
    return any(address in network for network in trusted_networks)
