#!/bin/sh
# Runs the model: sh run.sh [OPTIONS OF edgeseg run], by default those that the bundle was made with.
cd "$(dirname "$0")" || exit 2
[ -e venv/bin/python ] || { echo "error: not installed yet. Type: sh install.sh" >&2; exit 2; }
model='@MODEL@'
[ -n '@BUILT@' ] && [ -e '@BUILT@' ] && model='@BUILT@'
[ $# -gt 0 ] || set -- @RUN@
exec venv/bin/python -m edgeseg run "$model" "$@"
