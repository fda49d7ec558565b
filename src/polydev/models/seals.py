"""What a sealed value belongs to.

The vault authenticates the context with the value, the store finds it again from the row that
holds the value, so both speak of it by these functions and a value moved to another row, person
or connection does not open there.
"""

from dataclasses import dataclass
from enum import StrEnum

from polydev.models.accounts import Connection
from polydev.models.runs import Run


class SealPurpose(StrEnum):
    CREDENTIAL = "credential"
    PROXY = "proxy"
    RUN_REQUEST = "run_request"
    RUN_EVENTS = "run_events"
    CHECK = "check"  # proves that the master key is the one this database was sealed with


@dataclass(frozen=True, kw_only=True, slots=True)
class SealContext:
    """subject: which one of this connection's values it is; empty when there is only one."""

    purpose: SealPurpose
    user_id: str = ""
    connection_id: str = ""
    provider: str = ""
    subject: str = ""


CHECK_CONTEXT = SealContext(purpose=SealPurpose.CHECK)


def credential_context(connection: Connection) -> SealContext:
    return SealContext(
        purpose=SealPurpose.CREDENTIAL,
        user_id=connection.user_id,
        connection_id=connection.id,
        provider=connection.provider,
    )


def proxy_context(connection: Connection) -> SealContext:
    return SealContext(
        purpose=SealPurpose.PROXY,
        user_id=connection.user_id,
        connection_id=connection.id,
        provider=connection.provider,
    )


def request_context(run: Run) -> SealContext:
    return SealContext(
        purpose=SealPurpose.RUN_REQUEST,
        user_id=run.user_id,
        connection_id=run.connection_id,
        provider=run.provider,
        subject=run.id,
    )


def events_context(run: Run, first_number: int) -> SealContext:
    """For one batch of a run's events, named by the number of its first."""
    return SealContext(
        purpose=SealPurpose.RUN_EVENTS,
        user_id=run.user_id,
        connection_id=run.connection_id,
        provider=run.provider,
        subject=f"{run.id}/{first_number}",
    )
