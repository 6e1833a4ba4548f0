"""Takes values that look like secrets out of text, before it leaves this machine: `publish` copies all through it.

Two kinds of evidence, because neither is enough. What this process's environment holds under a secret-like name is a
secret whatever it looks like, and is replaced wherever it stands. What other machines and users held can only be known
by its shape (how well-known services begin their tokens) or by its place: after `--api-key`, `token=`, `"password": `,
in an `Authorization` header, or before the @ of an address.

It errs towards replacing: a word too many is lost from a log, where a token too few is lost to the world. It must not
eat measurements, though, and these files are full of the word token (`max_tokens: 32`, `"eos_token": "</s>"`). So
numbers short of eight digits, None, booleans, markup such as <pad> and file paths are values that no secret has, a name
must end in its secret-like word, and after a colon in prose only what has digits counts. It is no proof: a password in
a sentence of its own, in parts, or encoded in another way, is not found. Do not print secrets in the first place.
"""

import html
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import quote

REDACTED = "[redacted]"
SHORTEST = 6  # characters of a value that counts by its name: shorter ones are words such as `none`, in every text

# Mostly by a whole word of the name, such as KEY in AWS_SECRET_ACCESS_KEY, which KEYBOARD has not.
_SECRET_VARIABLE = re.compile(
    r"(?:^|_)(?:KEYS?|TOKENS?|PASS|AUTH|CREDS?|CREDENTIALS?|COOKIES?|PAT|PROXY)(?:_|$)"
    r"|(?:KEY|TOKEN|PASSWD|PASSPHRASE)$|PASSWORD|SECRET",
    re.IGNORECASE,
)
_SHAPES = re.compile(
    r"\b(?:"
    r"hf_[A-Za-z0-9]{12,}(?!\w)"  # Hugging Face; not hf_quantization_config
    r"|sk-[A-Za-z0-9_-]{12,}"  # OpenAI, Anthropic
    r"|gh[pousr]_[A-Za-z0-9]{12,}|github_pat_\w{12,}|glpat-[\w-]{12,}"  # GitHub, GitLab
    r"|(?:AKIA|ASIA)[A-Z0-9]{12,}"  # AWS
    r"|AIza[\w-]{30,}|ya29\.[\w-]{12,}"  # Google
    r"|xox[abeoprs]-[\w-]{10,}"  # Slack
    r"|nvapi-[\w-]{12,}|npm_[A-Za-z0-9]{20,}|pypi-[\w-]{20,}|r8_[A-Za-z0-9]{20,}"
    r"|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]+"  # a JSON web token
    r")"
)
_BEGINNINGS = ("hf_", "sk-", "gh", "github_pat_", "glpat-", "AKIA", "ASIA", "AIza", "ya29.", "xox")
_BEGINNINGS += ("nvapi-", "npm_", "pypi-", "r8_", "eyJ")
_SCHEMES = ("bearer", "basic", "digest", "negotiate")
_PRIVATE_KEY = re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_USER_INFO = re.compile(r"(\b[a-z][a-z0-9+.-]*://)([^\s/@:\"'<>]*:[^\s/@\"'<>]+|[^\s/@:\"'<>]{20,})@", re.IGNORECASE)
_HEADER = re.compile(
    r"(\b(?:proxy-)?authorization\b[\"'\\]*\s*[:=]\s*[\"'\\]*(?:[A-Za-z]+\s+)?|\bbearer\s+)(?!\[redacted)([^\s\"'\\,;<>&]{6,})",
    re.IGNORECASE,
)
_COOKIE = re.compile(
    r"(\b(?:set-)?cookie[\"'\\]*\s*:\s*[\"'\\]*)(?!\[redacted)([^\s\"'\\<>][^\"'\\<>\r\n]{5,})", re.IGNORECASE
)

_WORD = r"(?:api[-_]?key|access[-_]?key(?:[-_]?id)?|secret[-_]?key|private[-_]?key|auth[-_]?key|"
_WORD += r"account[-_]?key|subscription[-_]?key|passw(?:or)?d|passphrase|secret|credentials?|signature|token)"
_MARKUP = r"(?:[\"'`\\ \t]|&quot;|&\#3[49];|</?span[^>]{0,80}>)"  # quotes, and a highlighter's tags, around a value
_SPECIAL = r"(?<!bos_)(?<!eos_)(?<!pad_)(?<!unk_)(?<!sep_)(?<!cls_)(?<!mask_)(?<!image_)(?<!per_)(?<!first_)"
# --api-key X, --api-key=X, and in a list of arguments, which a page may show in colours: "--api-key", "X"
_OPTION = re.compile(
    rf"((?<![\w-])--?(?:[A-Za-z][\w-]*[-_])?{_WORD}(?![\w-])(?:[\"'`\\\s,=]|&quot;|&\#3[49];|</?span[^>]{{0,80}}>)+)"
    r"(?!\[redacted)((?!&quot;|&\#3[49];)[^\s\"'`\\,=<>\]-](?:(?!&quot;|&\#3[49];)[^\s\"'\\,<>\]])*)",
    re.IGNORECASE,
)
# STRIPE_KEY=X in a command line, ?sig=X in an address: names that are too common elsewhere
_ASSIGNED = re.compile(
    r"((?:\b[A-Z][A-Z0-9_]*_(?:KEY|PAT|AUTH|PASS|PWD|CREDS)|[?&;](?:sig|key))=[\"']?)([^\s\"'\\,;&<>]{6,})"
)
# token=X, TOKEN: X, "token": "X", token: ['X', 'Y']
_NAMED = re.compile(
    rf"({_SPECIAL}{_WORD}{_MARKUP}*([=:]){_MARKUP}*)(?!\[redacted)(\[[^\]]{{0,2000}}\]|(?<=[\"'`;])[^\"'`\\&<>\n]+|[^\s\"'`\\,;&<>(){{}}\[\]]+)",
    re.IGNORECASE,
)
_NO_SECRET = re.compile(
    r"none|null|nil|true|false|empty|auto|default|required|optional|\*+|[-+]?\d{1,7}|[-+]?\d+\.\d*(?:e[-+]?\d+)?|<.*|\$.*"
    r"|(?:/|\./|\.\./|~/).*|type|str|string|\[\s*\]|\[redacted\]|redacted",
    re.IGNORECASE,
)


