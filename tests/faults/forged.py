"""Tokens as forgers make them from good ones."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator, Sequence

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def mutated(good: Sequence[str], count: int, seed: int) -> Iterator[str]:
    """`count` tokens, none of which is one of `good`, nor becomes one where HTTP takes white space away."""
    draw, known = random.Random(seed), set(good)
    ways = (_letter, _letters, _claims, _header, _mixed, _cut, _longer)
    made = 0
    while made < count:
        token = draw.choice(ways)(draw, good)
        if token.rstrip(" \t") not in known:
            made += 1
            yield token


def _letter(draw: random.Random, good: Sequence[str]) -> str:
    token = draw.choice(good)
    place = draw.randrange(len(token))
    return token[:place] + draw.choice(_LETTERS + ".=") + token[place + 1 :]


def _letters(draw: random.Random, good: Sequence[str]) -> str:
    token = list(draw.choice(good))
    for _ in range(draw.randrange(2, 30)):
        token[draw.randrange(len(token))] = draw.choice(_LETTERS)
    return "".join(token)


def _claims(draw: random.Random, good: Sequence[str]) -> str:
    head, body, signature = draw.choice(good).split(".")
    claims = _read(body)
    changed = {"roles": ["flights-admin", "root"], "exp": 2**31 + draw.randrange(10**9), "aud": ["fasttrack", "x"],
               "sub": f"s{draw.randrange(10**6)}", "tenant": f"t{draw.randrange(10**6)}"}  # fmt: skip
    name = draw.choice(sorted(changed))
    return f"{head}.{_written({**claims, name: changed[name]})}.{signature}"


def _header(draw: random.Random, good: Sequence[str]) -> str:
    head, body, signature = draw.choice(good).split(".")
    other = {"alg": draw.choice(["none", "None", "HS256", "HS512", "ES384", "RS256", "PS256", "EdDSA", ""]),
             "kid": draw.choice(["k1", "k2", "", "../k1", "'", "k1\x00"]), "typ": draw.choice(["JWT", "at+jwt", "x"]),
             "crit": ["b64"], "b64": False, "jku": "https://evil.test/jwks", "zip": "DEF"}  # fmt: skip
    chosen = draw.sample(sorted(other), draw.randrange(1, 4))
    kept = draw.choice([signature, "", signature[::-1]])
    return f"{_written({**_read(head), **{name: other[name] for name in chosen}})}.{body}.{kept}"


def _mixed(draw: random.Random, good: Sequence[str]) -> str:
    parts = [draw.choice(good).split(".")[number] for number in range(3)]
    return ".".join(parts)


def _cut(draw: random.Random, good: Sequence[str]) -> str:
    token = draw.choice(good)
    return token[: draw.randrange(len(token))]


def _longer(draw: random.Random, good: Sequence[str]) -> str:
    token = draw.choice(good)
    more = "".join(draw.choice(_LETTERS + ".=%\t ") for _ in range(draw.randrange(1, 40)))
    return draw.choice([token + more, more + token, f"{token}.{token}"])


def _read(part: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found


def _written(document: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()
