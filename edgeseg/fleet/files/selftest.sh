#!/bin/sh
# Does the model find here what it found where this bundle was made, and how fast? Writes report.json.
cd "$(dirname "$0")" || exit 2
[ -e venv/bin/python ] || { echo "error: not installed yet. Type: sh install.sh" >&2; exit 2; }
exec venv/bin/python -m edgeseg.fleet.selftest . "$@"
