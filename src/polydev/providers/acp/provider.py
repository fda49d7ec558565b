"""An ACP agent as a provider: what to start, what it may ask, all of it read from its entry."""

import json
import uuid
from collections.abc import Mapping
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

from polydev.events import EndReason
from polydev.models.accounts import Credential
from polydev.models.egress import EgressMode, EgressPolicy, Exchange, Purpose, Rule
from polydev.models.places import Launch
from polydev.models.runs import Prompt
from polydev.providers.acp.agent import Agent, Files, Login, Past
from polydev.providers.acp.dialogue import AcpDialogue, opening
from polydev.providers.acp.failures import status_reason
from polydev.providers.acp.turns import past_turns, system_text
from polydev.providers.base import FirstStart, LaunchOrder, Observation
from polydev.providers.retry import retry_after
from polydev.secret import Secret

# Nothing listens there: whatever an agent asks beside its provider's address fails at once, and
# without a line in the log for what is known and does no harm.
_NOWHERE = "http://127.0.0.1:9"


class AcpProvider:
    """See polydev.providers.base.Provider."""

    keychain_item = ""
    first_start: FirstStart | None = None
    ignores_max_tokens = True
    companion_files: tuple[PurePosixPath, ...] = ()

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self.name = agent.name
        self.title = agent.title
        self.program = agent.program
        self.catalogue = agent.catalogue
        self.takes_images = agent.takes_images
        self.takes_history = agent.history is not None
        self.credential_file = agent.credential_file
        self.login_command = agent.login_command
        self.login_ways = agent.login_ways
        self.starts_alone = "oauth" in agent.logins

    def policy(self, purpose: Purpose, kind: str) -> EgressPolicy:
        if purpose is Purpose.KEEPER:
            asks = self._agent.refresh.asks if self._agent.refresh else ()
            return EgressPolicy(mode=EgressMode.WITNESS, rules=asks)
        if purpose is Purpose.LOGIN:
            return EgressPolicy(mode=EgressMode.WITNESS, rules=self._agent.login_asks)
        login = self._agent.logins[kind]
        return EgressPolicy(
            mode=EgressMode.INJECT,
            rules=tuple(
                Rule(
                    method=method,
                    host=login.host,
                    path=path,
                    once=self._agent.repeats and path == login.answers,
                )
                for method, path in login.asks
            ),
            plain_host=login.host,
            added=(login.header,),
        )

    def launch(self, order: LaunchOrder) -> Launch:
        login = self._agent.logins[order.credential.kind]
        if order.purpose is Purpose.KEEPER:
            return self._keeper_launch(order, login)
        assert order.prompt is not None
        fields = {
            "home": order.place.home,
            "model": order.prompt.model,
            "sentinel": order.sentinel.reveal(),
            "url": order.place.egress_url,
        }
        environment = {**self._agent.environment, **login.environment}
        past = self._past(order, order.prompt)
        return Launch(
            argv=(
                str(order.node),
                str(order.program),
                *(argument.format_map(fields) for argument in self._agent.arguments),
            ),
            environment={
                "HTTPS_PROXY": _NOWHERE,
                "HTTP_PROXY": _NOWHERE,
                "NO_PROXY": "127.0.0.1",
                **{name: text.format_map(fields) for name, text in environment.items()},
            },
            files={
                **self._settings(login),
                self._agent.system_file: Secret(
                    (system_text(self._agent, order.prompt) or login.no_system).encode()
                ),
                **past,
            },
            needs_port=True,
            opening=tuple(
                opening(
                    self._agent,
                    session_id=_session_id(order),
                    workspace=order.place.workspace,
                    past=bool(past),
                )
            ),
        )

    def dialogue(self, prompt: Prompt) -> AcpDialogue:
        return AcpDialogue(self._agent, prompt)

    def read_credential(self, files: Mapping[str, Secret[bytes]]) -> Credential:
        return self._agent.read_credential(files)

    def renew(self, credential: Credential, answer: Secret[bytes], now: datetime) -> Credential:
        refresh = self._agent.refresh
        return refresh.renewed(credential, answer, now) if refresh else credential

    def observe(self, exchange: Exchange, now: datetime) -> Observation:
        """A 429 says too little here: what is used up, its body tells, which the agent reads."""
        status = exchange.status
        retry_at = retry_after(dict(exchange.headers).get("retry-after"), now)
        if not any(login.decides(exchange) for login in self._agent.logins.values()):
            return Observation()
        repeats: EndReason | None = None
        if self._agent.repeats and status == 429:
            # Where an agent does not let its provider's words through, this is all there is: APIs
            # of this kind name a moment for a short rate, and none for a quota that is used up.
            repeats = EndReason.RATE_LIMITED if retry_at else EndReason.WINDOW_EXHAUSTED
        elif self._agent.repeats and status >= 500:
            repeats = EndReason.PROVIDER_ERROR
        trouble = None if status in (400, 429) else status_reason(status)
        return Observation(trouble=trouble, retry_at=retry_at, repeats=repeats)

    def _keeper_launch(self, order: LaunchOrder, login: Login) -> Launch:
        refresh = self._agent.refresh
        fields = {"home": order.place.home, "model": self.catalogue.default}
        return Launch(
            argv=(
                str(order.node),
                str(order.program),
                *(argument.format_map(fields) for argument in self._agent.arguments),
            ),
            environment={
                "HTTPS_PROXY": order.place.egress_url,
                "NODE_EXTRA_CA_CERTS": str(order.place.authority),
                **{name: text.format_map(fields) for name, text in self._agent.environment.items()},
            },
            files={
                **self._settings(login),
                self._agent.system_file: Secret(b""),
                **(refresh.due(order.credential) if refresh else order.credential.files),
            },
            needs_port=True,
        )

    def _settings(self, login: Login) -> Files:
        settings: dict[str, Any] = {**self._agent.settings, **login.settings}
        return {self._agent.settings_file: Secret(json.dumps(settings).encode())}

    def _past(self, order: LaunchOrder, prompt: Prompt) -> Files:
        history = self._agent.history
        if history is None or not (prompt.history or history.always):
            return {}
        turns = past_turns(self._agent, prompt)
        past = Past(session_id=_session_id(order), workspace=order.place.workspace, turns=turns)
        path, content = history.file(past)
        return {path: Secret(content)}


def _session_id(order: LaunchOrder) -> str:
    """The same for what one connection asks within one conversation."""
    assert order.prompt is not None
    beginning = json.dumps([order.prompt.system, order.prompt.turns[0].text()], ensure_ascii=False)
    return str(uuid.uuid5(uuid.UUID(order.identity), beginning))
