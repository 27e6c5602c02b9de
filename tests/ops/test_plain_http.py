"""Plain requests and answers are what h11 makes of them, and nothing that h11 refuses is plain."""

from __future__ import annotations

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wd_trio.ops.http.plain import MAX_FIELDS, MAX_HEAD_BYTES, plain_answer, plain_request

GET = b"GET /x?a=%2F HTTP/1.1\r\nHost: test\r\nX-Some: a b\r\n\r\n"
NAMES = st.sampled_from(
    [
        b"Host",
        b"host",
        b"Accept",
        b"Content-Length",
        b"Transfer-Encoding",
        b"Connection",
        b"Upgrade",
        b"Expect",
        b"X y",
    ]
)
VALUES = st.sampled_from(
    [b"", b"a", b"0", b"5", b"chunked", b"close", b"keep-alive", b"Keep-Alive", b"100-continue"]
)
VALUES |= st.text(alphabet="ab \t\0\r\n\x7f\x80:,", max_size=6).map(lambda text: text.encode("latin-1"))
FIELDS = st.tuples(
    NAMES | st.text(alphabet="aB-_ :\t\x80", max_size=4).map(lambda text: text.encode("latin-1")),
    st.sampled_from([b":", b": ", b":\t ", b" :", b""]),
    VALUES,
    st.sampled_from([b"\r\n", b"\r\n", b" \r\n", b"\n", b"\r", b"\r\n "]),
).map(b"".join)
LINES = st.sampled_from(
    [
        b"GET / HTTP/1.1\r\n",
        b"GET /x?y HTTP/1.1\r\n",
        b"GET /x y HTTP/1.1\r\n",
        b"GET /\xff HTTP/1.1\r\n",
        b"GET / HTTP/1.0\r\n",
        b"GET / HTTP/1.1\n",
        b"GET http://a/ HTTP/1.1\r\n",
        b"get / HTTP/1.1\r\n",
        b"HEAD / HTTP/1.1\r\n",
        b"POST / HTTP/1.1\r\n",
        b"\r\nGET / HTTP/1.1\r\n",
    ]
)
HEADS = st.tuples(LINES, st.lists(FIELDS, max_size=4).map(b"".join), st.just(b"Host: a\r\n") | st.just(b""))


def by_h11(data: bytes) -> tuple[bytes, list[tuple[bytes, bytes]], bytes] | None:
    """Target, headers and what is left of a GET without a body that leaves the connection open; else None."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    try:
        request, end = connection.next_event(), connection.next_event()
    except h11.RemoteProtocolError:
        return None
    if (
        not isinstance(request, h11.Request)
        or not isinstance(end, h11.EndOfMessage)
        or request.method != b"GET"
    ):
        return None
    connection.send(h11.Response(status_code=200, headers=[(b"content-length", b"0")]))
    connection.send(h11.EndOfMessage())
    assert connection.our_state is connection.their_state is h11.DONE
    return request.target, list(request.headers), connection.trailing_data[0]


@given(HEADS.map(b"".join), st.sampled_from([b"", b"GET / HT", b"12345"]))
@example(GET, GET)
def test_what_is_plain_h11_reads_in_the_same_way(head: bytes, rest: bytes) -> None:
    data = head + b"\r\n" + rest
    plain = plain_request(data)
    if plain is not None:
        assert by_h11(data) == (plain.target, plain.headers, data[plain.size :])


def test_what_most_clients_send_is_plain() -> None:
    for connection in (b"", b"Connection: keep-alive\r\n", b"Connection: Keep-Alive\r\n"):
        plain = plain_request(GET[:-2] + connection + b"\r\n")
        assert plain is not None
        assert (plain.target, plain.headers[:2]) == (b"/x?a=%2F", [(b"host", b"test"), (b"x-some", b"a b")])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        GET[:-1],
        GET.replace(b"Host", b"Hosts"),
        GET.replace(b"X-Some", b"Host"),
        GET.replace(b"X-Some: a b", b"Content-Length: 1"),
        GET.replace(b"X-Some: a b", b"Transfer-Encoding: chunked"),
        GET.replace(b"X-Some: a b", b"Connection: close"),
        GET.replace(b"X-Some: a b", b"Expect: 100-continue"),
        GET.replace(b"X-Some: a b", b"X-Some: a\r\n b"),
        GET.replace(b"X-Some: a b", b"X-Some : a"),
        GET.replace(b"X-Some: a b", b"X-Some: \xe4"),
        GET.replace(b"GET", b"POST"),
        GET.replace(b"1.1", b"1.0"),
        GET[:-2] + b"X: %b\r\n\r\n" % (b"a" * MAX_HEAD_BYTES),
        GET[:-2] + b"X: a\r\n" * MAX_FIELDS + b"\r\n",
    ],
)
def test_what_is_not_plain(data: bytes) -> None:
    assert plain_request(data) is None


@given(
    st.sampled_from([101, 200, 204, 302, 304, 404, 503, 799]),
    st.lists(
        st.tuples(
            st.sampled_from([b"content-length", b"x-a", b"connection", b"transfer-encoding", b"a b"]),
            st.sampled_from([b"1", b"2", b"a b", b"", b" a", b"a\r\nb: c", b"\xe4", b"close", b"chunked"]),
        ),
        max_size=3,
    ),
    st.sampled_from([b".", b"..", b""]),
)
@example(200, [(b"content-length", b"1"), (b"x-a", b"a b")], b".")
@example(200, [(b"content-length", b"1"), (b"content-length", b"1")], b".")
def test_plain_answers_are_h11s(status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    answer = plain_answer(status, headers, body)
    if answer is None:
        return
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(GET)
    connection.next_event()
    connection.next_event()
    octets = connection.send(h11.Response(status_code=status, headers=headers))
    assert octets is not None
    octets += connection.send(h11.Data(data=body)) or b""
    octets += connection.send(h11.EndOfMessage()) or b""
    assert answer == octets
    assert connection.our_state is connection.their_state is h11.DONE


def test_ordinary_answers_are_plain() -> None:
    octets = plain_answer(404, [(b"content-length", b"1"), (b"content-type", b"application/json")], b".")
    assert octets == b"HTTP/1.1 404 \r\ncontent-length: 1\r\ncontent-type: application/json\r\n\r\n."
