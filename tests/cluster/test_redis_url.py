"""URLs of Redis: what they mean, and that a wrong one is told without its password."""

from __future__ import annotations

import pytest

from wd_trio.adapters.mongo_redis.redis_url import parse_redis_url
from wd_trio.errors import Invalid


def test_one_server() -> None:
    address = parse_redis_url("redis://localhost")
    assert (address.kind, address.nodes, address.tls) == ("single", (("localhost", 6379),), False)
    assert address.settings == {"db": 0}
    address = parse_redis_url("redis://me:p%40ss:w@[2001:db8::1]:7000/3")
    assert address.nodes == (("2001:db8::1", 7000),)
    assert address.settings == {"db": 3, "username": "me", "password": "p@ss:w"}
    assert parse_redis_url("redis://:only@h").settings == {"db": 0, "password": "only"}


def test_sentinels_name_a_service() -> None:
    address = parse_redis_url("redis+sentinel://:pw@a,b:5000/mail/2?sentinel_password=other")
    assert (address.kind, address.service) == ("sentinel", "mail")
    assert address.nodes == (("a", 26379), ("b", 5000))
    assert address.settings == {"db": 2, "password": "pw"}
    assert address.sentinel_settings == {"password": "other"}


def test_a_cluster_by_any_of_its_nodes() -> None:
    address = parse_redis_url("redis+cluster://a:1,b:2,c")
    assert (address.kind, address.nodes) == ("cluster", (("a", 1), ("b", 2), ("c", 6379)))


def test_tls_is_strict_unless_told_otherwise() -> None:
    address = parse_redis_url("rediss://h?ssl_ca_certs=/etc/ca.pem")
    assert address.tls
    strict = {"ssl_cert_reqs": "required", "ssl_check_hostname": True, "ssl_ca_certs": "/etc/ca.pem"}
    assert address.settings == {"db": 0} | strict
    lax = parse_redis_url("rediss+cluster://h?ssl_cert_reqs=none").settings
    assert (lax["ssl_cert_reqs"], lax["ssl_check_hostname"]) == ("none", False)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        "http://h",
        "redis+other://h",
        "redis://",
        "redis://:hunter2@",
        "redis://:hunter2@a,b",
        "redis://:hunter2@h:port",
        "redis://:hunter2@h:70000",
        "redis://:hunter2@h/one",
        "redis://:hunter2@h/-1",
        "redis://:hunter2@h?ssl_ca_certs=/x",
        "rediss://:hunter2@h?ssl_cert_reqs=perhaps",
        "redis://:hunter2@h?timeout=1",
        "redis+sentinel://:hunter2@h",
        "redis+cluster://:hunter2@h/1",
    ],
)
def test_what_cannot_be_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse_redis_url(url)
    assert refused.value.what == "redis"
    assert "hunter2" not in str(refused.value)


def test_the_password_is_in_no_text_of_the_address() -> None:
    assert "hunter2" not in repr(parse_redis_url("redis://:hunter2@h"))
