"""Credentials out, the token in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polydev.egress.headers import Headers, Token, check_request, injected, observed
from polydev.egress.refusal import Refused
from polydev.models.egress import EgressMode
from polydev.secret import Secret
from tests.egress.conftest import HOST, SENTINEL, policy

GATE = Token(access_token=Secret("made-up-access"), attributes={"account_id": "made-up-account"})
CREDENTIALS = ("authorization", "x-api-key", "x-goog-api-key", "api-key", "proxy-authorization")


OURS = [(b"x-api-key", SENTINEL.reveal().encode())]


def through(headers: Headers, token: Token | None = GATE) -> Headers:
    return injected(
        headers, host=HOST, policy=policy(EgressMode.INJECT), sentinel=SENTINEL, token=token
    )


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [*CREDENTIALS, "Authorization", "X-API-Key", "cookie", "X-Account", "x-device",
                 "X-Forwarded-For", "forwarded", "proxy-foo", "te", "keep-alive", "accept", "x-ok"]
            ),
            st.sampled_from([SENTINEL.reveal(), f"Bearer {SENTINEL.reveal()}", "made-up-foreign"]),
        ),
        max_size=8,
    )
)  # fmt: skip
def test_only_harmless_headers_and_our_own_go_out(sent: list[tuple[str, str]]) -> None:
    headers = [(name.encode(), value.encode()) for name, value in sent]
    foreign = any(n.lower() in CREDENTIALS and v == "made-up-foreign" for n, v in sent)
    if foreign:
        with pytest.raises(Refused) as refused:
            through(headers)
        assert refused.value.status == 403
        assert "made-up-foreign" not in refused.value.reason
        return
    if not any(name.lower() in CREDENTIALS for name, _ in sent):
        with pytest.raises(Refused, match="no credential") as refused:
            through(headers)
        assert refused.value.status == 403
        return
    out = [(name.decode(), value.decode()) for name, value in through(headers)]
    kept = [(n, v) for n, v in sent if n in ("accept", "x-ok")]
    assert out == [
        ("Host", HOST),
        *kept,
        ("Authorization", "Bearer made-up-access"),
        ("x-account", "made-up-account"),  # x-plan: the credential has none, so it is left out
    ]


def test_headers_nominated_by_connection_go_but_never_the_framing() -> None:
    out = through([*OURS, (b"Connection", b"x-hop, Content-Length"), (b"x-hop", b"1"),
                   (b"Content-Length", b"3")])  # fmt: skip
    assert [name for name, _ in out][1:2] == [b"Content-Length"]
    assert b"x-hop" not in [name for name, _ in out]


def test_without_a_sentinel_nothing_is_compared_but_all_is_removed() -> None:
    out = injected(
        [(b"x-api-key", b"anything")],
        host=HOST,
        policy=policy(EgressMode.INJECT),
        sentinel=None,
        token=GATE,
    )
    assert b"x-api-key" not in [name for name, _ in out]


@pytest.mark.parametrize("value", [b"", b" ", b"Bearer", b"Bearer  "])
def test_an_empty_credential_is_none(value: bytes) -> None:
    with pytest.raises(Refused, match="no credential"):
        through([(b"Authorization", value)])
    assert (b"Authorization", b"Bearer made-up-access") in through(
        [(b"Authorization", value), *OURS]
    )


def test_no_token_is_its_own_answer() -> None:
    with pytest.raises(Refused) as refused:
        through(OURS, token=None)
    assert refused.value.status == 503


@pytest.mark.parametrize("value", ["a\r\nb", "a\x00", " a", "é"])
def test_a_token_that_no_header_can_carry_is_refused_unseen(value: str) -> None:
    with pytest.raises(ValueError) as refused:
        Token(access_token=Secret(value))
    assert value not in str(refused.value)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([(b"X-HTTP-Method-Override", b"DELETE")], 403),
        ([(b"Content-Length", b"1"), (b"Transfer-Encoding", b"chunked")], 400),
    ],
)
def test_headers_that_would_make_it_another_request_are_refused(
    headers: Headers, status: int
) -> None:
    with pytest.raises(Refused) as refused:
        check_request(headers)
    assert refused.value.status == status


def test_what_the_gateway_sees_is_bounded() -> None:
    many = [(f"X-Limit-{n}".encode(), b"v" * 5000) for n in range(200)]
    seen = observed([*many, (b"x-secret", b"no")], ("x-limit-",))
    assert len(seen) == 64
    assert all(len(value) == 512 for _, value in seen)
