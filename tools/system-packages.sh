#!/bin/sh
# Install the Debian packages that are missing, and say so. Without root: say what to install, and go on.
# Usage: tools/system-packages.sh PACKAGE...
set -eu

missing=""
for package in "$@"; do
    if ! dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed'; then
        missing="$missing $package"
    fi
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null; then
    echo "Not a Debian system; what is needed may be missing:$missing"
elif [ "$(id -u)" -eq 0 ]; then
    echo "Installing Debian packages:$missing"
    apt-get update -qq
    # shellcheck disable=SC2086  # one word each
    DEBIAN_FRONTEND=noninteractive apt-get install --yes -qq --no-install-recommends $missing >/dev/null
else
    echo "Missing Debian packages:$missing"
    echo "    sudo apt-get install --no-install-recommends$missing"
    echo "Going on without them: what needs them is skipped or says so."
fi
