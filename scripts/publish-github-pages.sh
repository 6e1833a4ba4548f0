#!/usr/bin/env bash
# Publish reports/ on GitHub Pages: add them to the branch that Pages serves, beside the runs that are there already.
#
#   scripts/publish-github-pages.sh [--dry-run] [REMOTE [BRANCH]]        # by default: origin gh-pages
#
# Once, in the repository's settings: Pages, "Deploy from a branch", BRANCH, / (root). Whoever can read the page reads all
# of it, and a branch keeps what was pushed to it: look at what --dry-run prints first. `symmlib publish` takes out what
# looks like a secret (symmlib/redact.py says what that is).
# REPORTS_DIR: where runs/ is, if not reports/. SYMMLIB: the command, if not .venv/bin/symmlib.
set -euo pipefail
cd "$(dirname "$0")/.."

dry_run=
if [ "${1:-}" = --dry-run ]; then
  dry_run=yes
  shift
fi
case ${1:-} in -*) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;; esac
remote=${1:-origin} branch=${2:-gh-pages}
url=$(git remote get-url --push "$remote" 2>/dev/null || printf '%s' "$remote")

site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
found=0
git ls-remote --exit-code --heads "$url" "refs/heads/$branch" >/dev/null || found=$?
case $found in
  0) git clone --quiet --single-branch --branch "$branch" -- "$url" "$site" ;;
  2) # there is no such branch yet
    git init --quiet --initial-branch="$branch" "$site"
    git -C "$site" remote add origin "$url"
    ;;
  *) exit "$found" ;; # git has said why
esac

"${SYMMLIB:-.venv/bin/symmlib}" publish "$site" ${REPORTS_DIR:+--reports-dir "$REPORTS_DIR"}
touch "$site/.nojekyll" # files are served as they are

git -C "$site" add --all
if git -C "$site" diff --cached --quiet; then
  echo "Nothing new: $branch at $remote has all of it."
  exit
fi
git -C "$site" diff --cached --stat
if [ -n "$dry_run" ]; then
  echo "Dry run: nothing was pushed. Without --dry-run this goes to $branch at $remote."
  exit
fi
name=$(git config user.name || echo symmlib)
email=$(git config user.email || echo symmlib@localhost)
git -C "$site" -c user.name="$name" -c user.email="$email" commit --quiet --message "Publish reports"
git -C "$site" push --quiet origin "$branch"
echo "Pushed to $branch at $remote."
