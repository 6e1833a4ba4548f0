"""Servers on 127.0.0.1 are reached past a proxy, in this process and in clients that are processes of their own."""

import http.server
import threading
import urllib.error
import urllib.request

import pytest

from symmlib.serving import access


@pytest.fixture
def url():
    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/health"
        server.shutdown()


def test_a_proxy_is_not_asked_for_our_own_servers(url, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # the port 'discard', where nobody listens
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(urllib.error.URLError):
        urllib.request.build_opener().open(url, timeout=5)  # as `urlopen`, which would keep the proxy for later tests
    with access.open_url(url, 5) as response:
        assert response.status == 200


@pytest.mark.parametrize(
    ("upper", "lower", "hosts"),
    [
        (None, None, "127.0.0.1"),
        ("hub.example", None, "hub.example,127.0.0.1"),
        ("one.example", "other.example", "other.example,127.0.0.1"),
        ("*", None, "*"),
    ],
)
def test_clients_keep_what_somebody_set_for_other_hosts(monkeypatch, upper, lower, hosts):
    for name, value in (("NO_PROXY", upper), ("no_proxy", lower)):
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
    assert access.past_proxies() == {"NO_PROXY": hosts, "no_proxy": hosts}
    for name, value in access.past_proxies().items():
        monkeypatch.setenv(name, value)
    assert urllib.request.proxy_bypass_environment("127.0.0.1")
