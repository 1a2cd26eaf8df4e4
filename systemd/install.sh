#!/bin/sh
# Install the agent as a system service, or update it: program and model in /opt/urbansound, configuration in
# /etc/urbansound, units in /etc/systemd/system. Run it as often as you like: what is there stays or is renewed, and a
# configuration is never overwritten. An update that fails leaves the program that was there.
#
# Usage: sudo systemd/install.sh [--wheels DIR]
#        sudo systemd/install.sh --uninstall [--purge]
#
#   --wheels DIR   install from the wheels in DIR, without a network
#   --uninstall    remove program, units and empty outboxes; configuration, passwords and undelivered messages stay
#   --purge        with --uninstall: remove these as well
#
# PYTHON names another interpreter than python3.
set -eu
umask 022 # the service's own user must be able to read it

SOURCE=$(cd "$(dirname "$0")/.." && pwd)
OPT=/opt/urbansound
VENV=$OPT/venv
CONFIGURATION=/etc/urbansound
UNITS=/etc/systemd/system
COMMAND=/usr/local/bin/urbansound
PYTHON=${PYTHON:-python3}
NOTIFY_RELOAD_SINCE=253

say() { echo "install.sh: $*"; }
fail() {
    say "$*" >&2
    exit 1
}
usage() {
    sed -n 's/^# \{0,1\}//; /^Usage/,/^PYTHON/p' "$0" >&2
    exit 2
}

# The agent's units that run or try to.
running() {
    systemctl list-units --plain --no-legend --full --all 'urbansound.service' 'urbansound@*.service' |
        awk '$3 == "active" || $3 == "activating" || $3 == "reloading" { print $1 }'
}