class Redaction:
    """Replaces secrets in texts. `secrets`: values that are, wherever they stand (`known_secrets()` by default)."""

    def __init__(self, secrets: Iterable[str] | None = None):
        values = set(known_secrets() if secrets is None else secrets)
        forms = {form for value in values for form in _forms(value)}
        longest_first = sorted(forms, key=lambda form: (-len(form), form))  # one may be a part of another
        self._known = re.compile("|".join(map(re.escape, longest_first))) if forms else None

    def __call__(self, text: str) -> tuple[str, int]:
        """`text` with `REDACTED` in the place of each secret, and how many there were."""
        count = 0

        def instead(match: re.Match) -> str:
            nonlocal count
            count += 1
            return REDACTED

        def element(value: str) -> str:
            nonlocal count
            count += _is_value(value)
            return REDACTED if _is_value(value) else value

        def behind(accept: Callable[[re.Match], bool]):
            def replace(match: re.Match) -> str:
                nonlocal count
                value = match[match.re.groups]
                if REDACTED in value or not accept(match):
                    return match[0]
                before = match[0][: match.start(match.re.groups) - match.start()]
                if value[0] == "[":  # a list: each of its values, so that JSON stays JSON
                    return before + re.sub(r"[^\s\"'`\\,;&\[\]]+", lambda part: element(part[0]), value)
                count += 1
                return before + REDACTED

            return replace

        def around(match: re.Match) -> str:
            nonlocal count
            count += 1
            return f"{match[1]}{REDACTED}{'@' if match.re is _USER_INFO else match[2]}"

        if self._known:
            text = self._known.sub(instead, text)
        lower = text.lower()
        if any(beginning in text for beginning in _BEGINNINGS):
            text = _SHAPES.sub(instead, text)
        if "private key-----" in lower:
            text = _PRIVATE_KEY.sub(around, text)
        if "://" in lower:
            text = _USER_INFO.sub(around, text)
        if "authorization" in lower or "bearer" in lower:
            text = _HEADER.sub(behind(lambda match: _is_value(match[2]) and match[2].lower() not in _SCHEMES), text)
        if "cookie" in lower:
            text = _COOKIE.sub(behind(lambda match: True), text)
        if "=" in text:
            text = _ASSIGNED.sub(behind(lambda match: _is_value(match[2])), text)
        if any(word in lower for word in ("key", "passw", "passphrase", "secret", "credential", "signature", "token")):
            text = _OPTION.sub(behind(lambda match: not _NO_SECRET.fullmatch(match[2])), text)
            text = _NAMED.sub(behind(_is_named), text)
        return text, count


def known_secrets(environment: Mapping[str, str] | None = None) -> set[str]:
    """Values that `environment` (this process's by default) holds under secret-like names; of a proxy, its password."""
    found = set()
    for name, value in (os.environ if environment is None else environment).items():
        if not _SECRET_VARIABLE.search(name) or name in ("PWD", "OLDPWD"):
            continue
        if "://" in value:
            parts = _USER_INFO.search(value)
            value = parts[2].rpartition(":")[2] if parts else ""
        if _is_value(value):
            found.add(value)
    return found


def _forms(value: str) -> set[str]:
    """`value` as JSON, HTML and addresses write it."""
    return {value, json.dumps(value)[1:-1], html.escape(value), quote(value, safe="")}


def _is_value(value: str) -> bool:
    return len(value) >= SHORTEST and not _NO_SECRET.fullmatch(value)


def _is_named(match: re.Match) -> bool:
    """Whether what stands behind a secret-like name is a value, and no word of a sentence: `each token: the time`."""
    name, separator, value = match[1].lower(), match[2], match[3].strip()
    if _NO_SECRET.fullmatch(value):
        return False
    if re.match(r"(?:passw|passphrase|secret)", name) and separator == "=":
        return True
    if len(value) < SHORTEST:
        return False
    quoted = re.search(r"[=:].*[\"'`;]", match[1]) is not None or value[0] == "["
    whole_line = match.string[match.end() : match.end() + 1] in ("", "\n", "\r") and " " not in value
    return separator == "=" or quoted or whole_line or re.search(r"\d", value) is not None
