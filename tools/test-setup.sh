#!/bin/sh
# Bring what the outer rings of tests need, without touching a mail system or a database that is
# there: whatever is installed here starts nothing and makes no cluster. What would be started at
# the next boot is only unpacked, into .venv/debs; Postfix and Exim too, by tests/mta_unpack.py.
#
# Nothing here fails for want of root or of a package: a test says what it misses, and whether
# that is a failure is for $GATEPOST_REQUIRE to say (tests/rings.py).
set -eu
cd "$(dirname "$0")/.."
log=$PWD/setup.log

say() { printf 'test-setup: %s\n' "$*" >&2; }

# What a test calls, and the package that has it.
wanted() {
    cat <<'EOF'
/usr/bin/swaks swaks
/usr/lib/*/perl5/*/Net/SSLeay.pm libnet-ssleay-perl
/usr/sbin/opendkim opendkim
/usr/sbin/nft nftables
/usr/sbin/rbldnsd rbldnsd
/usr/bin/groff groff
/usr/bin/systemd-analyze systemd
/usr/lib/postgresql/*/bin/initdb postgresql
/usr/bin/chromium chromium
/usr/bin/chromedriver chromium-driver
/usr/share/fonts/truetype/dejavu fonts-dejavu-core
EOF
}

missing() {
    wanted | while read -r path package; do
        # shellcheck disable=SC2086  # the version in the path is for the shell to find
        ls -d $path >/dev/null 2>&1 || echo "$package"
    done
}

unpacked() { [ -x ".venv/debs/bin/$1" ] || command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ]; }

packages=$(missing | tr '\n' ' ')
brought="prometheus promtool munin-run unbound"
if [ -z "$packages" ] && unpacked prometheus && unpacked promtool && unpacked munin-run &&
    unpacked unbound; then
    exit 0
fi
if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
    say "not installed (root on Debian or Ubuntu would have done it): $packages $brought"
    exit 0
fi

# Said before it is done: a mail host may not want a browser and a database server.
if [ -n "$packages" ]; then
    say "make test INSTALLS on this machine, with apt-get: $packages"
    say "only a machine for testing needs them; gatepost itself does not, nor does \`make run\`"
fi
say "unpacked below .venv/debs, and nowhere else: $brought"
if [ -n "$packages" ] && [ -t 0 ] && [ -t 2 ]; then
    say "Ctrl-C within 10 seconds leaves it at that; \`make check\` runs the tests without them"
    sleep 10
fi

# A package that brings a daemon asks this program whether to start it (invoke-rc.d(8)).
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
    trap 'rm -f $policy' EXIT
fi
# The tests make clusters of their own; Debian's package would make one and start it at boot.
clusters=/etc/postgresql-common/createcluster.conf
if [ ! -e $clusters ]; then
    mkdir -p ${clusters%/*}
    echo 'create_main_cluster = false' >$clusters
fi

install() {
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        -o Dpkg::Options::=--force-confold "$@" </dev/null >>"$log" 2>&1
}

DEBIAN_FRONTEND=noninteractive apt-get update </dev/null >"$log" 2>&1 || true
# shellcheck disable=SC2086  # one word a package
if [ -n "$packages" ] && ! install $packages; then
    for package in $packages; do
        install "$package" || say "could not install $package; see $log"
    done
fi

# unpack NAME PACKAGE...: the packages' files below .venv/debs
unpack() {
    mkdir -p .venv/debs/bin .venv/debs/new
    (
        cd .venv/debs/new
        shift
        apt-get download "$@" </dev/null >>"$log" 2>&1
        for deb in ./*.deb; do dpkg-deb -x "$deb" ..; done
    ) || say "could not unpack $1; see $log"
    rm -rf .venv/debs/new
}
unpacked prometheus && unpacked promtool || {
    # promtool is a package of its own from Debian 13 on.
    if apt-cache show promtool >/dev/null 2>&1; then promtool=promtool; else promtool=; fi
    # shellcheck disable=SC2086  # no word where there is none
    unpack prometheus prometheus $promtool
    ln -sf ../usr/bin/prometheus ../usr/bin/promtool .venv/debs/bin/
}
unpacked munin-run || {
    unpack munin-node munin-node munin-common munin-plugins-core libnet-server-perl
    # Perl in taint mode reads no PERL5LIB.
    cat >.venv/debs/bin/munin-run <<EOF
#!/bin/sh
exec perl -T -I "$PWD/.venv/debs/usr/share/perl5" "$PWD/.venv/debs/usr/sbin/munin-run" "\$@"
EOF
    chmod +x .venv/debs/bin/munin-run
}
unpacked unbound || {
    # Its libraries, too, as far as this machine has not got them.
    # shellcheck disable=SC2046  # one word a package
    unpack unbound $(apt-get install --simulate --no-install-recommends unbound 2>>"$log" |
        awk '/^Inst/ { print $2 }')
    cat >.venv/debs/bin/unbound <<EOF
#!/bin/sh
LD_LIBRARY_PATH=\$(echo "$PWD"/.venv/debs/usr/lib/*-linux-*) exec "$PWD/.venv/debs/usr/sbin/unbound" "\$@"
EOF
    chmod +x .venv/debs/bin/unbound
}
