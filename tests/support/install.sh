#!/bin/sh
# Installs the named Debian packages, those that are missing, and leaves no new service running.
#
# Debian starts nginx, haproxy and others when they are installed, and at every boot from then on. The demo and the tests
# run their own, so a host that had none gets the program without the service: while apt-get runs, a
# policy-rc.d (Debian's own way to say which services may be started, with systemd or without) forbids them to start, and
# then they are disabled. Where there is a policy-rc.d already, as in most containers, it is the administrator's and
# stays. To one that was installed before, nothing of this is done: what runs goes on running.
set -eu

POLICY=/usr/sbin/policy-rc.d
PACKAGES='nginx haproxy caddy apache2 varnish' # each brings a service of its name

main() {
    if ! command -v apt-get >/dev/null; then
        without_apt "$@"
        return
    fi
    missing=$(missing_of "$@")
    [ -n "$missing" ] || return 0
    may_be_root
    echo "Installing the Debian packages$missing (a minute or so)"
    new=
    for package in $PACKAGES; do
        case "$missing " in *" $package "*) new="$new $package" ;; esac
    done
    case "$new " in *' varnish '*) new="$new varnishncsa" ;; esac # which its package starts, too
    if [ -z "$new" ]; then
        install $missing
    else
        without_services install $missing
    fi
}

# What there is no package manager for here must be there already.
without_apt() {
    for program in nginx haproxy iptables nft ip gcc; do
        command -v "$program" >/dev/null && continue
        say "There is no $program, and no apt-get to install it with. Install what Debian has as: $*. Then try again."
        exit 1
    done
}

missing_of() {
    for package in "$@"; do
        installed "$package" || printf ' %s' "$package"
    done
}

installed() {
    dpkg-query --show --showformat '${Status}' "$1" 2>/dev/null | grep -q ' ok installed$'
}

may_be_root() {
    [ "$(id -u)" = 0 ] || command -v sudo >/dev/null && return
    say "These Debian packages are missing:$missing. Installing them needs root: install them, or sudo, and try again."
    exit 1
}

install() {
    as_root apt-get update -qq || say 'apt-get update failed; trying with the lists of packages that are there.'
    # dpkg's hundred lines are not shown; errors come on stderr. needrestart (Ubuntu) must restart no service.
    as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
        apt-get install -qq --yes --no-install-recommends "$@" </dev/null >/dev/null
}

# Runs the arguments while $new must not start, and sees to it that they don't start at the next boot either.
without_services() {
    if [ ! -e "$POLICY" ]; then
        trap 'as_root rm -f "$POLICY"' EXIT
        trap 'exit 130' INT TERM HUP
        {
            printf '#!/bin/sh\n# Made by %s while it installs%s.\n' "$0" "$new"
            for service in $new; do printf 'case $1 in %s|%s.service) exit 101 ;; esac\n' "$service" "$service"; done
        } | as_root tee "$POLICY" >/dev/null
        as_root chmod 755 "$POLICY"
    fi
    "$@"
    for service in $new; do
        if command -v systemctl >/dev/null; then
            as_root systemctl --quiet disable "$service"
        elif [ -e "/etc/init.d/$service" ]; then # caddy has a unit of systemd only
            as_root update-rc.d "$service" disable
        fi
    done
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

say() {
    echo "$*" >&2
}

main "$@"
