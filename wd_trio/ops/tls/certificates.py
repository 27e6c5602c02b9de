"""Whether the certificate that a configuration names is any good, before anything is served with it."""

from __future__ import annotations

from wd_trio.config import Config
from wd_trio.config_load import ConfigFaults
from wd_trio.errors import Invalid
from wd_trio.servers.tls import server_context


def check(config: Config) -> Config:
    """The same configuration. ConfigFaults when its certificate and key, if it has them, cannot be used."""
    if config.tls.certificate:
        try:
            server_context(config.tls.certificate, config.tls.key)
        except Invalid as error:
            raise ConfigFaults([(error.what, str(error))]) from error
    return config
