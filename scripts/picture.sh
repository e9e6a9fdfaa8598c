#!/usr/bin/env bash
# Draws docs/loss.svg anew: the loss curve of the README's first run. It takes as long as that run, about two minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cargo run --release --quiet -- train --device cpu --out "$folder/a first run"
cp "$folder/a first run/loss.svg" docs/loss.svg
