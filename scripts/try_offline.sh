#!/usr/bin/env bash
# Set an offline bundle up where there is no network, as a room without one would: scripts/try_offline.sh FOLDER  (Linux, as root)
# FOLDER is what `ema bundle` wrote. A copy is set up in a temporary place, with empty caches and a home of its own.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
cp -r "$1"/. "$room"
env -i PATH="$PATH" HOME="$room/home" EMA_HOME="$room/home/ema" EMA_MODELS="$room/home/models" unshare -n bash -euc '
  ip link set lo up
  cd "$0/ema-lab"
  ! timeout 5 python3 -c "import socket; socket.create_connection((\"pypi.org\", 443))" 2>/dev/null || { echo "the network is there"; exit 1; }
  python3 scripts/bootstrap.py model
  .venv/bin/ema recorded add none-and-nine
  .venv/bin/ema samples --status misaligned --limit 1
  .venv/bin/ema train --steps 2 --seed 0
  .venv/bin/ema doctor
' "$room"
echo "set up and used without a network"
