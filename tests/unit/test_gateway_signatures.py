"""Signatures of webhooks: the published example, and that whatever is changed is refused."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api_gateway.signatures import TOLERANCE_SECONDS, Envelope, envelope, secrets, signature, verified
from fasttrack.errors import AuthenticationError, ConfigurationError
from tests.unit.webhook_sender import OTHER, SECRET, headers, sign

# From the tests of the specification's own libraries.
ID, AT, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
PUBLISHED = "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
KEYS = secrets(SECRET)
IDS = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="."), min_size=1, max_size=40)
MOMENTS = st.integers(0, 10**11)


def fields(**changes: str) -> dict[bytes, str]:
    found = {"webhook-id": ID, "webhook-timestamp": str(AT), "webhook-signature": f"v1,{PUBLISHED}"}
    found |= {f"webhook-{name}": value for name, value in changes.items()}
    return {name.encode(): value for name, value in found.items() if value}


def test_the_specifications_example() -> None:
    assert signature(KEYS[0], ID, str(AT), BODY) == PUBLISHED
    assert verified(envelope(fields(), AT), BODY, KEYS)
    assert secrets(SECRET.removeprefix("whsec_")) == KEYS


def test_one_good_signature_among_several_is_enough() -> None:
    bad = "v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc="
    several = f"{bad} v2,{PUBLISHED} v1a,{PUBLISHED} v1,{PUBLISHED} {bad}"
    assert verified(envelope(fields(signature=several), AT), BODY, KEYS)
    others = f"{bad} v2,{PUBLISHED} v1a,{PUBLISHED} nonsense v1,ä"
    assert not verified(envelope(fields(signature=others), AT), BODY, KEYS)


def test_while_the_secret_is_changed_both_are_good() -> None:
    both = secrets(f"{OTHER} {SECRET}")
    for secret in (SECRET, OTHER):
        found = {name.encode(): text for name, text in headers(ID, BODY, secret, at=AT).items()}
        assert verified(envelope(found, AT), BODY, both)
        assert verified(envelope(found, AT), BODY, secrets(secret))
    old = {name.encode(): text for name, text in headers(ID, BODY, OTHER, at=AT).items()}
    assert not verified(envelope(old, AT), BODY, KEYS)


@pytest.mark.parametrize("skew", [-TOLERANCE_SECONDS, 0, TOLERANCE_SECONDS])
def test_within_five_minutes_a_timestamp_is_good(skew: int) -> None:
    assert envelope(fields(), AT + skew).id == ID


@pytest.mark.parametrize("skew", [-TOLERANCE_SECONDS - 1, TOLERANCE_SECONDS + 1])
def test_beyond_five_minutes_it_is_a_replay(skew: int) -> None:
    with pytest.raises(AuthenticationError, match="more than five minutes from now"):
        envelope(fields(), AT + skew)


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, "") for name in ("id", "timestamp", "signature")]
    + [("id", each) for each in ("a.b", "a b", "ä", "x" * 257)]
    + [("timestamp", each) for each in ("hello", "1614265330.0", "-5", "+1614265330", "1" * 13, "١٦١٤٢٦٥٣٣٠")]
    + [("signature", each) for each in ("v1,", "v1", PUBLISHED, f"v2,{PUBLISHED}", f"v1a,{PUBLISHED}", ",")],
)
def test_malformed_headers_are_refused(name: str, value: str) -> None:
    with pytest.raises(AuthenticationError, match=f"webhook-{name}"):
        envelope(fields(**{name: value}), AT)


def test_a_part_of_a_signature_is_none() -> None:
    for text in (PUBLISHED[:8], PUBLISHED[:-1], PUBLISHED + "=", PUBLISHED.lower(), PUBLISHED.replace("E=", "F=")):
        assert not verified(envelope(fields(signature=f"v1,{text}"), AT), BODY, KEYS)


@pytest.mark.parametrize("text", ["whsec_", "whsec_???", "short", base64.b64encode(b"x" * 23).decode(), "whsec_ä"])
def test_a_secret_that_is_none_is_told_of_without_being_shown(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        secrets(f"{SECRET} {text}")
    assert text.removeprefix("whsec_") not in str(caught.value) or text == "whsec_"


def test_no_secret_verifies_nothing() -> None:
    assert secrets("") == secrets(" \n") == ()
    assert not verified(envelope(fields(), AT), BODY, ())


@given(IDS, MOMENTS, st.binary(max_size=200))
def test_what_is_signed_is_verified(id: str, moment: int, body: bytes) -> None:
    found = {name.encode(): text for name, text in headers(id, body, at=moment).items()}
    assert verified(envelope(found, moment), body, KEYS)


@given(st.data(), IDS, MOMENTS, st.binary(max_size=60))
def test_whatever_is_changed_is_refused(data: st.DataObject, id: str, moment: int, body: bytes) -> None:
    text = sign(SECRET, id, moment, body).removeprefix("v1,")
    other = data.draw(st.tuples(IDS, MOMENTS.map(str), st.binary(max_size=60)))
    whole = (id, str(moment), body)
    part = data.draw(st.sampled_from([0, 1, 2]))
    changed = (*whole[:part], other[part], *whole[part + 1 :])
    for tried in {changed, other} - {whole}:
        assert not verified(Envelope(str(tried[0]), str(tried[1]), (text,)), bytes(tried[2]), KEYS)  # type: ignore[arg-type]


@given(st.data(), IDS, MOMENTS, st.binary(max_size=60))
def test_no_byte_moves_from_one_part_to_another(data: st.DataObject, id: str, moment: int, body: bytes) -> None:
    # The same text cut elsewhere has the same HMAC: the headers' form is what refuses it.
    text = f"{id}.{moment}.".encode() + body
    dots = [at for at, byte in enumerate(text) if byte == ord(".")]
    first, second = sorted(data.draw(st.lists(st.sampled_from(dots), min_size=2, max_size=2, unique=True)))
    cut = {b"webhook-id": text[:first], b"webhook-timestamp": text[first + 1 : second]}
    found = {name: value.decode("latin-1") for name, value in cut.items()}
    found[b"webhook-signature"] = sign(SECRET, id, moment, body)
    try:
        given_to_us = envelope(found, moment)
    except AuthenticationError:
        return
    assert (given_to_us.id, given_to_us.timestamp, text[second + 1 :]) == (id, str(moment), body)