configuration_of() {
    name=${1#urbansound}
    name=${name%.service}
    name=${name#@}
    echo "$CONFIGURATION/${name:-agent}.toml"
}

check_machine() {
    command -v systemctl >/dev/null || fail "no systemctl: expected a system with systemd"
    [ "$(getconf LONG_BIT)" -eq 64 ] || fail "this system is of $(getconf LONG_BIT) bits, expected 64: LiteRT has no other package"
    "$SOURCE/tools/system-packages.sh" python3-venv libportaudio2
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$PYTHON is $("$PYTHON" --version 2>&1), expected 3.11 or newer: name one with PYTHON="
    case $("$PYTHON" -c 'import os, sys; print(os.path.realpath(sys.executable))') in
    /home/* | /root/*) fail "$PYTHON lies in a home, which the unit hides: expected one in /usr or /opt" ;;
    esac
}

start_again() {
    # shellcheck disable=SC2086  # one word each
    systemctl start --no-block $units
}

# A release is made beside the one that runs, and is used only when it is whole.
install_program() {
    release=$OPT/releases/$(date -u +%Y%m%dT%H%M%SZ).$$
    mkdir -p "$OPT/releases"
    copy=""
    trap 'rm -rf "$release" "$copy"' EXIT
    say "making $release"
    "$PYTHON" -m venv "$release"
    if [ -n "$wheels" ]; then
        "$release/bin/pip" install --quiet --disable-pip-version-check --no-index --find-links "$wheels" \
            --constraint "$SOURCE/constraints.txt" urban-sound-agent
    else
        copy=$(mktemp -d) # pip would leave a build in the source, and take up what it left the last time
        cp -r "$SOURCE/agent" "$SOURCE/model_export" "$SOURCE/pyproject.toml" "$SOURCE/README.md" "$SOURCE/LICENSE" "$copy"
        "$release/bin/pip" install --quiet --disable-pip-version-check --constraint "$SOURCE/constraints.txt" "$copy"
        rm -rf "$copy"
    fi
    for unit in $units; do
        "$release/bin/urbansound" check "$(configuration_of "$unit")" >/dev/null ||
            fail "the new version refuses the configuration of $unit: the old version stays"
    done
    sync # a power cut must not find a new program of empty files, and no old one
    if [ -n "$units" ]; then
        # Nobody runs from a release that goes away: what runs opens files of its model now and then.
        trap start_again EXIT # also where something fails from here on
        # shellcheck disable=SC2086  # one word each
        systemctl stop $units || true
    fi
    if [ -d "$VENV" ] && [ ! -L "$VENV" ]; then
        mv "$VENV" "$OPT/releases/by-hand" # it goes with the old ones, once the new one runs
    fi
    ln -sfn "$release" "$VENV.new"
    mv -T "$VENV.new" "$VENV"
    [ -n "$units" ] || trap - EXIT
    ln -sfn "$VENV/bin/urbansound" "$COMMAND"
}

install_configuration() {
    mkdir -p "$CONFIGURATION"
    if [ -e "$CONFIGURATION/agent.toml" ]; then
        say "$CONFIGURATION/agent.toml stays as it is"
    else
        install -m 644 "$SOURCE/config/agent.toml" "$CONFIGURATION/agent.toml"
    fi
}

install_units() {
    version=$(systemctl --version | awk 'NR == 1 { print int($2) }')
    for unit in urbansound.service urbansound@.service; do
        install -m 644 "$SOURCE/systemd/$unit" "$UNITS/$unit"
        if [ "$version" -ge "$NOTIFY_RELOAD_SINCE" ]; then
            install -D -m 644 "$SOURCE/systemd/notify-reload.conf" "$UNITS/$unit.d/notify-reload.conf"
        fi
    done
    systemctl daemon-reload
}

install_all() {
    check_machine
    trap 'exit 1' HUP INT PIPE TERM # else dash would not run what is to be done at EXIT
    units=$(running)
    install_program
    install_configuration
    install_units
    if [ -n "$units" ]; then
        start_again # before anything that takes its time: nobody hears until then
        trap - EXIT
    fi
    sync
    for old in "$OPT"/releases/*; do
        [ "$old" = "$release" ] || rm -rf "$old"
    done
    if [ -n "$units" ]; then
        # shellcheck disable=SC2086  # one word each
        say "$("$COMMAND" --version), restarted:" $units
    else
        say "$("$COMMAND" --version) is installed. Next, set node.id, audio.device and mqtt.host, and start it:"
        echo "    urbansound devices"
        echo "    sudo nano $CONFIGURATION/agent.toml"
        echo "    urbansound check $CONFIGURATION/agent.toml"
        echo "    sudo systemctl enable --now urbansound"
    fi
}

# How many messages wait in an outbox; nothing where nobody can say.
waiting_in() {
    "$VENV/bin/python" -c '
import sqlite3, sys
print(sqlite3.connect(sys.argv[1]).execute("SELECT count(*) FROM outbox").fetchone()[0])' "$1" 2>/dev/null || true
}

remove_outbox() {
    folder=$1
    # Another program's folder may begin with the same letters.
    if [ ! -e "$folder/spool.sqlite" ] && [ ! -e "$folder/coverage.sqlite" ]; then
        # systemd made it for an agent that never came to write: rmdir takes an empty folder alone.
        if [ -L "$folder" ] && rmdir "$(readlink -f "$folder")" 2>/dev/null; then rm -f "$folder"; fi
        return 0
    fi
    if [ "$purge" = no ]; then
        for spool in "$folder"/*.sqlite; do
            [ -e "$spool" ] || continue
            [ "${spool##*/}" != coverage.sqlite ] || continue # no outbox
            waiting=$(waiting_in "$spool")
            if [ "$waiting" != 0 ]; then
                say "$spool stays: ${waiting:-an unknown number of} messages wait in it"
                return 0
            fi
        done
    fi
    rm -rf "$(readlink -f "$folder")" "$folder"
}

uninstall() {
    for unit in $(running); do
        systemctl stop "$unit" || true
    done
    systemctl disable --quiet urbansound.service 2>/dev/null || true
    for wanted in "$UNITS"/*.wants/urbansound@*.service; do
        if [ -L "$wanted" ]; then rm -f "$wanted"; fi
    done
    for folder in /var/lib/urbansound /var/lib/urbansound-*; do
        remove_outbox "$folder"
    done
    for unit in urbansound.service urbansound@.service; do
        rm -f "$UNITS/$unit" "$UNITS/$unit.d/notify-reload.conf"
        rmdir "$UNITS/$unit.d" 2>/dev/null || true # what a person put there is configuration
    done
    rm -rf "$OPT"
    rm -f "$COMMAND"
    systemctl daemon-reload
    systemctl reset-failed 'urbansound.service' 'urbansound@*.service' 2>/dev/null || true
    if [ "$purge" = yes ]; then
        rm -rf "$CONFIGURATION" "$UNITS"/urbansound.service.d "$UNITS"/urbansound@*.service.d
        rm -f /etc/credstore/urbansound.* /etc/credstore/urbansound-*
        say "removed, with its configuration"
    else
        say "removed; $CONFIGURATION and passwords in /etc/credstore stay"
    fi
}

action=install wheels="" purge=no
while [ $# -gt 0 ]; do
    case $1 in
    --wheels)
        [ $# -ge 2 ] || usage
        wheels=$(cd "$2" && pwd) || fail "--wheels $2: no such folder"
        shift
        ;;
    --uninstall) action=uninstall ;;
    --purge) purge=yes ;;
    *) usage ;;
    esac
    shift
done
[ "$purge" = no ] || [ "$action" = uninstall ] || usage
[ "$(id -u)" -eq 0 ] || fail "expected root: sudo $0"
case $action in
install) install_all ;;
uninstall) uninstall ;;
esac
