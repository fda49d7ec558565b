from hypothesis import given
from hypothesis import strategies as st

from polydev.models.logins import LOGIN_TRANSITIONS, LoginState

ENDS = {state for state in LoginState if state.is_final}


def test_a_login_ends_in_one_of_four_ways() -> None:
    assert {
        LoginState.CONNECTED,
        LoginState.EXPIRED,
        LoginState.CANCELLED,
        LoginState.FAILED,
    } == ENDS


def test_every_state_is_reached_and_every_unfinished_one_can_end() -> None:
    reached = {LoginState.REQUESTED}.union(*LOGIN_TRANSITIONS.values())
    assert reached == set(LoginState)
    for state in set(LoginState) - ENDS:
        assert ENDS - {LoginState.CONNECTED} <= LOGIN_TRANSITIONS[state]


@given(st.data())
def test_whatever_happens_it_ends_and_is_connected_only_when_proved(data: st.DataObject) -> None:
    path = [LoginState.REQUESTED]
    while not path[-1].is_final:
        path.append(data.draw(st.sampled_from(sorted(LOGIN_TRANSITIONS[path[-1]]))))
    assert len(path) <= len(LoginState)
    if path[-1] is LoginState.CONNECTED:
        assert path[-3:-1] == [LoginState.CREDENTIAL_SEEN, LoginState.PROVED]
