"""What looks like a secret is taken out of text wherever it stands, and measurements are left alone."""

import base64
import json
import random
import string

import pytest

from symmlib.redact import REDACTED, Redaction, known_secrets

KEY = "Zq3vX9tLw2mN7pRs"


@pytest.mark.parametrize(
    "text",
    [
        f"vllm serve m --api-key {KEY} --port 8000",
        f"vllm serve m --api-key={KEY}",
        f"--hf-token '{KEY}'",
        json.dumps({"argv": ["vllm", "--api-key", KEY]}, indent=2),
        json.dumps(json.dumps({"api_key": KEY})),
        f"Namespace(api_key=['{KEY}', '{KEY}'], port=8000)",
        f"non-default args: {{'api_key': ['{KEY}'], 'seed': 0}}",
        f"HF_TOKEN={KEY}",
        f"export HF_TOKEN='{KEY}'",
        f"token: {KEY}",
        f"aws_secret_access_key = {KEY}",
        f"DB_PASSWORD={KEY}",
        f'"password": "{KEY} with a space"',
        f"GET /v1/models?token={KEY}&n=1",
        f"https://h/x?n=1&sig={KEY}",
        f"https://h/x?n=1&amp;key={KEY}",
        f"STRIPE_KEY={KEY} CLOUD_PAT='{KEY}' vllm serve m",
        f"Ocp-Apim-Subscription-Key: {KEY}",
        f'<span class="s">&quot;--api-key&quot;</span>,<span class="s">&quot;{KEY}&quot;</span>',
        f"<span>--hf-token</span> <span>{KEY}</span>",
        f"https://bucket.example/x?X-Amz-Signature={KEY}",
        f"Authorization: Bearer {KEY}",
        f"authorization: basic {base64.b64encode(KEY.encode()).decode()}",
        f"{{'Authorization': 'Bearer {KEY}'}}",
        f"curl -H 'Proxy-Authorization: {KEY}'",
        f"Set-Cookie: session={KEY}; HttpOnly",
        f"https://me:{KEY}@example.org/x.git",
        f"postgres://u:{KEY}@db/x",
        f'<span class="n">token</span> <span class="o">=</span> <span class="s2">&quot;{KEY}&quot;</span>',
        f"password=&#34;{KEY}&#34;",
        f"-----BEGIN RSA PRIVATE KEY-----\n{KEY}\n-----END RSA PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\n{KEY} (cut off)",
    ],
)
def test_a_secret_is_known_by_its_place(text):
    found, count = Redaction([])(text)
    assert KEY not in found and base64.b64encode(KEY.encode()).decode() not in found
    assert REDACTED in found and count >= 1


@pytest.mark.parametrize(
    "token",
    [
        "hf_" + KEY,
        "hf_" + "abcdefghijklmnopqrstuvwxyz",
        "sk-" + KEY,
        "sk-proj-" + KEY,
        "ghp_" + KEY,
        "github_pat_" + KEY,
        "AKIAIOSFODNN7EXAMPLE",
        "xoxb-123456789012-abcdef",
        "nvapi-" + KEY,
        "glpat-" + KEY,
        "AIza" + KEY * 3,
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
    ],
)
def test_a_secret_is_known_by_its_shape(token):
    for text in (token, f"using {token} now", f"x={token},", f'["{token}"]', f"https://{token}@example.org/"):
        found, _ = Redaction([])(text)
        assert token not in found, text


def test_what_the_environment_holds_under_a_secret_name_is_replaced_wherever_it_stands():
    environment = {
        "HF_TOKEN": "correct horse/battery",
        "OPENAI_API_KEY": "battery-staple",
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG+bPxRfiCY",
        "PGPASSWORD": 'quoted"&value',
        "https_proxy": "http://user:hunter22@proxy:3128",
    }
    secrets = known_secrets(environment)
    assert len(secrets) == 5
    redaction = Redaction(secrets)
    for value in (*secrets, "correct%20horse%2Fbattery", "quoted&quot;&amp;value", 'quoted\\"&value'):
        assert redaction(f"it said {value} here") == (f"it said {REDACTED} here", 1)


def test_variables_that_hold_no_secret_are_left_alone():
    environment = {
        "PWD": "/home/me/work",
        "SSH_AUTH_SOCK": "/tmp/agent.123",
        "KEYBOARD_LAYOUT": "us-international",
        "AUTHOR_NAME": "somebody else",
        "OPENAI_API_KEY": "none",
        "VLLM_MAX_TOKENS": "2048",
        "TOKENIZERS_PARALLELISM": "disabled by me",
        "http_proxy": "http://proxy.example:3128",
    }
    assert known_secrets(environment) == set()


@pytest.mark.parametrize(
    "text",
    [
        '"eos_token": "</s>", "pad_token": "<pad>", "bos_token": "[BOS]", "unk_token": "unknown"',
        "max_num_batched_tokens=2048, max_tokens: 32, hf_token=None, api_key=None, token=12",
        "--max-num-batched-tokens 2048 --tokenizer /models/x --tokenizer-mode auto --port 8000",
        "TTFT, time to first token: from sending a request to its first token. Time per token: sending too.",
        "time per output token: the mean time between the tokens after that",
        "hf_overrides={} hf_config_path=None hf_quantization_config disk-based-cache task-scheduler",
        "git checkout abcdef0123456789abcdef0123456789abcdef01",
        "profile_hash: 3fbe4bab4d31204585850979d6e32dc3113bcb8514de8a38955d2087003ce9e2",
        "http://127.0.0.1:8000/v1/completions https://github.com/vllm-project/vllm/pull/20759",
        "backend,world_size,dtype,mode,bytes\ngloo,2,bfloat16,eager,1024",
        "block 1 of 3, server 2 of 9: router",
        '"median_ttft_ms": 23.49, "total_input_tokens": 3584, "ms_per_token": 5.123456',
        "key: median_us; KeyError: 'tpot'",
        "tokenized_requests=False,tokenizer_backend=None,ssl_keyfile=/etc/key.pem",
        "---------------Inter-token Latency----------------",
        "the secret of a fast all-reduce: none",
    ],
)
def test_measurements_and_prose_are_left_as_they_are(text):
    assert Redaction([])(text) == (text, 0)


def test_json_stays_json():
    data = {"argv": ["serve", "--api-key", KEY], "token": KEY, "n": [1, 2], "api_key": [KEY], "password": None}
    found, count = Redaction([])(json.dumps(data, indent=2))
    assert json.loads(found) == data | {
        "argv": ["serve", "--api-key", REDACTED],
        "token": REDACTED,
        "api_key": [REDACTED],
    }
    assert KEY not in found and count == 3


def test_what_was_redacted_is_not_redacted_again():
    text = f"--api-key {KEY} token={KEY} https://u:{KEY}@h/ Authorization: Bearer {KEY}\nCookie: a={KEY}\n"
    once, count = Redaction([])(text)
    assert count == 5 and Redaction([])(once) == (once, 0)


def test_random_text_takes_no_time_out_of_hand():
    draw = random.Random(0)
    alphabet = string.ascii_letters + string.digits + " \"'\\<>=:[]-_@/&;\n"
    words = ["token", "key", "--api-key", "password", "://", "Authorization", "<span", "&quot;", "cookie:"]
    text = "".join(draw.choice(words) if draw.random() < 0.1 else draw.choice(alphabet) for _ in range(300_000))
    Redaction([])(text)
    Redaction([])("token" + " " * 100_000 + "x")
    Redaction([])("<span " * 50_000)
