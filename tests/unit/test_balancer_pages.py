"""Each configuration of a load balancer in the pages is one that it reads, and those to copy are what the tests ran."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml

from tests.support import balancers
from tests.support.pages import PAGES, ROOT, example, examples
from tests.support.stack import Setup

HELP = sorted((ROOT / "supervisor_rolling" / "help").glob("*.rst"))
WITHIN = 20.0

# --- it is read


def in_http(block: str) -> str:
    """A whole nginx.conf with a block of the pages. Its first word says where it belongs."""
    word = block.split()[0]
    if word == "server" and not block.startswith("server {"):
        block = f"upstream app {{ {block} }}"
    elif word not in ("upstream", "server", "map"):
        block = f"server {{ location / {{ {block} }} }}"
    temporary = "\n".join(f"{one}_temp_path {one};" for one in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    return f"error_log e.log;\npid p;\nevents {{}}\nhttp {{\naccess_log off;\n{temporary}\n{block}}}\n"


def nginx(directory: Path, block: str) -> list[str]:
    file = directory / "nginx.conf"
    file.write_text(in_http(block), encoding="utf-8")
    return ["nginx", "-t", "-e", str(directory / "e.log"), "-p", str(directory), "-c", str(file)]


SECTIONS = ("global", "defaults", "frontend", "backend", "listen")
TIMEOUTS = "defaults\n    timeout connect 2s\n    timeout client 60s\n    timeout server 60s\n"


def haproxy(directory: Path, block: str) -> list[str]:
    file = directory / "haproxy.cfg"
    word = block.split()[0]
    before = "global\n" if word == "stats" else "" if word in SECTIONS else "backend app\n    mode http\n"
    after = "" if "bind" in block else "listen spare\n    bind 127.0.0.1:1\n"
    file.write_text(("" if "defaults" in block else TIMEOUTS) + before + block + after, encoding="utf-8")
    return ["haproxy", "-c", "-f", str(file)]


def caddy(directory: Path, block: str) -> list[str]:
    file = directory / "Caddyfile"
    if block.startswith("transport"):
        block = f"reverse_proxy 127.0.0.1:8000 {{\n{block}}}\n"
    file.write_text(block if block.startswith(":80") else f":80 {{\n{block}}}\n", encoding="utf-8")
    homes = [f"XDG_{one}_HOME={directory}" for one in ("CONFIG", "DATA")]
    return ["env", *homes, "caddy", "validate", "--adapter", "caddyfile", "--config", str(file)]


def apache2(directory: Path, block: str) -> list[str]:
    file = directory / "apache2.conf"
    modules = "\n".join(f"LoadModule {m}_module /usr/lib/apache2/modules/mod_{m}.so" for m in balancers.MODULES)
    head = f"ServerRoot {directory}\nDefaultRuntimeDir {directory}\nErrorLog e.log\nServerName localhost\nListen 80\n"
    file.write_text(f"{head}{modules}\n{block}", encoding="utf-8")
    return ["apache2", "-t", "-d", str(directory), "-f", str(file)]


def varnish(directory: Path, block: str) -> list[str]:
    file = directory / "app.vcl"
    head = "" if block.startswith("vcl") else 'vcl 4.1;\nbackend b8000 { .host = "127.0.0.1"; .port = "8000"; }\n'
    file.write_text(head + block, encoding="utf-8")
    return ["varnishd", "-C", "-j", "none", "-n", str(directory / "v"), "-f", str(file)]


Checker = Callable[[Path, str], Sequence[str]]


def blocks(language: str) -> list[object]:
    """Each code block of the pages in a language, with the name of its page."""
    found = [(page.name, block) for page in [*PAGES, *HELP] for block in examples(page, language)]
    return [pytest.param(block, id=f"{name}-{number}") for number, (name, block) in enumerate(found)]


def assert_is_read(check: Checker, directory: Path, block: str) -> None:
    command = check(directory, block)
    assert shutil.which(command[0]), f"{command[0]} is not installed"
    done = subprocess.run(command, capture_output=True, text=True, timeout=WITHIN, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("block", blocks("nginx"))
def test_nginx_reads_block_of_a_page(tmp_path: Path, block: str) -> None:
    assert_is_read(nginx, tmp_path, block)


@pytest.mark.parametrize("block", blocks("haproxy"))
def test_haproxy_reads_block_of_a_page(tmp_path: Path, block: str) -> None:
    assert_is_read(haproxy, tmp_path, block)


@pytest.mark.needs("balancers")
@pytest.mark.parametrize("block", blocks("caddy"))
def test_caddy_reads_block_of_a_page(tmp_path: Path, block: str) -> None:
    assert_is_read(caddy, tmp_path, block)


@pytest.mark.needs("balancers")
@pytest.mark.parametrize("block", blocks("apacheconf"))
def test_apache_reads_block_of_a_page(tmp_path: Path, block: str) -> None:
    assert_is_read(apache2, tmp_path, block)


@pytest.mark.needs("balancers")
@pytest.mark.parametrize("block", blocks("vcl"))
def test_varnish_reads_block_of_a_page(tmp_path: Path, block: str) -> None:
    assert_is_read(varnish, tmp_path, block)


def test_block_with_an_error_is_refused(tmp_path: Path) -> None:
    for check, block in [(nginx, "upstream app { server 127.0.0.1:1 max_fail=0; }"), (haproxy, "option redispatsh 1")]:
        with pytest.raises(AssertionError):
            assert_is_read(check, tmp_path, f"{block}\n")


@pytest.mark.parametrize("block", blocks("yaml"))
def test_yaml_of_a_page_can_be_read(block: str) -> None:
    assert isinstance(yaml.safe_load(block), (dict, list))


# --- it is what was run

FRAMES = {":80 {", "backend app", "mode http"}
"""What stands around the lines in a page."""


def lines_of(text: str) -> list[str]:
    words = (line.split() for line in text.splitlines())
    return [" ".join(one) for one in words if one and not one[0].startswith("#")]


@pytest.mark.parametrize(
    ("page", "language", "word", "name"),
    [
        ("balancers/others.rst", "caddy", "lb_retries", "caddy"),
        ("balancers/others.rst", "apacheconf", "BalancerMember", "apache"),
        ("balancers/others.rst", "vcl", "vcl_backend_error", "varnish"),
        ("balancers/haproxy.rst", "haproxy", "http-server-close", "haproxy"),
    ],
)
def test_lines_of_a_page_are_those_of_the_end_to_end_test(page: str, language: str, word: str, name: str) -> None:
    balancer, upstream, peer = balancers.RETRYING[name]
    run = balancers.text(Path(), Setup(processes=2, balancer=balancer, upstream=upstream, peer=peer))
    shown = lines_of(example(page, language, word))
    assert [line for line in shown if line not in lines_of(run) and line not in FRAMES] == []
    assert [line for line in lines_of(f"{upstream}\n{peer}") if not any(line in one for one in shown)] == []


@pytest.mark.parametrize(
    ("page", "language", "file"),
    [("balancers/nginx.rst", "nginx", "nginx.conf"), ("balancers/haproxy.rst", "haproxy", "haproxy.cfg")],
)
def test_first_block_of_a_page_is_part_of_conf(page: str, language: str, file: str) -> None:
    whole = lines_of((ROOT / "conf" / file).read_text(encoding="utf-8"))
    assert [line for line in lines_of(examples(ROOT / "docs" / page, language)[0]) if line not in whole] == []
