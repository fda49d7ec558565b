"""How Firefox is set up, as its enterprise policy. Pure.

First-run pages, questions, telemetry, updates, studies and everything that remembers are off. Its
only way out is the sandbox's egress, locked; names are resolved there. Its own sandbox stays on.
"""

import json
from pathlib import PurePosixPath
from typing import Any

# Debian's Firefox ESR and Mozilla's own read the same place.
POLICY_FILE = "firefox/policies/policies.json"
_PARTS_OF_HOME = ("Search", "TopSites", "SponsoredTopSites", "Highlights", "Stories")
_MESSAGES = (
    "ExtensionRecommendations",
    "FeatureRecommendations",
    "FirefoxLabs",
    "MoreFromMozilla",
    "UrlbarInterventions",
)


def policies(*, proxy_port: int, start_page: str, authority: PurePosixPath | None) -> bytes:
    """The content of policies.json. authority: a certificate to trust beside the usual ones."""
    settings: dict[str, Any] = {
        "AppAutoUpdate": False,
        "BlockAboutAddons": True,
        "DNSOverHTTPS": {"Enabled": False, "Locked": True},
        "DisableAppUpdate": True,
        "DisableFeedbackCommands": True,
        "DisableFirefoxAccounts": True,
        "DisableFirefoxScreenshots": True,
        "DisableFirefoxStudies": True,
        "DisableFormHistory": True,
        "DisablePocket": True,
        "DisableProfileImport": True,
        "DisableProfileRefresh": True,
        "DisableSetDesktopBackground": True,
        "DisableSystemAddonUpdate": True,
        "DisableTelemetry": True,
        "DisplayBookmarksToolbar": "never",
        "DisplayMenuBar": "never",
        "DontCheckDefaultBrowser": True,
        "ExtensionSettings": {"*": {"installation_mode": "blocked"}},
        "ExtensionUpdate": False,
        "FirefoxHome": dict.fromkeys(_PARTS_OF_HOME, False),
        "FirefoxSuggest": {
            "WebSuggestions": False,
            "SponsoredSuggestions": False,
            "ImproveSuggest": False,
            "Locked": True,
        },
        "GenerativeAI": {"Enabled": False, "Locked": True},
        "Homepage": {"URL": start_page, "StartPage": "homepage", "Locked": True},
        "HttpsOnlyMode": "force_enabled",
        "NetworkPrediction": False,
        "NewTabPage": False,
        "NoDefaultBookmarks": True,
        "OfferToSaveLogins": False,
        "OverrideFirstRunPage": "",
        "OverridePostUpdatePage": "",
        "PasswordManagerEnabled": False,
        "PrimaryPassword": False,
        "Proxy": {
            "Mode": "manual",
            "HTTPProxy": f"127.0.0.1:{proxy_port}",
            "UseHTTPProxyForAllProtocols": True,
            "UseProxyForDNS": True,
            "Locked": True,
        },
        "SearchSuggestEnabled": False,
        "ShowHomeButton": False,
        "SkipTermsOfUse": True,
        "TranslateEnabled": False,
        "UserMessaging": {
            **dict.fromkeys(_MESSAGES, False),
            "SkipOnboarding": True,
            "Locked": True,
        },
    }
    if authority is not None:
        settings["Certificates"] = {"Install": [str(authority)]}
    return json.dumps({"policies": settings}, indent=1).encode()
