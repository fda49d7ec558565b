"""What a person does next: the line that asks a model."""

_CURL = (
    'curl URL/v1/chat/completions -H "Authorization: Bearer $POLYDEV_KEY" '
    '-H "Content-Type: application/json" '
    """-d '{"model": "MODEL", "messages": [{"role": "user", "content": "Say hello."}]}'"""
)


def curl_line(url: str, model: str) -> str:
    return _CURL.replace("URL", url).replace("MODEL", model)
