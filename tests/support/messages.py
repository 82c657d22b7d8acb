"""Requests of the suites h1spec (both of that name) and Http11Probe and of gunicorn's own tests, in our words.

Each case has a name, the bytes sent, and what must follow: the statuses of the responses, and then ``close`` if the
server closes, or nothing if the connection stays open.
"""

from __future__ import annotations

HOST = b"Host: localhost\r\n"
END = b"\r\n"
CLOSE = b"GET /close HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
OPEN = "200"
REFUSED = "400 close"


def get(*fields: bytes, target: bytes = b"/", host: bytes = HOST, version: bytes = b"1.1") -> bytes:
    return b"GET " + target + b" HTTP/" + version + END + host + b"".join(field + END for field in fields) + END


def post(*fields: bytes, content: bytes = b"", version: bytes = b"1.1") -> bytes:
    head = b"POST / HTTP/" + version + END + HOST + b"".join(field + END for field in fields) + END
    return head + content


def chunked(content: bytes, *fields: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked", *fields, content=content)


#: h1spec (uNetworking): each beginning of a request is waited on. 15 cases.
BEGINNINGS = [
    *(
        b"G",
        b"GET ",
        b"GET /hello",
        b"GET /hello ",
        b"GET /hello HTTP",
        b"GET /hello HTTP/1.1",
        b"GET /hello HTTP/1.1\r",
    ),
    *(b"GET /hello HTTP/1.1\r\n" + rest for rest in (b"", b"Hos", b"Host:", b"Host: ")),
    *(b"GET /hello HTTP/1.1\r\nHost: localhost" + rest for rest in (b"", b"\r", b"\r\n", b"\r\n\r")),
]
#: The other 18.
UNETWORKING: dict[str, tuple[bytes, str]] = {
    "no version": (b"GET / \r\n\r\n", REFUSED),
    "expect": (get(b"Expect: 100-continue"), "100 200"),
    "valid get": (get(), OPEN),
    "odd but valid fields": (b"GET / HTTP/1.1\r\nhoSt:\tlocalhost\r\nempty:\r\n\r\n", OPEN),
    "brackets in a name": (get(b"X-Invalid[]: test"), REFUSED),
    "missing host, with a length": (b"GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\n", REFUSED),
    "two hosts": (get(b"Host: example.org"), REFUSED),
    "long negative length": (get(b"Content-Length: -123456789123456789123456789"), REFUSED),
    "negative length": (get(b"Content-Length: -1234"), REFUSED),
    "length of letters": (get(b"Content-Length: abc"), REFUSED),
    "empty value": (get(b"X-Empty: "), OPEN),
    "control character in a value": (get(b"X-Bad: test\x07"), REFUSED),
    "version 9.9": (get(version=b"9.9"), REFUSED),
    "text before the request": (b"Extra line" + get(), REFUSED),
    "cr before a name": (get(b"", b"\rSome-Header: Test"), "200 400 close"),
    "post": (post(b"Content-Length: 5", content=b"hello"), OPEN),
    "length and chunked": (get(b"Transfer-Encoding: chunked", b"Content-Length: 5"), REFUSED),
    "cr in the header section": (b"GET / HTTP/1.1\r\nHost: localhost\r\n\rSome-Header: Test\r\n\r\n", REFUSED),
}
#: h1spec (dropseed), with --strict. 33 cases.
DROPSEED: dict[str, tuple[bytes, str]] = {
    "simple get": (get(), OPEN),
    "post with a length": (post(b"Content-Length: 5", content=b"hello"), OPEN),
    "options *": (b"OPTIONS * HTTP/1.1\r\n" + HOST + END, OPEN),
    "absolute-form": (get(target=b"http://localhost/"), OPEN),
    "connect": (b"CONNECT example.com:443 HTTP/1.1\r\n" + HOST + END, "200 close"),
    "http/2.0": (get(version=b"2.0"), REFUSED),
    "malformed line": (b"GET /\r\n" + HOST + END, REFUSED),
    "missing host": (get(host=b""), REFUSED),
    "repeated host": (get(b"Host: example.com"), REFUSED),
    "space in host": (get(host=b"Host: bad host\r\n"), REFUSED),
    "space in a name": (get(b"Bad Header: value"), REFUSED),
    "folding": (get(b"  continued"), REFUSED),
    "space before the colon": (get(host=b"Host : localhost\r\n"), REFUSED),
    "nul in host": (get(host=b"Host: local\0host\r\n"), REFUSED),
    "chunked": (chunked(b"5\r\nhello\r\n0\r\n\r\n"), OPEN),
    "chunked in 1.0": (
        post(b"Transfer-Encoding: chunked", content=b"5\r\nhello\r\n0\r\n\r\n", version=b"1.0"),
        REFUSED,
    ),
    "chunked and length": (chunked(b"5\r\nhello\r\n0\r\n\r\n", b"Content-Length: 5"), REFUSED),
    "chunked and length, and another request": (
        chunked(b"5\r\nhello\r\n0\r\n\r\n", b"Content-Length: 5") + CLOSE,
        REFUSED,
    ),
    "unknown coding": (post(b"Transfer-Encoding: nonsense", content=b"hello"), "501 close"),
    "chunked is not last": (
        post(b"Transfer-Encoding: chunked, gzip", content=b"5\r\nhello\r\n0\r\n\r\n") + CLOSE,
        REFUSED,
    ),
    "length xyz": (post(b"Content-Length: xyz", content=b"hello"), REFUSED),
    "two lengths": (post(b"Content-Length: 5", b"Content-Length: 7", content=b"hello!!"), REFUSED),
    "chunk size Z": (chunked(b"Z\r\nhello\r\n0\r\n\r\n") + CLOSE, REFUSED),
    "no end of a chunk": (chunked(b"5\r\nhello0\r\n\r\n") + CLOSE, REFUSED),
    "expect with a body": (post(b"Content-Length: 5", b"Expect: 100-continue", content=b"hello"), "100 200"),
    "two requests": (get() + get(), "200 200"),
    "connection: close": (CLOSE, "200 close"),
    "http/1.0": (get(version=b"1.0"), "200 close"),
    "head": (b"HEAD / HTTP/1.1\r\n" + HOST + END, OPEN),
    "error page": (b"get / HTTP/1.1\r\n" + HOST + END, REFUSED),
    "line of 9,000 bytes": (get(target=b"/" + b"a" * 9000), "414 close"),
    "101 fields": (get(*(b"X-H-%d: value" % number for number in range(101))), "431 close"),
    "field of 9,000 bytes": (get(b"X-Big: " + b"x" * 9000), "431 close"),
}
#: Http11Probe: of its suites of compliance, smuggling and malformed input, what the others do not have.
PROBE: dict[str, tuple[bytes, str]] = {
    "bare lf after the line": (b"GET / HTTP/1.1\n" + HOST + END, REFUSED),
    "bare lf after a field": (b"GET / HTTP/1.1\r\nHost: localhost\nX: y\r\n\r\n", REFUSED),
    "folded value": (get(b"X-Test: value", b" continued"), REFUSED),
    "tab in the line": (b"GET\t/\tHTTP/1.1\r\n" + HOST + END, REFUSED),
    "two spaces": (b"GET  / HTTP/1.1\r\n" + HOST + END, REFUSED),
    "no target": (b"GET HTTP/1.1\r\n" + HOST + END, REFUSED),
    "empty name": (get(b": empty-name"), REFUSED),
    "cr only": (b"GET / HTTP/1.1\r" + HOST + END, REFUSED),
    "fragment in the target": (get(target=b"/path#frag"), OPEN),
    "no colon": (get(b"NoColonHere"), REFUSED),
    "length with a plus": (post(b"Content-Length: +5", content=b"hello"), REFUSED),
    "length with an underscore": (post(b"Content-Length: 5_0", content=b"hello"), REFUSED),
    "length in hex": (post(b"Content-Length: 0x5", content=b"hello"), REFUSED),
    "length with zeros": (post(b"Content-Length: 005", content=b"hello"), OPEN),
    "length with a comma": (post(b"Content-Length: 5, 5", content=b"hello"), REFUSED),
    "empty length": (post(b"Content-Length: ", content=b""), REFUSED),
    "overflowing length": (post(b"Content-Length: 99999999999999999999", content=b"hello"), REFUSED),
    "length of 2^63": (post(b"Content-Length: 9223372036854775808", content=b"hello"), REFUSED),
    "space line before the fields": (b"GET / HTTP/1.1\r\n \r\n" + HOST + END, REFUSED),
    "the same host twice": (get(HOST[:-2]), REFUSED),
    "userinfo in host": (get(host=b"Host: user@localhost\r\n"), REFUSED),
    "path in host": (get(host=b"Host: localhost/path\r\n"), REFUSED),
    "empty host": (get(host=b"Host: \r\n"), REFUSED),
    "port in host": (get(host=b"Host: localhost:8080\r\n"), OPEN),
    "ipv6 host": (get(host=b"Host: [::1]:8080\r\n"), OPEN),
    "get *": (get(target=b"*"), REFUSED),
    "authority-form with get": (get(target=b"localhost:80"), REFUSED),
    "absolute-form with another host": (get(target=b"http://example.org/x"), OPEN),
    "absolute-form without host": (get(target=b"http://localhost/", host=b""), REFUSED),
    "version in lower case": (b"GET / http/1.1\r\n" + HOST + END, REFUSED),
    "http/1.2": (get(version=b"1.2"), OPEN),
    "http/1.10": (get(version=b"1.10"), REFUSED),
    "http/01.1": (get(version=b"01.1"), REFUSED),
    "empty lines before the request": (b"\r\n" + get(), OPEN),
    "connection: keep-alive in 1.0": (get(b"Connection: keep-alive", version=b"1.0"), OPEN),
    "unknown expectation": (get(b"Expect: 200-ok"), "417 close"),
    "expectation in 1.0": (get(b"Expect: 100-continue", version=b"1.0"), "200 close"),
    "xchunked": (post(b"Transfer-Encoding: xchunked", content=b"0\r\n\r\n"), "501 close"),
    "chunked after a control character": (post(b"Transfer-Encoding: \x0bchunked", content=b"0\r\n\r\n"), REFUSED),
    "coding with a space": (post(b"Transfer-Encoding : chunked", content=b"0\r\n\r\n"), REFUSED),
    "chunked twice": (post(b"Transfer-Encoding: chunked, chunked", content=b"0\r\n\r\n"), REFUSED),
    "chunked and identity": (
        post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", content=b"0\r\n\r\n"),
        REFUSED,
    ),
    "coding with an underscore": (post(b"Transfer_Encoding: chunked", content=b""), OPEN),
    "identity": (post(b"Transfer-Encoding: identity", content=b""), REFUSED),
    "chunk extension": (chunked(b"5;a=b\r\nhello\r\n0\r\n\r\n"), OPEN),
    "quoted chunk extension": (chunked(b'5;a="b;c"\r\nhello\r\n0\r\n\r\n'), OPEN),
    "chunk extension with cr": (chunked(b"5;a\rb\r\nhello\r\n0\r\n\r\n"), REFUSED),
    "chunk extension without a name": (chunked(b"5;\r\nhello\r\n0\r\n\r\n"), REFUSED),
    "chunk size 0x5": (chunked(b"0x5\r\nhello\r\n0\r\n\r\n"), REFUSED),
    "chunk size +5": (chunked(b"+5\r\nhello\r\n0\r\n\r\n"), REFUSED),
    "chunk size -1": (chunked(b"-1\r\nhello\r\n0\r\n\r\n"), REFUSED),
    "chunk size with a space before": (chunked(b" 5\r\nhello\r\n0\r\n\r\n"), REFUSED),
    "chunk size with a space behind": (chunked(b"5 \r\nhello\r\n0\r\n\r\n"), REFUSED),
    "chunk size of 2^63": (chunked(b"8000000000000000\r\nhello"), REFUSED),
    "chunk size of 18 digits": (chunked(b"ffffffffffffffffff\r\nhello"), REFUSED),
    "chunk size with zeros": (chunked(b"00005\r\nhello\r\n000\r\n\r\n"), OPEN),
    "bare lf after a size": (chunked(b"5\nhello\r\n0\r\n\r\n"), REFUSED),
    "bare lf after a chunk": (chunked(b"5\r\nhello\n0\r\n\r\n"), REFUSED),
    "too much in a chunk": (chunked(b"5\r\nhellox\r\n0\r\n\r\n"), REFUSED),
    "trailer": (chunked(b"5\r\nhello\r\n0\r\nX: y\r\n\r\n"), OPEN),
    "trailer with a length": (chunked(b"0\r\nContent-Length: 5\r\n\r\n"), REFUSED),
    "trailer with a host": (chunked(b"0\r\nHost: evil\r\n\r\n"), REFUSED),
    "nul in the target": (get(target=b"/\0"), REFUSED),
    "control character in the target": (get(target=b"/\x01"), REFUSED),
    "umlaut in the target": (get(target=b"/\xc3\xa4"), REFUSED),
    "percent-encoded nul": (get(target=b"/%00"), OPEN),
    "broken percent-encoding": (get(target=b"/%zz"), OPEN),
    "dot segments": (get(target=b"/a/../b"), OPEN),
    "umlaut in a value": (get(b"X: \xc3\xa4"), OPEN),
    "umlaut in a name": (get(b"X\xc3\xa4: y"), REFUSED),
    "delete in a value": (get(b"X: a\x7f"), REFUSED),
    "binary": (bytes(range(128, 256)) + b"\r\n\r\n", REFUSED),
    "tls": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", REFUSED),
    "http/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", REFUSED),
    "get with a body": (get(b"Content-Length: 5") + b"hello", OPEN),
    "body of the next request": (
        post(b"Content-Length: 0", content=b"") + get(),
        "200 200",
    ),
    "forwarded proto, twice": (get(b"X-Forwarded-Proto: https", b"X-Forwarded-Ssl: off"), REFUSED),
}
#: gunicorn's tests of its parser: kinds of requests that the others do not have.
GUNICORN: dict[str, tuple[bytes, str]] = {
    "curl": (get(b"User-Agent: curl/7.18.0", b"Accept: */*"), OPEN),
    "browser": (get(b"Accept: text/html,*/*;q=0.8", b"Keep-Alive: 300", b"Connection: keep-alive"), OPEN),
    "quotes in the target": (get(target=b'/with_"quotes"?foo="bar"'), OPEN),
    "query with a question mark": (get(target=b"/test.cgi?query=?&x"), OPEN),
    "two slashes": (get(target=b"//a//b"), OPEN),
    "target with a colon": (get(target=b"/a:b"), OPEN),
    "connection: Close": (get(b"Connection: Close"), "200 close"),
    "long method": (get().replace(b"GET", b"A" * 21), REFUSED),
    "method of another kind": (get().replace(b"GET", b"PROPFIND"), OPEN),
    "method with a dash": (get().replace(b"GET", b"M-SEARCH"), OPEN),
    "method of two letters": (get().replace(b"GET", b"GE"), REFUSED),
    "method with a hash": (get().replace(b"GET", b"GET#"), REFUSED),
    "method with a comma": (get().replace(b"GET", b"GE,T"), REFUSED),
    "underscores in a name": (get(b"X_Y: a"), OPEN),
    "upgrade to something else": (get(b"Connection: Upgrade", b"Upgrade: foo"), OPEN),
    "content type twice": (get(b"Content-Type: a", b"Content-Type: b"), REFUSED),
    "chunks in upper and lower case": (chunked(b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n"), OPEN),
    "script name": (get(b"Script-Name: /x"), OPEN),
    "gzip, chunked": (post(b"Transfer-Encoding: gzip, chunked", content=b"0\r\n\r\n"), "200 close"),
    "quoted chunked": (post(b'Transfer-Encoding: "chunked"', content=b"0\r\n\r\n"), "501 close"),
    "1.0 without host": (get(host=b"", version=b"1.0"), "200 close"),
    "pipeline with an error": (get() + get(b"Bad Name: x") + get(), "200 400 close"),
}
SUITES = {"unetworking": UNETWORKING, "dropseed": DROPSEED, "probe": PROBE, "gunicorn": GUNICORN}
#: Where gunicorn's parser in C (gunicorn_h1c 0.6) differs from the one in Python, and nothing outside of it can help.
IN_C: dict[str, str] = {
    "two spaces": OPEN,
    "http/1.2": REFUSED,
    **dict.fromkeys(("unknown coding", "xchunked", "quoted chunked"), REFUSED),
}
#: The same, but the thread worker helps: the parser waits for more than the end of the header section.
IN_C_WAITS: dict[str, str] = {"no version": ""}
