"""The page's text: it needs nothing else, and allows no script but its own."""

import base64
import re
from hashlib import sha256
from importlib import resources

from vlmdet_cli.drawing.page import SCRIPTS, render


def test_no_text_of_the_data_or_the_title_becomes_an_element() -> None:
    hostile = "</script><script>alert('&\"')</script>\u2028\ud800"
    text = render(hostile, {"names": [hostile]})
    assert text.count("<script") == 2  # the data, and the page's own
    assert text.count("</script") == 2


def test_the_policy_allows_the_own_script_and_style_by_their_hashes_alone() -> None:
    text = render("test", {})
    policy = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)[0]
    for kind, pattern in (
        ("script-src", r'<script type="module">(.*)</script>'),
        ("style-src", r"<style>(.*)</style>"),
    ):
        content = re.findall(pattern, text, re.DOTALL)[0]
        assert f"{kind} 'sha256-{base64.b64encode(sha256(content.encode()).digest()).decode()}';" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy


def test_the_page_names_no_address_elsewhere() -> None:
    assert set(re.findall(r"https?://[^\s\"'`]+", render("test", {}))) == {"http://www.w3.org/2000/svg"}


def test_every_script_file_is_part_of_the_page() -> None:
    folder = resources.files("vlmdet_cli.drawing") / "page_files"
    assert {file.name for file in folder.iterdir() if file.name.endswith(".js")} == set(SCRIPTS)
