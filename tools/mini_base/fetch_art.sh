#!/bin/sh
# Download and unpack the emoji packages that render_art.py reads (about 60 MB), with npm:
#   sh tools/mini_base/fetch_art.sh packs
# Each package becomes packs/<name>-<version>/. What is there already is not fetched again. PYTHON names another Python.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "${1:?usage: fetch_art.sh FOLDER}"
cd "$1"
packages=$(PYTHONPATH="$here" "${PYTHON:-python}" -c 'import render_art; print(*render_art.PACKAGES, sep="\n")')
for package in $packages; do
  name=$(printf %s "$package" | sed 's/^@//; s|/|-|; s/@/-/')  # @iconify-json/noto@1.2.9 -> iconify-json-noto-1.2.9
  [ -d "$name" ] && continue
  echo "$package"
  npm pack --silent "$package" >/dev/null
  mkdir "$name.part"
  tar xzf "$name.tgz" --strip-components=1 -C "$name.part"
  mv "$name.part" "$name"
  rm "$name.tgz"
done
