"""How this process's clients reach its servers: with a key, as other users of the machine can reach the port too, and
past any proxy.

A server answers 127.0.0.1 alone, but to every user there, and requests of somebody else would be measured as ours. The
key lives as long as the process and travels in environments, which no other user can read; it is written nowhere.
"""

import os
import secrets
import urllib.request

SERVER = "VLLM_API_KEY"  # where vLLM's server looks for it
CLIENT = "OPENAI_API_KEY"  # where vLLM's benchmark and other clients of this protocol do
KEY = secrets.token_urlsafe(24)


def headers() -> dict[str, str]:
    """Of a request to one of our servers."""
    return {"Authorization": f"Bearer {KEY}"}


def open_url(request: urllib.request.Request | str, timeout_s: float):
    """`urllib.request.urlopen` for 127.0.0.1: a proxy in the environment is not asked."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=timeout_s)


def past_proxies() -> dict[str, str]:
    """What has a client that is a process of its own reach 127.0.0.1 itself: changes to its environment."""
    hosts = os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")  # in the order in which urllib asks
    if hosts.strip() != "*":  # which is all hosts, and only when it stands alone
        hosts = ",".join(filter(None, [hosts, "127.0.0.1"]))
    return {"NO_PROXY": hosts, "no_proxy": hosts}
