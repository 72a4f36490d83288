#!/bin/sh
# Installs this bundle beside itself (./venv), without a network. Typed again, it does only what is missing.
#     sh install.sh              install
#     sh install.sh --service    and start it with the system from now on (asks sudo for a password, if need be)
# PYTHON=python3.12 sh install.sh takes another Python than python3.
set -eu
cd "$(dirname "$0")"
here=$(pwd -P)
want_machine=@MACHINE@ want_python=@PYTHON@ build='@BUILD@'
PYTHON=${PYTHON:-python3}
service=
fail() { echo "error: $1" >&2; exit 2; }
case "${1:-}" in
    '') ;;
    --service) service=yes ;;
    *) fail "unknown word $1. There is: sh install.sh [--service]" ;;
esac

command -v "$PYTHON" >/dev/null 2>&1 || fail "there is no $PYTHON here. Install Python $want_python, or: PYTHON=/path/to/python sh install.sh"
# Asked of Python: below a 64-bit kernel all else may be of 32 bits.
about=$("$PYTHON" -c 'import platform, struct, sys; print(platform.machine(), struct.calcsize("P") * 8, "%d.%d" % sys.version_info[:2])') ||
    fail "$PYTHON does not start"
read -r machine bits python <<END
$about
END
[ "$machine" = arm64 ] && machine=aarch64
[ "$machine" = "$want_machine" ] || fail "this bundle is for $want_machine, this machine is $machine. Make one for it: edgeseg bundle MODEL --board NAME"
[ "$bits" = 64 ] || fail "this system has $bits bits, and the bundle needs 64. Install the 64-bit system"
[ "$python" = "$want_python" ] || fail "this bundle is for Python $want_python, $PYTHON is $python. Make it with --python $python, or: PYTHON=python$want_python sh install.sh"
"$PYTHON" -c 'import venv' 2>/dev/null || fail "Python's venv module is not installed (Debian: sudo apt-get install python3-venv)"

# One installation at a time; the lock ends with its process.
if command -v flock >/dev/null 2>&1; then
    exec 9>.lock
    flock -w 900 9 || fail "another installation of this bundle is running"
fi

if command -v sha256sum >/dev/null 2>&1; then
    sha256sum -c SHA256SUMS >/dev/null 2>&1 || fail "files of this bundle are missing or damaged. Copy it again: sha256sum -c SHA256SUMS names them"
fi

# What is installed is known by its list of packages; a killed installation has written no such note.
if [ -e venv/bin/python ] && [ "$(cat requirements.txt)" = "$(cat venv/installed.txt 2>/dev/null)" ]; then
    echo "installed already: $here/venv"
else
    rm -rf venv
    # Python compiles what it runs, when it first runs it: sooner done, and less on the card. A built engine needs the system's own packages. pip comes from its wheel: Debian has venv without ensurepip.
    "$PYTHON" -m venv --without-pip ${build:+--system-site-packages} venv || fail "no environment could be made in $here/venv"
    for pip in wheels/pip-*.whl; do :; done
    venv/bin/python "$pip/pip" install --quiet --no-index --find-links wheels --require-hashes --no-warn-script-location \
        --disable-pip-version-check --no-cache-dir --no-compile -r requirements.txt || fail "pip could not install the packages of this bundle"
    cp requirements.txt venv/installed.txt
    echo "installed: $here/venv"
fi

if [ -n "$build" ] && [ ! -e '@BUILT@' ]; then
    echo "building @BUILT@ (minutes)"
    venv/bin/python "$build" || fail "$build failed: see above"
fi

user=$(id -un 2>/dev/null) || user=$(id -u)
sed -e "s|@DIR@|$here|g" -e "s|@USER@|$user|g" edgeseg.service.in >edgeseg.service
if [ -n "$service" ]; then
    command -v systemctl >/dev/null 2>&1 || fail "there is no systemd here. Start it by hand: sh run.sh"
    sudo=
    [ "$(id -u)" = 0 ] || sudo=sudo
    $sudo cp edgeseg.service /etc/systemd/system/edgeseg.service
    $sudo systemctl daemon-reload
    $sudo systemctl enable edgeseg
    $sudo systemctl restart edgeseg || fail "the service does not start. See: journalctl -u edgeseg"
    echo "running: systemctl status edgeseg"
fi
