#!/bin/sh
# Put a GPU made of software into a folder: Mesa 25's Vulkan driver, from the backports of the Debian that runs here.
# Usage: tools/software-gpu.sh FOLDER
# Nothing is installed, and no root is needed: apt fetches what is missing, dpkg-deb unpacks it. What is there already is
# kept. On standard output, the environment in which programs find that GPU and no other; why not, on standard error.
set -eu

[ $# -eq 1 ] || { echo "usage: tools/software-gpu.sh FOLDER" >&2; exit 2; }
mkdir -p "$1"
folder=$(cd "$1" && pwd)
done="$folder/unpacked"

if [ ! -e "$done" ]; then
    for program in apt-get dpkg-deb; do
        command -v "$program" >/dev/null || { echo "no $program: not a Debian system" >&2; exit 1; }
    done
    # shellcheck source=/dev/null
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    # Where this machine gets its packages from is where the backports are, too.
    archive=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' | sed -n "s| $codename\$||p" | sed -n 1p)
    [ -n "$archive" ] || { echo "apt knows no archive of $codename: run apt-get update" >&2; exit 1; }
    mkdir -p "$folder/apt/lists/partial" "$folder/apt/archives/partial" "$folder/root"
    keys=/usr/share/keyrings/debian-archive-keyring.gpg
    printf 'deb [signed-by=%s] %s %s main\n' "$keys" "$archive" "$codename" "$keys" "$archive" "$codename-backports" \
        >"$folder/apt/sources.list"
    private_apt() {
        apt-get --quiet=2 --option Dir::Etc::SourceList="$folder/apt/sources.list" \
            --option Dir::Etc::SourceParts=/dev/null --option Dir::State::Lists="$folder/apt/lists" \
            --option Dir::Cache::Archives="$folder/apt/archives" --option Dir::Cache::pkgcache= \
            --option Dir::Cache::srcpkgcache= --option Debug::NoLocking=1 --option APT::Sandbox::User=root "$@" >&2
    }
    private_apt update
    private_apt install --yes --download-only --no-install-recommends --target-release "$codename-backports" \
        mesa-vulkan-drivers libvulkan1
    for package in "$folder"/apt/archives/*.deb; do
        dpkg-deb --extract "$package" "$folder/root"
    done
    rm -r "$folder/apt"
    touch "$done"
fi

driver=$(find "$folder/root/usr/share/vulkan/icd.d" -name 'lvp_icd*.json' | sed -n 1p)
library=$(find "$folder/root/usr/lib" -name libvulkan_lvp.so | sed -n 1p)
[ -n "$driver" ] && [ -n "$library" ] || { echo "the packages in $folder hold no lavapipe driver" >&2; exit 1; }
echo "VK_DRIVER_FILES=$driver"
echo "LD_LIBRARY_PATH=$(dirname "$library")"
echo "MESA_SHADER_CACHE_DIR=$folder/shaders"
