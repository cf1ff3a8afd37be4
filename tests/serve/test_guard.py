"""Requests of other machines and other sites are refused, and the page loads nothing from them."""

import re

import pytest

from tests.serve.conftest import PORT
from twostage_jax.serve.app import FILES, PAGE
from twostage_jax.serve.guard import HEADERS


@pytest.mark.parametrize(
    "host",
    ["evil.example", f"evil.example:{PORT}", "127.0.0.1", "127.0.0.1:1", "10.0.0.2:8123", ""],
)
def test_another_name_than_that_of_this_machine_is_refused(client, host):
    answer = client.get("/api/page", headers={"host": host})
    assert answer.status_code == 421 and "digits" not in answer.text


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "LOCALHOST"])
def test_the_names_of_this_machine_are_accepted(client, host):
    assert client.get("/", headers={"host": f"{host}:{PORT}"}).status_code == 200


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", f"https://127.0.0.1:{PORT}", f"http://localhost:{PORT}"],
)
def test_a_page_of_another_site_cannot_post(client, origin):
    answer = client.post("/api/assess", content=b"", headers={"origin": origin})
    assert answer.status_code == 403
    del client.headers["origin"]
    assert client.post("/api/assess", content=b"").status_code == 403


@pytest.mark.parametrize("path", [*FILES, "/api/page", "/nothing", "/train/0"])
def test_every_answer_forbids_to_load_from_elsewhere(client, path):
    for headers in ({}, {"host": "evil.example"}):
        answer = client.get(path, headers=headers)
        assert all(answer.headers[name] == value for name, value in HEADERS.items())
        assert "access-control-allow-origin" not in answer.headers
    assert "default-src 'none'" in HEADERS["content-security-policy"]


def test_the_page_names_no_other_site():
    for file in PAGE.iterdir():
        text = file.read_text()
        assert not re.search(r"https?://|//\w+\.|@import|url\(", text), file.name
        # Names of files and classes come as text, never as HTML.
        assert not re.search(r"innerHTML|insertAdjacentHTML|outerHTML|document\.write|eval\(", text)
