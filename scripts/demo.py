"""`make demo`: clients and SQL call a running gateway, then the ledger rows that they made are shown.

Nothing is set but what `var/env` holds. Ends with 1, and a sentence, where the gateway does not answer.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from gateway.settings import Settings

MODEL = "databricks-mixtral-8x7b-instruct"
MLFLOW = f'''\
import mlflow.deployments
client = mlflow.deployments.get_deploy_client("databricks")
response = client.predict(endpoint="{MODEL}", inputs={{"messages": [{{"role": "user", "content": "What is a mixture of experts?"}}], "max_tokens": 64, "temperature": 0}})
print(response["choices"][0]["message"]["content"])
'''
STREAM = f'''\
from openai import OpenAI
for chunk in OpenAI().chat.completions.create(model="{MODEL}", stream=True, stream_options={{"include_usage": True}}, messages=[{{"role": "user", "content": "Describe Databricks SQL in 30 words."}}]):
    print(chunk.choices[0].delta.content or "" if chunk.choices else f"\\n({{chunk.usage.prompt_tokens}} + {{chunk.usage.completion_tokens}} tokens)", end="", flush=True)
print()
'''
FORBIDDEN = """\
import openai
try:
    openai.OpenAI(api_key="gk_wrong", max_retries=0).models.list()
except openai.AuthenticationError as error:
    print(type(error).__name__, "-", error.body["message"])
"""
SQL = f"SELECT ai_query('{MODEL}', 'Describe Databricks SQL in 30 words.') AS chat"
ROWS = """\
select request_time, requester as who, api, request_streaming as stream, input_token_count as prompt,
       output_token_count as completion, usage_source as source, round(cost_usd, 9) as usd, status,
       round(duration_seconds * 1000) as ms
  from serving.endpoint_usage where request_time >= to_timestamp({since}) order by request_time
"""


def main() -> int:
    """Run the demonstration; the exit status."""
    settings = Settings.from_env()
    given = _clients_environment(settings.home / "env")
    fault = _not_ready(given.get("DATABRICKS_HOST", ""))
    if fault is not None:
        print(f"{fault} Start it with `make run` in another terminal.", file=sys.stderr)
        return 1
    began = time.time() - 1
    for title, code in (
        ("The announcement's code, unchanged, with DATABRICKS_HOST and DATABRICKS_TOKEN set", MLFLOW),
        ("A stream through the OpenAI SDK", STREAM),
        ("A wrong key", FORBIDDEN),
    ):
        print(f"\n\033[1m{title}\033[0m\n\n{_indented(code)}\n", flush=True)
        ended = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code], env={**os.environ, **given}, check=False
        )
        if ended.returncode:
            return ended.returncode
    # Somebody else's PostgreSQL has no role `demo`: there an administrator maps one (docs/ai_query.md).
    if settings.database_url is None:
        print(
            f"\n\033[1mThe announcement's SQL, unchanged, in PostgreSQL\033[0m\n\n{_indented(SQL)}\n",
            flush=True,
        )
        if status := _sql("--as", "demo", "-c", SQL):
            return status
    print("\n\033[1mWhat the ledger says of it\033[0m\n", flush=True)
    time.sleep(1.0)
    return _sql("-c", ROWS.format(since=began))


def _sql(*arguments: str) -> int:
    """Run `weighbridge sql`; its exit status."""
    return subprocess.run([sys.executable, "-m", "gateway", "sql", *arguments], check=False).returncode


def _clients_environment(path: Path) -> dict[str, str]:
    """The variables that the first start left for clients."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = [
        line.removeprefix("export ").partition("=")
        for line in lines
        if "=" in line and not line.startswith("#")
    ]
    return {name: value.strip("'\"") for name, _, value in pairs}


def _not_ready(host: str) -> str | None:
    if not host:
        return "No gateway has been started here yet."
    try:
        with urllib.request.urlopen(f"{host}/readyz", timeout=5):
            return None
    except urllib.error.HTTPError as error:
        return f"The gateway at {host} is not ready yet: {error.read(500).decode(errors='replace')}"
    except OSError:
        return f"No gateway answers at {host}."


def _indented(code: str) -> str:
    return "\n".join("    " + line for line in code.rstrip().splitlines())


if __name__ == "__main__":
    sys.exit(main())
