"""The pages of a login as HTML: small, whole without scripts or pictures, everything escaped.

Only the sign-in in a window of its own has a script. No page forbids where a form may lead: its
answer goes on to the CLI's own listener on loopback.
"""

import secrets
from html import escape

from starlette.responses import HTMLResponse

SIGN_IN_PATH = "/simulator/sign-in"
CONSENT_PATH = "/simulator/consent"

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
main { max-width: 26rem; margin: 12vh auto; padding: 0 1rem }
label, input { display: block; width: 100%; box-sizing: border-box }
input { margin: .25rem 0 1rem; padding: .5rem; font: inherit }
button, a.button { padding: .5rem 1rem; margin-right: .5rem; font: inherit }
code { display: block; padding: 1rem; border: 1px solid; overflow-wrap: anywhere;
  user-select: all }
.error { border-left: .25rem solid #c00; padding-left: .5rem }
footer { margin-top: 2rem; opacity: .7; font-size: .85rem }
"""
_OPENER = """
document.getElementById("popup").addEventListener("click", event => {
  event.preventDefault();
  window.open(event.target.href, "sign-in", "popup,width=480,height=640");
});
"""
_OPENED = """
if (window.opener) {
  window.opener.location.replace(document.getElementById("continue").href);
  window.close();
}
"""


def page(title: str, body: str, *, status: int = 200, script: str = "") -> HTMLResponse:
    """One page; `body` and `script` are markup of this module's making, `title` is text."""
    nonce = secrets.token_urlsafe(12)
    shown = f'<script nonce="{nonce}">{script}</script>' if script else ""
    heading = escape(title)
    return HTMLResponse(
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width">'
        f'<title>{heading}</title><style nonce="{nonce}">{_STYLE}</style></head>'
        f"<body><main><h1>{heading}</h1>\n{body}\n"
        "<footer>This is a simulator. Any e-mail and any password will do; "
        "the password “wrong” is refused.</footer></main>\n"
        f"{shown}</body></html>\n",
        status,
        headers={
            "cache-control": "no-store",
            "referrer-policy": "no-referrer",
            "content-security-policy": (
                f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; "
                "base-uri 'none'; frame-ancestors 'none'"
            ),
        },
    )


def sign_in(title: str, login: str, *, email: str, error: str, popup: bool) -> HTMLResponse:
    """Who are you? `login` is the authorization's id; `popup` that this is the small window."""
    hint = escape(email)
    return page(
        f"Sign in to {title} (simulator)",
        f'{_error(error)}<form method="post" action="{SIGN_IN_PATH}">'
        f"{_hidden(login=login, **({'popup': '1'} if popup else {}))}"
        '<label for="email">E-mail</label>'
        f'<input id="email" name="email" type="email" autocomplete="username" value="{hint}">'
        '<label for="password">Password</label>'
        '<input id="password" name="password" type="password" autocomplete="current-password">'
        '<button name="answer" value="continue">Continue</button>'
        '<button name="answer" value="deny" formnovalidate>Deny</button></form>',
        status=400 if error else 200,
    )


def sign_in_elsewhere(title: str, login: str) -> HTMLResponse:
    """The sign-in opens in a window of its own, as with a company's single sign-on."""
    return page(
        f"Sign in to {title} (simulator)",
        "<p>Your company signs you in, in a window of its own.</p>"
        f'<p><a class="button" id="popup" href="{SIGN_IN_PATH}?login={escape(login)}&amp;popup=1"'
        ' target="sign-in" rel="opener">Sign in with your company</a></p>'
        f'<form method="post" action="{SIGN_IN_PATH}">{_hidden(login=login)}'
        '<button name="answer" value="deny">Deny</button></form>',
        script=_OPENER,
    )


def signed_in_elsewhere(title: str, login: str) -> HTMLResponse:
    """The end of the small window: it leads the first one on, and closes."""
    return page(
        f"Signed in to {title} (simulator)",
        f'<p><a id="continue" href="{CONSENT_PATH}?login={escape(login)}">Continue</a></p>',
        script=_OPENED,
    )


def consent(title: str, login: str, *, application: str, email: str, scope: str) -> HTMLResponse:
    """May it?"""
    wishes = "".join(f"<li>{escape(wish)}</li>" for wish in scope.split())
    return page(
        f"Allow access to {title} (simulator)",
        f"<p><strong>{escape(application)}</strong> would like to use the account "
        f'<strong id="account">{escape(email)}</strong>.</p><ul>{wishes}</ul>'
        f'<form method="post" action="{CONSENT_PATH}">{_hidden(login=login)}'
        '<button name="answer" value="allow">Allow</button>'
        '<button name="answer" value="deny">Deny</button></form>',
    )


def device(title: str, action: str, *, error: str) -> HTMLResponse:
    """Which code does your other device show?"""
    return page(
        f"Sign in to {title} with a device code (simulator)",
        f'{_error(error)}<form method="post" action="{action}">'
        '<label for="user_code">The code that your device shows</label>'
        '<input id="user_code" name="user_code" autocomplete="off" autocapitalize="characters">'
        '<button name="answer" value="continue">Continue</button></form>',
        status=400 if error else 200,
    )


def code(title: str, value: str) -> HTMLResponse:
    """A code to be copied into the CLI."""
    return page(
        f"Authentication code for {title} (simulator)",
        f'<p>Paste this where you began:</p><code id="code">{escape(value)}</code>',
    )


def notice(title: str, text: str, *, status: int = 200) -> HTMLResponse:
    """Nothing more to do here."""
    return page(f"{title} (simulator)", f'<p id="notice">{escape(text)}</p>', status=status)


def _hidden(**fields: str) -> str:
    return "".join(
        f'<input type="hidden" name="{name}" value="{escape(value)}">'
        for name, value in fields.items()
    )


def _error(text: str) -> str:
    return f'<p class="error" role="alert">{escape(text)}</p>' if text else ""
