#!/usr/bin/env bash
# Publish reports/ in an object store that serves static files, beside the runs that are there already.
#
#   scripts/publish-object-store.sh [--dry-run] s3://BUCKET/PREFIX      # by the AWS CLI; AWS_ENDPOINT_URL for others' S3
#   scripts/publish-object-store.sh [--dry-run] REMOTE:BUCKET/PREFIX    # by rclone: GCS, Azure, MinIO, SFTP, a disk, ...
#
# What is there is fetched first, so that the new index lists it; nothing there is deleted. Credentials are the tool's
# own matter (`aws configure`, `rclone config`), and so is who may read the bucket. `symmlib publish` takes out what
# looks like a secret (symmlib/redact.py says what that is).
# SITE: a directory to keep the site in between two publications, so that only changes are fetched.
# REPORTS_DIR: where runs/ is, if not reports/. SYMMLIB: the command, if not .venv/bin/symmlib.
set -euo pipefail
cd "$(dirname "$0")/.."

dry_run=
if [ "${1:-}" = --dry-run ]; then
  dry_run=yes
  shift
fi
case ${1:-} in
  s3://?*) fetch=(aws s3 sync) send=(aws s3 sync ${dry_run:+--dryrun}) ;;
  ?*:*) fetch=(rclone copy) send=(rclone copy ${dry_run:+--dry-run}) ;;
  *) sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
destination=${1%/}
command -v "${fetch[0]}" >/dev/null || { echo "publish: ${fetch[0]} is not installed, which $destination needs." >&2; exit 1; }

if [ -n "${SITE:-}" ]; then
  site=$SITE
  mkdir -p "$site"
else
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
fi

run() {
  printf '+ %s\n' "$*"
  "$@"
}
run "${fetch[@]}" "$destination" "$site"
run "${SYMMLIB:-.venv/bin/symmlib}" publish "$site" ${REPORTS_DIR:+--reports-dir "$REPORTS_DIR"}
run "${send[@]}" "$site" "$destination"
