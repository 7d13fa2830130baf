"""How the playground's files are served: from a fixed map, with a strict policy, without another host."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files

import pytest
from litestar import Litestar
from litestar.testing import TestClient

from gateway.http.console.pages import PLAYGROUND, SECURITY_HEADERS, console_routes


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient[Litestar]]:
    with TestClient(Litestar(console_routes(), openapi_config=None)) as client:
        yield client


@pytest.mark.parametrize("path", PLAYGROUND)
def test_every_file_is_served_with_the_strict_policy(client: TestClient[Litestar], path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    charset = "; charset=utf-8" if PLAYGROUND[path][1].startswith("text/") else ""
    assert answer.headers["content-type"] == PLAYGROUND[path][1] + charset
    for name, value in SECURITY_HEADERS.items():
        assert answer.headers[name] == value


def test_the_policy_allows_nothing_but_this_origin() -> None:
    policy = SECURITY_HEADERS["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'")
    assert "unsafe" not in policy and "http" not in policy and "*" not in policy


def test_a_file_that_has_not_changed_is_not_sent_again(client: TestClient[Litestar]) -> None:
    tag = client.get("/").headers["etag"]
    again = client.get("/", headers={"if-none-match": tag})
    assert again.status_code == 304
    assert again.content == b""


def test_head_is_answered_without_a_body(client: TestClient[Litestar]) -> None:
    answer = client.head("/")
    assert answer.status_code == 200
    assert answer.content == b""


@pytest.mark.parametrize(
    "path",
    [
        "/console/../pages.py",
        "/console/%2e%2e/pages.py",
        "/console/pages.py",
        "/console/",
        "/console/static/playground.js",
    ],
)
def test_what_is_not_in_the_map_is_not_served(client: TestClient[Litestar], path: str) -> None:
    assert client.get(path).status_code == 404


def test_every_shipped_file_is_in_the_map_and_every_script_imports_only_those() -> None:
    static = files("gateway.http.console").joinpath("static")
    assert {file.name for file in static.iterdir()} == {file for file, _ in PLAYGROUND.values()}
    for file, _ in PLAYGROUND.values():
        for imported in re.findall(r'from "\./([^"]+)"', static.joinpath(file).read_text("utf-8")):
            assert f"/console/{imported}" in PLAYGROUND


def test_no_file_names_another_host_or_runs_inline_code() -> None:
    static = files("gateway.http.console").joinpath("static")
    for file, _ in PLAYGROUND.values():
        text = static.joinpath(file).read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//[a-z]+\.[a-z]{2,}", text), file
        assert not re.search(r"\.innerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), (
            file
        )
        if file.endswith(".html"):
            assert not re.search(r"\son\w+=|\sstyle=|<style|<script(?![^>]*\ssrc=)", text), file
