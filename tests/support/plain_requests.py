"""Requests of all kinds, most of them like those of real clients: to be read in one step, and in gunicorn's way."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

METHODS = [b"HEAD", b"PUT", b"OPTIONS", b"CONNECT", b"get", b"M-SEARCH", b"G", b"A" * 21, b"G@T", b"PRI"]
TARGETS = [
    b"/unread", b"/fails", b"/%41%zz%", b"//a/b?c", b"/a//b", b"/a#b", b"/a?b#c", b"*", b"http://a/b", b"a:80",
    b"/a?b?c", b"/a?", b"/;x=y", b"/[a]", b"/a:b", b"", b"/\xc3\xa4", b"/a\tb", b"?a", b"/" + b"x" * 60,
    b"/?" + b"x" * 5000, b'/"<>\\^`{|}~', b"//[a", b"/ a",
]  # fmt: skip
VERSIONS = [b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"http/1.1", b"HTTP/1.1 ", b"", b"HTTP/1.10"]
HOSTS = [
    b"host: example.org:8000", b"HOST: [::1]:80", b"Host: a b", b"Host:", b"Host: a:b:c", b"Host: [::g]",
    b"X: no host", b"Host: a\r\nHost: a", b"Host: \xe4", b"Host: ex%41mple",
]  # fmt: skip
BROWSER = [
    b'sec-ch-ua: "Chromium";v="143", "Not A(Brand";v="24"',
    b"sec-ch-ua-mobile: ?0",
    b"Upgrade-Insecure-Requests: 1",
    b"User-Agent: Mozilla/5.0 (X11; Linux) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/143.0.0.0 Safari/537.36",
    b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8",
    b"Sec-Fetch-Site: same-origin",
    b"Sec-Fetch-Mode: navigate",
    b"Accept-Encoding: gzip, deflate, br, zstd",
    b"Accept-Language: de-DE,de;q=0.9,en;q=0.8",
    b"Cookie: session=eyJ1c2VyIjoxfQ.aSrVQQ.Q2lhbyBhIHR1dHRp; theme=dark",
    b"Referer: https://example.org/page?x=1",
    b"DNT: 1",
    b'If-None-Match: W/"5f-abc"',
]
NGINX = [
    b"X-Real-IP: 203.0.113.9",
    b"X-Forwarded-For: 203.0.113.9, 10.0.0.1",
    b"X-Forwarded-Proto: https",
    b"X-Forwarded-Host: example.org",
    b"X-Request-Id: 7f3c9a2b-req",
    b"Connection: close",
]
SCHEMES = [
    b"X-Forwarded-Proto: http", b"X-Forwarded-Ssl: on", b"X-Forwarded-Protocol: ssl", b"x-forwarded-proto: HTTPS",
    b"X-Forwarded-Ssl: on\r\nX-Forwarded-Proto: http", b"X-Forwarded-Ssl: on\r\nX-Forwarded-Proto: https",
    b"X-Lower: on",
]  # fmt: skip
FIELDS = [
    b"Connection: keep-alive", b"Connection: Close", b"Connection: close, x", b"Connection:\tclose\t", b"Connection: x",
    b"Connection: upgrade\r\nUpgrade: websocket", b"Upgrade: h2c", b"Keep-Alive: 3", b"TE: trailers",
    b"Expect: 100-continue", b"Expect: 200-ok", b"X_Y: a", b"X-Y: a\r\nX_Y: b", b"X: 1\r\nX: 2", b"X: 1\r\nx: 2",
    b"Script-Name: /x", b"SCRIPT_NAME: /a", b"Content-Type: text/plain", b"Content_Length: 3", b"HTTP-HOST: b",
    b"X:", b"X:  a\t", b"X: \xe4", b"X: a\x00", b"X: a\x7f", b"X: a\rb", b" X: a", b": a", b"X", b"X@: a",
    b"X\xe4: a", b"X : a", b"X: " + b"y" * 200, b"X: " + b"y" * 9000, b"y" * 70 + b": z", b"Te\xdft: a",
    b"X: a\r\n b", b"Content-Type: a\r\nContent-Type: a",
]  # fmt: skip
BODY = (b"Content-Length: 5", b"hello")
CHUNKS = b"5\r\nhello\r\n0\r\n\r\n"
#: A field, and the bytes after the header section.
BODIES = [
    (b"content-length: 005", b"hello"), (b"Content-Length: 0", b""), (b"Content-Length: 5 ", b"hello"),
    (b"Content-Length: 5", b"hel"), (b"Content-Length: 5", b"hello, world"), (b"Content-Length:", b""),
    (b"Content-Length: +5", b"hello"), (b"Content-Length: -1", b""), (b"Content-Length: 5, 5", b"hello"),
    (b"Content-Length: 0x5", b"hello"), (b"Content-Length: 5_0", b""), (b"Content-Length: \xb2", b"he"),
    (b"Content-Length: 5\r\nContent-Length: 5", b"hello"), (b"Content-Length: 99999999999999999999", b""),
    (b"Content-Length: 9223372036854775808", b""), (b"Transfer-Encoding: chunked", CHUNKS),
    (b"transfer-encoding: chunked\r\nContent-Length: 5", CHUNKS), (b"Transfer-Encoding: gzip", b"hello"),
    (b"Transfer-Encoding: chunked", b"5\r\nhel"), (b"X: y", b"hello"),
]  # fmt: skip
PROXY = [b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", b"PROXY UNKNOWN\r\n"]
#: What may be changed in a request, or added to it.
BYTES = [bytes([code]) for code in b'\x00\t\n\r "#%/:?@A_a\x7f\x80\xff'] + [b"\r\n", b"\r\n\r\n", b"\r\n "]


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """One request, of which at most one part is unusual."""
    parts: dict[str, Any] = {
        "method": draw(st.sampled_from([b"GET", b"GET", b"POST"])),
        "target": draw(st.sampled_from([b"/", b"/a/b?c=d&e=%20f", b"/%C3%A4?q=%E4"]) | _TARGETS),
        "version": b"HTTP/1.1",
        "host": b"Host: localhost",
        "field": draw(_FIELDS),
        "scheme": b"",
        "body": draw(st.sampled_from([(b"", b""), BODY])),
    }
    unusual = draw(st.sampled_from(["", "", "", *UNUSUAL]))
    if unusual:
        parts[unusual] = draw(st.sampled_from(UNUSUAL[unusual]))
    length, body = parts["body"]
    usual = draw(st.lists(st.sampled_from(BROWSER + NGINX), max_size=6, unique=True))
    fields = [field for field in (parts["host"], *usual, parts["field"], parts["scheme"], length) if field]
    line: bytes = b" ".join([parts["method"], parts["target"], parts["version"]])
    return b"\r\n".join([line, *fields]) + b"\r\n\r\n" + bytes(body)


UNUSUAL: dict[str, list[Any]] = {
    "method": METHODS,
    "target": TARGETS,
    "version": VERSIONS,
    "host": HOSTS,
    "field": FIELDS,
    "scheme": SCHEMES,
    "body": BODIES,
}
_VISIBLE = st.characters(min_codepoint=0x20, max_codepoint=0x7F)
_TARGETS = st.text(_VISIBLE, max_size=12).map(lambda text: b"/" + text.encode())
_FIELDS = st.just(b"") | st.tuples(
    st.text("ABCXYZabcxyz019-_", min_size=1, max_size=8), st.text(_VISIBLE, max_size=12)
).map(lambda pair: f"{pair[0]}: {pair[1]}".encode())


@st.composite
def exchanges(draw: st.DrawFn) -> list[bytes]:
    """What a client sends, in pieces: some requests, perhaps with an error."""
    sent = draw(st.sampled_from([b""] * 5 + [b"\r\n", *PROXY])) + b"".join(
        draw(st.lists(requests(), min_size=1, max_size=3))
    )
    if draw(st.integers(0, 5)) == 0:
        at = draw(st.integers(0, len(sent)))
        sent = sent[:at] + draw(st.sampled_from(BYTES)) + sent[at + draw(st.integers(0, 1)) :]
    cuts = sorted(draw(st.lists(st.integers(0, len(sent)), max_size=2)))
    pieces = [sent[start:end] for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
    return [piece for piece in pieces if piece]
