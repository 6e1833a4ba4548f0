#!/usr/bin/env bash
# Find the browser that tests/browser opens, and where there is none and it can be had without asking, install it.
#
#   scripts/browser.sh           # `make test` calls this: installs where it may, says in a line what is missing, goes on
#   scripts/browser.sh --find    # prints the browser's path, or fails; the tests call this
#
# CHROMIUM names a Chromium or Chrome that is not on the PATH. As root on Debian, Debian's own package is installed;
# nobody else is asked for a password.
set -uo pipefail
cd "$(dirname "$0")/.."

find_browser() {
  local name path
  for name in ${CHROMIUM:-chromium chromium-browser google-chrome google-chrome-stable}; do
    path=$(command -v "$name") || continue
    # Ubuntu's chromium-browser may be a signpost to a snap that is not there.
    "$path" --version >/dev/null 2>&1 && echo "$path" && return
  done
  return 1
}

install_browser() {
  local log=.venv/browser.log
  printf 'browser: installing the package chromium for the tests of reports (half a minute, once; %s)\n' "$log"
  mkdir -p .venv
  {
    apt-get -o DPkg::Lock::Timeout=120 update &&
      DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 install -y --no-install-recommends chromium
  } >"$log" 2>&1 </dev/null
}

if [ "${1:-}" = --find ]; then
  find_browser
  exit
fi
find_browser >/dev/null && exit 0
if [ -z "${CHROMIUM:-}" ] && [ "$(id -u)" = 0 ] && [ -e /etc/debian_version ] && command -v apt-get >/dev/null; then
  install_browser
  find_browser >/dev/null && exit 0
fi
echo "browser: no Chromium or Chrome${CHROMIUM:+ at CHROMIUM=$CHROMIUM}, so tests in a browser are skipped. To run them, install one (Debian: apt install chromium), or set CHROMIUM to its path."
