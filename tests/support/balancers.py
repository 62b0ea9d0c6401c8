"""Other load balancers in a stack, in nginx's place: ``Setup(balancer="caddy", upstream=…)``.

Each with what its Debian package has as defaults, round robin, and the servers of the stack; ``setup.upstream`` is put
where it concerns the servers, ``setup.peer`` at each server of Apache. ``plain-haproxy`` is HAProxy with the
``defaults`` of Debian's own haproxy.cfg, and no socket.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.stack import Setup

NAMES = ("caddy", "apache2", "varnish", "plain-haproxy")

# --- what makes each try another server, and keep no connections; the pages in docs/balancers have the same lines

CADDY_NO_POOL = "transport http {\n keepalive off\n }"
CADDY = f"{CADDY_NO_POOL}\n lb_retries 3\n lb_try_duration 5s\n lb_try_interval 10ms\n fail_duration 1s"
VARNISH_NO_POOL = 'sub vcl_backend_fetch { set bereq.http.Connection = "close"; }'
VARNISH = f"{VARNISH_NO_POOL}\nsub vcl_backend_error {{\n    return (retry);\n}}"
HAPROXY_NO_POOL = "option http-server-close"

RETRYING = {
    "haproxy": ("plain-haproxy", f"{HAPROXY_NO_POOL}\n    option redispatch 1", ""),
    "caddy": ("caddy", CADDY, ""),
    "varnish": ("varnish", VARNISH, ""),
    "apache": ("apache2", "", "retry=0 disablereuse=On"),
}
"""By name: the balancer, and the lines for ``Setup.upstream`` and ``Setup.peer``."""

# --- the configurations

CADDYFILE = """\
{{
    admin off
    auto_https off
}}
http://127.0.0.1:{port} {{
    reverse_proxy {addresses} {{
        lb_policy round_robin
{upstream}
    }}
}}
"""

APACHE = """\
ServerRoot {here}
DefaultRuntimeDir {here}
PidFile apache2.pid
ErrorLog apache2.log
ServerName localhost
Listen 127.0.0.1:{port}
User www-data
Group www-data
{modules}
<Proxy balancer://app>
{servers}
{upstream}
</Proxy>
ProxyPass / balancer://app/
"""
MODULES = ("mpm_event", "authz_core", "proxy", "proxy_http", "proxy_balancer", "slotmem_shm", "lbmethod_byrequests")

VCL = """\
vcl 4.1;
import directors;
{servers}
sub vcl_init {{
    new all = directors.round_robin();
{members}
}}
sub vcl_recv {{
    set req.backend_hint = all.backend();
    return (pass);
}}
{upstream}
"""

HAPROXY = """\
defaults
    mode http
    option dontlognull
    timeout connect 5000
    timeout client 50000
    timeout server 50000
listen app
    bind 127.0.0.1:{port}
    balance roundrobin
    {upstream}
{servers}
"""


def conf(directory: Path, setup: Setup) -> Path:
    """The file that ``text`` is for."""
    return directory / f"{setup.balancer}.conf"


def text(directory: Path, setup: Setup) -> str:
    """The configuration of ``setup.balancer``."""
    port, upstream = setup.nginx_port, setup.upstream
    if setup.balancer == "caddy":
        addresses = " ".join(f"127.0.0.1:{one}" for one in setup.ports)
        return CADDYFILE.format(port=port, addresses=addresses, upstream=upstream)
    if setup.balancer == "apache2":
        modules = "\n".join(f"LoadModule {one}_module /usr/lib/apache2/modules/mod_{one}.so" for one in MODULES)
        servers = "\n".join(f"    BalancerMember http://127.0.0.1:{one} {setup.peer}" for one in setup.ports)
        return APACHE.format(here=directory, port=port, modules=modules, servers=servers, upstream=upstream)
    if setup.balancer == "varnish":
        servers = "\n".join(f'backend b{one} {{ .host = "127.0.0.1"; .port = "{one}"; }}' for one in setup.ports)
        members = "\n".join(f"    all.add_backend(b{one});" for one in setup.ports)
        return VCL.format(servers=servers, members=members, upstream=upstream)
    servers = "\n".join(f"    server app-{one} 127.0.0.1:{one}" for one in setup.ports)
    return HAPROXY.format(port=port, servers=servers, upstream=upstream)


def command(directory: Path, setup: Setup) -> list[str]:
    """In the foreground."""
    file = str(conf(directory, setup))
    if setup.balancer == "caddy":
        homes = [f"XDG_{one}_HOME={directory}" for one in ("CONFIG", "DATA")]
        return ["env", *homes, "caddy", "run", "--adapter", "caddyfile", "--config", file]
    if setup.balancer == "apache2":
        return ["apache2", "-d", str(directory), "-f", file, "-DFOREGROUND"]
    if setup.balancer == "varnish":
        listen = f"127.0.0.1:{setup.nginx_port}"
        return ["varnishd", "-F", "-j", "none", "-n", f"{directory}/v", "-a", listen, "-f", file, "-s", "malloc,16m"]
    return ["haproxy", "-W", "-f", file]
