"""Files behind a token: who gets them, who does not, and what pages may do."""

import asyncio
import json
import re
from importlib import resources

import aiohttp
import pytest
import yarl

from egs_jax.runtime.errors import InputError
from egs_jax.serve.arguments import HOST
from egs_jax.serve.gate import is_loopback, new_token
from egs_jax.serve.site import application, file_of, listening, page_files

TOKEN = "a-token-of-a-test"
FILES = page_files("live.html") | {"avatars.json": file_of("avatars.json", b"[]")}


def asked(*requests, local=True, files=FILES):
    """Answers to requests, each a path and headers."""

    async def work():
        found = []
        async with listening(application(TOKEN, files, local=local), HOST, 0) as port:
            async with aiohttp.ClientSession() as client:
                for path, headers in requests:
                    address = yarl.URL(f"http://{HOST}:{port}{path}", encoded=True)
                    async with client.get(address, headers=headers) as answer:
                        found.append((answer.status, dict(answer.headers), await answer.read()))
        return found

    return asyncio.run(work())


def statuses(*requests, **options):
    return [status for status, _, _ in asked(*requests, **options)]


def test_files_are_given_to_whoever_has_the_token():
    page, script, words = asked(
        (f"/{TOKEN}/", {}), (f"/{TOKEN}/player.js", {}), (f"/{TOKEN}/avatars.json", {})
    )
    assert page[0] == script[0] == words[0] == 200
    assert page[1]["Content-Type"].startswith("text/html")
    assert script[1]["Content-Type"].startswith("text/javascript")
    text = resources.files("egs_jax").joinpath("web", "player.js").read_bytes()
    assert script[2] == text and json.loads(words[2]) == []


def test_an_address_whose_end_was_lost_is_completed():
    [(status, _, page)] = asked((f"/{TOKEN}", {}))
    assert status == 200 and page == asked((f"/{TOKEN}/", {}))[0][2]


def test_nobody_else_gets_anything():
    paths = ["/", "/player.js", f"/{TOKEN[:-1]}/", f"/{TOKEN}x/", f"//{TOKEN}/", "/favicon.ico",
             f"/x/{TOKEN}/", "/%00/", "/%C3%A4/", "/%FF/"]  # fmt: skip
    assert set(statuses(*[(path, {}) for path in paths])) == {404}


def test_no_name_leads_to_a_path():
    names = ["../serve/site.py", "..%2Fserve%2Fsite.py", "/etc/passwd", "%2Fetc%2Fpasswd",
             "player.js/", "PLAYER.JS", "talk.html", "%2e%2e/player.js"]  # fmt: skip
    found = statuses(*[(f"/{TOKEN}/{name}", {}) for name in names])
    assert set(found) == {404}


def test_only_names_of_this_machine_are_answered():
    here = f"/{TOKEN}/"
    names = ["localhost:1", "127.0.0.1", "[::1]:80", "evil.example", "127.0.0.1.evil.example", "["]
    requests = [(here, {"Host": name}) for name in names]
    assert statuses(*requests) == [200, 200, 200, 403, 403, 403]
    assert statuses(requests[3], local=False) == [200]


def test_only_pages_of_its_own_are_answered():
    origins = ["http://localhost:7", "https://localhost:7", "http://localhost:8", "null",
               "http://evil.example", "file://localhost:7"]  # fmt: skip
    requests = [(f"/{TOKEN}/", {"Host": "localhost:7", "Origin": each}) for each in origins]
    assert statuses(*requests) == [200, 200, 403, 403, 403, 403]


def test_pages_may_do_little():
    for _, headers, _ in asked((f"/{TOKEN}/", {}), ("/", {}), (f"/{TOKEN}/nothing", {})):
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("name", ["live.html", "view.html"])
def test_pages_have_no_code_and_load_nothing_from_elsewhere(name):
    text = resources.files("egs_jax").joinpath("web", name).read_text("utf-8")
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", text, re.DOTALL)
    assert scripts and all("src=" in attributes and not inside for attributes, inside in scripts)
    assert not re.search(r"<style|\son\w+=|\sstyle=|javascript:|https?://", text)
    named = re.findall(r'(?:src|href)="([^"]+)"', text)
    files = page_files(name)
    assert [each for each in named if each not in files and not each.startswith("data:,")] == []
    for script in (each for each in files if each.endswith(".js")):
        code = resources.files("egs_jax").joinpath("web", script).read_text("utf-8")
        assert not re.search(r"https?://|\beval\(|new Function|innerHTML", code), script
        assert set(re.findall(r'from "\./([^"]+)"', code)) <= files.keys()


def test_a_taken_port_is_told():
    async def work():
        async with listening(application(TOKEN, {}, local=True), HOST, 0) as port:
            async with listening(application(TOKEN, {}, local=True), HOST, port):
                pass

    with pytest.raises(InputError, match="cannot listen at .* --port"):
        asyncio.run(work())


def test_tokens_and_names():
    assert len({new_token() for _ in range(100)}) == 100
    assert all(len(new_token()) >= 22 for _ in range(10))
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.1.2.3", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "example.com", "", "localhost.")))
