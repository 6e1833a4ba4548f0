"""The key that this process's servers ask for and its clients show: other users of the machine can reach the port too.

A server answers 127.0.0.1 alone, but to every user there, and requests of somebody else would be measured as ours. The
key lives as long as the process and travels in environments, which no other user can read; it is written nowhere.
"""

import secrets

SERVER = "VLLM_API_KEY"  # where vLLM's server looks for it
CLIENT = "OPENAI_API_KEY"  # where vLLM's benchmark and other clients of this protocol do
KEY = secrets.token_urlsafe(24)


def headers() -> dict[str, str]:
    """Of a request to one of our servers."""
    return {"Authorization": f"Bearer {KEY}"}
